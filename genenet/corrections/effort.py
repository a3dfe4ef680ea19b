"""How long correcting takes: a model of a person's time."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from genenet.errors import InputError
from genenet.folder import read_json, write_json

# In a study's folder.
EFFORT = "effort.json"

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

    def minutes_per_megavoxel(self, voxels: float, errors: float, changed: float) -> float:
        """For a million voxels of such a kind."""
        return float(self.seconds(voxels, errors, changed)) / 60 / (voxels / 1e6)

    @classmethod
    def fit(cls, rows: Sequence[tuple[float, float, float, float]]) -> Self:
        """Fit to logged work by least squares, no number below 0; slices count by their relative errors.

        Args:
            rows: Voxels looked at, connected errors, voxels changed, seconds; one row per slice.

        Raises:
            InputError: There are fewer than four rows with time.
        """
        import scipy.optimize

        known = np.array([row for row in rows if row[3] > 0], float).reshape(-1, 4)
        if len(known) < MIN_SLICES:
            raise InputError(
                f"predicting times needs {MIN_SLICES} slices that are corrected and marked as done, "
                f"but there are {len(known)}"
            )
        parts, seconds = known[:, :3] / [1e6, 1, 1e3], known[:, 3]
        found, _ = scipy.optimize.nnls(parts / seconds[:, None], np.ones(len(seconds)))
        error = float(np.median(abs(parts @ found - seconds) / seconds))
        looked, per_error, changed = map(float, found)
        return cls(looked, per_error, changed, len(known), error)

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def known_in(cls, folder: Path) -> Self:
        """As `of`, or guesses where nothing was kept."""
        return cls.of(folder) if (folder / EFFORT).exists() else cls()

    @classmethod
    def of(cls, folder: Path) -> Self:
        """What `genenet correct effort` kept in a study or a folder of corrections.

        Raises:
            InputError: Nothing.
        """
        if not (folder / EFFORT).exists():
            raise InputError(f"{folder} holds no {EFFORT}; `genenet correct effort` makes it from corrected slices")
        return cls.open(folder / EFFORT)

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
