"""Two maps become objects; what blocks give is what the whole image gives."""

import dataclasses
import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

import genenet as gn
from genenet.instance_blocks import merge_volume, sample_diameter
from genenet.instances import Merging, fill_holes, measure_diameter, merge
from genenet.object_table import measure_objects
from genenet.volume import create_volume, open_volume

PLAIN = Merging(smoothing=0, min_distance=0, min_peak=0, min_size=0, fill_holes=False)


def discs(shape, centres, radius):
    """The depth inside discs, 1 in the middle."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    far = [np.hypot(y - row, x - column) for row, column in centres] + [np.full(shape, np.inf)]
    return np.clip(1 - np.minimum.reduce(far) / radius, 0, None).astype(np.float32)


def scene(seed):
    """Foreground and distances with objects of all kinds: discs with cracks, or noise; smooth or full of ties."""
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 70, 2))
    if rng.random() < 0.5:
        depth = np.zeros(shape, np.float32)
        for _ in range(rng.integers(0, shape[0] * shape[1] // 60 + 2)):
            depth = np.maximum(depth, discs(shape, [rng.uniform(-2, np.array(shape) + 2)], rng.uniform(1, 6)))
        foreground = 0.9 * (depth > 0) * (rng.random(shape) > rng.choice([0, 0.03]))
    else:
        noise = [scipy.ndimage.gaussian_filter(rng.normal(size=shape), rng.uniform(0.5, 2)) for _ in range(2)]
        foreground, depth = (np.clip(each / max(each.std(), 1e-9) / 3 + 0.4, 0, 1) for each in noise)
    kind = rng.choice(["float", "uint8", "coarse"])
    if kind == "uint8":
        return foreground.astype(np.float32), np.rint(depth * 255).astype(np.uint8)
    return foreground.astype(np.float32), (np.rint(depth * 6) / 6 if kind == "coarse" else depth).astype(np.float32)


def largest_side(labels):
    return max((side.stop - side.start for box in scipy.ndimage.find_objects(labels) for side in box), default=0)


def in_blocks(tmp_path, foreground, distances, merging, **options):
    table = merge_volume(foreground, distances, tmp_path / "o.npy", merging, overwrite=True, **options)
    return np.load(tmp_path / "o.npy"), table


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32),
    st.tuples(st.integers(4, 40), st.integers(4, 40)),
    st.builds(
        Merging,
        smoothing=st.sampled_from([0, 0.1, 0.3]),
        min_distance=st.sampled_from([0, 0.2, 0.5]),
        min_peak=st.sampled_from([0, 0.05, 0.4]),
        min_size=st.sampled_from([0, 5, 30]),
        fill_holes=st.booleans(),
    ),
    st.sampled_from([None, 4.0, 9.0]),
)
def test_blocks_give_what_the_whole_image_gives(tmp_path_factory, seed, block, merging, mean_diameter):
    foreground, distances = scene(seed)
    if mean_diameter is None:
        mean_diameter = measure_diameter(foreground >= 0.5, merging.min_size)
    whole = merge(foreground, distances, merging, mean_diameter=mean_diameter)
    # Objects as the watershed leaves them must be smaller than the margin; they need not be a pixel smaller.
    as_flooded = dataclasses.replace(merging, min_size=0, fill_holes=False)
    margin = largest_side(merge(foreground, distances, as_flooded, mean_diameter=mean_diameter))
    folder = tmp_path_factory.mktemp("objects")
    options = {"mean_diameter": mean_diameter, "block": block, "margin": margin}
    labels, table = in_blocks(folder, foreground, distances, merging, **options)
    np.testing.assert_array_equal(labels.reshape(whole.shape), whole)
    np.testing.assert_array_equal(table["voxels"], np.bincount(whole.ravel())[1:])
    assert [path.name for path in folder.iterdir()] == ["o.npy"]


@pytest.mark.parametrize("block", [(16, 16), (30, 100), (64, 7)])
@pytest.mark.parametrize("kind", ["one peak", "flat", "no seed"])
def test_a_giant_is_one_object(block, kind, tmp_path):
    peak = discs((100, 110), [(50, 55)], 49)
    distances = {"one peak": peak, "flat": np.ones_like(peak), "no seed": np.zeros_like(peak)}[kind]
    merging = Merging(smoothing=0, min_peak=0.1)
    labels, table = in_blocks(tmp_path, peak > 0, distances, merging, block=block, margin=5, mean_diameter=5.0)
    np.testing.assert_array_equal(labels[0], peak > 0)
    assert table["voxels"].tolist() == [(peak > 0).sum()]


def test_a_giant_goes_to_the_neighbour_that_it_touches_most(tmp_path):
    # A bar without a seed within reach lies between two objects; 4 of its pixels touch the upper one, 2 the lower.
    foreground, distances = np.ones((12, 4), np.float32), np.zeros((12, 4), np.float32)
    foreground[8, :2] = 0
    distances[1, 1], distances[10, 2] = 1, 0.5
    merging = Merging(smoothing=0, min_distance=0, min_peak=0.1, min_size=0)
    options = {"block": (4, 4), "margin": 0, "mean_diameter": 1.0}
    labels, _ = in_blocks(tmp_path, foreground, distances, merging, **options)
    assert labels[0, :8].tolist() == [[1] * 4] * 8 and labels[0, 10].tolist() == [2] * 4


def test_two_nuclei_that_touch():
    depth = discs((40, 60), [(20, 22), (20, 36)], 10)
    labels = merge(depth > 0, depth)
    assert labels.dtype == np.int32 and labels.max() == 2
    assert labels[20, 22] == 1 and labels[20, 36] == 2
    np.testing.assert_array_equal(labels > 0, depth > 0)
    columns = np.arange(60)
    np.testing.assert_array_equal(labels[20, 13:46], np.where(columns[13:46] < 29.5, 1, 2))
    assert merge(depth > 0, depth, Merging(min_distance=1.2)).max() == 1


@pytest.mark.parametrize("factor", [1, 2])
def test_the_gaussian_follows_the_size_of_objects(factor):
    """Noise as coarse as the objects are large is smoothed away, whatever that size is; fixed pixels would not do."""
    centres = factor * np.array([(30, 30), (30, 55), (70, 40), (75, 80)])
    depth = discs((110 * factor, 110 * factor), centres, 14 * factor)
    noise = scipy.ndimage.gaussian_filter(np.random.default_rng(0).normal(size=depth.shape), 0.8 * factor)
    distances = depth + 0.1 * noise / noise.std()
    smoothed = Merging(min_distance=0)
    assert merge(depth > 0, distances, smoothed).max() == 4
    assert merge(depth > 0, distances, dataclasses.replace(smoothed, smoothing=0.02)).max() > 8


def test_a_flat_top_is_one_seed():
    depth = np.minimum(discs((30, 60), [(15, 15), (15, 42)], 14), 0.3)
    assert merge(depth > 0, depth, PLAIN).max() == 2
    ties = np.zeros((9, 20), np.float32)
    ties[4, [3, 6]] = 1  # two pixels of the same height, 3 apart
    for min_distance, n_objects in (0.2, 2), (0.3, 1):
        merging = dataclasses.replace(PLAIN, min_distance=min_distance, min_peak=0.5)
        assert merge(np.ones_like(ties), ties, merging, mean_diameter=10.0).max() == n_objects
    crack = np.ones_like(ties)
    crack[:, 5] = 0
    assert merge(crack, ties, merging, mean_diameter=10.0).max() == 2


def test_parts_of_the_mask_without_a_seed_are_objects():
    foreground = np.zeros((20, 40))
    foreground[2:9, 2:9], foreground[2:9, 20:27], foreground[15:18, 3:6] = 1, 1, 1
    distances = np.zeros((20, 40))
    distances[5, 5] = 1
    merging = Merging(smoothing=0)
    labels = merge(foreground, distances, merging)
    assert np.unique(labels[2:9, 2:9]).tolist() == [1] and np.unique(labels[2:9, 20:27]).tolist() == [2]
    assert labels.max() == 2  # 9 pixels are too few for an object
    assert merge(foreground, distances, dataclasses.replace(merging, min_size=9)).max() == 3
    assert merge(foreground, distances, dataclasses.replace(merging, min_size=50)).max() == 0


def test_holes():
    labels = np.zeros((12, 30), int)
    labels[1:9, 1:9], labels[3:7, 3:7] = 1, 0  # a ring around nothing: filled
    labels[1:9, 11:19], labels[3:7, 13:17], labels[4:6, 14:16] = 2, 0, 3  # around another object: not filled
    labels[0:9, 21:29], labels[0:7, 23:27] = 4, 0  # open to the edge of the image: not filled
    filled = fill_holes(labels)
    expected = labels.copy()
    expected[3:7, 3:7] = 1
    np.testing.assert_array_equal(filled, expected)
    two = np.ones((3, 4), int)  # between two objects
    two[:, 2:], two[1, 1:3] = 2, 0
    np.testing.assert_array_equal(fill_holes(two), two)


def test_three_dimensions():
    z, y, x = np.mgrid[:16, :16, :30]
    depth = np.clip(1 - np.minimum(*(np.sqrt((z - 8) ** 2 + (y - 8) ** 2 + (x - c) ** 2) for c in (9, 20))) / 7, 0, 1)
    labels = merge(depth > 0, depth)
    assert labels.max() == 2 and labels[8, 8, 9] == 1 and labels[8, 8, 20] == 2
    assert measure_diameter(depth[..., :14] > 0) == pytest.approx(14, abs=1.5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 1), (30, 31)])
def test_nothing_and_everything(shape, tmp_path):
    zero, one = np.zeros(shape, np.float32), np.ones(shape, np.float32)
    assert merge(zero, one).max() == 0
    merging = Merging(min_size=1)
    np.testing.assert_array_equal(merge(one, one, merging), 1)
    np.testing.assert_array_equal(merge(one, zero, merging), 1)
    labels, table = in_blocks(tmp_path, one, one, merging, block=(8, 8), margin=2)
    assert (labels == 1).all() and table["voxels"].tolist() == [one.size]
    labels, table = in_blocks(tmp_path, zero, one, merging, block=(8, 8))
    assert not labels.any() and table.columns[:2].tolist() == ["object", "voxels"] and not len(table)


@pytest.mark.parametrize("suffix", [".ome.zarr", ".tif", ".h5", ".npy"])
def test_formats_stacks_and_measures(suffix, tmp_path):
    depth = np.stack([discs((50, 64), [(12, 12), (30, 40)], 9), np.zeros((50, 64)), discs((50, 64), [(31, 31)], 9)])
    size = {"voxel_size_nm": (500, 250, 250)}
    with create_volume(tmp_path / "p.ome.zarr", (*depth.shape, 2), np.uint8, **size) as writer:
        inside = 255 * (depth > 0)
        writer.write((slice(0, 3), slice(0, 50), slice(0, 64)), np.stack([255 - inside, inside], -1))
    image = np.random.default_rng(0).integers(0, 4000, (*depth.shape, 2)).astype(np.uint16)
    seen, output = [], tmp_path / f"o{suffix}"
    table = merge_volume(
        tmp_path / "p.ome.zarr", depth.astype(np.float16), output, channel=1, image=image, block=(20, 24),
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    volume = open_volume(output)
    labels = volume.read((slice(0, 3), slice(0, 50), slice(0, 64)))
    assert volume.dtype == np.uint32 and seen[-1] == (3 * depth.size, 3 * depth.size)
    assert labels[0, 12, 12] == 1 and labels[0, 30, 40] == 2 and not labels[1].any() and labels[2, 31, 31] == 3
    mask = labels == 2
    places = np.argwhere(mask)
    row = table.iloc[1]
    assert row["object"] == 2 and row["voxels"] == len(places)
    assert row[["z", "y", "x"]].tolist() == places.mean(0).round(2).tolist()
    assert row[["z_first", "y_first", "x_first"]].tolist() == places.min(0).tolist()
    assert row[["z_last", "y_last", "x_last"]].tolist() == places.max(0).tolist()
    assert row[["mean_0", "mean_1"]].tolist() == pytest.approx(image[mask].mean(0).tolist())
    if suffix != ".npy":  # keeps no size of voxels
        assert row["area_um2"] == pytest.approx(len(places) / 16)
    with pytest.raises(gn.InputError, match=r"o.* exists"):
        merge_volume(tmp_path / "p.ome.zarr", depth, output, channel=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["p.ome.zarr", output.name])


def test_measures_add_up_over_blocks():
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 3, 70_000], (4, 12, 13)).astype(np.uint32)
    image = rng.normal(size=(*labels.shape, 3)).astype(np.float32)
    whole = measure_objects(labels, image)
    pd.testing.assert_frame_equal(measure_objects(labels, image, block=(2, 5, 7)), whole)
    assert whole["object"].tolist() == [3, 70_000] and "area_um2" not in whole
    np.testing.assert_allclose(whole["mean_2"], [image[labels == n, 2].mean() for n in (3, 70_000)], rtol=1e-5)
    one_channel = measure_objects(labels, image[..., 0])
    np.testing.assert_allclose(one_channel["mean_0"], whole["mean_0"])


def test_the_size_of_objects_is_measured_in_windows(monkeypatch):
    foreground = np.zeros((90, 90), np.float32)
    foreground[2:12, 2:12] = foreground[40:50, 40:50] = foreground[70:80, 25:35] = 1  # a window's border cuts the last
    monkeypatch.setattr("genenet.instance_blocks.WINDOW", 30)
    volume = open_volume(foreground)
    assert sample_diameter(volume) == pytest.approx(2 * np.sqrt(100 / np.pi))
    assert sample_diameter(open_volume(np.ones((90, 90)))) == pytest.approx(2 * np.sqrt(900 / np.pi))
    assert sample_diameter(open_volume(np.zeros((90, 90)))) == 0
    monkeypatch.setattr("genenet.instance_blocks.ENOUGH", 1)
    assert sample_diameter(volume) == sample_diameter(volume)


def test_settings_come_back():
    merging = Merging(threshold=0.4, min_size=12, fill_holes=False)
    assert Merging.from_dict(merging.to_dict()) == merging
    assert Merging.from_dict({"smoothing": 0}) == Merging(smoothing=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"threshold": 0.0}, "`threshold` must lie above 0 and up to 1, but got 0.0"),
        ({"smoothing": -1.0}, r"`smoothing` must be in \[0, 2\], but got -1.0"),
        ({"min_peak": float("nan")}, "`min_peak` must be at least 0, but got nan"),
        ({"smothing": 1.0}, "unknown key `smothing`; did you mean `smoothing`"),
        ({"min_size": 2.5}, "`min_size` must be of type int, but got 2.5"),
        ({"fill_holes": 1}, "`fill_holes` must be of type bool, but got 1"),
        ({"threshold": True}, "`threshold` must be of type float, but got True"),
    ],
)
def test_settings_that_cannot_be_are_refused(values, message):
    with pytest.raises(gn.InputError, match=message):
        Merging.from_dict(values)


HOLED = np.where(np.arange(16).reshape(4, 4) == 6, np.nan, 1).astype(np.float32)
ONE = np.ones((4, 4), np.float32)


@pytest.mark.parametrize(
    ("foreground", "distances", "message"),
    [
        (ONE, ONE[:3], r"must have one shape, but got \(4, 4\) and \(3, 4\)"),
        (ONE[0], ONE[0], r"maps are \(y, x\) or \(z, y, x\), but got the shape \(4,\)"),
        (ONE[:0], ONE[:0], r"but got the shape \(0, 4\)"),
        (HOLED, ONE, "the foreground holds NaN or infinity; write 0 where nothing is known"),
        (ONE, np.inf * ONE, "the distances holds NaN or infinity"),
        (ONE.astype(np.int32), ONE, "uint8 with 255 for 1, but the foreground holds int32"),
    ],
)
def test_maps_that_cannot_be_are_refused(foreground, distances, message):
    with pytest.raises(gn.InputError, match=message):
        merge(foreground, distances)


@pytest.mark.parametrize(
    ("foreground", "distances", "options", "message"),
    [
        (ONE, ONE[:3], {}, r"must have one shape, but the array has \(1, 4, 4\) and the array has \(1, 3, 4\)"),
        (HOLED, ONE, {}, "the array holds NaN"),
        (ONE, HOLED, {}, "the array holds NaN"),
        (np.ones((1, 4, 4, 2)), ONE, {}, "has 2 channels; say by `channel` which is foreground"),
        (ONE, ONE, {"channel": 1}, r"`channel` must lie in \[0, 0\], but got 1"),
        (ONE, np.ones((1, 4, 4, 2)), {}, "a distance map has one channel, but the array has 2"),
        (ONE, ONE, {"image": ONE[:2]}, r"the image must have the shape \(1, 4, 4\) of the maps"),
        (ONE, ONE, {"block": (0, 4)}, r"`block` is two sides \(y, x\) of a pixel or more"),
        (ONE, ONE, {"margin": -1}, "and `margin` not negative, but got"),
    ],
)
def test_volumes_that_cannot_be_are_refused(foreground, distances, options, message, tmp_path):
    with pytest.raises(gn.InputError, match=message):
        merge_volume(foreground, distances, tmp_path / "o.npy", **options)
    assert not list(tmp_path.iterdir())


def test_what_holds_no_objects_is_not_measured():
    with pytest.raises(gn.InputError, match="holds float32 in 1 channels, but not objects"):
        measure_objects(ONE)
    with pytest.raises(gn.InputError, match=r"must have the shape \(1, 4, 4\) of the array, but the array has"):
        measure_objects(ONE.astype(np.uint8), ONE[:3])


KILLED = """
import sys, numpy as np
from genenet.instance_blocks import merge_volume
folder = sys.argv[1]
tell = lambda done, total: print(done, flush=True)
merge_volume(folder + "/p.npy", folder + "/d.npy", folder + "/o.ome.zarr", block=(32, 32), margin=30, progress=tell)
"""


def test_killed_and_started_again(tmp_path):
    rng = np.random.default_rng(0)
    depth = discs((400, 400), rng.uniform(0, 400, (150, 2)), 12)
    np.save(tmp_path / "p.npy", (depth > 0).astype(np.float32))
    np.save(tmp_path / "d.npy", depth)
    with subprocess.Popen([sys.executable, "-c", KILLED, tmp_path], stdout=subprocess.PIPE) as process:
        for _ in range(30):
            process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
    assert not (tmp_path / "o.ome.zarr").exists()
    subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=True, stdout=subprocess.DEVNULL)
    labels = open_volume(tmp_path / "o.ome.zarr").read((slice(0, 1), slice(0, 400), slice(0, 400)))[0]
    np.testing.assert_array_equal(labels, merge(depth > 0, depth))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.npy", "o.ome.zarr", "p.npy"]
