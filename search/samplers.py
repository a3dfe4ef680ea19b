"""Optuna's samplers with a generator of its own for every trial.

Optuna seeds a sampler once per process, so a restarted process, or a second worker, proposes the first one's trials
again. Here the draws of a trial follow from (study seed, trial number) alone.
"""

import warnings
from collections.abc import Callable
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from genenet.errors import InputError
from genenet.seeds import derived_seed
from search.evolution import EvolutionSampler
from search.sobol import SobolSampler
from search.space import Choice, Domain, Draw, Whole


def _random(seed: int, number: int) -> BaseSampler:
    return RandomSampler(seed=derived_seed(seed, number))


def _tpe(seed: int, number: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(seed=derived_seed(seed, number), multivariate=True, group=True, constant_liar=True)


def _evolution(seed: int, number: int) -> BaseSampler:
    return EvolutionSampler(derived_seed(seed, number))


# By name, from the study's seed and the trial's number.
SAMPLERS: dict[str, Callable[[int, int], BaseSampler]] = {
    "random": _random,
    "sobol": SobolSampler,
    "tpe": _tpe,
    "evolution": _evolution,
}


class SeededSampler(BaseSampler):
    """A sampler made anew for every trial, seeded by the study's seed and the trial's number.

    Args:
        name: One of `SAMPLERS`.
        seed: The study's.

    Raises:
        InputError: An unknown name.
    """

    def __init__(self, name: str, seed: int) -> None:
        if name not in SAMPLERS:
            raise InputError(f"`sampler` must be one of {', '.join(SAMPLERS)}, but got {name!r}")
        self._make, self._seed = SAMPLERS[name], seed
        self._number, self._sampler = -1, SAMPLERS[name](seed, 0)

    def _for(self, trial: FrozenTrial) -> BaseSampler:
        if trial.number != self._number:
            self._number, self._sampler = trial.number, self._make(self._seed, trial.number)
        return self._sampler

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As the sampler does."""
        return self._for(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As the sampler does."""
        return self._for(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """As the sampler does."""
        return self._for(trial).sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """As the sampler does."""
        self._for(trial).before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        """As the sampler does."""
        self._for(trial).after_trial(study, trial, state, values)


def suggesting(trial: Trial) -> Draw:
    """Draw through an Optuna trial, which remembers what it gave.

    Of a trial whose process was killed half-way some values are known. They are drawn again for nothing, so that those
    that follow are what they would have been.
    """
    known = {name: kind for name, kind in trial.distributions.items() if name not in trial.relative_params}

    def draw(name: str, domain: Domain) -> Any:
        if name in known:
            frozen = trial.study.get_trials(deepcopy=False)[trial.number]
            trial.study.sampler.sample_independent(trial.study, frozen, name, known[name])
        if isinstance(domain, Choice):
            return trial.suggest_categorical(name, domain.options)
        if isinstance(domain, Whole):
            return trial.suggest_int(name, domain.low, domain.high, step=domain.step)
        return trial.suggest_float(name, domain.low, domain.high)

    return draw
