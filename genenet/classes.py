"""The classes of a segmentation: what a voxel may be."""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from genenet.errors import InputError

# Okabe and Ito's palette for colour-blind readers, black last: for classes that came without a colour.
PALETTE = ("#000000", "#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#f0e442", "#0072b2", "#999999")


@dataclasses.dataclass(frozen=True)
class SegmentationClass:
    """One row of the class table.

    Attributes:
        value: The integer that stands for it in label volumes, any integer of at least 0.
        name: What people call it, "mitochondrion".
        color: `"#rrggbb"`.
    """

    value: int
    name: str
    color: str

    def __post_init__(self) -> None:
        if self.value < 0:
            raise InputError(f"a class value must be at least 0, but got {self.value} for class {self.name!r}")
        if not re.fullmatch(r"#[0-9a-fA-F]{6}", self.color):
            raise InputError(f'a class color must look like "#e69f00", but got {self.color!r} for class {self.name!r}')

    @property
    def rgb(self) -> tuple[int, int, int]:
        """Red, green and blue, 0 to 255."""
        return int(self.color[1:3], 16), int(self.color[3:5], 16), int(self.color[5:7], 16)


def default_classes(values: Sequence[int]) -> tuple[SegmentationClass, ...]:
    """Name and colour classes of which only the label values are known."""
    return tuple(
        SegmentationClass(int(value), f"class {value}", PALETTE[index % len(PALETTE)])
        for index, value in enumerate(values)
    )


def colorize(indices: np.ndarray, classes: Sequence[SegmentationClass]) -> np.ndarray:
    """Paint class indices: `(*space)` integers below `len(classes)` in, `(*space, 3)` uint8 out."""
    return np.asarray([entry.rgb for entry in classes], np.uint8)[indices]
