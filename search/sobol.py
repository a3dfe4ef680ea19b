"""A scrambled Sobol sequence as an Optuna sampler (Sobol 1967, Owen 1998): random points without clumps and gaps.

Optuna's own counts the points that it gave in the study, and takes its dimensions from the first trial that finished:
restarts skip points, and parallel workers begin without it. Here the point follows from the trial's number.
"""

from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial
from scipy.stats import qmc

from genenet.seeds import derived_seed
from search.distributions import OneByOneSampler

# The points' dimensions; a root has fewer hyperparameters.
N_DIMENSIONS = 64


class SobolSampler(OneByOneSampler):
    """Give a trial its point of the sequence, one dimension for each of the root's hyperparameters in turn.

    What deeper genes add is drawn at random: it depends on the tree, so that it has no dimension of its own.

    Args:
        seed: Of the scrambling: the study's.
        number: The trial's.
    """

    def __init__(self, seed: int, number: int) -> None:
        sequence = qmc.Sobol(N_DIMENSIONS, scramble=True, rng=derived_seed(seed, "sobol"))
        if number:
            sequence.fast_forward(number)
        self._point = sequence.random(1)[0]
        self._given: list[str] = []
        self._random = RandomSampler(seed=derived_seed(seed, number))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The next coordinate of the point, or a random value."""
        if "@" in param_name or len(self._given) == N_DIMENSIONS:
            return self._random.sample_independent(study, trial, param_name, param_distribution)
        coordinate = self._point[len(self._given)]
        self._given.append(param_name)
        return _value_at(float(coordinate), param_distribution)


def _value_at(share: float, distribution: BaseDistribution) -> Any:
    """What stands at a share, 0 to 1, of the values that a distribution has."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(share * len(distribution.choices))]
    if isinstance(distribution, IntDistribution):
        n_values = (distribution.high - distribution.low) // distribution.step + 1
        return distribution.low + distribution.step * int(share * n_values)
    if isinstance(distribution, FloatDistribution):
        return distribution.low + share * (distribution.high - distribution.low)
    raise TypeError(f"a Sobol sequence has no values for {type(distribution).__name__}")
