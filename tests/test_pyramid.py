"""OME-Zarr as others read it: levels, units, classes, both versions, shards."""

import json

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import genenet as gn
from genenet.pyramid import add_levels, mean_of
from genenet.volume import create_volume, open_volume, reopen_volume

CLASSES = gn.SegmentationClass(0, "background", "#000000"), gn.SegmentationClass(7, "cell", "#56b4e9")
SHAPE = (20, 600, 700)


def write(path, values, **options):
    with create_volume(path, values.shape, values.dtype, voxel_size_nm=(40, 10, 10), **options) as writer:
        writer.write(tuple(slice(0, n) for n in values.shape[:3]), values)
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("shards", [None, (20, 512, 512)])
@pytest.mark.parametrize("labels", [True, False])
def test_levels_are_valid_and_right(tmp_path, version, shards, labels):
    models = pytest.importorskip(f"ome_zarr_models.v{version.replace('.', '')}", reason="pip install ome-zarr-models")
    values = np.random.default_rng(0).choice([0, 7], SHAPE).astype(np.uint8)
    options = {"classes": CLASSES} if labels else {}
    path = write(
        tmp_path / "a.ome.zarr", values, ome_version=version, chunks=(20, 128, 128), shards=shards, **options
    )  # fmt: skip
    assert add_levels(path, labels=labels) == 3
    group = zarr.open_group(path, mode="r")
    model = models.ImageLabel if labels else models.Image
    described = model.from_zarr(group)
    levels = [group[str(level)] for level in range(3)]
    assert [level.shape for level in levels] == [SHAPE, (20, 300, 350), (20, 150, 175)]
    assert all(level.shards == (shards if version == "0.5" else None) for level in levels)
    if labels:
        np.testing.assert_array_equal(levels[1][:], values[:, ::2, ::2])
    else:
        mean = values.reshape(20, 300, 2, 350, 2).mean((2, 4))
        assert abs(levels[1][:].astype(float) - mean).max() <= 0.5
    metadata = described.ome_attributes if version == "0.5" else described.attributes
    assert metadata.multiscales[0].datasets[2].coordinateTransformations[0].scale == [40, 40, 40]
    assert all(axis.unit == "nanometer" for axis in metadata.multiscales[0].axes)
    assert open_volume(path).voxel_size_nm == (40, 10, 10) and open_volume(path / "2").voxel_size_nm == (40, 40, 40)


def test_long_voxels_are_halved_later(tmp_path):
    path = write(tmp_path / "a.ome.zarr", np.zeros((300, 2000, 64), np.uint8), chunks=(64, 256, 64))
    n_levels = add_levels(path, labels=False)
    shapes = [zarr.open_group(path)[str(level)].shape for level in range(n_levels)]
    assert shapes == [(300, 2000, 64), (300, 1000, 32), (300, 500, 16), (150, 250, 8)]


def test_channels_are_kept_in_every_level(tmp_path):
    values = np.random.default_rng(0).random((3, 300, 400, 2)).astype(np.float32)
    path = write(tmp_path / "a.ome.zarr", values)
    assert add_levels(path, labels=False) == 2
    assert zarr.open_group(path)["1"].shape == (2, 3, 150, 200)
    assert open_volume(path / "1").shape == (3, 150, 200, 2)
    assert add_levels(path, labels=False) == 2, "levels that are there are made again, not doubled"


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 2]), st.sampled_from([1, 2]))
def test_means_are_of_whole_groups(height, width, fy, fx):
    values = np.random.default_rng(height * 10 + width).random((height, width)).astype(np.float32)
    found = mean_of(values, (fy, fx))
    assert found.shape == (-(-height // fy), -(-width // fx))
    np.testing.assert_allclose(found[0, 0], np.pad(values, 1, mode="edge")[1 : 1 + fy, 1 : 1 + fx].mean(), rtol=1e-5)


def test_ome_zarr_py_reads_what_is_written(tmp_path):
    io, reader = pytest.importorskip("ome_zarr.io"), pytest.importorskip("ome_zarr.reader")
    values = np.random.default_rng(0).choice([0, 7], SHAPE).astype(np.uint8)
    for version in ("0.4", "0.5"):
        path = write(tmp_path / f"{version}.ome.zarr", values, ome_version=version, classes=CLASSES)
        add_levels(path, labels=True)
        (node,) = list(reader.Reader(io.parse_url(path))())
        assert [level.shape for level in node.data] == [SHAPE, (20, 300, 350), (20, 150, 175)]
        assert node.metadata["axes"][0] == {"name": "z", "type": "space", "unit": "nanometer"}
        np.testing.assert_array_equal(np.asarray(node.data[0]), values)


def test_versions_differ_as_they_should(tmp_path):
    old = write(tmp_path / "a.ome.zarr", np.zeros((2, 8, 8), np.uint8), ome_version="0.4", classes=CLASSES)
    attributes = json.loads((old / ".zattrs").read_text())
    assert attributes["multiscales"][0]["version"] == attributes["image-label"]["version"] == "0.4"
    assert json.loads((old / "0" / ".zarray").read_text())["dimension_separator"] == "/"
    new = write(tmp_path / "b.ome.zarr", np.zeros((2, 8, 8), np.uint8))
    assert json.loads((new / "zarr.json").read_text())["attributes"]["ome"]["version"] == "0.5"
    with pytest.raises(gn.InputError, match=r"version 0\.4 or 0\.5, but got '0\.6'"):
        create_volume(tmp_path / "c.ome.zarr", (1, 2, 3), np.uint8, ome_version="0.6")


def test_a_shard_is_a_file(tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (8, 64, 96)).astype(np.uint8)
    path = tmp_path / "a.ome.zarr"
    create_volume(path, values.shape, np.uint8, chunks=(8, 16, 16), shards=(8, 32, 32)).close()
    with reopen_volume(path) as writer:
        for y in range(0, 64, 32):
            for x in range(0, 96, 32):
                writer.write((slice(0, 8), slice(y, y + 32), slice(x, x + 32)), values[:, y : y + 32, x : x + 32])
    assert len([file for file in (path / "0" / "c").rglob("*") if file.is_file()]) == 6
    np.testing.assert_array_equal(open_volume(path).read(tuple(slice(0, n) for n in values.shape)), values)
