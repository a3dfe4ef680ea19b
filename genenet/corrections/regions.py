"""Where to look next: regions of a volume by the errors that a minute of a person's time would remove there."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Self

import numpy as np

from genenet.corrections.effort import Effort
from genenet.errors import InputError
from genenet.formats.boxes import Box
from genenet.tiling import blocks
from genenet.volume import Volume

# The shape of a region unless asked for otherwise. The smaller, the less is looked at for nothing: docs/RESULTS.md has
# figures; still smaller ones would send a person to and fro.
REGION = 1, 64, 64

# Seconds to look at a million voxels, at least.
LEAST_S = 1.0

# Slices that are read at a time.
N_SLICES = 8


@dataclasses.dataclass
class Regions:
    """Boxes of equal size over a volume, with what is expected in each.

    Attributes:
        shape: Of the volume `(z, y, x)`.
        size: Of a region `(z, y, x)`; at the far edges they are cut.
        wrong: Voxels of each that are expected to be wrong, on the grid of regions.
        effort: What a person's time is taken to be.
        n_voxels: Voxels per connected error, by which errors are expected.
        finished: Which regions are done, on the grid.
    """

    shape: tuple[int, int, int]
    size: tuple[int, int, int]
    wrong: np.ndarray
    effort: Effort = dataclasses.field(default_factory=Effort)
    n_voxels: float = 200.0
    finished: np.ndarray = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.finished = np.zeros(self.wrong.shape, bool)

    @classmethod
    def measure(
        cls,
        doubt: Volume,
        *,
        size: Sequence[int] = REGION,
        effort: Effort | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Self:
        """Sum the expected errors of every region from a map of entropy, a few slices at a time.

        Args:
            doubt: `(z, y, x)`, 0 to 1, or 0 to 255 as whole numbers; entropy, or disagreement.
            size: Of a region, in voxels.
            effort: A person's time; guesses if left out.
            progress: Called with slices done, and in all.

        Raises:
            InputError: The map has channels, or is neither of floats nor of 8-bit whole numbers.
        """
        if len(doubt.shape) != 3 or (doubt.dtype.kind != "f" and doubt.dtype != np.uint8):
            raise InputError(
                f"{doubt.name} holds {doubt.dtype} of shape {doubt.shape}, but a map of doubt is (z, y, x)"
            )
        shape = doubt.shape[0], doubt.shape[1], doubt.shape[2]
        size = tuple(min(side, n) for side, n in zip(size, shape, strict=True))
        wrong = np.zeros([-(-n // side) for n, side in zip(shape, size, strict=True)])
        steps = [np.arange(0, n, side) for n, side in zip(shape, size, strict=True)]
        depth = max(N_SLICES // size[0], 1) * size[0]
        for z in range(0, shape[0], depth):
            part = doubt.read((slice(z, min(z + depth, shape[0])), slice(0, shape[1]), slice(0, shape[2])))
            chances = error_chance(part)
            for axis in (1, 2):
                chances = np.add.reduceat(chances, steps[axis], axis=axis, dtype=np.float64)
            sums = np.add.reduceat(chances, np.arange(0, len(chances), size[0]), axis=0)
            wrong[z // size[0] : z // size[0] + len(sums)] = sums
            if progress is not None:
                progress(min(z + depth, shape[0]), shape[0])
        return cls(shape, size, wrong, effort or Effort())  # type: ignore[arg-type]

    @functools.cached_property
    def gains(self) -> np.ndarray:
        """Errors that are removed per minute of work, on the grid."""
        voxels = functools.reduce(np.multiply.outer, [
            np.diff(np.append(np.arange(0, n, side), n)) for n, side in zip(self.shape, self.size, strict=True)
        ])  # fmt: skip
        # Looking takes some time whatever a fit says; else all regions would be worth the same.
        looking = dataclasses.replace(self.effort, s_per_megavoxel=max(self.effort.s_per_megavoxel, LEAST_S))
        return 60 * self.wrong / looking.seconds(voxels, self.wrong / self.n_voxels, self.wrong)

    def order(self) -> list[tuple[int, int, int]]:
        """Places of all regions on the grid, the most gainful first; those that are done come never."""
        places = np.argsort(-self.gains, axis=None, kind="stable")
        places = places[~self.finished.ravel()[places]]
        return list(zip(*(axis.tolist() for axis in np.unravel_index(places, self.gains.shape)), strict=True))

    def next(self, without: tuple[int, int, int] | None = None) -> tuple[int, int, int] | None:
        """The most gainful region that is not done, by its place on the grid; None if all are.

        Args:
            without: A region that does not count.
        """
        left = np.where(self.finished, -1.0, self.gains)
        if without is not None:
            left[without] = -1.0
        best = int(np.argmax(left))
        if left.flat[best] < 0:
            return None
        z, y, x = (int(n) for n in np.unravel_index(best, self.gains.shape))
        return z, y, x

    def box(self, place: Sequence[int]) -> Box:
        """Where a region lies, in voxels."""
        z, y, x = (
            slice(p * side, min((p + 1) * side, n)) for p, side, n in zip(place, self.size, self.shape, strict=True)
        )
        return z, y, x

    def finish(self, box: Box, *, done: bool = True) -> None:
        """All regions that lie within a box are done, or not after all."""
        inside = [
            slice(-(-side.start // n), len(range(0, size, n)) if side.stop >= size else side.stop // n)
            for side, n, size in zip(box, self.size, self.shape, strict=True)
        ]
        self.finished[tuple(inside)] = done

    def all_boxes(self) -> list[Box]:
        """Every region, in the order of reading."""
        return list(blocks(self.shape, self.size))  # type: ignore[arg-type]


def error_chance(doubt: np.ndarray) -> np.ndarray:
    """The chance that the most probable class is wrong, were two classes alone in question, from the entropy.

    The inverse of the binary entropy, 0 for an entropy of 0 and 0.5 for 1; so a voxel at half entropy counts a fifth of
    one at full entropy, and many nearly certain ones do not outweigh a few that are truly in doubt.

    Args:
        doubt: 0 to 1; or 8-bit whole numbers, with 255 for 1.

    >>> error_chance(np.array([0.0, 0.5, 1.0])).round(2).tolist()
    [0.0, 0.11, 0.5]
    """
    if doubt.dtype == np.uint8:
        return _chances(np.dtype(np.uint8))[doubt]
    return _chances(np.dtype(np.float16))[np.asarray(doubt, np.float16).view(np.uint16)]


@functools.cache
def _chances(dtype: np.dtype) -> np.ndarray:
    """The answer for every value that a type has; a table is quicker than the formula."""
    chances = np.linspace(0, 0.5, 4097)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropies = np.nan_to_num(-chances * np.log2(chances) - (1 - chances) * np.log2(1 - chances))
    if dtype == np.uint8:
        return np.interp(np.arange(256) / 255, entropies, chances)
    values = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float64)
    return np.interp(np.nan_to_num(values), entropies, chances)
