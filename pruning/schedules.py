"""When to prune, and how much: schedules with the names and meanings of tensorflow_model_optimization."""

import abc
from typing import Any

import keras

from pruning.errors import PruningError


class PruningSchedule(abc.ABC):
    """Called with a step, gives whether masks are worked out anew, and the sparsity, 0 to 1."""

    begin_step: int
    end_step: int
    frequency: int

    @abc.abstractmethod
    def __call__(self, step: int) -> tuple[bool, float]:
        """Whether to prune at a step, and to what sparsity."""

    @abc.abstractmethod
    def get_config(self) -> dict[str, Any]:
        """The arguments, as plain data."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PruningSchedule":
        """From `get_config`."""
        return cls(**config)

    def _is_due(self, step: int) -> bool:
        """From `begin_step` on, every `frequency` steps, up to `end_step`; without end where that is -1."""
        ends = self.end_step != -1 and step > self.end_step
        return step >= self.begin_step and not ends and (step - self.begin_step) % self.frequency == 0


def _check(begin_step: int, end_step: int, frequency: int, **sparsities: float) -> None:
    for name, value in sparsities.items():
        if not 0 <= value < 1:
            raise PruningError(f"`{name}` must be at least 0 and below 1, but got {value}")
    if begin_step < 0 or frequency < 1:
        raise PruningError(
            f"`begin_step` must not be negative and `frequency` at least 1, but got {begin_step} and {frequency}"
        )
    if end_step != -1 and end_step < begin_step:
        raise PruningError(f"`end_step` must not lie before `begin_step`, but got {begin_step} to {end_step}")


@keras.saving.register_keras_serializable("pruning")
class ConstantSparsity(PruningSchedule):
    """The same sparsity from `begin_step` to `end_step`, without end where that is -1.

    >>> ConstantSparsity(0.5, begin_step=100, frequency=10)(110)
    (True, 0.5)
    """

    def __init__(self, target_sparsity: float, begin_step: int, end_step: int = -1, frequency: int = 100) -> None:
        _check(begin_step, end_step, frequency, target_sparsity=target_sparsity)
        self.target_sparsity = target_sparsity
        self.begin_step = begin_step
        self.end_step = end_step
        self.frequency = frequency

    def __call__(self, step: int) -> tuple[bool, float]:
        """Whether to prune, and the sparsity."""
        return self._is_due(step), self.target_sparsity

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {
            "target_sparsity": self.target_sparsity,
            "begin_step": self.begin_step,
            "end_step": self.end_step,
            "frequency": self.frequency,
        }


@keras.saving.register_keras_serializable("pruning")
class PolynomialDecay(PruningSchedule):
    """From one sparsity to another, fast first (Zhu & Gupta 2017, equation 1, where `power` is 3).

    >>> schedule = PolynomialDecay(0.0, 0.8, begin_step=0, end_step=4, frequency=1)
    >>> [round(schedule(step)[1], 3) for step in (0, 2, 4, 9)]
    [0.0, 0.7, 0.8, 0.8]
    """

    def __init__(
        self,
        initial_sparsity: float,
        final_sparsity: float,
        begin_step: int,
        end_step: int,
        power: float = 3,
        frequency: int = 100,
    ) -> None:
        _check(begin_step, end_step, frequency, initial_sparsity=initial_sparsity, final_sparsity=final_sparsity)
        if end_step <= begin_step:
            raise PruningError(f"`end_step` must lie after `begin_step`, but got {begin_step} to {end_step}")
        self.initial_sparsity = initial_sparsity
        self.final_sparsity = final_sparsity
        self.begin_step = begin_step
        self.end_step = end_step
        self.power = power
        self.frequency = frequency

    def __call__(self, step: int) -> tuple[bool, float]:
        """Whether to prune, and the sparsity."""
        share = min(1.0, max(0.0, (step - self.begin_step) / (self.end_step - self.begin_step)))
        rise = (self.initial_sparsity - self.final_sparsity) * (1 - share) ** self.power
        return self._is_due(step), rise + self.final_sparsity

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        names = ("initial_sparsity", "final_sparsity", "begin_step", "end_step", "power", "frequency")
        return {name: getattr(self, name) for name in names}
