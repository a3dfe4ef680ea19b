"""Remove the channels without which the training loss is least (Roels et al. 2017, section 2.2).

The ordering is greedy: the next channel to go is the one whose removal, on top of all that went before, gives the least
loss on random mini-batches. The paper orders every layer for itself, bottom layer first, and names the whole network as
future work; both are here.
"""

import dataclasses
import heapq
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from pruning.batches import Batch, Draws, Loss, Objective, check_loss, read_batch
from pruning.cut import NOTHING, Cut
from pruning.errors import PruningError
from pruning.flops import Count, count_layers
from pruning.graph import Graph, functional_graph
from pruning.ordering import Ordering, Removal
from pruning.shrink import masked
from pruning.target import Costs, Goal, Target

logger = logging.getLogger(__name__)

SEARCHES = ("exact", "prefilter", "first_order", "lazy")

# Of this over the number of channels the prefilter works out the true loss, of candidates with the least first-order
# score, within bounds: the fewer channels there are, the more each counts. The scores serve for so many removals.
N_PREFILTERED, MOST_PREFILTERED, FEWEST_PREFILTERED = 128, 8, 2
RANK_EVERY = 4


@dataclasses.dataclass(frozen=True)
class Search:
    """How the next channel to go is found.

    Attributes:
        kind: `exact` works out the loss without each channel that is left; `prefilter` only without those that are best
            to first order; `first_order` removes the best of these unseen; `lazy` works out again only those that
            looked best before, which is exact only as far as channels do not help each other out.
        n_batches: Drawn anew for every removal, and averaged.
        n_prefiltered: How many candidates `prefilter` works out; if left out, 128 over the number of channels there are
            to begin with, 2 to 8.
        rank_every: After how many removals `prefilter` works out anew which candidates are best to first order.
        at_once: How many channels go per step, for speed: the loss is worked out once for all of them. A step after
            which the loss would have risen by more than a target allows is not taken.
        at_weights: A channel goes by zeros in the kernel and bias that make it, as the paper writes. That is the same
            in a plain network with ReLU, but not where normalization or a sigmoid follows. If left out, it goes where
            it is read, so that the loss is the smaller model's.
        caution: Candidates are told apart by the rise of their loss and so many of its standard errors over the
            batches, of which there must be two then. Without it the best of a hundred is often the luckiest, and goes
            before maps that do nothing at all.
        seed: Of the draws.
    """

    kind: str = "prefilter"
    n_batches: int = 4
    n_prefiltered: int | None = None
    rank_every: int = RANK_EVERY
    at_once: int = 1
    at_weights: bool = False
    caution: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in SEARCHES:
            raise PruningError(f"`search` must be one of {', '.join(SEARCHES)}, but got {self.kind!r}")
        for name in ("n_batches", "n_prefiltered", "rank_every", "at_once"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise PruningError(f"`{name}` must be at least 1, but got {value}")

        if not 0 <= self.caution < np.inf or (self.caution and self.n_batches < 2):
            raise PruningError(
                f"`caution` is 0, or more with two batches or more, but got {self.caution} and {self.n_batches}"
            )

    def n_candidates(self, n_units: int) -> int:
        """How many candidates `prefilter` works out of so many that there are to begin with."""
        return self.n_prefiltered or min(max(N_PREFILTERED // n_units, FEWEST_PREFILTERED), MOST_PREFILTERED)


def loss_ordering(
    model: keras.Model,
    batches: Any,
    loss: Loss | Sequence[Loss | None],
    layer: str | None = None,
    *,
    target: Target | None = None,
    search: str | Search = "prefilter",
    heldout: Iterable[Any] | None = None,
) -> Ordering:
    """Order channels by the loss without them.

    Args:
        model: A built functional or Sequential model; it stays as it is.
        batches: `(x, y)` or `(x, y, sample_weight)`: a sequence to draw from at random, or an iterable to take from.
            Batches of one shape are fastest.
        loss: As Keras takes it, or one per output. Penalties of layers are not counted.
        layer: Whose channels to order; those of all layers together if left out.
        target: When to stop; if left out, at the last channel of the layer. Needed for a whole network.
        search: How to find the next channel: a `Search`, or its kind.
        heldout: Batches on which the loss is followed too, all of them after every removal.

    Returns:
        The ordering with its losses.

    Raises:
        PruningError: An unknown layer or search, nothing that could be removed, data without batches, a loss that is
            not finite.
    """
    graph = Graph(model)
    units = free_units(graph, None if layer is None else [graph.layer(layer).path])
    search = as_search(search)
    if layer is None and target is None:
        raise PruningError("a whole network needs a target; `Target(share=0.5)` removes half of the channels")
    draws = Draws(batches, search.n_batches, search.seed)
    scratch = Graph(masked(model, {}))
    counts = count_layers(scratch.model, input_shape(scratch, draws))
    goal = None if target is None else Goal(target, len(units), Costs(scratch, counts).before)
    return order(Remover(scratch, search.at_weights), units, draws, Objective(loss), search, goal, counts, heldout)


def input_shape(graph: Graph, draws: Draws) -> tuple[int, ...] | None:
    """The shape of one input that costs are counted for: that of the data, where the model leaves it open."""
    tensors = functional_graph(graph.model).inputs
    if len(tensors) > 1 or None not in tensors[0].shape[1:]:
        return None
    return tuple(draws.draw()[0].images[0].shape[1:])


def free_units(graph: Graph, layers: Sequence[str] | None) -> list[int]:
    """What can be removed of some layers, or of all.

    Raises:
        PruningError: Nothing.
    """
    names = graph.prunable() if layers is None else layers
    found = {
        graph.units.unit(int(label))
        for name in names
        for label in graph.features(name)
        if graph.units.reason(int(label)) is None
    }
    if not found:
        what = "the model has no channels that can be removed" if layers is None else graph.explain(names[0])
        raise PruningError(what)
    return sorted(found)


def as_search(search: str | Search) -> Search:
    """A search by its kind alone."""
    return search if isinstance(search, Search) else Search(search)


class Remover:
    """Takes channels out of a scratch model, never the last one of a layer.

    Args:
        graph: Of a model that may be changed.
        at_weights: Where the zeros go, as in `loss_ordering`.
    """

    def __init__(self, graph: Graph, at_weights: bool = False) -> None:
        self.graph = graph
        self.removed: set[int] = set()
        self._at_weights = at_weights
        self._layers: dict[int, list[int]] = {}
        self._alive: list[set[int]] = []
        for entry in graph.seen.values():
            if entry.makes is not None:
                units = set(graph.units_of(entry.makes).tolist())
                for unit in units:
                    self._layers.setdefault(unit, []).append(len(self._alive))
                self._alive.append(units)

    def can_go(self, unit: int) -> bool:
        """Whether its layers would keep others."""
        return unit not in self.removed and all(len(self._alive[layer]) > 1 for layer in self._layers[unit])

    def may_go(self, units: Iterable[int]) -> list[int]:
        """Those whose layers would keep others."""
        return [unit for unit in units if self.can_go(unit)]

    def largest_first(self) -> Iterator[set[int]]:
        """What may go of every layer, of those with most units left first."""
        for units in sorted(self._alive, key=len, reverse=True):
            yield {unit for unit in units if self.can_go(unit)}

    def take(self, unit: int) -> None:
        """Note that a unit goes, and write nothing."""
        self.removed.add(unit)
        for layer in self._layers[unit]:
            self._alive[layer].discard(unit)

    def put_back(self, unit: int) -> None:
        """Note that a unit stays after all."""
        self.removed.discard(unit)
        for layer in self._layers[unit]:
            self._alive[layer].add(unit)

    def n_above(self, path: str, n_left: int) -> int:
        """How many units of a layer have to go until it has so many channels."""
        labels = self.graph.features(path)
        alive = labels[self.graph.keeping(self.removed)(labels)]
        return max(len(alive) - n_left, 0) * len(set(self.graph.units_of(alive).tolist())) // len(alive)

    def remove(self, unit: int) -> None:
        """Note that a unit goes, and write the zeros."""
        self.take(unit)
        for entry in self.graph.seen.values():
            if self._at_weights and (entry.makes is None or unit not in self.graph.units_of(entry.makes)):
                continue
            for weight in entry.weights:
                for axis, labels in weight.axes.items():
                    gone = self.graph.units_of(labels) == unit
                    if gone.any() and (axis == weight.reads) is not self._at_weights:
                        values = np.array(keras.ops.convert_to_numpy(weight.variable))
                        np.moveaxis(values, axis, 0)[gone] = 0
                        weight.variable.assign(values)

    def name(self, unit: int) -> tuple[str, tuple[int, ...]]:
        """The layer that makes a unit first, and its channels."""
        for entry in self.graph.seen.values():
            if entry.makes is not None:
                places = np.flatnonzero(self.graph.units_of(entry.makes) == unit)
                if len(places):
                    return entry.path, tuple(int(place) for place in places)
        raise PruningError(f"no layer makes the unit {unit}")


class _Finder:
    """Finds the next channels to go."""

    def __init__(self, cut: Cut, options: Search) -> None:
        self.cut = cut
        self.options = options
        self.n_evaluations = 0
        self._heap: list[tuple[float, int]] = []
        self._rises: dict[int, float] = {}  # to first order
        self._n_steps = 0

    def loss(self, batches: Sequence[Batch], units: Sequence[int]) -> np.ndarray:
        """The mean over batches without each of some units."""
        return np.asarray(self._by_batch(batches, units).mean(0))

    def _by_batch(self, batches: Sequence[Batch], units: Sequence[int]) -> np.ndarray:
        self.n_evaluations += len(units) * len(batches)
        return np.array([self.cut.losses(batch, units) for batch in batches])

    def _ranked(self, batches: Sequence[Batch], units: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """The mean loss without each of some units, and what they are told apart by."""
        if not self.options.caution:
            losses = self.loss(batches, units)
            return losses, losses
        found = self._by_batch(batches, [*units, NOTHING])
        return found[:, :-1].mean(0), found[:, -1].mean() + self._cautious(found[:, :-1] - found[:, -1:])

    def _cautious(self, rises: np.ndarray) -> np.ndarray:
        """Rises of the loss by batch, `(n_batches, n_units)`: their means and some standard errors of these."""
        mean = rises.mean(0)
        if not self.options.caution:
            return np.asarray(mean)
        return np.asarray(mean + self.options.caution * rises.std(0, ddof=1) / np.sqrt(len(rises)))

    def next(self, batches: Sequence[Batch], units: list[int]) -> list[tuple[int, float | None, float | None]]:
        """The units that go next, the loss without the first one, and its predicted rise."""
        at_once = min(self.options.at_once, len(units))
        if self.options.kind == "lazy":
            return self._lazy(batches, units)
        n_candidates = max(self.options.n_candidates(len(self.cut.units)), at_once)
        is_exact = self.options.kind == "prefilter" and len(units) <= n_candidates
        if is_exact or self.options.kind == "exact":
            losses, ranks = self._ranked(batches, units)
            best = np.argsort(ranks, kind="stable")[:at_once]
            return [(units[place], float(losses[place]), None) for place in best]
        rises = self._predicted(batches, units)
        self._n_steps += 1
        order = np.argsort(rises, kind="stable")
        if self.options.kind == "first_order":
            return [(units[place], None, float(rises[place])) for place in order[:at_once]]
        chosen = order[:n_candidates]
        losses, ranks = self._ranked(batches, [units[place] for place in chosen])
        best = chosen[np.argsort(ranks, kind="stable")][:at_once]
        by_place = dict(zip(chosen.tolist(), losses.tolist(), strict=True))
        return [(units[place], by_place[int(place)], float(rises[place])) for place in best]

    def _predicted(self, batches: Sequence[Batch], units: list[int]) -> np.ndarray:
        """How much the loss would rise to first order without each unit, now or a few removals ago."""
        every = self.options.rank_every if self.options.kind == "prefilter" else 1
        if self._n_steps % every == 0:
            rises = self._cautious(np.array([self.cut.predicted(batch) for batch in batches]))
            self._rises = dict(zip(self.cut.units, rises.tolist(), strict=True))
        return np.array([self._rises[unit] for unit in units])

    def _lazy(self, batches: Sequence[Batch], units: list[int]) -> list[tuple[int, float | None, float | None]]:
        """The first candidate that still looks best after its loss was worked out again."""
        before = float(self.loss(batches, [NOTHING])[0])
        if not self._heap:
            _, ranks = self._ranked(batches, units)
            self._heap = [(float(rank) - before, unit) for rank, unit in zip(ranks, units, strict=True)]
            heapq.heapify(self._heap)
        known = set(units)
        while True:
            _, unit = heapq.heappop(self._heap)
            if unit not in known:
                continue
            losses, ranks = self._ranked(batches, [unit])
            rise = float(ranks[0]) - before
            if not self._heap or rise <= self._heap[0][0]:
                return [(unit, float(losses[0]), None)]
            heapq.heappush(self._heap, (rise, unit))


def order(
    remover: Remover,
    units: Sequence[int],
    draws: Draws,
    objective: Objective,
    options: Search,
    goal: Goal | None,
    counts: Mapping[str, Count],
    heldout: Iterable[Any] | None = None,
) -> Ordering:
    """Order units of a scratch model, which is changed; see `loss_ordering`.

    Raises:
        PruningError: The goal cannot be reached, or the loss is not finite.
    """
    graph = remover.graph
    side_by_side = {"prefilter": max(options.n_candidates(len(units)), options.at_once), "first_order": 1, "lazy": 1}
    cut = Cut(graph, units, objective, at_weights=options.at_weights, most=side_by_side.get(options.kind))
    finder = _Finder(cut, options)
    follow = Follower(finder, heldout)
    costs = Costs(graph, counts)
    batches = draws.draw()
    before = check_loss(float(finder.loss(batches, [NOTHING])[0]), "before anything is removed")
    before_apart = follow.loss()
    removals: list[Removal] = []

    def ordering() -> Ordering:
        return Ordering(tuple(removals), before, before_apart, finder.n_evaluations)

    while goal is None or not goal.reached(len(removals), costs.left(remover.removed)):
        left = remover.may_go(units)
        if not left:
            if goal is not None and goal.has_end:
                raise goal.refuse(costs.left(remover.removed))
            break
        step: list[tuple[int, float | None, float | None]] = []
        for unit, loss, predicted in finder.next(batches, left):
            if step and goal is not None and goal.reached(len(removals) + len(step), costs.left(remover.removed)):
                break
            if remover.can_go(unit):
                remover.remove(unit)
                step.append((unit, loss, predicted))
        known = step[0][1]
        after = float(finder.loss(batches, [NOTHING])[0]) if known is None or len(step) > 1 else known
        layer, channels = remover.name(step[-1][0])
        check_loss(after, f"without channel {channels[0]} of {layer}")
        if goal is not None and not goal.allows(after, before):
            for unit, *_ in step:
                remover.put_back(unit)
            return ordering()
        apart = follow.loss()
        for unit, _, predicted in step:
            layer, channels = remover.name(unit)
            removals.append(Removal(layer, channels, after, predicted, apart))
            logger.info("%s: channel %s goes, loss %.4g", layer, ",".join(map(str, channels)), after)
        batches = draws.draw()
    return ordering()


class Follower:
    """The loss on held-out data, if there is any."""

    def __init__(self, finder: _Finder, heldout: Iterable[Any] | None) -> None:
        self._finder = finder
        self._batches = None if heldout is None else [read_batch(content) for content in heldout]
        if self._batches is not None and not self._batches:
            raise PruningError("the held-out data gives no batches")

    def loss(self) -> float | None:
        """The mean over all of it."""
        if self._batches is None:
            return None
        return float(np.mean([self._finder.cut.losses(batch, [NOTHING])[0] for batch in self._batches]))
