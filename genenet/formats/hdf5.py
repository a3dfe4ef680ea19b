"""HDF5 datasets, `file.h5:/path/to/dataset`, as ilastik and Fiji write them."""

import contextlib
import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genenet.errors import InputError
from genenet.formats.stored import Key, Layout, Stored, Target, VoxelSize, name_axes, reading

# Files that could not be written. HDF5 cannot let go of them either: it complains when they go out of use, and may
# crash when the process ends.
STUCK: list[Any] = []

# Lock where the file system can: Lustre and NFS often cannot, and HDF5 would refuse to open the file.
_LOCKING = "best-effort"
# With chunks in its cache that a full disk does not take, HDF5 crashes the process when it ends.
_UNCACHED = {"rdcc_nbytes": 0}
DEFAULT_DATASET = "data"


def open_stored(path: Path, inner: str, name: str) -> Stored:
    """Look at a dataset; every read opens the file again, so that no handle is shared among processes.

    Args:
        path: The file.
        inner: The dataset's path in it; may be empty when there is a single one.
        name: What to call it in messages.

    Raises:
        InputError: The file is no HDF5 file, or has no such dataset.
    """
    import h5py

    with reading(name), h5py.File(path, "r", locking=_LOCKING) as file:
        dataset = _find(file, inner, path)
        shape = dataset.shape or ()
        axes = name_axes(_axis_letters(dataset), shape, name, time_is_depth=True)
        read = functools.partial(_read, path, dataset.name)
        return Stored(shape, dataset.dtype, axes, read, _voxel_size(dataset), dataset.chunks)


def list_datasets(path: Path) -> list[str]:
    """Give the paths of all datasets in a file."""
    import h5py

    with reading(str(path)), h5py.File(path, "r", locking=_LOCKING) as file:
        return _dataset_names(file)


def create(path: Path, inner: str, layout: Layout, *, compress: bool) -> Target:
    """Make a file with one chunked dataset of zeros, gzipped where `compress`; `element_size_um` is its voxel size."""
    import h5py

    file = h5py.File(path, "w", locking=_LOCKING, **_UNCACHED)
    with _stuck_if_it_fails(file):
        dataset = file.create_dataset(
            inner or DEFAULT_DATASET,
            shape=layout.shape,
            dtype=layout.dtype,
            chunks=layout.chunks,
            compression="gzip" if compress else None,
        )
        if layout.voxel_size_nm is not None:
            dataset.attrs["element_size_um"] = [size / 1000 for size in layout.voxel_size_nm]
        file.flush()
    return _target(file, dataset, str(path))


def reopen(path: Path, inner: str, name: str) -> Target:
    """Open an existing dataset for more writing.

    Raises:
        InputError: The process that wrote it was killed in the middle of a write and the file cannot be opened.
    """
    import h5py

    with reading(name):
        file = h5py.File(path, "r+", locking=_LOCKING, **_UNCACHED)
        return _target(file, _find(file, inner, path), name)


@contextlib.contextmanager
def _stuck_if_it_fails(*held: Any) -> Iterator[None]:
    try:
        yield
    except Exception:
        STUCK.append(held)
        raise


def _target(file: Any, dataset: Any, name: str) -> Target:
    def write(key: Key, values: np.ndarray) -> None:
        with _stuck_if_it_fails(file, dataset):
            dataset[key] = values
            file.flush()  # what is on the disk is a whole file between any two writes

    axes = name_axes(_axis_letters(dataset), dataset.shape, name, time_is_depth=True)
    return Target(dataset.shape, dataset.dtype, axes, write, file.flush, file.close)


def _read(path: Path, inner: str, key: Key) -> np.ndarray:
    import h5py

    with h5py.File(path, "r", locking=_LOCKING) as file:
        return file[inner][key]


def _find(file: Any, inner: str, path: Path) -> Any:
    import h5py

    if isinstance(found := file.get(inner) if inner else None, h5py.Dataset):
        return found
    names = _dataset_names(file)
    if not names:
        raise InputError(f"{path} holds no dataset; save the volume into it again")
    if inner.strip("/"):
        raise InputError(f"there is no dataset {inner} in {path}; it holds: {', '.join(names)}")
    if len(names) > 1:
        raise InputError(f"{path} holds several datasets: {', '.join(names)}; name one, as in {path}:{names[0]}")
    return file[names[0]]


def _dataset_names(file: Any) -> list[str]:
    import h5py

    names: list[str] = []
    file.visititems(lambda name, node: names.append(f"/{name}") if isinstance(node, h5py.Dataset) else None)
    return names


def _axis_letters(dataset: Any) -> Sequence[str] | None:
    """Give the axes from ilastik's `axistags`, else from HDF5's own dimension labels, else None."""
    if "axistags" in dataset.attrs:
        return [str(axis["key"]) for axis in json.loads(dataset.attrs["axistags"])["axes"]]
    labels = [dimension.label for dimension in dataset.dims]
    return labels if labels and all(labels) else None


def _voxel_size(dataset: Any) -> VoxelSize | None:
    sizes = np.asarray(dataset.attrs.get("element_size_um", ()), float).ravel()
    if sizes.shape != (3,) or not (np.isfinite(sizes) & (sizes > 0)).all():
        return None
    z, y, x = (float(size) * 1000 for size in sizes)
    return z, y, x
