"""Select the members of an ensemble by what each network says about the validation part; keep the whole curve."""

import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from genenet.averaging import as_votes
from genenet.calibration import expected_calibration_error, fit_temperature
from genenet.dataset import Dataset
from genenet.doubt import sharpened
from genenet.errors import InputError
from genenet.folder import write_text
from genenet.latency import seconds_per_megavoxel
from genenet.network import Network
from genenet.predictions import Sample, draw_sample, probabilities_at
from genenet.selection_rules import RULES, Candidates, Rule, per_second, score_probabilities
from genenet.wording import known_instead

CURVE = "curve.csv"

# The largest ensemble that is tried, unless asked otherwise (Guay et al. 2018 go as far).
MAX_MEMBERS = 15

# So many of the best networks are candidates where a rule may pass over some.
MAX_CANDIDATES = 30


@dataclasses.dataclass(frozen=True)
class CurvePoint:
    """Validation scores of the ensemble of the first `n_members` networks to join.

    Attributes:
        n_members: How many; a network that joined again counts again.
        added: The folder of the network added last.
        alone: That network's own validation adjusted Rand score.
        adjusted_rand, mean_iou, accuracy: Of the ensemble.
        ambiguity: The mean square of what its members say otherwise than it does, summed over classes (Krogh & Vedelsby
            1995): 0 if they agree. The ensemble's squared error is less than its members' by as much.
    """

    n_members: int
    added: str
    alone: float
    adjusted_rand: float
    mean_iou: float
    accuracy: float
    ambiguity: float = math.nan


class Selection(NamedTuple):
    """Who was selected; attributes as those of `genenet.ensemble.Ensemble`."""

    members: tuple[Network, ...]
    curve: tuple[CurvePoint, ...]
    weights: tuple[float, ...]
    temperatures: tuple[float, ...]
    candidates: tuple[tuple[str, float], ...]
    calibration: tuple[float, float] | None


def ranked_by_score(networks: Sequence[Network]) -> list[Network]:
    """Best validation adjusted Rand score first."""
    return sorted(networks, key=lambda network: -network.scores["adjusted_rand"])


def n_candidates(rule: str, max_members: int) -> int:
    """Among how many of the best networks a rule chooses."""
    return max_members if rule == "best" else max(max_members, MAX_CANDIDATES)


def select_members(
    ranked: Sequence[Network],
    data: Dataset,
    *,
    rule: str,
    max_members: int,
    limit_s_per_megavoxel: float | None,
    calibrate: bool,
    vote: bool,
    precision: str,
    cache: Path | None,
    progress: Callable[[int, int], None] | None,
) -> Selection:
    """See `genenet.ensemble.Ensemble.select`; networks are ranked, and fit the data."""
    joins = _rule(rule, limit_s_per_megavoxel)
    ranked = ranked[: n_candidates(rule, max_members)]
    sample, said = draw_sample(data), []
    for network in ranked:
        said.append(probabilities_at(network, data, sample, precision=precision, cache=cache))
        if progress is not None:
            progress(len(said), len(ranked))
    if calibrate and vote:
        raise InputError("`calibrate` changes how sure members are, which `vote` does not ask; leave one of them out")
    temperatures = [fit_temperature(sample.labels, each) if calibrate else 1.0 for each in said]
    calibrated = [sharpened(each, temperature) for each, temperature in zip(said, temperatures, strict=True)]
    counted = [as_votes(each) for each in calibrated] if vote else calibrated
    seconds = [seconds_per_megavoxel(each, data, precision) for each in ranked] if rule == "per_second" else None
    order = joins(Candidates(sample.labels, counted, seconds), max_members)
    if not order:
        raise InputError(f"no network keeps the limit of {limit_s_per_megavoxel} s per million voxels; "
                         f"the fastest takes {min(seconds or [0.0]):.3g} s")  # fmt: skip
    curve = _curve(order, ranked, counted, sample)
    chosen = order[: max(curve, key=lambda point: point.adjusted_rand).n_members]
    members = list(dict.fromkeys(chosen))
    weights = tuple(float(chosen.count(number)) for number in members)
    pairs = (said, calibrated) if calibrate else ()
    errors = [expected_calibration_error(sample.labels, _mean(each, chosen)) for each in pairs]
    return Selection(
        tuple(ranked[number] for number in members),
        tuple(curve),
        weights if max(weights) > 1 else (),
        tuple(round(temperatures[number], 4) for number in members) if calibrate else (),
        tuple((str(network.folder), network.scores["adjusted_rand"]) for network in ranked),
        (errors[0], errors[1]) if calibrate else None,
    )


