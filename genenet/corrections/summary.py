"""Minutes per slice by person, by hand and corrected, and what correcting saves: the table of Guay et al. 2018, 3.4."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genenet.corrections.activity import IDLE_S, SliceWork, work_by_slice
from genenet.corrections.ledger import read_ledger
from genenet.corrections.store import MODES, Corrections
from genenet.errors import InputError

N_RESAMPLES = 10_000
EVERYBODY = "all"


@dataclasses.dataclass(frozen=True)
class SpeedUp:
    """How many times faster a person corrects than segments by hand.

    Attributes:
        person: Who; `all` for everybody, the geometric mean over people.
        manual_min, corrected_min: Mean minutes per slice.
        ratio: `manual_min / corrected_min`.
        low, high: The 95 % confidence interval of the ratio by the bootstrap over slices (Efron 1979, percentiles);
            NaN where a mode has a single slice.
        n_manual, n_corrected: Slices.
    """

    person: str
    manual_min: float
    corrected_min: float
    ratio: float
    low: float
    high: float
    n_manual: int
    n_corrected: int


@dataclasses.dataclass(frozen=True)
class Pace:
    """How a person works in a mode.

    Attributes:
        person, mode: Who and how.
        n_slices: Slices that count.
        minutes: Mean per slice.
        voxels_per_min: Voxels that get another value.
        learning: By which factor the time per slice changes from one slice to the next, from a line through the
            logarithms of the times in their order; 0.95 means 5 % faster each. NaN with less than three slices.
        class_minutes: Mean minutes per slice before edits, by the class that was painted; under -1 the rest, looking.
    """

    person: str
    mode: str
    n_slices: int
    minutes: float
    voxels_per_min: float
    learning: float
    class_minutes: dict[int, float]


def collect(folders: Iterable[Path | str], idle_s: float = IDLE_S) -> list[SliceWork]:
    """All work that is logged in some folders.

    Raises:
        InputError: One holds no corrections, or `idle_s` is not above 0.
    """
    if idle_s <= 0:
        raise InputError(f"the longest break that counts must be above 0 s, but got {idle_s}")
    found = []
    for folder in folders:
        for person, mode, path in Corrections.open(folder).ledgers():
            found += work_by_slice(person, mode, read_ledger(path), idle_s)
    return found


def counted(work: Iterable[SliceWork]) -> list[SliceWork]:
    """The slices that may be compared: those that are done, with time on them."""
    return [entry for entry in work if entry.is_done and entry.seconds > 0]


def speed_ups(work: Sequence[SliceWork], *, seed: int = 0) -> list[SpeedUp]:
    """What correcting saves, for every person who has done slices in both modes, then for all of them.

    Args:
        work: From `collect`.
        seed: Of the bootstrap.
    """
    rng = np.random.default_rng(seed)
    found, logs = [], []
    done = counted(work)
    for person in sorted({entry.person for entry in done}):
        times = {mode: _minutes(done, person, mode) for mode in MODES}
        if not all(len(times[mode]) for mode in MODES):
            continue
        manual, corrected = times["manual"], times["correct"]
        ratio = manual.mean() / corrected.mean()
        draws = np.log(_resampled(manual, rng) / _resampled(corrected, rng))
        low, high = _interval(draws, min(len(manual), len(corrected)))
        sizes = len(manual), len(corrected)
        found.append(SpeedUp(person, manual.mean(), corrected.mean(), ratio, low, high, *sizes))
        logs.append(draws)
    if len(found) > 1:
        ratio = float(np.exp(np.mean([np.log(entry.ratio) for entry in found])))
        sizes = sum(entry.n_manual for entry in found), sum(entry.n_corrected for entry in found)
        low, high = _interval(np.mean(logs, 0), min(min(e.n_manual, e.n_corrected) for e in found))
        manual_min = float(np.mean([entry.manual_min for entry in found]))
        corrected_min = float(np.mean([entry.corrected_min for entry in found]))
        found.append(SpeedUp(EVERYBODY, manual_min, corrected_min, ratio, low, high, *sizes))
    return found


def paces(work: Sequence[SliceWork]) -> list[Pace]:
    """How fast everybody is in each mode."""
    found, done = [], counted(work)
    for person, mode in sorted({(entry.person, entry.mode) for entry in done}):
        rows = sorted((e for e in done if (e.person, e.mode) == (person, mode)), key=lambda entry: entry.finished_at)
        seconds = np.array([entry.seconds for entry in rows])
        by_class: dict[int, float] = {}
        for entry in rows:
            for value, spent in entry.class_seconds.items():
                by_class[value] = by_class.get(value, 0.0) + spent / 60 / len(rows)
        looking = seconds.mean() / 60 - sum(by_class.values())
        slope = np.polyfit(np.arange(len(rows)), np.log(seconds), 1)[0] if len(rows) > 2 else np.nan
        voxels = sum(entry.n_voxels for entry in rows)
        found.append(
            Pace(
                person,
                mode,
                len(rows),
                seconds.mean() / 60,
                60 * voxels / seconds.sum(),
                float(np.exp(slope)),
                {**dict(sorted(by_class.items())), -1: looking},
            )
        )
    return found


def table(work: Sequence[SliceWork]) -> list[dict[str, Any]]:
    """One row per person, mode and slice, for CSV."""
    return [
        {
            "person": entry.person,
            "mode": entry.mode,
            "slice": entry.slice,
            "minutes": round(entry.seconds / 60, 4),
            "done": entry.is_done,
            "strokes": entry.n_strokes,
            "voxels": entry.n_voxels,
        }
        for entry in sorted(work, key=lambda entry: (entry.person, entry.mode, entry.slice))
    ]


def plot(work: Sequence[SliceWork], path: Path) -> None:
    """Draw minutes per slice, by person and mode, with their means; PNG or what else the suffix names."""
    import matplotlib.figure

    done = counted(work)
    people = sorted({entry.person for entry in done})
    figure = matplotlib.figure.Figure(figsize=(1.6 + 1.8 * max(len(people), 1), 3.6), layout="constrained")
    axes = figure.subplots()
    colors, offsets = {"manual": "#d55e00", "correct": "#0072b2"}, {"manual": -0.18, "correct": 0.18}
    names = {"manual": "by hand", "correct": "corrected"}
    for mode in ("manual", "correct"):
        for place, person in enumerate(people):
            minutes = _minutes(done, person, mode)
            if len(minutes):
                x = place + offsets[mode]
                spread = x + np.linspace(-0.08, 0.08, len(minutes)) if len(minutes) > 1 else np.array([x])
                axes.plot(spread, minutes, "o", color=colors[mode], alpha=0.6, markersize=4)
                axes.hlines(minutes.mean(), x - 0.13, x + 0.13, color=colors[mode], linewidth=2,
                            label="" if place else names[mode])  # fmt: skip
    for entry in (e for e in speed_ups(work) if e.person != EVERYBODY):
        axes.text(people.index(entry.person), axes.get_ylim()[1], f"{entry.ratio:.2f}x", ha="center", va="bottom")
    axes.set_xticks(range(len(people)), people)
    axes.set_xlim(-0.5, max(len(people), 1) - 0.5)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("minutes per slice")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def _minutes(work: Sequence[SliceWork], person: str, mode: str) -> np.ndarray:
    return np.array([entry.seconds / 60 for entry in work if (entry.person, entry.mode) == (person, mode)])


def _resampled(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Means of samples drawn from values with replacement."""
    return values[rng.integers(0, len(values), (N_RESAMPLES, len(values)))].mean(-1)


def _interval(logs: np.ndarray, n: int) -> tuple[float, float]:
    if n < 2:
        return np.nan, np.nan
    low, high = np.exp(np.quantile(logs, (0.025, 0.975)))
    return float(low), float(high)
