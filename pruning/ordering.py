"""In which order channels go, and what the loss is then."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pruning.errors import PruningError
from pruning.graph import Graph

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Removal:
    """One step of an ordering.

    Attributes:
        layer: The layer that makes what goes; the first one, where several do.
        channels: Its channels that go; several where they are tied to each other.
        loss: The loss after it, on the batches that it was chosen on.
        predicted: By how much it was to rise to first order; None where that was not asked.
        heldout: The loss after it on other data; None where there is none.
    """

    layer: str
    channels: tuple[int, ...]
    loss: float
    predicted: float | None = None
    heldout: float | None = None


@dataclasses.dataclass(frozen=True)
class Ordering:
    """Which channels go first, second, ...

    Attributes:
        removals: In order.
        loss: Of the model as it was, on the first batches.
        heldout: The same on other data; None where there is none.
        n_evaluations: How often the loss was worked out for a candidate on a batch.
    """

    removals: tuple[Removal, ...]
    loss: float
    heldout: float | None = None
    n_evaluations: int = 0

    def __len__(self) -> int:
        return len(self.removals)

    @property
    def losses(self) -> np.ndarray:
        """The loss before and after each removal, `(n_removals + 1,)`."""
        return np.array([self.loss, *(removal.loss for removal in self.removals)])

    def keep(self, graph: Graph, n_removed: int | None = None) -> dict[str, np.ndarray]:
        """What stays after some removals, as `shrink` takes it.

        Args:
            graph: Of the model that was ordered, or of one with the same layers.
            n_removed: How many; all of them if left out.

        Returns:
            Indices of the channels that stay, by layer; layers that keep all are left out.

        Raises:
            PruningError: More than there are.
        """
        n_removed = len(self) if n_removed is None else n_removed
        if not 0 <= n_removed <= len(self):
            raise PruningError(f"the ordering has {len(self)} removals, but {n_removed} are asked for")
        gone: set[int] = set()
        for removal in self.removals[:n_removed]:
            labels = graph.features(removal.layer)
            gone |= set(graph.units_of(labels[list(removal.channels)]).tolist())
        return keep_without(graph, gone)

    def plot(self, path: Path | str | None = None) -> "Figure":
        """Draw the loss over the number of removed channels (Roels et al. 2017, figure 3)."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 3.6), layout="constrained")
        axes = figure.subplots()
        axes.plot(range(len(self) + 1), self.losses, color="#0072b2", label="batches that it was chosen on")
        if self.heldout is not None:
            values = [self.heldout, *(removal.heldout for removal in self.removals)]
            axes.plot(range(len(self) + 1), np.array(values, float), color="#d55e00", label="held-out data")
            axes.legend(frameon=False)
        axes.set_xlabel("removed channels")
        axes.set_ylabel("loss")
        names = list(dict.fromkeys(removal.layer for removal in self.removals))
        axes.set_title(names[0] if len(names) == 1 else f"{len(names)} layers", fontsize=10)
        if path is not None:
            figure.savefig(path, dpi=110)
        return figure

    def to_dict(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Ordering":
        """From plain data."""
        removals = [Removal(**{**entry, "channels": tuple(entry["channels"])}) for entry in content["removals"]]
        return cls(**{**content, "removals": tuple(removals)})


def keep_without(graph: Graph, units: set[int]) -> dict[str, np.ndarray]:
    """What stays without some units, as `shrink` takes it: by layer that loses some."""
    stays = graph.keeping(units)
    keep = {}
    for entry in graph.seen.values():
        if entry.makes is not None and not (kept := stays(entry.makes)).all():
            keep[entry.path] = np.flatnonzero(kept)
    return keep
