"""Numbered objects in a table: size, place and brightness, added up over blocks."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.ndimage

from genenet.errors import InputError
from genenet.tiling import blocks
from genenet.volume import Volume, open_volume

# The shape of a block, unless asked for otherwise.
BLOCK = 16, 512, 512


@dataclasses.dataclass
class Pieces:
    """What is known of objects, or of their pieces in single blocks: arrays with one row for each.

    Attributes:
        classes: Class values, or other numbers that all pieces of an object share.
        sizes: Voxels.
        sums: Of the voxels' places, `(n, 3)`.
        first, last: The smallest and the largest place along each axis, `(n, 3)`.
    """

    classes: np.ndarray
    sizes: np.ndarray
    sums: np.ndarray
    first: np.ndarray
    last: np.ndarray

    @classmethod
    def none(cls, n: int) -> "Pieces":
        """Rows of nothing."""
        far = np.iinfo(np.int64).max
        return cls(
            np.zeros(n, np.int64),
            np.zeros(n, np.int64),
            np.zeros((n, 3)),
            np.full((n, 3), far, np.int64),
            np.full((n, 3), -1, np.int64),
        )

    @classmethod
    def joined(cls, parts: Sequence["Pieces"]) -> "Pieces":
        """One after the other."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def merged(self, numbers: np.ndarray, n: int) -> "Pieces":
        """Rows that get the same number become one; there are `n` numbers."""
        found = Pieces.none(n)
        found.classes[numbers] = self.classes
        np.add.at(found.sizes, numbers, self.sizes)
        np.add.at(found.sums, numbers, self.sums)
        np.minimum.at(found.first, numbers, self.first)
        np.maximum.at(found.last, numbers, self.last)
        return found

    def columns(self) -> dict[str, np.ndarray]:
        """Size, centre and ends for a table; those of a box include its last voxel."""
        centres = self.sums / np.maximum(self.sizes, 1)[:, None]
        return {
            "voxels": self.sizes,
            **{axis: centres[:, place].round(2) for place, axis in enumerate("zyx")},
            **{f"{axis}_first": self.first[:, place] for place, axis in enumerate("zyx")},
            **{f"{axis}_last": self.last[:, place] for place, axis in enumerate("zyx")},
        }


def measure(labels: np.ndarray, classes: Sequence[int] | np.ndarray, start: Sequence[int]) -> Pieces:
    """What is known of the labels 1, 2, ... of a block, all of which occur.

    Args:
        labels: `(z, y, x)`.
        classes: One for each label.
        start: Where the block begins in the volume.
    """
    n = len(classes)
    flat = labels.ravel()
    sizes = np.bincount(flat, minlength=n + 1)[1:]
    sums = np.empty((n, 3))
    for axis, first in enumerate(start):
        along = [1, 1, 1]
        along[axis] = labels.shape[axis]
        places = np.broadcast_to(np.arange(first, first + labels.shape[axis]).reshape(along), labels.shape)
        sums[:, axis] = np.bincount(flat, places.ravel(), minlength=n + 1)[1:]
    boxes = scipy.ndimage.find_objects(labels, n)
    low = np.array([[side.start for side in box] for box in boxes], np.int64) + start
    high = np.array([[side.stop - 1 for side in box] for box in boxes], np.int64) + start
    return Pieces(np.array(classes, np.int64), sizes, sums, low, high)


def measure_objects(
    labels: Volume | np.ndarray | str | Path,
    image: Volume | np.ndarray | str | Path | None = None,
    *,
    block: Sequence[int] = BLOCK,
) -> pd.DataFrame:
    """Measure numbered objects, block by block: `merge_volume`'s, annotated ones, or corrected ones.

    >>> measure_objects(np.array([[0, 7, 7], [0, 0, 7]])).loc[0, ["object", "voxels", "y", "x"]].tolist()
    [7.0, 3.0, 0.33, 1.67]

    Args:
        labels: Numbers `(z, y, x)` or `(y, x)`, 0 for what is no object; there may be gaps.
        image: `(z, y, x)` or `(z, y, x, channels)`, in whose units brightness is given.
        block: Voxels that are worked on at a time, `(z, y, x)`.

    Returns:
        One row per object, by number: `object`, `voxels`, `z`, `y`, `x` (the centre, in voxels), `z_first`,
        `y_first`, `x_first`, `z_last`, `y_last`, `x_last`; `mean_0`, `mean_1`, ..., the mean of each channel of the
        image; and where the size of voxels is known `area_um2` if every object lies in one slice, else `volume_um3`.

    Raises:
        InputError: The volume holds no numbers of objects, or the image has another shape.
    """
    volume = open_volume(labels)
    if volume.n_channels != 1 or volume.dtype.kind not in "ui":
        raise InputError(f"{volume.name} holds {volume.dtype} in {volume.n_channels} channels, but not objects")
    picture = None if image is None else open_volume(image)
    if picture is not None and picture.shape[:3] != volume.shape:
        raise InputError(
            f"the image must have the shape {volume.shape} of {volume.name}, but {picture.name} has {picture.shape}"
        )
    n_channels = 0 if picture is None else picture.n_channels
    parts, sums = [Pieces.none(0)], [np.zeros((0, n_channels))]
    for box in blocks(volume.shape, block):
        values = volume.read(box)  # type: ignore[arg-type]
        inside = values > 0
        objects, compact = np.unique(values[inside], return_inverse=True)
        if not len(objects):
            continue
        numbers = np.zeros(values.shape, np.int64)
        numbers[inside] = compact + 1
        parts.append(measure(numbers, objects, [side.start for side in box]))
        if picture is not None:
            seen = picture.read(box)[inside].reshape(len(compact), n_channels)  # type: ignore[arg-type]
            sums.append(np.stack([np.bincount(compact, channel) for channel in seen.T], 1))
    pieces = Pieces.joined(parts)
    objects, numbers = np.unique(pieces.classes, return_inverse=True)
    found = pieces.merged(numbers, len(objects))
    columns: dict[str, Any] = {"object": objects, **found.columns()}
    for channel, of_pieces in enumerate(np.concatenate(sums).T):
        columns[f"mean_{channel}"] = np.bincount(numbers, of_pieces, minlength=len(objects)) / found.sizes
    if volume.voxel_size_nm is not None:
        z, y, x = volume.voxel_size_nm
        is_flat = bool((found.first[:, 0] == found.last[:, 0]).all())
        name, factor = ("area_um2", y * x / 1e6) if is_flat else ("volume_um3", z * y * x / 1e9)
        columns[name] = found.sizes * factor
    return pd.DataFrame(columns)
