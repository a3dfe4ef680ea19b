"""NumPy's `.npy` files, mapped into memory; they hold no voxel size and no class names."""

import os
from pathlib import Path

import numpy as np

from genenet.formats.stored import Layout, Stored, Target, name_axes, reading


def open_stored(path: Path, name: str) -> Stored:
    """Map a `.npy` file; nothing of it is read yet.

    Raises:
        InputError: It is damaged, holds Python objects, or has the wrong number of axes.
    """
    with reading(name):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    return Stored(array.shape, array.dtype, name_axes(None, array.shape, name), array.__getitem__)


def create(path: Path, layout: Layout) -> Target:
    """Make a file of zeros, with all of its room taken from the disk."""
    np.lib.format.open_memmap(path, mode="w+", dtype=layout.dtype, shape=layout.shape)
    reserve(path)
    return reopen(path, str(path))


def reopen(path: Path, name: str) -> Target:
    """Open an existing file for more writing."""
    with reading(name):
        array = np.lib.format.open_memmap(path, mode="r+")
    return mapped_target(array, name_axes(None, array.shape, name))


def mapped_target(array: np.memmap, axes: str) -> Target:
    """Write through an array that is mapped into memory."""
    return Target(array.shape, array.dtype, axes, array.__setitem__, array.flush, lambda: None)


def reserve(path: Path) -> None:
    """Take the file's whole room from the disk now.

    A mapped file starts with holes; when the disk is full, filling one kills the process (SIGBUS) instead of
    raising an error.

    Raises:
        OSError: There is not enough room.
    """
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
