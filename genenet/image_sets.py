"""Parts of a data file that name many images at once: a pattern stands for every file it matches."""

import re
from pathlib import Path
from typing import Any

from genenet.errors import InputError
from genenet.formats.remote import is_remote
from genenet.formats.slices import natural

_PATTERN = re.compile(r"[*?\[]")


def expand_parts(content: dict[str, Any], folder: Path, name: str) -> dict[str, Any]:
    """The content of a data file in which every part has one image.

    A part whose `image` is a pattern, `images/Breast*.jpg`, becomes one part for every file that matches. Its `labels`
    are then a folder, where the file of the same name lies whatever its suffix, or a pattern whose `*` stands for the
    image's name without suffix: `masks/*_labels.png`.

    Args:
        content: As read from YAML; what is wrong with it otherwise is for others to say.
        folder: Where its paths begin.
        name: Of the data file, for messages.

    Raises:
        InputError: A pattern that matches nothing, or an image without labels.
    """
    found = dict(content)
    for which in ("training", "validation"):
        entries = content.get(which)
        entries = entries if isinstance(entries, list) else [entries]
        if any(_is_pattern(entry, folder) for entry in entries):
            where = f"{name}: {which}"
            found[which] = [part for entry in entries for part in _expand(entry, content, folder, where)]
    return found


def _is_pattern(entry: Any, folder: Path) -> bool:
    image = entry.get("image") if isinstance(entry, dict) else None
    if not isinstance(image, str) or is_remote(image) or not _PATTERN.search(image):
        return False
    return not (folder / image).exists()  # brackets may stand in names


def _expand(entry: Any, content: dict[str, Any], folder: Path, where: str) -> list[Any]:
    if not _is_pattern(entry, folder):
        return [entry]
    pattern, labels = Path(entry["image"]), entry.get("labels") or content.get("labels")
    fixed = next(index for index, part in enumerate(pattern.parts) if _PATTERN.search(part))
    start = folder.joinpath(*pattern.parts[:fixed])
    found = (path for path in start.glob(str(Path(*pattern.parts[fixed:]))) if not path.name.startswith("."))
    images = sorted((path for path in found if path.is_file()), key=lambda path: natural(str(path)))
    if not images:
        raise InputError(f"{where}: no file matches `image: {entry['image']}`; paths begin at {folder.absolute()}")
    if not isinstance(labels, str):
        raise InputError(
            f"{where}: `image: {entry['image']}` needs `labels`: a folder, or a pattern such as masks/*.png"
        )
    return [
        {**entry, "image": str(image.absolute()), "labels": str(_labels_of(image, labels, folder, where))}
        for image in images
    ]


def _labels_of(image: Path, labels: str, folder: Path, where: str) -> Path:
    """The file that labels an image."""
    if "*" in labels:
        path = folder / labels.replace("*", image.stem)
        if not path.exists():
            raise InputError(f"{where}: {image} has no labels: there is no {path}")
        return path.absolute()
    place = folder / labels
    if not place.is_dir():
        raise InputError(
            f"{where}: `labels: {labels}` must be a folder or hold a `*` where `image` is a pattern; the files in the "
            "folder have the names of the images"
        )
    found = sorted(path for path in place.iterdir() if path.stem == image.stem and path != image)
    if len(found) != 1:
        said = f"{len(found)} files of" if found else "no file of"
        names = f": {', '.join(path.name for path in found)}" if found else ""
        raise InputError(
            f"{where}: {image} needs one file of labels, but {place} has {said} the name {image.stem}{names}"
        )
    return found[0].absolute()
