"""What a segmentation writes: class values, and beside them maps of what the networks think."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from genenet import doubt
from genenet.averaging import MeanPredictor
from genenet.blocks import Answer
from genenet.classes import SegmentationClass
from genenet.errors import InputError
from genenet.wording import known_instead

# What may be written beside the classes: from the networks' answer, values from 0 to 1.
EXTRAS: dict[str, Callable[[Answer], Any]] = {
    "probabilities": lambda answer: answer.probabilities,
    "foreground": lambda answer: 1 - answer.probabilities[..., 0],
    "entropy": lambda answer: doubt.entropy(answer.probabilities),
    "disagreement": lambda answer: doubt.disagreement(answer.probabilities, answer.member_entropy),
    "margin": lambda answer: doubt.margin(answer.probabilities),
    "distances": lambda answer: answer.distances,
}
DTYPES = ("float16", "uint8")
CLASSES = "classes"


@dataclasses.dataclass(frozen=True)
class Map:
    """One of the volumes that are written.

    Attributes:
        name: `classes`, or one of `EXTRAS`.
        dtype: Of its voxels.
        extra: What its shape has beyond `(z, y, x)`.
        classes: The class table, if its voxels are class values.
    """

    name: str
    dtype: np.dtype
    extra: tuple[int, ...] = ()
    classes: tuple[SegmentationClass, ...] = ()

    def block(self, answer: Answer, labels: np.ndarray) -> np.ndarray:
        """Its voxels, from the networks' answer and the indices of the most probable classes.

        As whole numbers, 255 stands for 1.
        """
        if self.name == CLASSES:
            return np.array([entry.value for entry in self.classes], self.dtype)[labels]
        values = np.asarray(EXTRAS[self.name](answer))
        if self.dtype == np.uint8:
            values = np.rint(255 * np.clip(values, 0, 1))
        return values.astype(self.dtype, copy=False)


def class_map(classes: Sequence[SegmentationClass]) -> Map:
    """The volume of class values, of the smallest unsigned type that holds them all."""
    return Map(CLASSES, np.min_scalar_type(max(entry.value for entry in classes)), classes=tuple(classes))


def extra_maps(names: Iterable[str], dtype: str, predictor: MeanPredictor, n_classes: int) -> list[Map]:
    """What is written beside the classes.

    Raises:
        InputError: A map that nobody knows, or that these networks cannot give; an unknown dtype.
    """
    if dtype not in DTYPES:
        raise InputError(f"maps are written as {' or '.join(DTYPES)}, but got {dtype!r}")
    found = []
    for name in names:
        if name not in EXTRAS:
            raise InputError(f"there is no map `{name}`; {known_instead(name, EXTRAS)}")
        if name == "distances" and not predictor.gives_distances:
            raise InputError("none of the networks gives distances; train one with `distance_weight` above 0")
        if name == "disagreement" and sum(member.gives != ("distance",) for member in predictor.members) == 1:
            raise InputError("one network alone does not disagree; ask for `entropy`, or take an ensemble")
        found.append(Map(name, np.dtype(dtype), (n_classes,) if name == "probabilities" else ()))
    return found
