"""Overlapping windows of one size, blended by Gaussian weights: for networks whose whole context is too much to read.

| window 0        |
| window 1        |
| window 2        |
|<step->|<step->|<step->|          cores are made of whole steps, so windows lie alike for every block
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from genenet.errors import InputError
from genenet.plan import WindowShape
from genenet.tiling import Reach

# The standard deviation of the weights, as a share of the window.
SIGMA = 0.125

# Steps are cut to multiples of this, shorter ones to powers of two: those of several networks soon meet then.
STEP_GRAIN = 32


class Tiles(NamedTuple):
    """Where windows lie along the axes of a network.

    Attributes:
        window: What one reads and writes.
        lead: Voxels read before what is written.
        step: From one window to the next; the output is as long or longer.
    """

    window: WindowShape
    lead: tuple[int, ...]
    step: tuple[int, ...]

    @classmethod
    def overlapping(cls, window: WindowShape, lead: Sequence[int], overlap: float) -> "Tiles":
        """Windows of which a share overlaps with the next.

        Args:
            window: As in training.
            lead: Voxels read before what is written.
            overlap: From 0 to below 1, of the output's length.

        Raises:
            InputError: The overlap is out of range.
        """
        if not 0 <= overlap < 1:
            raise InputError(f"`overlap` is a share of the window from 0 to below 1, but got {overlap}")
        steps = []
        for length in window.output:
            step = max(1, length - round(overlap * length))
            steps.append(step // STEP_GRAIN * STEP_GRAIN if step >= STEP_GRAIN else 1 << (step.bit_length() - 1))
        return cls(window, tuple(lead), tuple(steps))

    def reach(self, core: Sequence[int]) -> Reach:
        """What windows read for a core of whole steps, the leading axes being batches."""
        flat = len(core) - len(self.step)
        lead, sides = [0] * flat, list(core[:flat])
        for axis, side in enumerate(core[flat:]):
            starts = self._starts(axis, side)
            lead.append(self.lead[axis] - starts[0])
            sides.append(starts[-1] - starts[0] + self.window.input[axis])
        return Reach(tuple(core), tuple(lead), tuple(sides))

    def blend(
        self, images: np.ndarray, core: Sequence[int], run: Callable[[np.ndarray], list[np.ndarray]]
    ) -> list[np.ndarray]:
        """Run the windows of a core and blend their answers.

        Args:
            images: `(batch, *space, channels)`, of the reach's shape.
            core: What is wanted, voxels per axis of the network.
            run: Gives the answers `(batch, *output, values)`, one per output, for one window.

        Returns:
            `(batch, *core, values)`, one per output.
        """
        lines = [list(self._line(axis, side)) for axis, side in enumerate(core)]
        blended: list[np.ndarray] = []
        for places in itertools.product(*lines):
            inside = tuple(slice(first, first + n) for (first, *_), n in zip(places, self.window.input, strict=True))
            answers = run(images[(slice(None), *inside)])
            if not blended:
                blended = [np.zeros((len(images), *core, each.shape[-1]), np.float32) for each in answers]
            target, kept = (
                (slice(None), *(place[1] for place in places)),
                (slice(None), *(place[2] for place in places)),
            )
            weight = functools.reduce(np.multiply, np.ix_(*(place[3] for place in places)))[..., None]
            for total, answer in zip(blended, answers, strict=True):
                total[target] += weight * answer[kept]
        return blended

    def _starts(self, axis: int, side: int) -> range:
        """Where the outputs of the windows that touch a core begin, seen from the core."""
        length, step = self.window.output[axis], self.step[axis]
        before = (length - step) // 2
        first = (before - length) // step + 1
        return range(first * step - before, side, step)

    def _line(self, axis: int, side: int) -> Iterator[tuple[int, slice, slice, np.ndarray]]:
        """For every window: where it begins in what was read, where it lies in the core, what of it, and its weights.

        Weights of all windows add up to 1 in every voxel.
        """
        starts, length = self._starts(axis, side), self.window.output[axis]
        middle = (np.arange(length) - (length - 1) / 2) / (SIGMA * length)
        bell = np.exp(-0.5 * middle**2)
        total = np.zeros(side)
        pairs = []
        for start in starts:
            low, high = max(start, 0), min(start + length, side)
            total[low:high] += bell[low - start : high - start]
            pairs.append((slice(low, high), slice(low - start, high - start)))
        for start, (inside, kept) in zip(starts, pairs, strict=True):
            yield start - starts[0], inside, kept, (bell[kept] / total[inside]).astype(np.float32)
