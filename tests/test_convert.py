"""Conversion: the same voxels in another format, whole or not at all; and what is said about a volume."""

import json
import tracemalloc

import numpy as np
import pytest
import zarr

from genenet.classes import default_classes
from genenet.convert import convert, describe
from genenet.errors import InputError
from genenet.formats import place
from genenet.volume import Volume, create_volume, open_volume

ALL = (slice(None), slice(None), slice(None))
SUFFIXES = [*sorted(place.FORMATS), ".h5:/cells/raw"]


@pytest.fixture
def array():
    return np.random.default_rng(0).integers(0, 255, (19, 300, 40), np.uint8)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_copy_is_equal(tmp_path, array, suffix):
    convert(array, first := f"{tmp_path}/first{suffix}", voxel_size_nm=(50, 4, 4))
    convert(first, second := f"{tmp_path}/second.ome.zarr")
    volume = open_volume(second)
    np.testing.assert_array_equal(volume.read(ALL), array)
    assert volume.voxel_size_nm == (None if suffix == ".npy" else pytest.approx((50, 4, 4)))
    assert len(list(tmp_path.iterdir())) == 2


def test_channels_and_classes_come_along(tmp_path):
    labels = np.random.default_rng(0).integers(0, 3, (2, 9, 8, 3), np.uint8)
    convert(labels, tmp_path / "a.ome.zarr", classes=default_classes([0, 1, 2]))
    np.testing.assert_array_equal(open_volume(tmp_path / "a.ome.zarr").read(ALL), labels)
    ome = zarr.open_group(tmp_path / "a.ome.zarr", mode="r").attrs["ome"]
    assert [row["class"] for row in ome["image-label"]["properties"]] == ["class 0", "class 1", "class 2"]
    assert ome["multiscales"][0]["name"] == "a"


def test_progress_reaches_the_end(tmp_path, array):
    seen = []
    convert(array, tmp_path / "a.npy", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (array.size, array.size)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nothing_is_overwritten_unasked(tmp_path, array, suffix):
    target = f"{tmp_path}/a{suffix}"
    convert(array, target)
    with pytest.raises(InputError, match="exists; remove it"):
        convert(array + 1, target)
    np.testing.assert_array_equal(open_volume(target).read(ALL), array)
    convert(array[:3], target, overwrite=True)
    np.testing.assert_array_equal(open_volume(target).read(ALL), array[:3])
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_interrupted_copy_leaves_what_was_there(tmp_path, array, suffix):
    def interrupt(done, total):
        raise KeyboardInterrupt

    target = f"{tmp_path}/a{suffix}"
    convert(array, target)
    with pytest.raises(KeyboardInterrupt):
        convert(array + 1, target, overwrite=True, progress=interrupt)
    np.testing.assert_array_equal(open_volume(target).read(ALL), array)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_a_killed_copy_left_is_no_matter(tmp_path, array, suffix):
    target = f"{tmp_path}/a{suffix}"
    left = place.target(place.partial_name(target)).path
    left.mkdir() if suffix.endswith("zarr") else left.write_text("half")
    convert(array, target)
    np.testing.assert_array_equal(open_volume(target).read(ALL), array)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_missing_source_is_refused(tmp_path):
    with pytest.raises(InputError, match="there is no file or folder"):
        convert(tmp_path / "a.tif", tmp_path / "a.ome.zarr")
    assert not list(tmp_path.iterdir())


def test_memory_does_not_grow_with_the_volume(tmp_path):
    zarr.create_array(tmp_path / "big.zarr", shape=(96, 2048, 2048), chunks=(8, 512, 512), dtype="u1")  # 400 MB
    tracemalloc.start()
    convert(tmp_path / "big.zarr", tmp_path / "copy.ome.zarr")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e8


def test_describe_counts():
    labels = np.array([[[0, 1], [1, 3]], [[1, 1], [0, 3]]], np.uint16)
    # two voxels of 0, four of 1 and two of 3: the mean is (4 + 6) / 8
    found = describe(open_volume(labels, name="labels"))
    assert found == {
        "name": "labels",
        "shape": [2, 2, 2],
        "dtype": "uint16",
        "voxel_size_nm": None,
        "n_slices_read": 2,
        "min": 0,
        "max": 3,
        "mean": 1.25,
        "n_nan": 0,
        "counts": {0: 2, 1: 4, 3: 2},
    }
    json.dumps(found)


def test_describe_leaves_out_nan():
    image = np.array([[1, np.nan, 4], [np.nan, 1, 2]], np.float32)
    found = describe(open_volume(image))
    assert (found["min"], found["max"], found["mean"], found["n_nan"], found["counts"]) == (1.0, 4.0, 2.0, 2, None)
    empty = describe(open_volume(np.full((2, 3), np.nan)))
    assert (empty["min"], empty["max"], empty["mean"], empty["n_nan"]) == (None, None, None, 6)


@pytest.mark.parametrize(("n_values", "is_counted"), [(64, True), (65, False)])
def test_describe_counts_a_few_values_only(n_values, is_counted):
    image = np.arange(n_values, dtype=np.int32)[None]
    counts = describe(open_volume(image))["counts"]
    assert counts == (dict.fromkeys(range(n_values), 1) if is_counted else None)


def test_describe_looks_at_slices_spread_over_the_volume():
    image = np.zeros((1000, 2, 2), np.uint8)
    image[-1] = 7
    found = describe(open_volume(image))
    assert (found["n_slices_read"], found["max"]) == (64, 7)
    assert describe(open_volume(np.ones((3, 2, 2), bool)))["counts"] == {1: 12}


def test_describe_knows_the_voxel_size(tmp_path):
    create_volume(tmp_path / "a.ome.zarr", (2, 9, 8), "uint8", voxel_size_nm=(50, 4, 4)).close()
    volume = open_volume(tmp_path / "a.ome.zarr")
    assert isinstance(volume, Volume)
    assert describe(volume)["voxel_size_nm"] == [50.0, 4.0, 4.0]
