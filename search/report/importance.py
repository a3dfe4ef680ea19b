"""Which hyperparameters the score depended on, as far as the trials of a study can tell."""

import dataclasses
import logging
import warnings
from typing import TYPE_CHECKING

import numpy as np
import optuna
from optuna.trial import TrialState

from search.study import Study

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

SCORE = "adjusted_rand"
DEEPER = " (deeper levels)"

# With fewer trials the estimate says nothing; even with these it is a hint.
MIN_TRIALS = 8
N_SHOWN = 10


@dataclasses.dataclass(frozen=True)
class Importance:
    """What share of the score's variance each hyperparameter explains (Hutter et al. 2014, functional ANOVA).

    Attributes:
        shares: By name, largest first; they add up to 1 over all names, of which the first `N_SHOWN` are kept.
        values: One row per trial: what was drawn, and the score as `adjusted_rand`.
        missing: Why there are none, in a sentence; else empty.
    """

    shares: dict[str, float]
    values: "pd.DataFrame"
    missing: str = ""


def measure_importance(study: Study, seed: int = 0) -> Importance:
    """Estimate the importance of every hyperparameter that the space varies.

    Deltas of the genes below the root differ in number from network to network. They enter as their mean, one
    value per hyperparameter and trial, named `n_features (deeper levels)`.

    Args:
        study: Its finished trials are used, without those that did not come from the space.
        seed: Of the random forest.
    """
    import pandas as pd

    values = pd.DataFrame()
    try:
        values = read_values(study)
        if len(values) < MIN_TRIALS:
            needed = f"It takes at least {MIN_TRIALS} finished networks drawn from the space to say"
            return Importance({}, values, f"{needed}; there are {len(values)}.")
        shares = _estimate(values, seed)
    except Exception as error:  # whatever Optuna or scikit-learn cannot do, the rest of the report can
        logger.warning("hyperparameter importance failed: %s", error)
        return Importance({}, values, f"It could not be estimated: {error}")
    return Importance(dict(list(shares.items())[:N_SHOWN]), values)


def read_values(study: Study) -> "pd.DataFrame":
    """What was drawn for every finished trial, one column per hyperparameter, and the score."""
    import pandas as pd

    trials = study.optuna_study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    own = [trial for trial in trials if trial.params and "study" not in trial.user_attrs]
    values = pd.DataFrame([{**_gather(trial.params), SCORE: trial.values[0]} for trial in own])
    deeper = [name for name in values.columns if name.endswith(DEEPER)]
    values[deeper] = values[deeper].fillna(0.0)  # no gene of that level drew anything
    return values


def _gather(drawn: dict[str, object]) -> dict[str, object]:
    """Root values as they are, deltas below as their mean."""
    row: dict[str, object] = {name: value for name, value in drawn.items() if "@" not in name}
    deltas: dict[str, list[float]] = {}
    for name, value in drawn.items():
        if "@" in name:
            deltas.setdefault(name.partition("@")[0] + DEEPER, []).append(float(value))  # type: ignore[arg-type]
    return {**row, **{name: float(np.mean(found)) for name, found in deltas.items()}}


def _estimate(values: "pd.DataFrame", seed: int) -> dict[str, float]:
    """Shares by name, through a study in memory that holds the gathered values."""
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

    distributions: dict[str, BaseDistribution] = {}
    for name in values.columns.drop(SCORE):
        column = values[name]
        if column.isna().any() or column.nunique() < 2:
            continue
        if column.map(lambda value: isinstance(value, str)).any():
            distributions[str(name)] = CategoricalDistribution(sorted(column.unique()))
        else:
            distributions[str(name)] = FloatDistribution(float(column.min()), float(column.max()))
    if not distributions:
        raise ValueError("no hyperparameter varies among the finished networks")
    if values[SCORE].nunique() < 2:
        raise ValueError("all networks have the same score")
    memory = optuna.create_study(direction="maximize")
    for row in values.to_dict("records"):
        params = {name: row[name] if _is_choice(kind) else float(row[name]) for name, kind in distributions.items()}
        memory.add_trial(optuna.create_trial(params=params, distributions=distributions, value=float(row[SCORE])))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
        return optuna.importance.get_param_importances(memory, evaluator=evaluator)


def _is_choice(distribution: object) -> bool:
    return isinstance(distribution, optuna.distributions.CategoricalDistribution)
