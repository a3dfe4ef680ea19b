"""Volumes that processes share: the same voxels, written once, read by mapping."""

import os
import shutil

import numpy as np
import pytest
from conftest import blobs

import genenet as gn
from genenet.dataset import Dataset
from genenet.holding import mapped
from genenet.volume import create_volume, open_volume


@pytest.mark.parametrize("name", ["image.npy", "image.tif", "image.h5:/raw", "image.ome.zarr"])
def test_mapped_volumes_are_the_same_voxels(name, tmp_path):
    values = blobs((5, 40, 30))[0]
    path = str(tmp_path / name)
    with create_volume(path, values.shape, values.dtype, voxel_size_nm=(50, 10, 10)) as writer:
        writer.write(tuple(slice(0, n) for n in values.shape), values)
    volume = open_volume(path)
    for _ in range(2):
        held = mapped(volume, tmp_path / "shared")
        np.testing.assert_array_equal(
            held.read_mirrored((-2, 0, 5), (7, 40, 20)), volume.read_mirrored((-2, 0, 5), (7, 40, 20))
        )
        assert (held.name, held.voxel_size_nm, held.dtype) == (volume.name, volume.voxel_size_nm, volume.dtype)
        base = held.read((slice(1, 3), slice(0, 40), slice(0, 30))).base
        while base is not None and not isinstance(base, np.memmap):
            base = base.base
        assert isinstance(base, np.memmap)
    kept = list((tmp_path / "shared").glob("*")) if (tmp_path / "shared").exists() else []
    assert len(kept) == (0 if name.endswith(".npy") else 1)
    assert mapped(volume, tmp_path / "none", limit=10) is volume


def test_a_file_that_changed_is_written_again(tmp_path):
    for value in (1, 2):
        with create_volume(tmp_path / "image.tif", (2, 8, 8), np.uint8, overwrite=True) as writer:
            writer.write((slice(0, 2), slice(0, 8), slice(0, 8)), np.full((2, 8, 8), value, np.uint8))
        os.utime(tmp_path / "image.tif", (value, value))
        held = mapped(open_volume(tmp_path / "image.tif"), tmp_path / "shared")
        assert int(held.read((slice(0, 1),) * 3)[0, 0, 0]) == value
    assert len(list((tmp_path / "shared").iterdir())) == 2


def test_a_study_holds_its_volumes_once(data_settings, tmp_path):
    for key in ("image", "labels"):
        values = np.load(data_settings[key])
        with create_volume(tmp_path / f"{key}.tif", values.shape, values.dtype) as writer:
            writer.write(tuple(slice(0, n) for n in values.shape), values)
    data = {**data_settings, "image": str(tmp_path / "image.tif"), "labels": str(tmp_path / "labels.tif")}
    studies = [gn.Dataset.open(data), Dataset.open(data, shared=tmp_path / "shared")]
    assert studies[0].fingerprint == studies[1].fingerprint
    assert sorted(path.name.partition("-")[0] for path in (tmp_path / "shared").iterdir()) == ["image", "labels"]
    np.testing.assert_array_equal(*(each.training[0].read_image((0, 0, 0), (3, 30, 30)) for each in studies))


def test_without_room_a_volume_is_read_from_its_own_file(tmp_path, monkeypatch):
    with create_volume(tmp_path / "image.tif", (2, 8, 8), np.uint8) as writer:
        writer.write((slice(0, 2), slice(0, 8), slice(0, 8)), np.ones((2, 8, 8), np.uint8))
    room = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: room._replace(free=100))
    volume = open_volume(tmp_path / "image.tif")
    assert mapped(volume, tmp_path / "shared") is volume
    assert not list((tmp_path / "shared").iterdir())
