"""Optuna's words for what may be drawn, and a sampler that draws it piece by piece."""

from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from search.space import Choice, Domain, Whole


class OneByOneSampler(BaseSampler):
    """A sampler that gives parameters one by one: which of them a trial asks for depends on its tree."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Nothing."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing."""
        return {}


def distribution_of(domain: Domain) -> BaseDistribution:
    """Optuna's word for what may be drawn."""
    if isinstance(domain, Choice):
        return CategoricalDistribution(domain.options)
    if isinstance(domain, Whole):
        return IntDistribution(domain.low, domain.high, step=domain.step)
    return FloatDistribution(domain.low, domain.high)


def holds(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a value of another trial may be given here; the ranges may differ from tree to tree."""
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except (TypeError, ValueError):
        return False
