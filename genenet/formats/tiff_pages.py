"""Compressed or tiled TIFF pages: decoding only the strips and tiles that a box touches."""

import functools
import itertools
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np

from genenet.errors import InputError
from genenet.formats.cache import Recent
from genenet.formats.stored import Key


class Pages:
    """A series of TIFF pages of one shape, read by slices along the series' axes. Safe among threads.

    The series' axes are those of the sequence of pages, then those inside a page. tifffile sees a page as
    `(separate samples, depth, length, width, samples together)`; a segment is one of its strips or tiles.
    """

    def __init__(self, file: Any, series: Any, name: str) -> None:
        self.name = name
        self._file = file
        self._series = series
        self._keyframe = series.keyframe
        self._lock = threading.Lock()
        self._recent = Recent()
        self._n_leading = len(series.shape) - len(self._keyframe.shape)

    def read(self, key: Key) -> np.ndarray:
        """Give the part inside one slice per axis of the series."""
        leading, inside = key[: self._n_leading], key[self._n_leading :]
        part = np.empty([axis.stop - axis.start for axis in key], self._series.dtype)
        sizes = self._series.shape[: self._n_leading]
        strides = [math.prod(sizes[axis + 1 :]) for axis in range(self._n_leading)]
        for position in np.ndindex(*part.shape[: self._n_leading]):
            page = sum((axis.start + step) * by for axis, step, by in zip(leading, position, strides, strict=True))
            part[position] = self._read_page(page, inside)
        return part

    def _read_page(self, page: int, key: Key) -> np.ndarray:
        """Give the part of one page, of the shape of `key`."""
        shaped = self._keyframe.shaped
        box = [slice(0, size) for size in shaped]
        for letter, axis in zip(self._keyframe.axes, key, strict=True):
            box[{"Z": 1, "Y": 2, "X": 3}.get(letter, 0 if shaped[0] > 1 else 4)] = axis
        part = np.full([axis.stop - axis.start for axis in box], self._keyframe.nodata, self._series.dtype)
        for index, corner in self._segments(box):
            segment = self._recent.get((page, index), functools.partial(self._decode, page, index))
            lows = [max(axis.start, at) for axis, at in zip(box, corner, strict=True)]
            ends = [at + size for at, size in zip(corner, segment.shape, strict=True)]
            highs = [min(axis.stop, end) for axis, end in zip(box, ends, strict=True)]
            to = tuple(
                slice(low - axis.start, high - axis.start) for low, high, axis in zip(lows, highs, box, strict=True)
            )
            of = tuple(slice(low - at, high - at) for low, high, at in zip(lows, highs, corner, strict=True))
            part[to] = segment[of]
        return part.reshape([axis.stop - axis.start for axis in key])

    def _segments(self, box: list[slice]) -> list[tuple[int, tuple[int, ...]]]:
        """Give index and first voxel of every segment that the box touches."""
        frame = self._keyframe
        size = (frame.tiledepth, frame.tilelength, frame.tilewidth)
        if not frame.is_tiled:
            size = (1, min(frame.rowsperstrip, frame.imagelength), frame.imagewidth)
        steps = (1, *size)
        counts = [math.ceil(n / step) for n, step in zip(frame.shaped, steps, strict=False)]
        ranges = [
            range(axis.start // step, math.ceil(axis.stop / step)) for axis, step in zip(box, steps, strict=False)
        ]
        return [
            (int(np.ravel_multi_index(at, counts)), (*(n * step for n, step in zip(at, steps, strict=True)), 0))
            for at in itertools.product(*ranges)
        ]

    def _decode(self, page: int, index: int) -> np.ndarray:
        """Give one segment, shape `(1, depth, length, width, samples)`."""
        with self._lock:
            frame = self._series.pages[page]
            if frame is None:
                raise InputError(f"{self.name} refers to a file that is not there; put the files of the set together")
            place = (Path(frame.parent.filehandle.path), frame.dataoffsets[index], frame.databytecounts[index])
            tables = {"jpegtables": frame.jpegtables, "jpegheader": self._keyframe.jpegheader}
        decoded, _, shape = self._keyframe.decode(_read_bytes(*place), index, **tables)
        if decoded is None:
            decoded = np.full(shape, self._keyframe.nodata, self._series.dtype)
        return decoded[None]


def _read_bytes(path: Path, offset: int, count: int) -> bytes | None:
    """Read a segment's bytes through a handle of its own, so that threads and processes need not agree."""
    if offset == 0 or count == 0:
        return None
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(count)
