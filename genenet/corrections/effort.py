"""How long correcting takes: a model of a person's time, fitted to ledgers, and what it says of a network."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import scipy.ndimage
import scipy.optimize

from genenet.corrections.activity import IDLE_S, work_by_slice
from genenet.corrections.store import Corrections
from genenet.errors import InputError
from genenet.folder import read_json, write_json
from genenet.volume import open_volume

# Slices that are needed to fit three numbers.
MIN_SLICES = 4


@dataclasses.dataclass(frozen=True)
class Effort:
    """Seconds that a person takes, as a sum.

    Before anybody's ledger is known, these are guesses: a slice of 2000x2000 voxels looked at in two minutes, three
    seconds to go to an error and begin, a thousand voxels painted in three.

    Attributes:
        s_per_megavoxel: To look at what needs no change.
        s_per_error: For every connected region of voxels that are changed.
        s_per_kilovoxel: For voxels that are changed.
        n_slices: To how many slices of work these were fitted; 0 for guesses.
        error: The median of |predicted - logged| / logged over these slices, or None.
    """

    s_per_megavoxel: float = 30.0
    s_per_error: float = 3.0
    s_per_kilovoxel: float = 3.0
    n_slices: int = 0
    error: float | None = None

    def seconds(self, voxels: Any, errors: Any, changed: Any) -> Any:
        """For some work, or arrays of it.

        Args:
            voxels: Looked at.
            errors: Connected regions that are changed.
            changed: Voxels that are changed.

        >>> Effort(30.0, 3.0, 3.0).seconds(1_000_000, 10, 5_000)
        75.0
        """
        return self.s_per_megavoxel * voxels / 1e6 + self.s_per_error * errors + self.s_per_kilovoxel * changed / 1e3

    @classmethod
    def fit(cls, rows: Sequence[tuple[float, float, float, float]]) -> Self:
        """Fit to logged work by least squares, no number below 0; slices count by their relative errors.

        Args:
            rows: Voxels looked at, connected errors, voxels changed, seconds; one row per slice.

        Raises:
            InputError: There are fewer than four rows with time.
        """
        known = np.array([row for row in rows if row[3] > 0], float).reshape(-1, 4)
        if len(known) < MIN_SLICES:
            raise InputError(
                f"predicting times needs {MIN_SLICES} slices that are corrected and marked as done, "
                f"but there are {len(known)}"
            )
        parts, seconds = known[:, :3] / [1e6, 1, 1e3], known[:, 3]
        found, _ = scipy.optimize.nnls(parts / seconds[:, None], np.ones(len(seconds)))
        error = float(np.median(abs(parts @ found - seconds) / seconds))
        return cls(*map(float, found), n_slices=len(known), error=error)

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            InputError: There is no such file, or it is damaged.
        """
        try:
            return cls(**read_json(path))
        except TypeError as error:
            raise InputError(f"{path} is damaged: {error}") from None


def count_errors(labels: np.ndarray, truth: np.ndarray, known: np.ndarray | None = None) -> tuple[int, int]:
    """Connected regions of wrong voxels, slice by slice as people see them, and wrong voxels.

    Args:
        labels: `(z, y, x)` or `(y, x)`.
        truth: The same shape.
        known: Where the truth is known; everywhere if left out.

    >>> count_errors(np.array([[1, 1, 0, 1]]), np.array([[0, 0, 0, 0]]))
    (2, 3)
    """
    wrong = labels != truth if known is None else (labels != truth) & known
    slices = wrong if wrong.ndim == 3 else wrong[None]
    return sum(scipy.ndimage.label(entry)[1] for entry in slices), int(np.count_nonzero(wrong))


def corrected_slices(
    corrections: Corrections, idle_s: float = IDLE_S
) -> Iterator[tuple[tuple[float, float, float, float], str, int]]:
    """Of every slice that somebody corrected and marked as done: what `Effort.fit` takes, the person, the slice."""
    if corrections.shape is None or corrections.segmentation is None:
        return
    base = open_volume(corrections.segmentation)
    _, height, width = corrections.shape
    for person, mode, _ in corrections.ledgers("correct"):
        events = corrections.events(person, mode)
        replay = corrections.replay(events)
        for work in work_by_slice(person, mode, events, idle_s):
            if work.is_done and work.seconds > 0:
                box = slice(work.slice, work.slice + 1), slice(0, height), slice(0, width)
                errors, changed = count_errors(base.read(box), replay.read(box))
                yield (height * width, errors, changed, work.seconds), person, work.slice


def fit_effort(folders: Sequence[Path | str], idle_s: float = IDLE_S) -> Effort:
    """Fit to all that is corrected and marked as done in some folders.

    Raises:
        InputError: That is too little.
    """
    rows = [row for folder in folders for row, _, _ in corrected_slices(Corrections.open(folder), idle_s)]
    return Effort.fit(rows)
