"""End trials early that do badly beside others: Optuna's pruners, on the best validation score so far.

A pruner compares networks after the same share of their budget, of steps or of time, whichever is spent more. Networks
that were enqueued are reported for comparison, and trained to their end.
"""

import math
from collections.abc import Callable

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner

from genenet.settings import TrainingSettings

# A training is compared after so many equal parts of its budget, as far as it is validated as often.
N_REPORTS = 20

# After each of which only so large a part of the networks goes on.
REDUCTION = 3


class StoppedEarly(Exception):
    """A trial need not be trained further.

    Attributes:
        details: For its record: the best score, steps and seconds.
    """

    def __init__(self, message: str, **details: float) -> None:
        super().__init__(message)
        self.details = details


def _hyperband() -> BasePruner:
    return HyperbandPruner(min_resource=1, max_resource=N_REPORTS, reduction_factor=REDUCTION)


def _successive_halving() -> BasePruner:
    return SuccessiveHalvingPruner(min_resource=2, reduction_factor=REDUCTION)


def _median() -> BasePruner:
    return MedianPruner(n_startup_trials=5, n_warmup_steps=N_REPORTS // 5)


# By name: Hyperband (Li et al. 2018), asynchronous successive halving (Li et al. 2020), and the rule to stop what is
# below the median of others at the same point.
PRUNERS: dict[str, Callable[[], BasePruner]] = {
    "hyperband": _hyperband,
    "successive_halving": _successive_halving,
    "median": _median,
}


def make_pruner(name: str | None) -> BasePruner:
    """A pruner by name; one that never ends anything where there is none."""
    return NopPruner() if name is None else PRUNERS[name]()


def report_number(training: TrainingSettings, step: int, seconds: float) -> int:
    """How many of `N_REPORTS` equal parts of a training's budget are spent.

    >>> report_number(TrainingSettings(steps=200), 50, 1.0), report_number(TrainingSettings(seconds=10), 1, 9.0)
    (5, 18)
    """
    spent = step / training.steps
    if training.seconds is not None:
        spent = max(spent, seconds / training.seconds)
    return min(int(spent * N_REPORTS + 1e-9), N_REPORTS)


class Comparison:
    """A trial that is compared with others while it is trained.

    Args:
        study: Optuna's.
        number: The trial's.
        training: How it is trained.
        may_stop: Whether it may be stopped; else it is only something to compare others with.
    """

    def __init__(self, study: optuna.Study, number: int, training: TrainingSettings, *, may_stop: bool) -> None:
        known = study.get_trials(deepcopy=False)[number]
        self._trial = optuna.trial.Trial(study, known._trial_id)
        self._reported = set(known.intermediate_values)
        self._best = max(known.intermediate_values.values(), default=-math.inf)
        self._training, self._may_stop = training, may_stop

    def report(self, step: int, seconds: float, score: float) -> None:
        """Say what a validation gave.

        Raises:
            StoppedEarly: Others were better at this point.
        """
        number = report_number(self._training, step, seconds)
        self._best = max(self._best, score)
        if number == 0 or number in self._reported:
            return
        self._trial.report(self._best, number)
        self._reported.add(number)
        if self._may_stop and number < N_REPORTS and self._trial.should_prune():
            reason = f"stopped early at step {step}: {self._best:.4f} was less than others had by then"
            raise StoppedEarly(reason, adjusted_rand=self._best, steps=step, seconds=round(seconds, 1))
