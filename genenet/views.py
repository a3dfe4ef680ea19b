"""How a network looks at a volume: along which axis, mirrored or turned; and the way back."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from genenet.errors import InputError

Number = TypeVar("Number")

AXES = "zyx"

# Test-time augmentation, by name.
AUGMENTATIONS = ("none", "flips", "rotations")


@dataclasses.dataclass(frozen=True)
class View:
    """Axes in another order, some of them mirrored.

    Attributes:
        order: For every axis of the network's, the volume's axis that it is.
        mirrored: For every axis of the network's, whether it runs backwards.
    """

    order: tuple[int, int, int] = (0, 1, 2)
    mirrored: tuple[bool, bool, bool] = (False, False, False)

    def turn(self, array: np.ndarray) -> np.ndarray:
        """A volume's `(z, y, x, ...)` as the network sees it; a view of the same memory.

        >>> View((1, 0, 2)).turn(np.zeros((2, 3, 4, 1))).shape
        (3, 2, 4, 1)
        """
        turned = array.transpose(*self.order, *range(3, array.ndim))
        return turned[tuple(slice(None, None, -1 if back else None) for back in self.mirrored)]

    def turn_back(self, array: np.ndarray) -> np.ndarray:
        """What the network gives, as the volume lies."""
        array = array[tuple(slice(None, None, -1 if back else None) for back in self.mirrored)]
        return array.transpose(*self._inverse, *range(3, array.ndim))

    def turn_sides(self, sides: Sequence[Number]) -> tuple[Number, ...]:
        """One value per axis of the volume, in the network's order."""
        return tuple(sides[axis] for axis in self.order)

    def turn_sides_back(self, sides: Sequence[Number]) -> tuple[Number, ...]:
        """One value per axis of the network, in the volume's order."""
        return tuple(sides[axis] for axis in self._inverse)

    @property
    def _inverse(self) -> tuple[int, ...]:
        return tuple(self.order.index(axis) for axis in range(3))


PLAIN = View()


@dataclasses.dataclass(frozen=True)
class Look:
    """How the members of an ensemble look at a volume.

    Attributes:
        augmentation: At test time, `none`, `flips` or `rotations`; answers of all views are averaged.
        overlap: The share by which windows of the training size overlap, blended by Gaussian weights; if left out,
            every voxel is seen once, with its whole context.
    """

    augmentation: str = "none"
    overlap: float | None = None


STRAIGHT = Look()


def views(n_dims: int, axes: str = "z", augmentation: str = "none") -> tuple[View, ...]:
    """The ways in which a network looks at a volume; its answers are averaged.

    Args:
        n_dims: Of the network, 2 or 3.
        axes: Across which the slices of a 2-D network lie, one or several of `z`, `y`, `x`; a 3-D network sees the
            volume as it is.
        augmentation: `none`; `flips`, every spatial axis of the network's forwards and backwards (4 views in 2-D, 8 in
            3-D); `rotations`, these with rows and columns exchanged as well, which makes the quarter turns.

    Raises:
        InputError: An unknown axis or augmentation.

    >>> len(views(2)), len(views(2, "zyx")), len(views(2, "z", "flips")), len(views(3, "z", "rotations"))
    (1, 3, 4, 16)
    """
    if augmentation not in AUGMENTATIONS:
        raise InputError(f"test-time augmentation is one of {', '.join(AUGMENTATIONS)}, but got {augmentation!r}")
    if not axes or len(set(axes)) < len(axes) or not set(axes) <= set(AXES):
        raise InputError(f"a 2-D network's slices lie across one or several of z, y and x, but got {axes!r}")
    found = []
    for letter in axes if n_dims == 2 else AXES[0]:
        across = AXES.index(letter)
        order = (across, *(axis for axis in range(3) if axis != across))
        orders = [order, (order[0], order[2], order[1])] if augmentation == "rotations" else [order]
        either = [(False,) if augmentation == "none" else (False, True)] * n_dims
        for mirrored in itertools.product(*[(False,)] * (3 - n_dims), *either):
            found += [View(each, mirrored) for each in orders]  # type: ignore[arg-type]
    return tuple(found)
