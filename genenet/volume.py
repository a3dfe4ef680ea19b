"""Image and label volumes on disk or in memory, read and written piece by piece."""

import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from genenet.classes import SegmentationClass
from genenet.errors import InputError
from genenet.folder import remove
from genenet.formats import hdf5, npy, ome_zarr, place, slices, tiff
from genenet.formats.boxes import Box, cast, checked, file_key, from_file_order, mirrored, to_file_order, volume_shape
from genenet.formats.remote import is_remote
from genenet.formats.stored import DEFAULT_CHUNKS, Layout, Stored, Target, VoxelSize, name_axes, reading, writing


@dataclasses.dataclass(frozen=True)
class Volume:
    """An image or a label volume that is read piece by piece.

    What is read must not be changed in place: it may be the file itself, or the array that was opened.
    Volumes may be read by several threads and sent to other processes, which open them again.

    Attributes:
        name: What the user called it, for messages.
        shape: `(z, y, x)`, or `(z, y, x, channels)` with two channels or more.
        dtype: The type of a voxel, in the machine's byte order: an integer, a float or bool.
        voxel_size_nm: `(z, y, x)`, or None when the file does not say. A single slice without a depth is as deep
            as its pixels are high.
        source: What was opened, a path or an array.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    voxel_size_nm: VoxelSize | None
    source: Any = dataclasses.field(repr=False, compare=False)
    stored: Stored = dataclasses.field(repr=False, compare=False)

    @property
    def n_channels(self) -> int:
        """How many channels a voxel has, 1 when there is no channel axis."""
        return self.shape[3] if len(self.shape) == 4 else 1

    @property
    def chunks(self) -> tuple[int, int, int] | None:
        """Voxels `(z, y, x)` that are decoded whole for every `read`; None where any part can be had alone."""
        if self.stored.chunks is None:
            return None
        sides = dict(zip(self.stored.axes, self.stored.chunks, strict=True))
        return sides.get("z", 1), sides["y"], sides["x"]

    def read(self, box: Box) -> np.ndarray:
        """Give what is inside a box, reading as little as the format allows.

        Args:
            box: One slice per axis `(z, y, x)`, inside the volume and without a step.

        Returns:
            Shape `(dz, dy, dx)` or `(dz, dy, dx, channels)`, not to be written to.

        Raises:
            InputError: The file is damaged there.
            ValueError: The box reaches beyond the volume.
        """
        box = checked(box, self.shape, self.name)
        shape = tuple(axis.stop - axis.start for axis in box) + self.shape[3:]
        if 0 in shape:
            return np.empty(shape, self.dtype)
        with reading(self.name):
            part = np.asarray(self.stored.read(file_key(box, self.stored)))
            part = from_file_order(part, self.stored.axes, shape).astype(self.dtype, copy=False)
        part.flags.writeable = False
        return part

    def read_mirrored(self, start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
        """Give a window that may reach beyond the volume, mirrored there as by `numpy.pad(mode="reflect")`.

        The voxel at the edge is not repeated; an axis of length 1 repeats its only voxel.

        Args:
            start: The window's first voxel `(z, y, x)`; may be negative.
            shape: The window's size `(z, y, x)`, in voxels.

        Returns:
            Shape `(*shape)` or `(*shape, channels)`, not to be written to.
        """
        if 0 in shape:
            return np.empty((*shape, *self.shape[3:]), self.dtype)
        indices = [mirrored(first, n, size) for first, n, size in zip(start, shape, self.shape[:3], strict=True)]
        lows = [int(index.min()) for index in indices]
        z, y, x = (slice(low, int(index.max()) + 1) for low, index in zip(lows, indices, strict=True))
        window = self.read((z, y, x))
        for axis, (first, n) in enumerate(zip(start, shape, strict=True)):
            if first < 0 or first + n > self.shape[axis]:
                window = window.take(indices[axis] - lows[axis], axis)
        window.flags.writeable = False
        return window

    def absolute(self) -> "Volume":
        """The same, to be opened by a process that works in another folder."""
        if not isinstance(self.source, (str, os.PathLike)) or is_remote(os.fspath(self.source)):
            return self
        return dataclasses.replace(self, source=str(Path(self.source).absolute()))

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.source, self.name, self.voxel_size_nm)


class Writer:
    """A volume on disk that is written box by box; close it, or use it in a `with` block.

    Attributes:
        name: The path as the user gave it.
        shape: `(z, y, x)`, or `(z, y, x, channels)` with two channels or more.
        dtype: The type of a voxel.
    """

    def __init__(self, name: str, target: Target) -> None:
        self.name = name
        self.shape = volume_shape(target.shape, target.axes)
        self.dtype = target.dtype
        self._target: Target | None = target

    def write(self, box: Box, array: np.ndarray) -> None:
        """Put values into a box.

        Args:
            box: One slice per axis `(z, y, x)`, inside the volume and without a step.
            array: Values for it, `(dz, dy, dx)` or `(dz, dy, dx, channels)`; of another type when they fit.

        Raises:
            InputError: The disk is full, or the file cannot be written for another reason.
            ValueError: The box, the shape or the values do not fit.
        """
        target = self._open_target()
        box = checked(box, self.shape, self.name)
        shape = tuple(axis.stop - axis.start for axis in box) + self.shape[3:]
        array = np.asarray(array)
        if array.shape not in (shape, (*shape, 1)[:4]):
            raise ValueError(f"the box in {self.name} takes an array of shape {shape}, but got {array.shape}")
        array = cast(array, self.dtype, self.name).reshape(shape)
        with writing(self.name):
            target.write(file_key(box, target), to_file_order(array, target.axes))

    def flush(self) -> None:
        """Bring everything written so far to the disk."""
        with writing(self.name):
            self._open_target().flush()

    def close(self) -> None:
        """End the writing; a second call does nothing."""
        if self._target is None:
            return
        target, self._target = self._target, None
        with writing(self.name):
            try:
                target.flush()
            finally:
                target.close()

    def _open_target(self) -> Target:
        if self._target is None:
            raise ValueError(f"{self.name} is closed; open it with `reopen_volume`")
        return self._target

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except InputError:
            if kind is None:  # else what went wrong first says more
                raise


def open_volume(source: Any, *, name: str | None = None) -> Volume:
    """Open an image or a label volume: a TIFF stack, a folder of slices, HDF5, Zarr, OME-Zarr, `.npy` or an array.

    A 2-D image becomes a volume of one slice. Channels come last. Four axes without names are z, y, x and channels;
    a channel axis of length 1 is dropped.

    >>> open_volume(np.zeros((64, 48), np.uint8)).shape
    (1, 64, 48)

    Args:
        source: A path, with the dataset after a colon for HDF5 (`cells.h5:/raw`) and the group as a folder for
            Zarr (`cells.ome.zarr/labels/nuclei`); or an array of any library that has a shape, a dtype and slices.
        name: What to call it in messages; the path unless given.

    Raises:
        InputError: There is no such file, it cannot be read, or it holds what is no volume.
    """
    if isinstance(source, Volume):
        return source
    if isinstance(source, (str, os.PathLike)):
        name = name or os.fspath(source)
        stored = _open_stored(source, name)
    else:
        name = name or "the array"
        stored = _array_stored(source, name)
    if stored.dtype.kind not in "buif":
        raise InputError(
            f"a volume holds integers, floats or booleans, but {name} holds {stored.dtype}; convert it to one of these"
        )
    shape = volume_shape(stored.shape, stored.axes)
    return Volume(name, shape, stored.dtype.newbyteorder("="), stored.voxel_size_nm, source, stored)


def create_volume(
    path: str | os.PathLike[str],
    shape: Sequence[int],
    dtype: Any,
    *,
    voxel_size_nm: Sequence[float] | None = None,
    classes: Sequence[SegmentationClass] | None = None,
    chunks: Sequence[int] | None = None,
    shards: Sequence[int] | None = None,
    ome_version: str = ome_zarr.VERSION,
    overwrite: bool = False,
) -> Writer:
    """Make a volume of zeros to be written box by box; the suffix names the format.

    `.ome.zarr` keeps everything: voxel size, and the names and colours of classes. TIFF and HDF5 keep the voxel size,
    `.npy` keeps neither. Several processes may write into one `.ome.zarr`, `.tif` or `.npy` when no two of them share
    a chunk; only one may write HDF5, and a process killed in the middle of a write may leave that file unreadable.

    Args:
        path: `.ome.zarr`, `.zarr`, `.ome.tif`, `.tif`, `.npy`, `.h5` or `.h5:/dataset`.
        shape: `(z, y, x)` or `(z, y, x, channels)`.
        dtype: The type of a voxel: an integer, a float or bool.
        voxel_size_nm: `(z, y, x)`.
        classes: The class table of a label volume.
        chunks: Voxels per block `(z, y, x)` in Zarr and HDF5; one channel per block.
        shards: Voxels per file `(z, y, x)` in OME-Zarr 0.5, whole chunks, all channels; a file per chunk if left out.
        ome_version: Of an OME-Zarr, 0.5 or 0.4.
        overwrite: Replace what stands there.

    Raises:
        InputError: Something stands there, the suffix is unknown, the format has no such type, or the disk is full.
    """
    where = place.target(path)
    layout = _layout(os.fspath(path), shape, dtype, voxel_size_nm, chunks)
    check_new_volume(path, dtype, ome_version)
    if shards is not None and ome_version == ome_zarr.VERSION:
        layout = dataclasses.replace(layout, chunks=(*tuple(chunks or DEFAULT_CHUNKS)[:3], *layout.chunks[3:]))
        layout = dataclasses.replace(layout, shards=(*tuple(shards)[:3], *layout.shape[3:]))
    layout = dataclasses.replace(layout, ome_version=ome_version)
    place.check_free(path, overwrite=overwrite)
    with writing(os.fspath(path)):
        remove(where.path)
        where.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return Writer(os.fspath(path), _create(where, layout, classes))
        except BaseException:
            remove(where.path)
            raise


def check_new_volume(path: str | os.PathLike[str], dtype: Any, ome_version: str = ome_zarr.VERSION) -> None:
    """Refuse what `create_volume` could not write, whatever its shape.

    Raises:
        InputError: The suffix or the version is unknown, or the format has no such type.
    """
    where = place.target(path)
    if ome_version not in ome_zarr.VERSIONS:
        raise InputError(f"OME-Zarr is written in version {' or '.join(ome_zarr.VERSIONS)}, but got {ome_version!r}")
    if where.format == "tiff":
        tiff.check_dtype(where.path, np.dtype(dtype))


def check_not_read(volume: Volume, path: str | os.PathLike[str]) -> None:
    """Refuse to write over the volume that is read.

    Raises:
        InputError: The path is the volume's, or holds it.
    """
    if not isinstance(volume.source, (str, os.PathLike)) or is_remote(os.fspath(volume.source)):
        return
    read, written = Path(place.find(volume.source).path).resolve(), place.target(path).path.resolve()
    if written == read or written in read.parents:
        raise InputError(f"{os.fspath(path)} is what is read; choose another output")


def reopen_volume(path: str | os.PathLike[str]) -> Writer:
    """Open a volume that `create_volume` made for more writing, after a kill for example.

    Raises:
        InputError: There is no such file, or it cannot be written in place.
    """
    name = os.fspath(path)
    where = place.find(path)
    if where.format == "slices":
        raise InputError(f"a volume is written into one of {', '.join(place.FORMATS)}, but got {name}")
    if where.format == "ome_zarr":
        return Writer(name, ome_zarr.reopen(where.path, where.inner, name))
    if where.format == "hdf5":
        return Writer(name, hdf5.reopen(where.path, where.inner, name))
    return Writer(name, (tiff if where.format == "tiff" else npy).reopen(where.path, name))


def _open_stored(source: str | os.PathLike[str], name: str) -> Stored:
    where = place.find(source)
    if where.format == "ome_zarr":
        return ome_zarr.open_stored(where.path, where.inner, name)
    if where.format == "hdf5":
        return hdf5.open_stored(where.path, where.inner, name)
    openers = {"tiff": tiff.open_stored, "npy": npy.open_stored, "slices": slices.open_stored}
    return openers[where.format](where.path, name)


def _array_stored(array: Any, name: str) -> Stored:
    if not (hasattr(array, "shape") and hasattr(array, "dtype") and hasattr(array, "__getitem__")):
        raise InputError(f"a volume is a path or an array, but got {type(array).__name__} for {name}")
    shape = tuple(int(size) for size in array.shape)
    return Stored(shape, np.dtype(array.dtype), name_axes(None, shape, name), array.__getitem__)


def _create(where: place.Place, layout: Layout, classes: Sequence[SegmentationClass] | None) -> Target:
    if where.format == "ome_zarr":
        return ome_zarr.create(where.path, layout, classes)
    if where.format == "hdf5":
        return hdf5.create(where.path, where.inner, layout, compress=bool(classes))
    return (tiff if where.format == "tiff" else npy).create(where.path, layout)


def _layout(
    name: str, shape: Sequence[int], dtype: Any, voxel_size_nm: Sequence[float] | None, chunks: Sequence[int] | None
) -> Layout:
    """Check what a new volume is to be; a channel axis of length 1 is left out, and chunks are cut to the volume."""
    sizes = tuple(int(size) for size in shape)
    if len(sizes) not in (3, 4) or min(sizes) < 1:
        raise InputError(f"the shape of {name} must be (z, y, x) or (z, y, x, channels), but got {sizes}")
    kind = np.dtype(dtype)
    if kind.kind not in "buif":
        raise InputError(f"a volume holds integers, floats or booleans, but {name} is to hold {kind}")
    if sizes[3:] == (1,):
        sizes = sizes[:3]
    voxel = None if voxel_size_nm is None else tuple(float(size) for size in voxel_size_nm)
    if voxel is not None and (len(voxel) != 3 or not all(math.isfinite(size) and size > 0 for size in voxel)):
        raise InputError(f"`voxel_size_nm` is three positive lengths (z, y, x), but got {voxel} for {name}")
    blocks = (*tuple(chunks or DEFAULT_CHUNKS)[:3], 1)
    return Layout(sizes, kind.newbyteorder("="), voxel, tuple(map(min, sizes, blocks)))  # type: ignore[arg-type]


def _reopened(source: Any, name: str, voxel_size_nm: VoxelSize | None) -> Volume:
    return dataclasses.replace(open_volume(source, name=name), voxel_size_nm=voxel_size_nm)
