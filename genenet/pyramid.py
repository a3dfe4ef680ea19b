"""Coarser levels of an OME-Zarr, so that viewers show volumes of any size at once."""

import itertools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from genenet.formats import ome_zarr
from genenet.formats.stored import writing
from genenet.tiling import blocks

logger = logging.getLogger("genenet")

# No level is made of one whose sides are all this long or less.
SMALL = 256

# An axis is halved with the finest if its voxels are at most so many times as long.
NEARLY = 1.5

# From so many voxels on it takes minutes, so it is said.
MANY = 2**30

# So many boxes at a time, unless they take more than this together.
N_THREADS, MOST_BYTES = 4, 2**29


def add_levels(path: Path, *, labels: bool) -> int:
    """Add levels to an image of one level, each half as large as the one before; axes of long voxels are halved later.

    Args:
        path: The OME-Zarr.
        labels: Take every second voxel, since labels cannot be averaged; else the mean of those that become one.

    Returns:
        How many levels there are now.
    """
    import zarr

    group: Any = zarr.open_group(path, mode="r+")
    attributes: dict[str, Any] = group.attrs.asdict()
    metadata = attributes.get("ome", attributes)
    image = metadata["multiscales"][0]
    image["datasets"] = image["datasets"][:1]
    image["type"] = "nearest" if labels else "mean"
    axes = "".join(axis["name"] for axis in image["axes"])
    sizes = np.array(image["datasets"][0]["coordinateTransformations"][0]["scale"], float)
    source, total = group["0"], np.ones(len(axes), int)
    if source.size >= MANY:
        logger.info("adding coarser levels, for viewers, to %s", path)
    for level in itertools.count(1):
        halved = _halved(source.shape, sizes * total, axes)
        if not halved.any():
            break
        total = total * np.where(halved, 2, 1)
        shape = [-(-side // factor) for side, factor in zip(source.shape, np.where(halved, 2, 1), strict=True)]
        name = str(level)
        if name in group:
            del group[name]
        target = ome_zarr.create_level(group, name, shape, source.chunks, source.shards, source.dtype, axes)
        unit, factors = source.shards or _unit(source.chunks), tuple(np.where(halved, 2, 1))
        # What is read, and again where it is filled up; a mean, and what is added to it, in float32.
        n_bytes = math.prod(unit) * (2 * math.prod(factors) * source.dtype.itemsize + (0 if labels else 8))
        n_threads = int(np.clip(MOST_BYTES // n_bytes, 1, N_THREADS))
        with writing(str(path)):
            _in_threads(_Reduce(source, target, factors, labels), blocks(shape, unit), n_threads)
        entry: dict[str, Any] = {"type": "scale", "scale": (sizes * total).tolist()}
        transforms = [entry]
        if not labels:  # a mean lies in the middle of what it is of
            transforms.append({"type": "translation", "translation": (sizes * (total - 1) / 2).tolist()})
        image["datasets"].append({"path": name, "coordinateTransformations": transforms})
        source = target
    group.attrs.update(attributes)
    return len(image["datasets"])


class _Reduce:
    """Makes one box of a level from the level before."""

    def __init__(self, source: Any, target: Any, factors: tuple[int, ...], labels: bool) -> None:
        self.source, self.target, self.factors, self.labels = source, target, factors, labels

    def __call__(self, box: Sequence[slice]) -> None:
        key = tuple(
            slice(side.start * factor, min(side.stop * factor, n))
            for side, factor, n in zip(box, self.factors, self.source.shape, strict=True)
        )
        values = np.asarray(self.source[key])
        if self.labels:
            self.target[tuple(box)] = values[tuple(slice(None, None, factor) for factor in self.factors)]
        else:
            self.target[tuple(box)] = mean_of(values, self.factors)


def mean_of(values: np.ndarray, factors: Sequence[int]) -> np.ndarray:
    """The mean of groups of voxels; a group that is cut off at the end is filled up by its last voxel.

    >>> mean_of(np.array([1.0, 3.0, 5.0]), (2,)).tolist()
    [2.0, 5.0]
    """
    missing = [(0, -n % factor) for n, factor in zip(values.shape, factors, strict=True)]
    padded = np.pad(values, missing, mode="edge") if np.any(missing) else values
    mean = np.zeros([n // factor for n, factor in zip(padded.shape, factors, strict=True)], np.float32)
    for firsts in itertools.product(*map(range, factors)):
        mean += padded[tuple(slice(first, None, factor) for first, factor in zip(firsts, factors, strict=True))]
    mean /= math.prod(factors)
    return (np.rint(mean, out=mean) if values.dtype.kind in "ui" else mean).astype(values.dtype)


def _halved(shape: Sequence[int], sizes: np.ndarray, axes: str) -> np.ndarray:
    """Which axes of the next level are half as long."""
    is_space = np.array([axis in "zyx" for axis in axes])
    sides = np.array(shape)
    if sides[is_space].max() <= SMALL:
        return np.zeros(len(axes), bool)
    open_axes = is_space & (sides > 1)
    return open_axes & (sizes <= NEARLY * sizes[open_axes].min())


def _unit(chunks: Sequence[int]) -> tuple[int, ...]:
    """Some chunks at a time: two along every axis of space."""
    return tuple(chunks[:-3]) + tuple(2 * side for side in chunks[-3:])


def _in_threads(function: Callable[[Any], None], items: Iterator[Any], n_threads: int) -> None:
    """A few items at a time, so that memory does not grow with their number."""
    with ThreadPoolExecutor(n_threads) as pool:
        while batch := list(itertools.islice(items, 4 * n_threads)):
            list(pool.map(function, batch))
