"""Where a volume is held while networks learn from it: in this process's memory, or in one that processes share."""

import dataclasses
import hashlib
import logging
import math
import os
import shutil
from pathlib import Path

import numpy as np

from genenet.folder import is_full, writing
from genenet.formats.remote import is_remote
from genenet.volume import Volume, open_volume

logger = logging.getLogger("genenet")

# Volumes up to this many bytes are held in memory; larger ones are read piece by piece.
IN_MEMORY_BYTES = 2**31

# Volumes up to this many bytes are put into a shared folder as plain arrays; larger ones are read piece by piece.
MAPPED_BYTES = 2**37

# So much room is left for everything else.
SPARE_BYTES = 2**26

# So many bytes are copied at once.
SLAB_BYTES = 2**26


def n_bytes(volume: Volume) -> int:
    """Of all its voxels."""
    return math.prod(volume.shape) * volume.dtype.itemsize


def in_memory(volume: Volume, limit: int = IN_MEMORY_BYTES) -> Volume:
    """The volume read whole where it is small, itself where it is not."""
    if n_bytes(volume) > limit:
        return volume
    z, y, x = volume.shape[:3]
    array = volume.read((slice(0, z), slice(0, y), slice(0, x)))
    return _like(volume, np.ascontiguousarray(array))


def mapped(volume: Volume, folder: Path, limit: int = MAPPED_BYTES) -> Volume:
    """The volume as a plain array in a folder, mapped into memory: processes of a machine hold it once for all.

    The array is written when it is not there yet; a file that changed gets another one. `.npy` files are plain arrays.
    Where there is no room, the volume is read from its own file piece by piece.

    Args:
        volume: What was opened from a path.
        folder: Where arrays are kept.
        limit: Bytes; larger volumes stay as they are.
    """
    if not isinstance(volume.source, (str, os.PathLike)) or n_bytes(volume) > limit:
        return volume
    if is_remote(os.fspath(volume.source)):
        return volume
    source = Path(volume.source)
    if source.suffix == ".npy":
        return volume
    path = folder / f"{source.name.replace(':', '_').split('.')[0]}-{_version(volume)}.npy"
    if not path.exists() and not _write(volume, path):
        return volume
    return _like(volume, path)


def _like(volume: Volume, source: np.ndarray | Path) -> Volume:
    """The same voxels from elsewhere."""
    return dataclasses.replace(open_volume(source, name=volume.name), voxel_size_nm=volume.voxel_size_nm)


def _version(volume: Volume) -> str:
    """Tells what was opened from other files, and from other states of the same file."""
    path = Path(str(volume.source))
    while not path.exists() and path != path.parent:  # the part after a colon, or a group, names what lies within
        path = Path(str(path).rpartition(":")[0]) if ":" in path.name else path.parent
    state = path.stat()
    said = [str(volume.source), volume.shape, str(volume.dtype), state.st_mtime_ns, state.st_size]
    return hashlib.blake2b(repr(said).encode(), digest_size=6).hexdigest()


def _write(volume: Volume, path: Path) -> bool:
    """Write a volume as a plain array; False where there is no room."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if shutil.disk_usage(path.parent).free >= n_bytes(volume) + SPARE_BYTES:
            _copy(volume, path)
            return True
    except OSError as error:
        if not is_full(error):
            raise
    logger.warning("%s is read piece by piece: there is no room for it in %s", volume.name, path.parent)
    return False


def _copy(volume: Volume, path: Path) -> None:
    depth, height, width = volume.shape[:3]
    n_slices = max(1, SLAB_BYTES * depth // max(n_bytes(volume), 1))
    header = {"descr": np.lib.format.dtype_to_descr(volume.dtype), "fortran_order": False, "shape": volume.shape}
    with writing(path) as beside, beside.open("wb") as stream:
        np.lib.format.write_array_header_2_0(stream, header)
        for first in range(0, depth, n_slices):
            slab = volume.read((slice(first, min(first + n_slices, depth)), slice(0, height), slice(0, width)))
            stream.write(np.ascontiguousarray(slab).data)
