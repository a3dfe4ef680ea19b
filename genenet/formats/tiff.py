"""TIFF stacks: plain, OME-TIFF and ImageJ hyperstacks, mapped into memory or decoded piece by piece."""

import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from genenet.errors import InputError
from genenet.formats.npy import mapped_target, reserve
from genenet.formats.stored import Layout, Stored, Target, VoxelSize, name_axes, reading, to_nanometers, voxel_size
from genenet.formats.tiff_pages import Pages

# ImageJ's own TIFF knows three types and places its data by 32-bit numbers.
_IMAGEJ_DTYPES = ("uint8", "uint16", "float32")
_IMAGEJ_MAX_BYTES = 2**32 - 2**25
_OME_DTYPES = (*_IMAGEJ_DTYPES, "int8", "int16", "int32", "uint32", "float64")
_RESOLUTION_UNITS_NM = {2: 2.54e7, 3: 1e7}  # inch, centimetre
# Scanners and photo programs write the resolution of a print; a pixel above this is theirs.
_MAX_PIXEL_NM = 1e4
# What Aperio's slides say of it.
_MICROMETRES_PER_PIXEL = re.compile(r"\bMPP = ([0-9.]+)")


def open_stored(path: Path, name: str) -> Stored:
    """Look at the first image of a TIFF file: its whole stack, at full resolution.

    Raises:
        InputError: The file is damaged or cut off, or holds images of several shapes.
    """
    import tifffile

    with reading(name):
        file = _open(path, name)
        series = _single_series(file, name)
        letters = _axis_letters(series)
        axes = name_axes(letters, series.shape, name, time_is_depth=True)
        size = _voxel_size(file, series.shape, axes)
        if series.dataoffset is None:
            return Stored(series.shape, series.dtype, axes, Pages(file, series, name).read, size)
        file.close()
        array = tifffile.memmap(path, mode="r")
        return Stored(array.shape, array.dtype, axes, array.__getitem__, size)


def check_dtype(path: Path, dtype: np.dtype) -> None:
    """Refuse a type that TIFF programs do not know.

    Raises:
        InputError: It is one.
    """
    if dtype.name not in _OME_DTYPES:
        cure = "; maps may be whole numbers too, --maps-dtype uint8" if dtype == np.float16 else ""
        raise InputError(
            f"a TIFF file holds {', '.join(_OME_DTYPES)}, but {path} is to hold {dtype}; write .ome.zarr instead{cure}"
        )


def create(path: Path, layout: Layout) -> Target:
    """Make a stack of zeros, with all of its room taken from the disk, and map it into memory.

    `.ome.tif` is OME-TIFF; `.tif` is ImageJ's where the type and the size allow it, else OME-TIFF too.

    Raises:
        InputError: TIFF programs know no such type.
    """
    import tifffile

    check_dtype(path, layout.dtype)
    n_bytes = math.prod(layout.shape) * layout.dtype.itemsize
    is_ome = ".ome." in path.name.lower()
    is_ome = is_ome or layout.dtype.name not in _IMAGEJ_DTYPES or n_bytes > _IMAGEJ_MAX_BYTES
    shape, axes = _file_order(layout)
    array = tifffile.memmap(
        path,
        shape=shape,
        dtype=layout.dtype,
        photometric="rgb" if axes == "zyxs" else "minisblack",
        bigtiff=n_bytes > _IMAGEJ_MAX_BYTES,
        **(_ome_options if is_ome else _imagej_options)(axes.upper(), layout.voxel_size_nm),
    )
    del array
    reserve(path)
    return reopen(path, str(path))


def reopen(path: Path, name: str) -> Target:
    """Open an existing stack that is not compressed for more writing.

    Raises:
        InputError: It is compressed, or damaged.
    """
    import tifffile

    with reading(name):
        with _open(path, name) as file:
            series = _single_series(file, name)
            axes = name_axes(_axis_letters(series), series.shape, name, time_is_depth=True)
            if series.dataoffset is None:
                raise InputError(f"{name} is compressed and cannot be written in place; write a new file")
        return mapped_target(tifffile.memmap(path, mode="r+"), axes)


