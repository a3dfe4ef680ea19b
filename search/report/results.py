"""What a study holds so far, read once for the report; whatever is missing is None or empty."""

import dataclasses
import logging
import math
from typing import Any

from genenet.ensemble import MEMBERS
from genenet.errors import InputError
from genenet.folder import read_json
from genenet.genes import UNet
from genenet.selection import read_curve
from search import goals
from search.lease import server_time
from search.study import Study
from search.trial import OPEN, Trial

logger = logging.getLogger(__name__)

BASELINE = "baseline"


@dataclasses.dataclass(frozen=True)
class Finished:
    """One trained network, as a row of Table 1 of Guay et al. 2018.

    Attributes:
        trial: Its files.
        label: `baseline`, or what else it was enqueued as.
        adjusted_rand: On the validation part.
        mean_iou: On the validation part.
        n_parameters: Trainable parameters.
        encode: LPES, convolutions per encoding stack, finest first.
        decode: LPDS, convolutions per decoding stack, deepest first.
        learning_rate: Adam's first.
        window: Voxels that a training window reads, `(y, x)`.
        steps: Optimizer steps done.
        seconds: Training time, without validation.
        correction_min: Minutes that a person would take to correct a million voxels, or None.
        cost: By the study's first objective that is a cost; else the number of parameters.
        on_front: Whether no other network is better in all objectives of a study that has several.
    """

    trial: Trial
    label: str
    adjusted_rand: float
    mean_iou: float | None
    n_parameters: int
    encode: tuple[int, ...]
    decode: tuple[int, ...]
    learning_rate: float
    window: tuple[int, ...]
    steps: int | None
    seconds: float | None
    correction_min: float | None
    cost: float
    on_front: bool

    @property
    def number(self) -> int:
        """The trial's."""
        return self.trial.number

    @property
    def is_baseline(self) -> bool:
        """Whether the others are held against it."""
        return self.label == BASELINE


@dataclasses.dataclass(frozen=True)
class Chosen:
    """The ensemble as its folder describes it.

    Attributes:
        members: Trial numbers, best first; None for a network from elsewhere.
        vote: Whether members vote instead of averaging probabilities.
        curve: Validation adjusted Rand score of the 1, 2, ... best networks; empty where the file is missing.
        is_current: Whether it was chosen among the networks that are the best now.
        ambiguity: How much its members differ (Krogh & Vedelsby 1995); None where the curve does not say.
        weights: How much each member counts; all the same if left out.
        of_the_best: Whether members are the n best networks alone, whatever the rule.
    """

    members: tuple[int | None, ...]
    vote: bool
    curve: tuple[float, ...]
    is_current: bool
    ambiguity: float | None = None
    weights: tuple[float, ...] = ()
    of_the_best: bool = True

    @property
    def n_joined(self) -> int:
        """How many networks joined; more than there are members where some joined again."""
        return round(sum(self.weights)) if self.weights else len(self.members)

    @property
    def adjusted_rand(self) -> float | None:
        """The ensemble's own score."""
        return self.curve[self.n_joined - 1] if self.n_joined <= len(self.curve) else None


@dataclasses.dataclass(frozen=True)
class Results:
    """What came out so far.

    Attributes:
        finished: Trained networks, best first.
        states: How many trials are in each state.
        failures: Trial numbers with why they failed.
        n_left: Networks of the budget that have not ended, those that run included.
        ensemble: None where there is none.
        baseline_name: What to call the baseline in a sentence.
        cost: What networks are drawn against: `n_parameters`, or a cost among the study's objectives.
    """

    finished: tuple[Finished, ...]
    states: dict[str, int]
    failures: tuple[tuple[int, str], ...]
    n_left: int
    ensemble: Chosen | None
    baseline_name: str
    cost: str = "n_parameters"

    @property
    def best(self) -> Finished | None:
        """The best single network."""
        return self.finished[0] if self.finished else None

    @property
    def baseline(self) -> Finished | None:
        """The network that the others are held against."""
        return next((network for network in self.finished if network.is_baseline), None)

    @property
    def seconds(self) -> float:
        """Training time of all finished networks."""
        return sum(network.seconds or 0 for network in self.finished)

    def is_member(self, network: Finished) -> bool:
        """Whether the ensemble uses a network."""
        return self.ensemble is not None and network.number in self.ensemble.members


