"""Zarr arrays and OME-Zarr images and labels: Zarr 2 and 3 read, OME-Zarr 0.1 to 0.5 read, 0.4 and 0.5 written."""

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from genenet.classes import SegmentationClass
from genenet.errors import InputError
from genenet.folder import split_suffix
from genenet.formats.stored import (
    Key,
    Layout,
    Stored,
    Target,
    VoxelSize,
    name_axes,
    reading,
    to_nanometers,
    voxel_size,
)

VERSION = "0.5"
VERSIONS = "0.4", VERSION

# The key under which our own notes stand, beside the standard's.
NOTE = "genenet"


def open_stored(root: Path, inner: str, name: str) -> Stored:
    """Look at an array, or at the finest level of an image or of a label group.

    Args:
        root: The folder that is the Zarr container.
        inner: Where in it to look, `labels/cells`; empty for the top.
        name: What to call it in messages.

    Raises:
        InputError: There is nothing of that name, several images to choose from, or a time series.
    """
    with reading(name):
        array, image, level = _find(root, inner)
        letters = _axis_letters(array, image)
        axes = name_axes(letters, array.shape, name)
        size = _voxel_size(image, level, axes)
        return Stored(array.shape, array.dtype, axes, functools.partial(_read, array), size, array.chunks)


def create(path: Path, layout: Layout, classes: Sequence[SegmentationClass] | None) -> Target:
    """Make an OME-Zarr image of one level; with `classes` a label image with their names and colours.

    The axes are z, y, x, or channels, z, y, x: the standard wants channels before space.
    """
    import zarr

    axes = "zyx" if len(layout.shape) == 3 else "czyx"
    order = ["zyxc".index(axis) for axis in axes]
    name = split_suffix(path.name)[0].removesuffix(".part")
    metadata: dict[str, Any] = {"multiscales": [_multiscale(axes, layout.voxel_size_nm, name)]}
    if classes:
        metadata["image-label"] = _image_label(classes)
    is_old = layout.ome_version == "0.4"
    if is_old:
        for entry in (*metadata["multiscales"], *([metadata["image-label"]] if classes else [])):
            entry["version"] = layout.ome_version
    attributes = metadata if is_old else {"ome": {"version": layout.ome_version, **metadata}}
    group = zarr.create_group(path, zarr_format=2 if is_old else 3, attributes=attributes)
    array = create_level(
        group,
        "0",
        [layout.shape[axis] for axis in order],
        [layout.chunks[axis] for axis in order],
        None if layout.shards is None else [layout.shards[axis] for axis in order],
        layout.dtype,
        axes,
    )
    return _target(array, axes)


def create_level(
    group: Any,
    path: str,
    shape: Sequence[int],
    chunks: Sequence[int],
    shards: Sequence[int] | None,
    dtype: np.dtype,
    axes: str,
) -> Any:
    """Make the array of one level, of zeros."""
    by_format: dict[str, Any] = {"shards": None if shards is None else tuple(shards), "dimension_names": list(axes)}
    if group.metadata.zarr_format == 2:
        by_format = {"chunk_key_encoding": {"name": "v2", "separator": "/"}}
    return group.create_array(path, shape=tuple(shape), chunks=tuple(chunks), dtype=dtype, fill_value=0, **by_format)


def read_classes(root: Path, inner: str) -> tuple[SegmentationClass, ...]:
    """The class table of a label image; empty if it has none."""
    import zarr

    with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        attributes = zarr.open_group(_store(root, inner), mode="r").attrs.asdict()
        table: Any = attributes.get("ome", attributes)
        table = table.get("image-label") or {}
        names = {int(row["label-value"]): str(row["class"]) for row in table.get("properties", ())}
        colors = {int(row["label-value"]): row["rgba"][:3] for row in table.get("colors", ())}
        grey = (128, 128, 128)
        return tuple(
            SegmentationClass(value, name, "#{:02x}{:02x}{:02x}".format(*colors.get(value, grey)))
            for value, name in names.items()
        )
    return ()


def write_note(root: Path, note: Mapping[str, Any]) -> None:
    """Keep plain data of our own beside the standard's metadata: how an image was made."""
    import zarr

    zarr.open_group(root, mode="r+").attrs[NOTE] = dict(note)


def read_note(root: Path, inner: str) -> dict[str, Any]:
    """What `write_note` kept; empty if there is none."""
    import zarr

    with contextlib.suppress(FileNotFoundError, ValueError):
        found: Any = zarr.open_group(_store(root, inner), mode="r").attrs.asdict().get(NOTE)
        return found if isinstance(found, dict) else {}
    return {}


def reopen(root: Path, inner: str, name: str) -> Target:
    """Open an existing array or image for more writing."""
    with reading(name):
        array, image, _ = _find(root, inner, mode="r+")
        return _target(array, name_axes(_axis_letters(array, image), array.shape, name))


def _target(array: Any, axes: str) -> Target:
    # Zarr writes every chunk beside and renames it: there is nothing to flush or to close.
    return Target(array.shape, array.dtype, axes, array.__setitem__, lambda: None, lambda: None)


