"""A picture to look at: an image with the outlines of objects drawn over it."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from genenet.errors import InputError
from genenet.folder import writing
from genenet.pyramid import mean_of
from genenet.tiling import Box, blocks
from genenet.volume import Volume, open_volume

# Pixels that are worked on at a time, along y and x.
BLOCK = 2048


def draw_outlines(
    image: Volume | np.ndarray | str | Path,
    labels: Volume | np.ndarray | str | Path,
    path: str | Path,
    *,
    z: int = 0,
    color: tuple[int, int, int] = (0, 255, 0),
    max_side: int = 4096,
    overwrite: bool = False,
) -> tuple[int, int]:
    """Draw the outlines of numbered objects over a slice of an image, as a PNG.

    Bytes are drawn as they are; other numbers are stretched, from the darkest to the brightest hundredth. Two channels
    are red and green, more are red, green and blue, and the rest is left out.

    Args:
        image: `(z, y, x)` or `(z, y, x, channels)`.
        labels: Numbers `(z, y, x)`, 0 for what is no object.
        path: The `.png` to write.
        z: The slice.
        color: Of the outlines, red, green and blue.
        max_side: A larger image is drawn smaller, by a whole factor.
        overwrite: Replace the file if it exists.

    Returns:
        The height and width of the picture.

    Raises:
        InputError: The file exists, image and labels do not fit together, or there is no such slice.
    """
    from PIL import Image

    picture, objects = open_volume(image), open_volume(labels)
    if picture.shape[:3] != objects.shape:
        raise InputError(
            f"image and labels must have one shape, but {picture.name} has {picture.shape[:3]} and {objects.name} has "
            f"{objects.shape}"
        )
    if not 0 <= z < objects.shape[0]:
        raise InputError(f"`z` must lie in [0, {objects.shape[0] - 1}], but got {z}")
    if Path(path).exists() and not overwrite:
        raise InputError(f"{path} exists; choose another name, or ask to overwrite it (--overwrite)")
    factor = math.ceil(max(objects.shape[1:]) / max_side)
    sides = [math.ceil(side / factor) for side in objects.shape[1:]]
    small = np.zeros((*sides, min(picture.n_channels, 3)), np.float32)
    numbers = np.zeros(sides, objects.dtype)
    for box, there in _boxes(objects.shape, z, factor):
        part = picture.read(box)[0].reshape(*(s.stop - s.start for s in box[1:]), -1)  # type: ignore[arg-type]
        small[there] = mean_of(part[..., :3].astype(np.float32), (factor, factor, 1))
        numbers[there] = objects.read(box)[0, ::factor, ::factor]  # type: ignore[arg-type]
    drawn = _as_bytes(small, stretch=picture.dtype != np.uint8)
    drawn[_borders(numbers)] = color
    with writing(path) as beside, beside.open("wb") as file:
        Image.fromarray(drawn).save(file, "PNG")
    return sides[0], sides[1]


def _boxes(shape: tuple[int, ...], z: int, factor: int) -> Iterator[tuple[Box, Box]]:
    """Boxes of a slice, and where they lie in a picture that is smaller by a factor."""
    side = math.ceil(BLOCK / factor) * factor
    for y, x in blocks(shape[1:], (side, side)):
        yield (
            (slice(z, z + 1), y, x),
            tuple(slice(axis.start // factor, math.ceil(axis.stop / factor)) for axis in (y, x)),
        )


def _as_bytes(values: np.ndarray, *, stretch: bool) -> np.ndarray:
    """Red, green and blue, uint8 `(y, x, 3)`."""
    if stretch:
        low, high = np.percentile(values, (1, 99))
        values = 255 * (values - low) / max(high - low, np.finfo(np.float32).tiny)
    found = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    if found.shape[2] == 2:
        return np.pad(found, [(0, 0), (0, 0), (0, 1)])
    return found if found.shape[2] == 3 else found.repeat(3, 2)


def _borders(labels: np.ndarray) -> np.ndarray:
    """Pixels of objects beside one that is not; where two objects touch, those of the one with the higher number."""
    found = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        one, other = (labels[(slice(None),) * axis + (side,)] for side in (slice(None, -1), slice(1, None)))
        found[(slice(None),) * axis + (slice(None, -1),)] |= one > other
        found[(slice(None),) * axis + (slice(1, None),)] |= other > one
    return found
