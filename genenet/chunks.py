"""Reading volumes whose chunks are larger than blocks: a chunk is decoded once for the blocks that lie in it.

A slice through chunks of 64 slices decodes all of them. Blocks that share chunks are done one after the other, and what
is decoded for the first is kept for the others.
"""

import dataclasses
import math
import threading
from collections.abc import Sequence

import numpy as np

from genenet.formats.stored import Key, Stored
from genenet.volume import Volume

# What is kept at most. Blocks that are read, computed and written at the same time may each hold as much.
MAX_BYTES = 2**27

NONE = 1, 1, 1


def shared_sides(volume: Volume, core: Sequence[int], window: Sequence[int]) -> tuple[int, ...]:
    """The sides `(z, y, x)` of the pieces that are read for several blocks at once; 1 where blocks share no chunks.

    Args:
        volume: The image.
        core: The shape of a block `(z, y, x)`.
        window: What is read for it.
    """
    if volume.chunks is None:
        return NONE
    sides = [
        min(chunk, n) if min(chunk, n) > side else 1
        for chunk, n, side in zip(volume.chunks, volume.shape, core, strict=False)
    ]
    voxel_bytes = volume.n_channels * volume.dtype.itemsize
    while voxel_bytes * math.prod(map(_touched, window, sides)) > MAX_BYTES:
        if sides[0] == 1:
            return NONE
        sides[0] = sides[0] // 2 if sides[0] // 2 > core[0] else 1
    return tuple(sides)


def group_of(core: Sequence[int], sides: Sequence[int]) -> tuple[int, ...]:
    """How many blocks per axis share a piece."""
    return tuple(max(side // step, 1) for side, step in zip(sides, core, strict=True))


def keeping(volume: Volume, sides: Sequence[int]) -> Volume:
    """The same volume, which reads whole pieces and keeps the last. Safe among threads; other processes open it anew.

    Args:
        volume: The image.
        sides: Of a piece `(z, y, x)`, from `shared_sides`.
    """
    if tuple(sides) == NONE:
        return volume
    by_axis = dict(zip("zyx", sides, strict=True))
    kept = _Kept(volume.stored, tuple(by_axis.get(axis, 1) for axis in volume.stored.axes))
    return dataclasses.replace(volume, stored=dataclasses.replace(volume.stored, read=kept.read))


def _touched(window: int, side: int) -> int:
    """How many voxels the pieces have that a window may touch along an axis."""
    return window if side == 1 else (math.ceil((window - 1) / side) + 1) * side


class _Kept:
    """The pieces read last.

    Args:
        stored: Where they come from.
        sides: Of a piece along the file's axes.
    """

    def __init__(self, stored: Stored, sides: tuple[int, ...]) -> None:
        self._stored, self._sides = stored, sides
        self._key: Key | None = None
        self._part = np.empty(0)
        self._lock = threading.Lock()

    def read(self, key: Key) -> np.ndarray:
        """As `Stored.read`."""
        with self._lock:
            if self._key is None or not all(map(_within, key, self._key)):
                sides = zip(key, self._sides, self._stored.shape, strict=True)
                wide = tuple(
                    slice(at.start // side * side, min(math.ceil(at.stop / side) * side, n)) for at, side, n in sides
                )
                self._key, self._part = None, np.empty(0)
                self._part = np.asarray(self._stored.read(wide))
                self._key = wide
            places = zip(key, self._key, strict=True)
            return self._part[tuple(slice(at.start - all_.start, at.stop - all_.start) for at, all_ in places)]


def _within(inner: slice, outer: slice) -> bool:
    return bool(outer.start <= inner.start and inner.stop <= outer.stop)
