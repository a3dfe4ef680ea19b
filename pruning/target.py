"""When enough was removed."""

import dataclasses
import math
from collections.abc import Iterable, Mapping

from pruning.errors import PruningError
from pruning.flops import KERNELS, Count
from pruning.graph import Graph


@dataclasses.dataclass(frozen=True)
class Target:
    """How much goes; at least one has to be given, and the first that is reached counts.

    Attributes:
        n_maps: So many channels, all layers together; tied ones count once.
        share: Of the channels that can be removed, above 0 and below 1.
        multiply_adds: What is left of them, as a share of what there was, above 0 and below 1.
        parameters: What is left of them, likewise.
        loss_increase: Removing stops before the loss has risen by more than this.
    """

    n_maps: int | None = None
    share: float | None = None
    multiply_adds: float | None = None
    parameters: float | None = None
    loss_increase: float | None = None

    def __post_init__(self) -> None:
        if all(value is None for value in dataclasses.astuple(self)):
            raise PruningError("a target needs at least one of n_maps, share, multiply_adds, parameters, loss_increase")
        if self.n_maps is not None and self.n_maps < 0:
            raise PruningError(f"`n_maps` must not be negative, but got {self.n_maps}")
        for name in ("share", "multiply_adds", "parameters"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise PruningError(f"`{name}` must lie above 0 and below 1, but got {value}")

    def __str__(self) -> str:
        given = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        return f"Target({', '.join(f'{name}={value}' for name, value in given.items())})"

    def per_round(self, rounds: int, left: int) -> "Target":
        """What one of several rounds has to reach, counted from what the round before left.

        Args:
            rounds: How many there are.
            left: How many of them there are still, this one included.
        """
        return dataclasses.replace(
            self,
            n_maps=None
            if self.n_maps is None
            else round(self.n_maps * (rounds - left + 1) / rounds) - round(self.n_maps * (rounds - left) / rounds),
            share=None if self.share is None else 1 - (1 - self.share) ** (1 / rounds),
            multiply_adds=None if self.multiply_adds is None else self.multiply_adds ** (1 / rounds),
            parameters=None if self.parameters is None else self.parameters ** (1 / rounds),
            loss_increase=None if self.loss_increase is None else self.loss_increase / rounds,
        )

    def part(self, share: float) -> "Target":
        """What to reach after a share of the way: evenly many channels, or evenly many times less work."""
        return dataclasses.replace(
            self,
            n_maps=None if self.n_maps is None else round(self.n_maps * share),
            share=None if self.share is None else self.share * share,
            multiply_adds=None if self.multiply_adds is None else self.multiply_adds**share,
            parameters=None if self.parameters is None else self.parameters**share,
        )


@dataclasses.dataclass(frozen=True)
class Left:
    """What is left of a model when some units go.

    Attributes:
        n_parameters: Trainable parameters.
        n_multiply_adds: Of one input.
    """

    n_parameters: int
    n_multiply_adds: int


class Costs:
    """What a model costs without some units, without building it.

    Args:
        graph: Of the model.
        counts: By layer, as `count_layers` gives them.

    Attributes:
        before: The whole model.
    """

    def __init__(self, graph: Graph, counts: Mapping[str, Count]) -> None:
        self._graph = graph
        self._counts = counts
        self.before = Count()
        for count in counts.values():
            self.before = self.before.plus(count)

    def left(self, removed: Iterable[int]) -> Left:
        """What is left."""
        stays = self._graph.keeping(removed)
        n_parameters, n_multiply_adds = self.before.n_parameters, self.before.n_multiply_adds
        for entry in self._graph.seen.values():
            sizes = {}
            for weight in entry.weights:
                shape = list(weight.variable.shape)
                for axis, labels in weight.axes.items():
                    shape[axis] = int(stays(labels).sum())
                sizes[id(weight.variable)] = math.prod(shape)
                if weight.variable.trainable:
                    n_parameters -= math.prod(weight.variable.shape) - math.prod(shape)
            whole = kept = 0
            for name in KERNELS.get(type(entry.layer).__name__, ((), 0))[0]:
                kernel = getattr(entry.layer, name)
                whole += math.prod(kernel.shape)
                kept += sizes.get(id(kernel), math.prod(kernel.shape))
            if whole:
                n_multiply_adds -= self._counts.get(entry.path, Count()).n_multiply_adds * (whole - kept) // whole
        return Left(n_parameters, n_multiply_adds)


class Goal:
    """A target for a certain model.

    Args:
        target: What to reach.
        n_prunable: Channels that could be removed.
        before: What the model costs.
        n_removed: How many channels went before.
    """

    def __init__(self, target: Target, n_prunable: int, before: Count, n_removed: int = 0) -> None:
        self.target = target
        self.before = before
        self._n_removed = n_removed
        wanted = [target.n_maps, None if target.share is None else round(target.share * n_prunable)]
        self._wanted = min((n for n in wanted if n is not None), default=None)

    @property
    def has_end(self) -> bool:
        """Whether it is reached at some size, not only by the loss."""
        return self._wanted is not None or self.target.multiply_adds is not None or self.target.parameters is not None

    def reached(self, n_removed: int, left: Left) -> bool:
        """Whether nothing more has to go; of the loss, see `allows`."""
        target, before = self.target, self.before
        return (
            (self._wanted is not None and self._n_removed + n_removed >= self._wanted)
            or (
                target.multiply_adds is not None
                and left.n_multiply_adds <= target.multiply_adds * before.n_multiply_adds
            )
            or (target.parameters is not None and left.n_parameters <= target.parameters * before.n_parameters)
        )

    def allows(self, loss: float, before: float) -> bool:
        """Whether the loss has not risen by too much."""
        return self.target.loss_increase is None or loss <= before + self.target.loss_increase

    def refuse(self, left: Left) -> PruningError:
        """What to say where it cannot be reached."""
        return PruningError(
            f"{self.target} cannot be reached: with one channel in every layer that can be pruned, "
            f"{left.n_parameters:,} of {self.before.n_parameters:,} parameters and {left.n_multiply_adds:,} of "
            f"{self.before.n_multiply_adds:,} multiply-adds are left"
        )
