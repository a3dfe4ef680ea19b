"""What a study holds so far, read once for the report; whatever is missing is None or empty."""

import csv
import dataclasses
import logging
import math
from pathlib import Path

from genenet.ensemble import CURVE, MEMBERS
from genenet.errors import InputError
from genenet.folder import read_json
from genenet.genes import UNet
from search.study import Study
from search.trial import Trial, counts

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
    """

    members: tuple[int | None, ...]
    vote: bool
    curve: tuple[float, ...]
    is_current: bool

    @property
    def adjusted_rand(self) -> float | None:
        """The ensemble's own score."""
        return self.curve[len(self.members) - 1] if len(self.members) <= len(self.curve) else None


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
    """

    finished: tuple[Finished, ...]
    states: dict[str, int]
    failures: tuple[tuple[int, str], ...]
    n_left: int
    ensemble: Chosen | None
    baseline_name: str

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


# States of trials that will be worked on.
OPEN = ("waiting", "running", "stopped", "lost", "retried")


def read_results(study: Study) -> Results:
    """Read a study's trials and its ensemble; a damaged trial counts as failed."""
    finished: list[Finished] = []
    states: dict[str, int] = {}
    failures: list[tuple[int, str]] = []
    n_drawn = n_waiting = 0
    for trial in study.trials():
        try:
            described = trial.describe(study.lease_s)
            state, reason = described["state"], described["reason"]
            n_drawn += counts(trial.state)
            if state == "done":
                finished.append(_read_finished(trial))
        except (InputError, KeyError, TypeError, ValueError) as error:
            state, reason = "failed", f"its files are damaged: {error}"
        states[state] = states.get(state, 0) + 1
        n_waiting += state in OPEN
        if state == "failed":
            failures.append((trial.number, str(reason)))
    finished.sort(key=lambda network: -network.adjusted_rand)
    n_left = n_waiting + max(0, study.n_trials - n_drawn)
    return Results(tuple(finished), states, tuple(failures), n_left, _read_ensemble(study, finished), _name(finished))


def _read_finished(trial: Trial) -> Finished:
    state, net = trial.state, trial.blueprint
    adjusted_rand = float(state["adjusted_rand"])
    if not math.isfinite(adjusted_rand):
        raise ValueError(f"its adjusted Rand score is {adjusted_rand}")
    layers = net.layers_per_stack()
    return Finished(
        trial,
        state.get("label", ""),
        adjusted_rand,
        state.get("mean_iou"),
        net.n_parameters,
        layers.encode,
        layers.decode,
        10**net.log10_learning_rate,
        net.window_shape().input,
        state.get("steps"),
        state.get("seconds"),
    )


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
        curve, alone = _read_curve(folder / CURVE)
    except (InputError, KeyError, TypeError, ValueError) as error:
        logger.warning("the ensemble in %s is damaged: %s", folder, error)
        return None
    best_now = [network.adjusted_rand for network in finished[: len(alone)]]
    return Chosen(members, bool(entry.get("vote")), curve, not alone or alone == best_now) if members else None


def _read_curve(path: Path) -> tuple[tuple[float, ...], list[float]]:
    """Scores of the ensembles, and of the network that each added."""
    if not path.exists():
        return (), []
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return tuple(float(row["adjusted_rand"]) for row in rows), [float(row["alone"]) for row in rows]
