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
        number: The trial's.
        training: How it is trained.
        may_stop: Whether it may be stopped; else it is only something to compare others with.
    """

    def __init__(self, number: int, training: TrainingSettings, *, may_stop: bool) -> None:
        self._number, self._training, self._may_stop = number, training, may_stop
        self._best = -math.inf

    def report(self, study: optuna.Study, step: int, seconds: float, score: float) -> None:
        """Say what a validation gave; once or more than once.

        Args:
            study: Optuna's.
            step: Steps done.
            seconds: Of training.
            score: The higher the better.

        Raises:
            StoppedEarly: Others were better at this point.
        """
        number = report_number(self._training, step, seconds)
        self._best = max(self._best, score)
        if number == 0:
            return
        known = study.get_trials(deepcopy=False)[self._number]
        self._best = max(self._best, *known.intermediate_values.values(), score)
        trial = optuna.trial.Trial(study, known._trial_id)
        if number not in known.intermediate_values:
            trial.report(self._best, number)
        # Asked for those too that go on in any case: the pruners keep in the trial what others are compared with.
        if trial.should_prune() and self._may_stop and number < N_REPORTS:
            reason = f"stopped early at step {step}: {self._best:.4f} was less than others had by then"
            raise StoppedEarly(reason, adjusted_rand=self._best, steps=step, seconds=round(seconds, 1))
