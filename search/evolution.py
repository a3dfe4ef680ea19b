"""Regularised evolution as an Optuna sampler: tournament and age (Real et al. 2019)."""

from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.distributions import OneByOneSampler, holds
from search.moves import Mutation


class EvolutionSampler(OneByOneSampler):
    """Give every trial a parent, the best of some drawn from the youngest, and change a little of it.

    Parameters are addressed by name, so a parameter that the parent has not, because its tree has other genes, is drawn
    at random. With a chance, the parameters of one subtree come from a second parent.

    Args:
        seed: Of all draws.
        population: So many trials that finished last may be parents; before there are so many, draws are random.
        tournament: So many of them are drawn, and the best becomes the parent.
        mutation: How much changes, by level: parameters are named `n_features`, `n_features@encode/stack0`.
        crossover: The chance that a subtree comes from a second parent.
    """

    def __init__(
        self,
        seed: int | None = None,
        *,
        population: int = 10,
        tournament: int = 3,
        mutation: Mutation | None = None,
        crossover: float = 0.2,
    ) -> None:
        self._rng = np.random.default_rng(seed)
        self._random = RandomSampler(seed=seed)
        self._population, self._tournament = population, tournament
        self._mutation, self._crossover = mutation or Mutation(), crossover
        self._parents: dict[int, dict[str, Any]] = {}

    def reseed_rng(self) -> None:
        """Draw anew in another thread or process."""
        self._rng = np.random.default_rng()
        self._random.reseed_rng()

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The parent's value, changed with a chance; at random where the parent has none that fits."""
        if trial._trial_id not in self._parents:
            self._parents = {trial._trial_id: self._choose(study)}
        parent = self._parents[trial._trial_id]
        if param_name not in parent or not holds(param_distribution, parent[param_name]):
            return self._random.sample_independent(study, trial, param_name, param_distribution)
        path = param_name.partition("@")[2]
        depth = path.count("/") + 1 if path else 0
        value = parent[param_name]
        if self._rng.random() >= self._mutation.rate(depth):
            return value
        return self._moved(value, param_distribution, self._mutation.scale(depth))

    def _choose(self, study: Study) -> dict[str, Any]:
        """The parameters of a parent, with a subtree of a second one now and then; nothing while all is random."""
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        young = sorted(done, key=lambda other: other.number)[-self._population :]
        if len(young) < self._population:
            return {}
        first, second = self._best_of(young, study), self._best_of(young, study)
        chosen = dict(first.params)
        if self._rng.random() < self._crossover:
            heads = sorted({name.partition("@")[2].partition("/")[0] for name in chosen} - {""})
            if heads:
                head = heads[int(self._rng.integers(len(heads)))]

                def inside(name: str) -> bool:
                    return name.partition("@")[2].partition("/")[0] == head

                kept = {name: value for name, value in chosen.items() if not inside(name)}
                chosen = {**kept, **{name: value for name, value in second.params.items() if inside(name)}}
        return chosen

    def _best_of(self, trials: list[FrozenTrial], study: Study) -> FrozenTrial:
        """The best of some drawn at random; with several objectives the one that most others do not beat in all."""
        picks = self._rng.choice(len(trials), size=min(self._tournament, len(trials)), replace=False)
        drawn = [trials[int(pick)] for pick in picks]
        signs = np.array([1 if direction == StudyDirection.MAXIMIZE else -1 for direction in study.directions])
        worth = np.array([trial.values for trial in drawn]) * signs
        beaten = [sum(bool((other >= mine).all() and (other > mine).any()) for other in worth) for mine in worth]
        return drawn[min(range(len(drawn)), key=lambda index: (beaten[index], -worth[index][0]))]

    def _moved(self, value: Any, distribution: BaseDistribution, scale: float) -> Any:
        if isinstance(distribution, CategoricalDistribution):
            others = [choice for choice in distribution.choices if choice != value]
            return others[int(self._rng.integers(len(others)))] if others else value
        if not isinstance(distribution, (FloatDistribution, IntDistribution)):
            raise TypeError(f"no move is known for {type(distribution).__name__}")
        low, high = float(distribution.low), float(distribution.high)
        if distribution.log:
            low, high, value = np.log(low), np.log(high), np.log(value)
        moved = float(np.clip(value + self._rng.normal(0, scale * (high - low)), low, high))
        moved = float(np.exp(moved)) if distribution.log else moved
        return _on_grid(moved, distribution)


def _on_grid(value: float, distribution: FloatDistribution | IntDistribution) -> float | int:
    """The nearest value that the distribution can give."""
    step = distribution.step
    if step is not None:
        n_steps = round((value - distribution.low) / step)
        value = distribution.low + step * n_steps
    value = min(max(value, distribution.low), distribution.high)
    return round(value) if isinstance(distribution, IntDistribution) else float(value)
