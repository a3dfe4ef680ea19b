"""Copy volumes from any format to any other, and say what is in them."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from genenet.classes import SegmentationClass
from genenet.folder import remove
from genenet.formats import place
from genenet.formats.boxes import Box
from genenet.formats.stored import DEFAULT_CHUNKS
from genenet.volume import Volume, create_volume, open_volume

# What is read at once, unless the row of blocks along x alone is more.
_MAX_BYTES = 64 * 2**20
_MAX_SLICES = 64
_MAX_VALUES = 64


def convert(
    source: Any,
    target: str | os.PathLike[str],
    *,
    voxel_size_nm: Sequence[float] | None = None,
    classes: Sequence[SegmentationClass] | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Copy a volume into another format, part by part, so that it may be larger than the memory.

    The copy stands beside as `NAME.part.SUFFIX` until it is whole.

    Args:
        source: What `open_volume` opens.
        target: What `create_volume` makes; the suffix names the format.
        voxel_size_nm: `(z, y, x)`, in place of what the source says.
        classes: The class table of a label volume, kept in OME-Zarr.
        overwrite: Replace what stands at `target`.
        progress: Called with the numbers of voxels copied and to copy.

    Raises:
        InputError: The source cannot be read, or the target exists or cannot be written.
    """
    volume = open_volume(source)
    place.check_free(target, overwrite=overwrite)
    partial = place.partial_name(target)
    size = volume.voxel_size_nm if voxel_size_nm is None else voxel_size_nm
    try:
        remove(place.target(partial).path)  # what a killed conversion left
        _copy(volume, partial, size, classes, progress)
        place.publish(partial, target)
    except BaseException:
        remove(place.target(partial).path)
        raise


def describe(volume: Volume) -> dict[str, Any]:
    """Say what is in a volume, as plain data: `genenet data info`.

    Values are looked at in at most 64 slices spread evenly over z.

    >>> describe(open_volume(np.array([[0, 1], [1, 1]], np.uint8)))["counts"]
    {0: 1, 1: 3}

    Returns:
        `name`, `shape`, `dtype` and `voxel_size_nm`; `n_slices_read`; `min`, `max` and `mean` (None when all
        voxels are NaN), `n_nan`; and `counts`, voxels per value, for integers with at most 64 values, else None.
    """
    depth = volume.shape[0]
    indices = np.unique(np.linspace(0, depth - 1, min(depth, _MAX_SLICES)).round().astype(int))
    summary = _Summary(volume.dtype)
    for z in indices:
        summary.add(volume.read((slice(int(z), int(z) + 1), slice(None), slice(None))))
    return {
        "name": volume.name,
        "shape": list(volume.shape),
        "dtype": volume.dtype.name,
        "voxel_size_nm": None if volume.voxel_size_nm is None else list(volume.voxel_size_nm),
        "n_slices_read": len(indices),
        **summary.result(),
    }


def _copy(
    volume: Volume,
    target: str,
    voxel_size_nm: Sequence[float] | None,
    classes: Sequence[SegmentationClass] | None,
    progress: Callable[[int, int], None] | None,
) -> None:
    total, done = int(np.prod(volume.shape)), 0
    shape, dtype = volume.shape, volume.dtype
    with create_volume(target, shape, dtype, voxel_size_nm=voxel_size_nm, classes=classes) as writer:
        for box in _parts(volume):
            part = volume.read(box)
            writer.write(box, part)
            done += part.size
            if progress is not None:
                progress(done, total)


def _parts(volume: Volume) -> Iterator[Box]:
    """Cut a volume into parts that are whole rows of the target's blocks."""
    depth, height, width = volume.shape[:3]
    z_step, y_step, _ = DEFAULT_CHUNKS
    row_bytes = z_step * y_step * width * volume.n_channels * volume.dtype.itemsize
    y_step *= max(1, _MAX_BYTES // row_bytes)
    for z in range(0, depth, z_step):
        for y in range(0, height, y_step):
            yield slice(z, min(z + z_step, depth)), slice(y, min(y + y_step, height)), slice(0, width)


class _Summary:
    """Numbers that add up over parts of a volume."""

    def __init__(self, dtype: np.dtype) -> None:
        self.is_float = dtype.kind == "f"
        self.lows: list[float] = []
        self.highs: list[float] = []
        self.total = 0.0
        self.n_voxels = 0
        self.n_nan = 0
        self.counts: dict[int, int] | None = None if self.is_float else {}

    def add(self, part: np.ndarray) -> None:
        if self.is_float:
            valid = ~np.isnan(part)
            self.n_nan += int(part.size - valid.sum())
            part = part[valid]
        if not part.size:
            return
        self.lows.append(part.min().item())
        self.highs.append(part.max().item())
        self.total += float(part.sum(dtype=np.float64))
        self.n_voxels += part.size
        if self.counts is not None:
            values, counts = np.unique(part, return_counts=True)
            for value, count in zip(values.tolist(), counts.tolist(), strict=True):
                self.counts[int(value)] = self.counts.get(int(value), 0) + count
            if len(self.counts) > _MAX_VALUES:
                self.counts = None

    def result(self) -> dict[str, Any]:
        return {
            "min": min(self.lows, default=None),
            "max": max(self.highs, default=None),
            "mean": self.total / self.n_voxels if self.n_voxels else None,
            "n_nan": self.n_nan,
            "counts": None if self.counts is None else dict(sorted(self.counts.items())),
        }
