"""A corrector who is no person: knows the truth, takes time by a model, and writes a ledger as people do.

For tests, and to compare orders and stopping rules before people's time is spent.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import scipy.ndimage

from genenet.corrections.effort import Effort
from genenet.corrections.errors import count_errors
from genenet.corrections.session import Session
from genenet.corrections.store import Corrections
from genenet.errors import InputError
from genenet.formats.boxes import Box
from genenet.volume import Volume


@dataclasses.dataclass
class Clock:
    """A clock that goes only when told.

    Attributes:
        seconds: What it shows.
    """

    seconds: float = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.seconds


@dataclasses.dataclass(frozen=True)
class Step:
    """One region that was looked at.

    Attributes:
        box: Where.
        seconds: How long it took.
        n_changed: Voxels that got another value.
    """

    box: Box
    seconds: float
    n_changed: int


class Corrector:
    """Corrects regions one after the other.

    Attributes:
        seconds: Time spent so far.
        voxels: Looked at so far.
    """

    def __init__(
        self,
        corrections: Corrections,
        truth: Volume,
        *,
        person: str = "simulated",
        share: float = 1.0,
        smallest: int = 1,
        effort: Effort | None = None,
        unknown: int | None = None,
        seed: int = 0,
        wall: float = 1.8e9,
    ) -> None:
        """Begin a session.

        Args:
            corrections: The folder.
            truth: What the labels should be, in the values of the segmentation.
            person: Whose ledger is written.
            share: Of the connected errors, how many are seen and mended, 0 to 1.
            smallest: Connected errors of fewer voxels are left as they are, as people leave specks.
            effort: The time that it takes.
            unknown: A value of `truth` that nobody knows; such voxels are left as they are.
            seed: Which errors are overlooked.
            wall: Wall time of the beginning, seconds since 1970.

        Raises:
            InputError: The truth has another shape, or the share is not within 0 and 1.
        """
        if truth.shape != corrections.shape:
            raise InputError(f"{truth.name} has shape {truth.shape}, but the segmentation has {corrections.shape}")
        if not 0 <= share <= 1:
            raise InputError(f"the share of errors that are mended is 0 to 1, but got {share}")
        self._truth, self._share, self._effort, self._unknown = truth, share, effort or Effort(), unknown
        self._smallest = smallest
        self._rng = np.random.default_rng(seed)
        self._clock = Clock()
        self.session = Session(corrections, person, clock=self._clock, wall=lambda: wall + self._clock.seconds)
        self.voxels = 0
        self.session.start()

    @property
    def seconds(self) -> float:
        """Time spent so far."""
        return self._clock.seconds

    def correct(self, box: Box) -> Step:
        """Look at a region, mend what is seen to be wrong, and mark it as done."""
        labels, truth = self.session.labels.read(box), self._truth.read(box)
        known = np.ones(truth.shape, bool) if self._unknown is None else truth != self._unknown
        wrong = (labels != truth) & known
        wrong = np.stack([self._seen(entry) for entry in wrong])
        mended = np.where(wrong, truth, labels)
        errors, changed = count_errors(mended, labels)
        seconds = float(self._effort.seconds(labels.size, errors, changed))
        self.session.go_to(box[0].start)
        # No break may be longer than what the analysis takes for one.
        pieces = max(int(np.ceil(seconds / 30)), 1)
        for _ in range(pieces):
            self._clock.seconds += seconds / pieces
            self.session.moved()
        if changed:
            self.session.labels[box] = mended
            self.session.keep()
        self.session.mark(done=True, box=[(side.start, side.stop) for side in box])
        self.voxels += labels.size
        return Step(box, seconds, changed)

    def _seen(self, wrong: np.ndarray) -> np.ndarray:
        """The errors of a slice that are seen: connected ones, whole or not at all, and no specks."""
        pieces, n = scipy.ndimage.label(wrong)
        seen = np.bincount(pieces.ravel(), minlength=n + 1) >= self._smallest
        if self._share < 1:
            seen &= self._rng.random(n + 1) < self._share
        seen[0] = False
        return seen[pieces]

    def work(
        self,
        boxes: Sequence[Box],
        *,
        max_voxels: float = float("inf"),
        max_seconds: float = float("inf"),
        watch: Callable[[Step], None] | None = None,
    ) -> list[Step]:
        """Correct regions in an order, until something is used up."""
        steps = []
        for box in boxes:
            if self.voxels >= max_voxels or self.seconds >= max_seconds:
                break
            steps.append(self.correct(box))
            if watch is not None:
                watch(steps[-1])
        return steps

    def finish_slices(self, numbers: Sequence[int]) -> None:
        """Mark whole slices as done."""
        for number in numbers:
            self.session.go_to(number)
            self.session.mark(done=True)

    def close(self) -> None:
        """End the session."""
        self.session.close()
