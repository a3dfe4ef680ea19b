"""What a search is asked for, beside its space and its data."""

import dataclasses
from typing import Any

from genenet.errors import InputError
from genenet.settings import TrainingSettings
from genenet.wording import known_instead
from search import goals
from search.early_stopping import PRUNERS
from search.samplers import SAMPLERS
from search.space import Limits

# A worker on another machine is taken for dead after so many seconds without a sign of life.
LEASE_S = 180.0

# Steps of a training that time alone ends.
UNLIMITED = 10_000_000

FAIRNESS = ("steps", "time")


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """A search's budget, its ways and its aims.

    Attributes:
        n_trials: Networks to draw from the space, beside those that are enqueued; None for as many as hours allow.
        trial_hours: None is drawn once work on trials has taken so many hours, all workers added up.
        total_hours: None is drawn so many hours after the first trial began.
        fair: What all networks get the same amount of: `steps` of training, or `time`. Whatever would end one of them
            before is refused. None lets both limits hold, whichever comes first.
        sampler: One of `SAMPLERS`.
        early_stopping: One of `PRUNERS`, or None: every network is trained to its end.
        objectives: What the sampler learns from, the most important first; `goals.DIRECTIONS` has them.
        seed: Of every draw, weight and window.
        limits: What a network may cost.
        lease_s: A worker on another machine that gives no sign of life for so many seconds is taken for dead.
        storage: Where Optuna keeps what the samplers learn from: the URL of a database, or None for a file in the
            study's folder.

    Raises:
        InputError: A value that cannot be, or two that exclude each other.
    """

    n_trials: int | None = 20
    trial_hours: float | None = None
    total_hours: float | None = None
    fair: str | None = None
    sampler: str = "random"
    early_stopping: str | None = None
    objectives: tuple[str, ...] = ("adjusted_rand",)
    seed: int = 0
    limits: Limits = dataclasses.field(default_factory=Limits)
    lease_s: float = LEASE_S
    storage: str | None = None

    def __post_init__(self) -> None:
        for name in ("trial_hours", "total_hours", "lease_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"`{name}` must be positive, but got {value}")
        if self.n_trials is not None and self.n_trials < 0:
            raise InputError(f"`n_trials` must be at least 0, but got {self.n_trials}")
        if self.n_trials is None and self.trial_hours is None and self.total_hours is None:
            raise InputError("a study needs an end; give `n_trials`, `trial_hours` or `total_hours`")
        for name, known in (("sampler", SAMPLERS), ("early_stopping", PRUNERS), ("fair", FAIRNESS)):
            value = getattr(self, name)
            if value not in known and (value is not None or name == "sampler"):
                raise InputError(f"`{name}` must be one of {', '.join(known)}, but got {value!r}")
        goals.check(self.objectives)
        if self.early_stopping is not None and self.objectives not in (("adjusted_rand",), (goals.ENSEMBLE_AWARE,)):
            raise InputError(
                "`early_stopping` compares networks by their adjusted Rand score alone, "
                f"but the objectives are {', '.join(self.objectives)}"
            )
        if self.early_stopping is not None and self.fair is not None:
            raise InputError(
                f"`early_stopping` gives some networks less than others; leave it out, or `fair: {self.fair}`"
            )

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "SearchSettings":
        """From what `to_dict` gave; other keys are passed over.

        Raises:
            TypeError, InputError: A value that cannot be.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        found = {name: content[name] for name in names if name in content}
        found["limits"] = Limits(**found.get("limits", {}))
        found["objectives"] = tuple(found.get("objectives", cls.objectives))
        return cls(**found)

    def to_dict(self) -> dict[str, Any]:
        """As plain data for YAML; what is None is left out."""
        content = dataclasses.asdict(self)
        return {name: value for name, value in content.items() if value is not None or name == "n_trials"}

    def budget(self) -> dict[str, float]:
        """What ends the search, by name."""
        names = ("n_trials", "trial_hours", "total_hours")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def is_spent(self, n_drawn: int, worked_s: float, passed_s: float) -> bool:
        """Whether no further trial is to be drawn.

        Args:
            n_drawn: Trials that count towards the budget.
            worked_s: Seconds that workers spent on trials, all added up.
            passed_s: Seconds since the first trial began.
        """
        used = {"n_trials": n_drawn, "trial_hours": worked_s / 3600, "total_hours": passed_s / 3600}
        return any(used[name] >= limit for name, limit in self.budget().items())

    def fitted(self, training: TrainingSettings) -> TrainingSettings:
        """How a network is trained in a comparison that is fair.

        Raises:
            InputError: Something would end some trainings before others.
        """
        if self.fair is None:
            return training
        if training.patience is not None or training.stop_below is not None:
            raise InputError(f"`fair: {self.fair}` trains all networks alike; leave out `patience` and `stop_below`")
        if self.fair == "time":
            if training.seconds is None:
                raise InputError("`fair: time` needs `seconds`, the training time of every network")
            return dataclasses.replace(training, steps=UNLIMITED)
        if training.seconds is not None:
            raise InputError("`fair: steps` trains all networks for the same steps; leave out `seconds`")
        return training


def settings_from(asked: dict[str, Any]) -> SearchSettings:
    """Settings from keyword arguments.

    Raises:
        InputError: A name that nobody knows, or a value that cannot be.
    """
    known = [field.name for field in dataclasses.fields(SearchSettings)]
    for name in asked:
        if name not in known:
            raise InputError(f"a study has no setting `{name}`; {known_instead(name, known)}")
    asked = {**asked, "objectives": tuple(asked.get("objectives", SearchSettings.objectives))}
    if asked.get("limits") is None:
        asked.pop("limits", None)
    return SearchSettings(**asked)
