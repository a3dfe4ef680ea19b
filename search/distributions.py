"""Optuna's words for what may be drawn."""

from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from search.space import Choice, Domain, Whole


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
