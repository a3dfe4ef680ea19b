"""Folders of slices, one PNG, JPEG or TIFF file each, and single PNG and JPEG images."""

import functools
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from genenet.errors import InputError
from genenet.formats import tiff
from genenet.formats.cache import Recent
from genenet.formats.place import IMAGES
from genenet.formats.stored import Key, Stored, name_axes, reading

_TIFF = (".tif", ".tiff")


def open_stored(path: Path, name: str) -> Stored:
    """Look at every slice of a folder, in natural order: slice2 before slice10. Slices are decoded when read.

    Args:
        path: A folder, or a single image file.
        name: What to call it in messages.

    Raises:
        InputError: There is no slice, or a slice differs in kind, shape or dtype from the first.
    """
    files = _slice_files(path) if path.is_dir() else [path]
    shape, dtype = _look(files[0])
    for file in files[1:]:
        found = _look(file)
        if found != (shape, dtype):
            raise InputError(
                f"the slices of {name} must have one shape and dtype, but {files[0].name} has {shape} {dtype} "
                f"and {file.name} has {found[0]} {found[1]}; remove or convert one of them"
            )
    whole = (len(files), *shape)
    axes = name_axes("zyxc"[: len(whole)], whole, name)
    return Stored(whole, dtype, axes, functools.partial(_read, files, Recent()))


def natural(text: str) -> list[tuple[int, str]]:
    """Give a sort key that counts: numbers in names compare as numbers.

    >>> sorted(["slice10", "slice2"], key=natural)
    ['slice2', 'slice10']
    """
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text.lower())]


def _slice_files(folder: Path) -> list[Path]:
    files = [
        file
        for file in folder.iterdir()
        if file.suffix.lower() in (*IMAGES, *_TIFF) and not file.name.startswith(".") and file.is_file()
    ]
    kinds = Counter(_kind(file) for file in files)
    if not files:
        raise InputError(f"there is no slice in the folder {folder}; slices are {', '.join((*IMAGES, *_TIFF))} files")
    if len(kinds) > 1:
        found = " and ".join(f"{n} {kind}" for kind, n in sorted(kinds.items()))
        raise InputError(f"a folder of slices holds one kind of file, but {folder} holds {found}; move one kind away")
    return sorted(files, key=lambda file: natural(file.name))


def _kind(file: Path) -> str:
    return {"jpg": "jpeg", "tif": "tiff"}.get(kind := file.suffix.lower().lstrip("."), kind)


def _read(files: list[Path], recent: Recent, key: Key) -> np.ndarray:
    depth, *inside = key
    slices = [
        recent.get(z, functools.partial(_decode, files[z]))[tuple(inside)] for z in range(depth.start, depth.stop)
    ]
    return slices[0][None] if len(slices) == 1 else np.stack(slices)


def _look(file: Path) -> tuple[tuple[int, ...], np.dtype]:
    """Give shape, `(y, x)` or `(y, x, channels)`, and dtype of one slice from its header."""
    if file.suffix.lower() in _TIFF:
        stored = _tiff_slice(file)
        return tuple(stored.shape), stored.dtype.newbyteorder("=")
    with reading(str(file)), _pillow(file) as image:
        bands = len(image.getbands())
        shape = (image.height, image.width) + ((bands,) if bands > 1 else ())
        kinds = {"1": "?", "L": "u1", "P": "u1", "I;16": "u2", "I;16B": "u2", "I": "i4", "F": "f4"}
        return shape, np.dtype(kinds.get(image.mode, "u1"))


def _decode(file: Path) -> np.ndarray:
    with reading(str(file)):
        if file.suffix.lower() in _TIFF:
            stored = _tiff_slice(file)
            return np.array(stored.read(tuple(slice(0, size) for size in stored.shape)))
        with _pillow(file) as image:
            return np.asarray(image)


def _tiff_slice(file: Path) -> Stored:
    stored = tiff.open_stored(file, str(file))
    if stored.axes not in ("yx", "yxc"):
        raise InputError(f"a slice is a single image, but {file} has shape {stored.shape}; open it by itself instead")
    return stored


def _pillow(file: Path) -> Any:
    """Open a PNG or JPEG. Not by `PIL.Image.open`, which takes a slice of 20,000 x 20,000 for an attack."""
    from PIL.JpegImagePlugin import JpegImageFile
    from PIL.PngImagePlugin import PngImageFile

    with file.open("rb") as opened:
        is_png = opened.read(4) == b"\x89PNG"
    try:
        image = PngImageFile(file) if is_png else JpegImageFile(file)
    except SyntaxError as error:
        raise InputError(f"cannot read {file}: {error}; check that it is a complete PNG or JPEG file") from error
    if is_png and ";16" in str(image.tile[0]) and not image.mode.startswith("I"):
        raise InputError(f"{file} has 16 bits for each of several channels, which would be cut to 8; save it as TIFF")
    return image
