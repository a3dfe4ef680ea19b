"""What a gene may store: typed declarations whose values are sums.

A hyperparameter's *total* at a gene is the sum of the deltas in that gene and in all its ancestors. What the total
means is up to the declaration: an integer or a float is its total; a choice is the option at that index, clipped
to the options there are (Guay et al. 2018, section 2.1).
"""

import abc
import dataclasses
import math
from typing import Any

from genenet.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hyperparameter(abc.ABC):
    """A named quantity that genes add up.

    Attributes:
        name: As in code and files; begins with `log10_` where the stored number is a logarithm.
        meaning: One line.
        unit: What a value counts, empty for pure numbers.
    """

    name: str
    meaning: str
    unit: str = ""

    @abc.abstractmethod
    def value(self, total: float) -> Any:
        """The value that a total stands for."""

    @abc.abstractmethod
    def total(self, value: Any) -> float:
        """The total that stands for a value; raises InputError for a wrong type or an unknown option."""

    @abc.abstractmethod
    def delta(self, delta: Any) -> float:
        """Check the type of a delta."""

    @abc.abstractmethod
    def problem(self, total: float) -> str | None:
        """What is wrong with a total, or None."""

    @abc.abstractmethod
    def range(self) -> str:
        """The allowed values, for people."""


def _number(name: str, value: Any, kind: type, example: str) -> float:
    """A finite number of the right kind; bool is not a number here."""
    allowed = (int,) if kind is int else (int, float)
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, allowed) or not math.isfinite(value):
        raise InputError(f"`{name}` takes {example}, but got {value!r}")
    return kind(value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Integer(Hyperparameter):
    """A whole number between `low` and `high`, both allowed; `odd` allows odd numbers only."""

    default: int
    low: int
    high: int
    odd: bool = False

    def value(self, total: float) -> int:
        """The number itself."""
        return int(total)

    def total(self, value: Any) -> float:
        """The number itself, after a check of its type."""
        return _number(self.name, value, int, "an integer")

    def delta(self, delta: Any) -> float:
        """Any integer."""
        return _number(self.name, delta, int, "an integer")

    def problem(self, total: float) -> str | None:
        """Outside the bounds, or even where it must be odd."""
        if not self.low <= total <= self.high:
            return f"must lie in {self.range()}, but got {self.name}={int(total)}"
        if self.odd and total % 2 == 0:
            nearest = int(total) + (1 if total + 1 <= self.high else -1)
            return f"must be odd, but got {self.name}={int(total)}; the nearest odd size is {nearest}"
        return None

    def range(self) -> str:
        """For people."""
        return f"[{self.low}, {self.high}]" + (", odd" if self.odd else "")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Real(Hyperparameter):
    """A number between `low` and `high`, both allowed."""

    default: float
    low: float
    high: float

    def value(self, total: float) -> float:
        """The number itself."""
        return float(total)

    def total(self, value: Any) -> float:
        """The number itself, after a check of its type."""
        return _number(self.name, value, float, "a number")

    def delta(self, delta: Any) -> float:
        """Any finite number."""
        return _number(self.name, delta, float, "a number")

    def problem(self, total: float) -> str | None:
        """Outside the bounds; sums may miss them by rounding."""
        if not self.low - 1e-9 <= total <= self.high + 1e-9:
            return f"must lie in {self.range()}, but got {self.name}={total:g}"
        return None

    def range(self) -> str:
        """For people."""
        return f"[{self.low:g}, {self.high:g}]"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Categorical(Hyperparameter):
    """One of several named options; the total is an index, clipped to the options."""

    default: str
    options: tuple[str, ...]

    def value(self, total: float) -> str:
        """The option at the clipped index."""
        return self.options[min(max(int(total), 0), len(self.options) - 1)]

    def total(self, value: Any) -> float:
        """The index of an option given by name."""
        if value not in self.options:
            raise InputError(f"`{self.name}` must be one of {', '.join(self.options)}, but got {value!r}")
        return self.options.index(value)

    def delta(self, delta: Any) -> float:
        """An integer: how many options further."""
        return _number(self.name, delta, int, "an integer, how many options further,")

    def problem(self, total: float) -> str | None:
        """Never: the index is clipped."""
        return None

    def range(self) -> str:
        """For people."""
        return ", ".join(self.options)
