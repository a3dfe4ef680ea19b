"""Where volumes stand: the file, the path inside it, and its format."""

import dataclasses
import difflib
import os
from pathlib import Path

from genenet.errors import InputError
from genenet.folder import partial_path, put_in_place, split_suffix
from genenet.formats import hdf5, remote

FORMATS = {
    ".ome.zarr": "ome_zarr",
    ".zarr": "ome_zarr",
    ".ome.tif": "tiff",
    ".ome.tiff": "tiff",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".npy": "npy",
}
IMAGES = (".png", ".jpg", ".jpeg")
_MAGIC = {
    b"\x89HDF": "hdf5",
    b"II*\x00": "tiff",
    b"MM\x00*": "tiff",
    b"II+\x00": "tiff",
    b"MM\x00+": "tiff",
    b"\x93NUM": "npy",
    b"\x89PNG": "slices",
    b"\xff\xd8\xff": "slices",
}
_ZARR_FILES = ("zarr.json", ".zgroup", ".zarray")


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a volume stands.

    Attributes:
        path: The file or folder; the local copy of a remote file; what `remote.as_path` gives for a remote Zarr.
        inner: The path inside it, empty for none.
        format: The module of `genenet.formats` that knows it.
    """

    path: Path
    inner: str
    format: str


def find(source: str | os.PathLike[str]) -> Place:
    """Say where an existing volume stands and in which format.

    Raises:
        InputError: There is no such file, or nothing known about its kind.
    """
    text = os.fspath(source)
    if remote.is_remote(text):
        return _find_remote(text)
    path = Path(text)
    if zarr := _zarr_root(path):
        return Place(zarr, "" if path == zarr else path.relative_to(zarr).as_posix(), "ome_zarr")
    if path.is_dir():
        return Place(path, "", "slices")
    path, inner = _split_inner(text)
    if not path.is_file():
        raise InputError(f"there is no file or folder {path}; {_cure(path, text)}")
    kind = _kind(path)
    if kind is None:
        known = ", ".join((*FORMATS, *IMAGES))
        raise InputError(f"{path} is of no known format; known are {known} and folders of slices")
    return Place(path, inner, kind)


def _find_remote(url: str) -> Place:
    if split := remote.split_zarr(url):
        return Place(remote.as_path(split[0]), split[1], "ome_zarr")
    head, colon, inner = url.rpartition(":")
    if not colon or FORMATS.get(Path(head).suffix.lower()) != "hdf5":
        head, inner = url, ""
    path = remote.copy_here(head)
    kind = FORMATS.get(split_suffix(head)[1].lower()) or _kind(path)
    if kind is None:
        raise InputError(f"{url} is of no known format; known are {', '.join((*FORMATS, *IMAGES))}")
    return Place(path, inner, kind)


def target(path: str | os.PathLike[str]) -> Place:
    """Say where a volume is to be written; its suffix names the format.

    Raises:
        InputError: The suffix is unknown.
    """
    if remote.is_remote(os.fspath(path)):
        raise InputError(f"volumes are read from URLs, but written to files of this machine; choose one, not {path}")
    file, inner = _split_inner(os.fspath(path))
    suffix = split_suffix(file)[1].lower()
    if suffix not in FORMATS:
        raise InputError(
            f"the suffix of an output names its format, one of {', '.join(FORMATS)} or .h5:/dataset, "
            f"but got {os.fspath(path)}"
        )
    return Place(file, inner, FORMATS[suffix])


def partial_name(path: str | os.PathLike[str]) -> str:
    """Name the output as it stands while it is being written.

    >>> partial_name("cells.h5:/labels")
    'cells.part.h5:/labels'
    """
    place = target(path)
    partial = str(partial_path(place.path))
    return f"{partial}:{place.inner}" if place.inner else partial


def publish(partial: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Give a finished output its name, in place of what stood there; `partial` is from `partial_name`."""
    put_in_place(target(partial).path, target(path).path)


def check_free(path: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Refuse to write where something stands that nobody said may go.

    Raises:
        InputError: It exists and `overwrite` is off, or other datasets would go with it.
    """
    place = target(path)
    if not place.path.exists():
        return
    if not overwrite:
        raise InputError(f"{place.path} exists; remove it, choose another name, or ask to overwrite it (--overwrite)")
    if place.format == "hdf5":
        mine = "/" + (place.inner.strip("/") or hdf5.DEFAULT_DATASET)
        others = [name for name in hdf5.list_datasets(place.path) if name != mine]
        if others:
            raise InputError(f"{place.path} exists and holds other datasets: {', '.join(others)}; choose another file")


def _zarr_root(path: Path) -> Path | None:
    """Give the top of the Zarr hierarchy that `path` leads into; it need not have what is named in it.

    What lies around is not asked: a stray `zarr.json` in somebody's home makes no Zarr of all that is below.
    """
    if path.is_file():
        return None
    node = next((folder for folder in (path, *path.parents) if folder.exists()), path)
    if not _is_zarr(node):
        return None
    while _is_zarr(node.parent) and node.parent != node:
        node = node.parent
    return node


def _is_zarr(folder: Path) -> bool:
    is_named = folder.suffix == ".zarr" or any((folder / name).is_file() for name in _ZARR_FILES)
    return folder.is_dir() and is_named


def _split_inner(text: str) -> tuple[Path, str]:
    """Split `file.h5:/path`; a colon elsewhere, as after a drive letter, belongs to the file's name."""
    head, colon, tail = text.rpartition(":")
    is_split = colon and not Path(text).exists() and FORMATS.get(Path(head).suffix.lower()) == "hdf5"
    return (Path(head), tail) if is_split or (colon and Path(head).is_file()) else (Path(text), "")


def _kind(path: Path) -> str | None:
    suffix = split_suffix(path)[1].lower()
    if suffix in FORMATS:
        return FORMATS[suffix]
    if suffix in IMAGES:
        return "slices"
    with path.open("rb") as file:
        start = file.read(4)
    return next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None)


def _cure(path: Path, text: str) -> str:
    siblings = [sibling.name for sibling in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, siblings, n=1)
    return f"did you mean {path.parent / close[0]}?" if close else "check the name"
