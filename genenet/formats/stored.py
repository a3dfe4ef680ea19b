"""What every file format gives: an array read or written by slices, with named axes."""

import contextlib
import dataclasses
import math
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from genenet.errors import InputError
from genenet.formats.remote import is_about_connection

Key = tuple[slice, ...]
VoxelSize = tuple[float, float, float]

# Voxels per block of chunked formats: half a million, near the megabyte that disks and networks like.
DEFAULT_CHUNKS = (8, 256, 256)

# What a file library may raise for a damaged file; MemoryError and KeyboardInterrupt pass.
READ_ERRORS = (OSError, ValueError, RuntimeError, LookupError, TypeError, EOFError, struct.error, zlib.error)

_NANOMETERS = {
    ("pm", "picometer", "picometre"): 1e-3,
    ("å", "a", "angstrom"): 0.1,
    ("nm", "nanometer", "nanometre"): 1.0,
    ("um", "µm", "μm", "\\u00b5m", "micron", "micrometer", "micrometre"): 1e3,
    ("mm", "millimeter", "millimetre"): 1e6,
    ("cm", "centimeter", "centimetre"): 1e7,
    ("m", "meter", "metre"): 1e9,
}


@dataclasses.dataclass(frozen=True)
class Stored:
    """An array in a file that can be read, its axes in the file's own order.

    Attributes:
        shape: Voxels along every axis.
        dtype: The type of a voxel, in any byte order.
        axes: One letter per axis: `z`, `y`, `x`, `c` for channels, `_` for an axis of length 1 without meaning.
        read: Gives the part inside one slice per axis.
        voxel_size_nm: `(z, y, x)`, or None when the file does not say.
        chunks: What is fetched and decoded whole, and again for every `read`, along every axis; None where any part
            can be had alone, or what was decoded is kept for a while.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    axes: str
    read: Callable[[Key], np.ndarray]
    voxel_size_nm: VoxelSize | None = None
    chunks: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Target:
    """An array in a file that can be written; shape, dtype and axes as in `Stored`.

    Attributes:
        shape: Voxels along every axis.
        dtype: The type of a voxel.
        axes: One letter per axis, out of `z`, `y`, `x` and `c`.
        write: Puts values of the right type and shape into one slice per axis.
        flush: Brings what was written to the disk.
        close: Ends the writing; called once, after `flush`.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    axes: str
    write: Callable[[Key, np.ndarray], None]
    flush: Callable[[], None]
    close: Callable[[], None]


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a new volume is to be.

    Attributes:
        shape: `(z, y, x)` or `(z, y, x, channels)`.
        dtype: The type of a voxel.
        voxel_size_nm: `(z, y, x)` or None.
        chunks: Voxels per block of a chunked format, one number per axis of `shape`.
        shards: Voxels per file of a format that packs several blocks into one; whole chunks. None for a file each.
        ome_version: Of an OME-Zarr.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    voxel_size_nm: VoxelSize | None
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None = None
    ome_version: str = "0.5"


def name_axes(letters: Sequence[str] | None, shape: Sequence[int], name: str, *, time_is_depth: bool = False) -> str:
    """Give every axis its meaning, one letter of `zyxc_` each.

    Without `letters`, two axes are `yx`, three `zyx` and four `zyxc`. Axes of length 1 have no meaning
    unless they are `y` or `x`.

    >>> name_axes("tczyx", (1, 3, 9, 64, 64), "cell.zarr"), name_axes(None, (9, 64, 64), "cell.npy")
    ('_czyx', 'zyx')

    Args:
        letters: What the file calls its axes; samples (`s`) are channels.
        shape: Voxels along every axis.
        name: The file, for messages.
        time_is_depth: Take a single further axis, such as time, as z when there is no z, as Fiji's users do.

    Raises:
        InputError: An axis is left that is neither space nor channels, or there are too few or too many.
    """
    if 0 in shape:
        raise InputError(f"{name} holds no voxels: its shape is {tuple(shape)}; save it again")
    if letters is None:
        if not 2 <= len(shape) <= 4:
            raise InputError(
                f"a volume has 2 to 4 axes, (y, x) to (z, y, x, channels), but {name} has shape {tuple(shape)}; "
                "save one time point or one image as its own file"
            )
        letters = ("", "", "yx", "zyx", "zyxc")[len(shape)]
    given = [letter.lower() for letter in letters]
    names = ["c" if letter == "s" else letter for letter in given]
    names = [
        "_" if size == 1 and letter not in ("y", "x") else letter for letter, size in zip(names, shape, strict=True)
    ]
    others = [letter for letter in names if letter not in "zyxc_"]
    if time_is_depth and len(others) == 1 and "z" not in names:
        names[names.index(others.pop())] = "z"
    doubled = [letter for letter in "zyxc" if names.count(letter) > 1]
    if others or doubled or not {"y", "x"} <= set(names):
        raise InputError(
            f"the axes of a volume are z, y, x and channels, but those of {name} are "
            f"{', '.join(given)} with lengths {tuple(shape)}; save one time point or one image as its own file"
        )
    return "".join(names)


def to_nanometers(value: float, unit: str) -> float | None:
    """Give a length in nanometers, or None for an unknown unit or a length that is no positive number.

    >>> to_nanometers(0.05, "micrometer"), to_nanometers(4, "pixel")
    (50.0, None)
    """
    unit = unit.strip().lower()
    for names, factor in _NANOMETERS.items():
        if unit in names or unit.removesuffix("s") in names:
            return value * factor if math.isfinite(value) and value > 0 else None
    return None


def voxel_size(sizes: Mapping[str, float | None]) -> VoxelSize | None:
    """Give `(z, y, x)` from lengths by axis; a single slice without depth is as deep as its pixels are high.

    Args:
        sizes: Nanometers per axis; None where unknown, no `z` where there is a single slice.
    """
    y, x = sizes.get("y"), sizes.get("x")
    z = sizes.get("z", y)
    return None if x is None or y is None or z is None else (float(z), float(y), float(x))


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn what a file library raises for a damaged file into one line that names the file."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if not isinstance(error, READ_ERRORS) and not is_about_connection(error):
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"cannot read {name}: {reason}; check that the file is complete and that you may read it"
        ) from error


@contextlib.contextmanager
def writing(name: str) -> Iterator[None]:
    """Turn a full disk, or another failure to write, into one line that names the file."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # h5py and the codecs of Zarr raise the latter
        number = getattr(error, "errno", None)
        reason = os.strerror(number) if number else " ".join(str(error).split())[:200]
        raise InputError(f"cannot write {name}: {reason}; free some space or choose another folder") from error
