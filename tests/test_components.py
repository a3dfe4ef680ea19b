"""Objects joined over the borders of blocks: what scipy finds in the whole volume."""

import numpy as np
import pandas as pd
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

import genenet as gn
from genenet.components import classes_of, find_components, write_table
from genenet.volume import create_volume, open_volume

CLASSES = gn.SegmentationClass(1, "cell", "#56b4e9"), gn.SegmentationClass(3, "gap", "#d55e00")


def whole(path):
    volume = open_volume(path)
    return volume.read(tuple(slice(0, n) for n in volume.shape))


def expected_table(values, connectivity, min_voxels=1):
    """Sizes, centres and boxes by scipy, for all classes, as a sorted list."""
    structure, rows = scipy.ndimage.generate_binary_structure(3, connectivity), []
    for entry in CLASSES:
        labels, n = scipy.ndimage.label(values == entry.value, structure)
        for number, box in enumerate(scipy.ndimage.find_objects(labels), 1):
            places = np.argwhere(labels == number)
            if len(places) >= min_voxels:
                ends = [side.start for side in box] + [side.stop - 1 for side in box]
                rows.append((entry.value, len(places), *places.mean(0).round(2).tolist(), *ends))
    return sorted(rows)


def rows_of(table):
    names = ["value", "voxels", "z", "y", "x", *(f"{axis}_{end}" for end in ("first", "last") for axis in "zyx")]
    return sorted(map(tuple, table[names].to_numpy().tolist()))


@settings(max_examples=12, deadline=None)
@given(
    st.tuples(st.integers(1, 6), st.integers(1, 14), st.integers(1, 14)),
    st.tuples(st.integers(2, 5), st.integers(3, 8), st.integers(3, 8)),
    st.sampled_from([1, 2, 3]),
    st.floats(0.1, 0.7),
    st.integers(0, 2**16),
)
def test_blocks_give_what_the_whole_volume_gives(tmp_path_factory, shape, block, connectivity, share, seed):
    folder = tmp_path_factory.mktemp("objects")
    rng = np.random.default_rng(seed)
    values = np.where(rng.random(shape) < share, rng.choice([1, 3], shape), 0).astype(np.uint8)
    found = find_components(
        open_volume(values), folder / "o.npy", classes=CLASSES, connectivity=connectivity, block=block
    )
    expected = expected_table(values, connectivity)
    np.testing.assert_allclose(np.reshape(rows_of(found), (-1, 11)), np.reshape(expected, (-1, 11)), atol=0.011)
    objects = np.load(folder / "o.npy")
    np.testing.assert_array_equal(np.bincount(objects.ravel(), minlength=len(found) + 1)[1:], found["voxels"])
    np.testing.assert_array_equal(objects > 0, values > 0)
    assert [path.name for path in folder.iterdir()] == ["o.npy"]


def test_a_snake_through_all_blocks_is_one_object(tmp_path):
    values = np.zeros((3, 40, 40), np.uint8)
    values[1, ::4] = 1
    values[1, 2::8, -1] = values[1, 1::8, -1] = values[1, 3::8, -1] = 1
    values[1, 6::8, 0] = values[1, 5::8, 0] = values[1, 7::8, 0] = 1
    found = find_components(open_volume(values), tmp_path / "o.npy", classes=CLASSES, block=(2, 8, 8))
    assert len(found) == 1 and found["voxels"][0] == (values > 0).sum()


def test_small_objects_go(tmp_path):
    values = np.zeros((4, 32, 32), np.uint8)
    values[:, 2:12, 2:12], values[0, 20, 20], values[1:3, 25:28, 3:6] = 1, 1, 3
    options = {"voxel_size_nm": (50, 10, 10), "classes": CLASSES}
    with create_volume(tmp_path / "s.ome.zarr", values.shape, np.uint8, **options) as writer:
        writer.write((slice(0, 4), slice(0, 32), slice(0, 32)), values)
    found = find_components(
        tmp_path / "s.ome.zarr", tmp_path / "o.ome.zarr", classes=CLASSES, min_voxels=10,
        cleaned=tmp_path / "c.ome.zarr", block=(2, 16, 16),
    )  # fmt: skip
    assert found["class"].tolist() == ["cell", "gap"] and found["voxels"].tolist() == [400, 18]
    assert found["volume_um3"].tolist() == pytest.approx([400 * 5e-6, 18 * 5e-6])
    cleaned = whole(tmp_path / "c.ome.zarr")
    values[0, 20, 20] = 0
    np.testing.assert_array_equal(cleaned, values)
    assert [entry.name for entry in classes_of(open_volume(tmp_path / "c.ome.zarr"))] == ["cell", "gap"]
    one_class = find_components(
        tmp_path / "s.ome.zarr", tmp_path / "p.ome.zarr", classes=CLASSES[:1], min_voxels=500,
        cleaned=tmp_path / "d.ome.zarr",
    )  # fmt: skip
    assert not len(one_class)
    np.testing.assert_array_equal(whole(tmp_path / "d.ome.zarr"), np.where(values == 1, 0, values))
    write_table(found, tmp_path / "t.csv")
    assert pd.read_csv(tmp_path / "t.csv")["voxels"].tolist() == [400, 18]
    with pytest.raises(gn.InputError, match=r"o\.ome\.zarr exists"):
        find_components(tmp_path / "s.ome.zarr", tmp_path / "o.ome.zarr", classes=CLASSES)


def test_classes_without_names_are_the_values_there_are():
    values = np.array([[[0, 5, 5, 2]]], np.uint16)
    assert [entry.value for entry in classes_of(open_volume(values))] == [2, 5]


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (np.zeros((2, 4, 4), np.float32), {}, "holds float32 in 1 channels, but not class values"),
        (np.zeros((2, 4, 4), np.uint8), {"connectivity": 4}, "`connectivity` is 1, 2 or 3, but got 4"),
    ],
)
def test_what_is_no_segmentation_is_refused(values, options, message, tmp_path):
    with pytest.raises(gn.InputError, match=message):
        find_components(open_volume(values), tmp_path / "o.npy", classes=CLASSES, **options)
    assert not list(tmp_path.iterdir())