def _read(array: Any, key: Key) -> np.ndarray:
    return np.asarray(array[key])


def _find(root: Path, inner: str, mode: Literal["r", "r+"] = "r") -> tuple[Any, Mapping[str, Any], int]:
    """Give the array, the multiscale metadata that it stands in (empty when in none) and its level."""
    import zarr

    place = f"{root}/{inner}".rstrip("/")
    try:
        node: Any = zarr.open(_store(root, inner), mode=mode)
    except (FileNotFoundError, ValueError) as error:
        found = _listing(root)
        raise InputError(f"there is no array or image at {place}; {root} holds: {found or 'nothing'}") from error
    if isinstance(node, zarr.Array):
        return node, *_image_around(root, inner)
    node = _single_image(node, place)
    if isinstance(node, zarr.Array):
        return node, {}, 0
    image = _multiscales(node)[0]
    with _metadata(place):
        level = str(image["datasets"][0]["path"])
        return node[level], image, 0


def _store(root: Path, inner: str = "") -> Path | str:
    """What Zarr opens: a path of this machine, or a URL."""
    place = root / inner if inner else root
    return place if isinstance(place, Path) and "://" not in str(place) else str(place)


def _single_image(group: Any, place: str) -> Any:
    """Go down to the one image or array of a group that is no image itself, as bioformats2raw makes them."""
    import zarr

    if _multiscales(group):
        return group
    members = {name: node for name, node in group.members() if name != "labels"}
    images = [node for node in members.values() if isinstance(node, zarr.Array) or _multiscales(node)]
    if len(images) == 1:
        return images[0]
    names = ", ".join(sorted(dict(group.members(max_depth=2))))
    raise InputError(f"{place} holds {len(images)} arrays and images; name one of: {names or 'nothing'}")


def _image_around(root: Path, inner: str) -> tuple[Mapping[str, Any], int]:
    """Find the image of which an array is a level."""
    import zarr

    if not inner:
        return {}, 0
    location = root / inner
    with contextlib.suppress(FileNotFoundError, ValueError):
        for image in _multiscales(zarr.open_group(_store(location.parent), mode="r")):
            levels = [str(dataset.get("path")) for dataset in image.get("datasets", ())]
            if location.name in levels:
                return image, levels.index(location.name)
    return {}, 0


def _multiscales(group: Any) -> list[Any]:
    attributes = group.attrs.asdict()
    ome = attributes.get("ome", attributes)
    return list(ome.get("multiscales") or ()) if isinstance(ome, dict) else []


def _listing(root: Path) -> str:
    import zarr

    with contextlib.suppress(FileNotFoundError, ValueError):
        node: Any = zarr.open(_store(root), mode="r")
        return "one array" if isinstance(node, zarr.Array) else ", ".join(sorted(dict(node.members(max_depth=3))))
    return ""


@contextlib.contextmanager
def _metadata(place: str) -> Iterator[None]:
    try:
        yield
    except (KeyError, IndexError, TypeError) as error:
        raise InputError(
            f"the OME-Zarr metadata of {place} name no readable level: {error!r}; give the array, as in {place}/0"
        ) from error


def _axis_letters(array: Any, image: Mapping[str, Any]) -> Sequence[str] | None:
    axes = image.get("axes")
    if axes is None and image:
        return "tczyx"[-array.ndim :]  # OME-Zarr 0.1 and 0.2 fix five axes
    if axes is None:
        names = getattr(array.metadata, "dimension_names", None)
        return [str(name) for name in names] if names and all(names) else None
    kinds = {"channel": "c", "time": "t"}
    return [axis if isinstance(axis, str) else kinds.get(axis.get("type"), axis["name"]) for axis in axes]


def _voxel_size(image: Mapping[str, Any], level: int, axes: str) -> VoxelSize | None:
    described = image.get("axes") or ()
    if not described or isinstance(described[0], str):
        return None
    scale = np.ones(len(axes))
    for transformed in (image["datasets"][level], image):
        for transform in transformed.get("coordinateTransformations") or ():
            scale = scale * np.asarray(transform.get("scale", 1.0), float)
    return voxel_size(
        {
            str(axis["name"]).lower(): to_nanometers(float(size), str(axis.get("unit", "")))
            for axis, size in zip(described, scale, strict=True)
        }
    )


def _multiscale(axes: str, size_nm: VoxelSize | None, name: str) -> dict[str, Any]:
    unit = {} if size_nm is None else {"unit": "nanometer"}
    scale = [1.0] * (len(axes) - 3) + list(size_nm or (1.0, 1.0, 1.0))
    return {
        "name": name,
        "axes": [
            {"name": "c", "type": "channel"} if axis == "c" else {"name": axis, "type": "space"} | unit for axis in axes
        ],
        "datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}],
    }


def _image_label(classes: Sequence[SegmentationClass]) -> dict[str, Any]:
    """Say which value has which colour and name; the value 0 is shown clear, as background is everywhere else."""
    return {
        "colors": [{"label-value": item.value, "rgba": [*item.rgb, 0 if item.value == 0 else 255]} for item in classes],
        "properties": [{"label-value": item.value, "class": item.name} for item in classes],
    }