def _rule(name: str, limit_s: float | None) -> Rule:
    """A rule by name, which may need a limit."""
    known = [*RULES, "per_second"]
    if name not in known:
        raise InputError(f"there is no rule `{name}` to select by; {known_instead(name, known)}")
    if (name == "per_second") != (limit_s is not None):
        raise InputError("`per_second` and a limit in seconds per million voxels belong together; give both or neither")
    return RULES[name] if limit_s is None else per_second(limit_s)


def _curve(
    order: Sequence[int], ranked: Sequence[Network], probabilities: Sequence[np.ndarray], sample: Sample
) -> list[CurvePoint]:
    """Scores of ensembles as networks join, on the sampled voxels."""
    curve = []
    square, total = 0.0, np.zeros_like(probabilities[0], dtype=np.float32)
    for n_members, number in enumerate(order, 1):
        own = probabilities[number].astype(np.float32)
        total += own
        # The members' ambiguity is the mean square of what they say less the square of its mean.
        square += _sum_of_squares(own)
        ambiguity = max(square / n_members - _sum_of_squares(total) / n_members**2, 0.0) / len(sample.labels)
        found = score_probabilities(sample.labels, total)
        network = ranked[number]
        alone = network.scores["adjusted_rand"]
        reached = found.adjusted_rand, found.mean_iou, found.accuracy
        curve.append(CurvePoint(n_members, str(network.folder), alone, *reached, ambiguity))
    return curve


def _mean(probabilities: Sequence[np.ndarray], joined: Sequence[int]) -> np.ndarray:
    total = np.zeros(probabilities[0].shape, np.float32)
    for number in joined:
        total += probabilities[number]
    return total / np.float32(len(joined))


def _sum_of_squares(values: np.ndarray) -> float:
    flat = np.ascontiguousarray(values).reshape(-1)
    return float(np.dot(flat, flat))


# -- the curve's file ---


def beside(folder: Path, relative: str) -> Path:
    """`ensemble` and `../trials/0001/network` as `trials/0001/network`."""
    return Path(os.path.normpath(folder / relative))


def write_curve(folder: Path, curve: Sequence[CurvePoint]) -> None:
    """Write curve.csv, with paths relative to the folder."""
    names = [field.name for field in dataclasses.fields(CurvePoint)]
    kept = [dataclasses.replace(point, added=os.path.relpath(point.added, folder)) for point in curve]
    rows = [",".join(str(getattr(point, name)) for name in names) for point in kept]
    write_text(folder / CURVE, "\n".join([",".join(names), *rows]) + "\n")


def read_curve(folder: Path) -> tuple[CurvePoint, ...]:
    """What `write_curve` wrote; nothing where there is none.

    Raises:
        KeyError, ValueError: It is damaged.
    """
    if not (folder / CURVE).exists():
        return ()
    header, *rows = (folder / CURVE).read_text(encoding="utf-8").strip().split("\n")
    points = []
    for row in rows:
        entry = dict(zip(header.split(","), row.split(","), strict=True))
        names = ("alone", "adjusted_rand", "mean_iou", "accuracy", "ambiguity")
        numbers = {name: float(entry[name]) for name in names if name in entry}
        points.append(CurvePoint(int(entry["n_members"]), str(beside(folder, entry["added"])), **numbers))
    return tuple(points)
