"""Chunks larger than blocks: decoded once, for the same result."""

import collections
import threading
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import genenet as gn
from genenet import chunks
from genenet.averaging import MeanPredictor
from genenet.blocks import BlockPredictor
from genenet.formats import hdf5, ome_zarr
from genenet.normalization import Normalization
from genenet.segment import segment_volume
from genenet.tiling import blocks, numbered_blocks
from genenet.volume import open_volume

SIDES = st.tuples(st.integers(1, 6), st.integers(1, 20), st.integers(1, 20))


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3)))
def test_groups_keep_every_block_and_its_number(shape, core, group):
    found = list(numbered_blocks(shape, core, group))
    assert sorted(found, key=lambda entry: entry[0]) == list(enumerate(blocks(shape, core)))
    places = [
        tuple(side.start // step // n for side, step, n in zip(box, core, group, strict=True)) for _, box in found
    ]
    groups = [place for place, before in zip(places, [None, *places], strict=False) if place != before]
    assert len(groups) == len(set(groups)), "a group was left and entered again"


def write(path, array, sides):
    """In chunks, as the suffix says; channels last."""
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("data", data=array, chunks=(*sides, *array.shape[3:]))
    elif array.ndim == 4:
        with gn.create_volume(path, array.shape, array.dtype, chunks=sides) as out:
            out.write(tuple(slice(0, n) for n in array.shape[:3]), array)
    else:
        zarr.create_array(path, data=array, chunks=sides)
    return open_volume(path)


@pytest.mark.parametrize(("name", "n_channels"), [("a.zarr", 1), ("a.h5", 1), ("a.ome.zarr", 3)])
def test_windows_are_the_same(name, n_channels, tmp_path):
    rng = np.random.default_rng(0)
    array = rng.integers(0, 255, (13, 30, 41, n_channels) if n_channels > 1 else (13, 30, 41)).astype(np.uint8)
    volume = write(tmp_path / name, array, (5, 16, 20))
    assert volume.chunks == (5, 16, 20)
    for core, sides in (((1, 16, 20), (5, 1, 1)), ((2, 7, 41), (5, 16, 1)), ((5, 16, 20), (1, 1, 1))):
        assert chunks.shared_sides(volume, core, core) == sides
        kept = chunks.keeping(volume, sides)
        windows = [(rng.integers(-6, 13, 3), rng.integers(1, 12, 3)) for _ in range(40)]
        with ThreadPoolExecutor(4) as threads:  # as the two threads of a Dask worker do
            found = list(threads.map(lambda window, kept=kept: kept.read_mirrored(*window), windows))
        for window, part in zip(windows, found, strict=True):
            np.testing.assert_array_equal(part, volume.read_mirrored(*window))


def test_what_would_be_too_large_is_not_kept(tmp_path, monkeypatch):
    array = np.zeros((16, 32, 32), np.uint16)
    volume = write(tmp_path / "a.zarr", array, (16, 32, 32))
    for limit, sides in ((2**17, (16, 32, 32)), (2**15, (4, 32, 32)), (2**13, (1, 32, 32)), (2**12, (1, 1, 1))):
        monkeypatch.setattr(chunks, "MAX_BYTES", limit)
        assert chunks.shared_sides(volume, (1, 16, 16), (1, 16, 16)) == sides
    assert chunks.shared_sides(open_volume(array), (1, 16, 16), (1, 16, 16)) == (1, 1, 1)
    assert chunks.group_of((1, 16, 16), (4, 32, 32)) == (4, 2, 2) and chunks.group_of((5, 7, 9), (1, 1, 1)) == (1, 1, 1)


class Dies(Exception):
    """In place of a kill."""


@pytest.mark.parametrize("name", ["a.zarr", "a.h5"])
def test_slices_decode_a_deep_chunk_once(name, tmp_path, monkeypatch):
    array = np.random.default_rng(0).integers(0, 255, (16, 64, 64)).astype(np.uint8)
    write(tmp_path / name, array, (8, 32, 32))
    module, lock, decoded = (hdf5 if name.endswith("h5") else ome_zarr), threading.Lock(), collections.Counter()
    read = module._read

    def counted(*values):
        with lock:
            for z in range(values[-1][0].start // 8, (values[-1][0].stop + 7) // 8):
                decoded[z] += 1
        return read(*values)

    monkeypatch.setattr(module, "_read", counted)
    net = gn.EncoderDecoder(n_classes=2, n_scales=1, n_convs=1, n_features=2)
    normal = Normalization((128.0,), (50.0,))
    mean = MeanPredictor((BlockPredictor(net.build(), net.plan_layers(), normal, net.window_shape()),))
    classes = gn.SegmentationClass(0, "background", "#000000"), gn.SegmentationClass(1, "cell", "#56b4e9")
    expected = tmp_path / "expected.npy"
    segment_volume(mean, classes, array, expected, identity="a", max_voxels=2**11)
    decoded.clear()
    volume, output = open_volume(tmp_path / name), tmp_path / "o.npy"

    def die(done, total):
        if done >= total // 3:
            raise Dies

    with pytest.raises(Dies):
        segment_volume(mean, classes, volume, output, identity="a", max_voxels=2**11, progress=die)
    done = segment_volume(mean, classes, volume, output, identity="a", max_voxels=2**11)
    assert done.n_kept > 0 and done.block[0] == 1 and done.n_blocks + done.n_kept == 16 * 2
    np.testing.assert_array_equal(np.load(output), np.load(expected))
    # Two halves of every slice, two layers of chunks; once for a look at the middle's intensities in each run, and the
    # part that was under way when it died.
    assert sum(decoded.values()) <= 2 * 2 + 2 * 2 + 2, "sixteen slices of two halves would decode 32 times"