def read_results(study: Study) -> Results:
    """Read a study's trials and its ensemble; a damaged trial counts as failed."""
    finished: list[Finished] = []
    states: dict[str, int] = {}
    failures: list[tuple[int, str]] = []
    n_drawn = n_waiting = 0
    now = server_time(study.folder)
    objectives = study.asked.objectives
    front = set(study.pareto_front()["trial"]) if len(objectives) > 1 else set()
    cost = next((name for name in objectives if goals.DIRECTIONS[name] == "minimize"), "n_parameters")
    for trial in study.trials():
        try:
            described = trial.describe(study.asked.lease_s, now)
            state, reason = described["state"], described["reason"]
            n_drawn += described["counts"]
            if state == "done":
                minutes = described.get(goals.CORRECTION, study.correction_min(described))
                finished.append(_finished(trial, described, minutes, cost, trial.number in front))
        except (InputError, KeyError, TypeError, ValueError) as error:
            state, reason = "failed", f"its files are damaged: {error}"
        states[state] = states.get(state, 0) + 1
        n_waiting += state in OPEN
        if state == "failed":
            failures.append((trial.number, str(reason)))
    finished.sort(key=lambda network: -network.adjusted_rand)
    n_left = n_waiting + max(0, (study.asked.n_trials or 0) - n_drawn)
    ensemble = _read_ensemble(study, finished)
    return Results(tuple(finished), states, tuple(failures), n_left, ensemble, _name(finished), cost)


def _finished(trial: Trial, row: dict[str, Any], correction_min: float | None, cost: str, on_front: bool) -> Finished:
    adjusted_rand = float(row["adjusted_rand"])
    if not math.isfinite(adjusted_rand):
        raise ValueError(f"its adjusted Rand score is {adjusted_rand}")
    return Finished(
        trial,
        row["label"],
        adjusted_rand,
        row["mean_iou"],
        row["n_parameters"],
        _numbers(row["lpes"], ","),
        _numbers(row["lpds"], ","),
        row["learning_rate"],
        _numbers(row["window"], "x"),
        row["steps"],
        row["seconds"],
        correction_min,
        float(row[cost]),
        on_front,
    )


def _numbers(text: str, between: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(between) if part)


def _name(finished: list[Finished]) -> str:
    """The original U-Net may be called so only where it is one."""
    baseline = next((network for network in finished if network.is_baseline), None)
    if baseline is not None:
        net = baseline.trial.blueprint
        if net.kind == "UNet" and net.n_parameters == UNet(net.n_classes, net.n_channels).n_parameters:
            return "the original U-Net"
    return "the baseline"


def _read_ensemble(study: Study, finished: list[Finished]) -> Chosen | None:
    folder = study.folder / "ensemble"
    if not (folder / MEMBERS).exists():
        return None
    try:
        entry = read_json(folder / MEMBERS)
        numbers = {network.trial.network_folder.resolve(): network.number for network in finished}
        members = tuple(numbers.get((folder / row["network"]).resolve()) for row in entry["members"])
        points = read_curve(folder)
    except (InputError, KeyError, TypeError, ValueError) as error:
        logger.warning("the ensemble in %s is damaged: %s", folder, error)
        return None
    if not members:
        return None
    among = [row["adjusted_rand"] for row in entry.get("candidates", [])] or [point.alone for point in points]
    is_current = not among or among == [network.adjusted_rand for network in finished[: len(among)]]
    weights = tuple(float(row.get("weight", 1.0)) for row in entry["members"])
    n_joined = round(sum(weights))
    known = [point.ambiguity for point in points[n_joined - 1 : n_joined] if math.isfinite(point.ambiguity)]
    curve = tuple(point.adjusted_rand for point in points)
    candidates = [row["network"] for row in entry.get("candidates", [])]
    is_best = not candidates or [row["network"] for row in entry["members"]] == candidates[: len(members)]
    return Chosen(
        members,
        bool(entry.get("vote")),
        curve,
        is_current,
        known[0] if known else None,
        weights,
        is_best and n_joined == len(members),
    )