class _Damage(logging.Filter):
    """tifffile tells of a cut-off file in its log only, and gives the pages that are left."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        is_damage = any(word in message for word in ("invalid page offset", "corrupted", "failed to reshape"))
        if is_damage:
            self.messages.append(message)
        return not is_damage


def _open(path: Path, name: str) -> Any:
    import tifffile

    damage, logger = _Damage(), logging.getLogger("tifffile")
    logger.addFilter(damage)
    try:
        file = tifffile.TiffFile(path)
        n_pages = len(file.pages)
        last = file.pages[n_pages - 1]
        _ = file.series
    finally:
        logger.removeFilter(damage)
    ends = [offset + count for offset, count in zip(last.dataoffsets, last.databytecounts, strict=False)]
    if damage.messages or max(ends, default=0) > file.filehandle.size:
        file.close()
        raise InputError(f"{name} is cut off or damaged after {n_pages} pages; copy it again from where it came")
    return file


def _single_series(file: Any, name: str) -> Any:
    first, *others = file.series
    if others and (first.kind in ("generic", "uniform", "shaped") or any(other.size >= first.size for other in others)):
        shapes = ", ".join(str(series.shape) for series in file.series[:4])
        raise InputError(f"{name} holds {len(file.series)} images, of shapes {shapes}; save one stack as its own file")
    return first


def _axis_letters(series: Any) -> list[str]:
    """Give the axes; of four that the file does not name, the shorter of the second and the last is channels."""
    letters = list(series.axes.lower())
    if letters == ["q", "q", "y", "x"]:
        return list("zcyx" if series.shape[1] < series.shape[3] else "zyxc")
    return letters


def _voxel_size(file: Any, shape: tuple[int, ...], axes: str) -> VoxelSize | None:
    if file.ome_metadata:
        return voxel_size(_ome_sizes(file.ome_metadata, axes))
    metadata: Mapping[str, Any] = file.imagej_metadata or (file.shaped_metadata or ({},))[0]
    page = file.pages[0]
    if file.is_svs and (found := _MICROMETRES_PER_PIXEL.search(page.description)):
        return voxel_size(dict.fromkeys("yx", 1000 * float(found[1])))
    sizes = {
        axis: _pixel_nm(page.tags.get(f"{axis.upper()}Resolution"), page.resolutionunit, str(metadata.get("unit", "")))
        for axis in "yx"
    }
    if "z" in axes or "spacing" in metadata:
        return voxel_size({"z": to_nanometers(metadata.get("spacing", 0), str(metadata.get("unit", "")))} | sizes)
    return voxel_size(sizes)


def _pixel_nm(tag: Any, resolution_unit: int, unit: str) -> float | None:
    """Give the edge of a pixel from a resolution tag: ImageJ's unit, else a print unit with a microscope's pixel."""
    if tag is None or not isinstance(tag.value, tuple) or 0 in tag.value:
        return None
    pixels, length = tag.value
    if unit:
        return to_nanometers(length / pixels, unit)
    size = _RESOLUTION_UNITS_NM.get(int(resolution_unit), math.inf) * length / pixels
    return size if size < _MAX_PIXEL_NM else None


def _ome_sizes(xml: str, axes: str) -> Mapping[str, float | None]:
    import tifffile

    images = tifffile.xml2dict(xml)["OME"]["Image"]
    pixels = (images[0] if isinstance(images, list) else images)["Pixels"]
    sizes: dict[str, float | None] = {}
    for axis in "zyx":
        size = pixels.get(f"PhysicalSize{axis.upper()}")
        if axis in axes or size is not None:
            unit = str(pixels.get(f"PhysicalSize{axis.upper()}Unit", "µm"))
            sizes[axis] = None if size is None else to_nanometers(float(size), unit)
    return sizes


def _file_order(layout: Layout) -> tuple[tuple[int, ...], str]:
    """Give the shape in the file's order and its axes: colour pixel by pixel, other channels plane by plane."""
    if len(layout.shape) == 3:
        return layout.shape, "zyx"
    z, y, x, channels = layout.shape
    if channels == 3 and layout.dtype == np.uint8:
        return layout.shape, "zyxs"
    return (z, channels, y, x), "zcyx"


def _imagej_options(axes: str, size_nm: VoxelSize | None) -> dict[str, Any]:
    if size_nm is None:
        return {"imagej": True, "metadata": {"axes": axes}}
    z, y, x = size_nm
    metadata = {"axes": axes, "spacing": z / 1000, "unit": "um"}
    return {"imagej": True, "metadata": metadata, "resolution": (1000 / x, 1000 / y)}


def _ome_options(axes: str, size_nm: VoxelSize | None) -> dict[str, Any]:
    metadata: dict[str, Any] = {"axes": axes}
    for axis, size in zip("ZYX", size_nm or (), strict=False):
        metadata |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": "nm"}
    return {"ome": True, "metadata": metadata}
