"""The whole procedure of Roels et al. 2017: order, make smaller, retrain from the kept weights."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from pruning.batches import Draws, Loss, Objective
from pruning.errors import PruningError
from pruning.flops import Count, count, count_layers
from pruning.graph import Graph
from pruning.loss_based import Remover, Search, as_search, free_units, input_shape, order
from pruning.ordering import Ordering, keep_without
from pruning.shrink import masked, shrink
from pruning.target import Goal, Target

# Trains a model further, in place; may give another model instead.
Retrain = Callable[[keras.Model], keras.Model | None]


@dataclasses.dataclass(frozen=True)
class Pruned:
    """A smaller model, and how it came about.

    Attributes:
        model: The model.
        orderings: What went, in order: one per layer and round, or one per round where layers were ordered together.
        before: What the model cost.
        after: What it costs.
    """

    model: keras.Model
    orderings: tuple[Ordering, ...]
    before: Count
    after: Count


def prune_by_loss(
    model: keras.Model,
    data: Any,
    loss: Loss | Sequence[Loss | None],
    *,
    keep: Mapping[str, int] | None = None,
    target: Target | None = None,
    rounds: int = 1,
    retrain: Retrain | None = None,
    search: str | Search = "prefilter",
) -> Pruned:
    """Remove the channels without which the training loss is least, and train what is left.

    With `keep`, layers are pruned one after the other, from the bottom up, each given what went below, as in the paper.
    With `target`, all layers are ordered together.

    Args:
        model: A built functional or Sequential model; it stays as it is.
        data: Training batches, as for `loss_ordering`.
        loss: As for `loss_ordering`.
        keep: How many channels stay, by layer.
        target: When to stop.
        rounds: In how many parts to remove, with retraining after each.
        retrain: Trains the smaller model from the weights that it kept, at a lower rate than at first: a function that
            compiles and fits it. Nothing is trained if left out.
        search: As for `loss_ordering`.

    Raises:
        PruningError: As for `loss_ordering`; neither or both of `keep` and `target`; a layer that cannot keep so many.

    Example:
        >>> import numpy as np
        >>> image = keras.Input((8, 8, 1))
        >>> x = keras.layers.Conv2D(6, 3, activation="relu", name="first")(image)
        >>> model = keras.Model(image, keras.layers.Conv2D(1, 3, name="last")(x))
        >>> batches = [(np.ones((2, 8, 8, 1), "float32"), np.ones((2, 4, 4, 1), "float32"))]
        >>> pruned = prune_by_loss(model, batches, "mse", keep={"first": 4})
        >>> pruned.model.get_layer("first").filters, len(pruned.orderings[0])
        (4, 2)
    """
    if (keep is None) == (target is None):
        raise PruningError("give either `keep`, channels by layer, or a `target`")
    if rounds < 1:
        raise PruningError(f"`rounds` must be at least 1, but got {rounds}")
    search = as_search(search)
    draws, objective = Draws(data, search.n_batches, search.seed), Objective(loss)
    graph = Graph(model)
    shape = input_shape(graph, draws)
    before = count(model, shape)
    n_prunable = len(free_units(graph, None))
    sizes = {} if keep is None else bottom_up(graph, keep)
    orderings: list[Ordering] = []
    for part in range(1, rounds + 1):
        share = part / rounds
        remover = Remover(Graph(masked(model, {})), search.at_weights)
        counts = count_layers(model, shape)
        if target is not None:
            goal = Goal(target.part(share), n_prunable, before, sum(map(len, orderings)))
            units = free_units(remover.graph, None)
            orderings.append(order(remover, units, draws, objective, search, goal, counts))
        for path, n_kept in sizes.items():
            n_channels = len(graph.features(path))
            n_left = round(n_channels + (n_kept - n_channels) * share)
            goal = Goal(Target(n_maps=remover.n_above(path, n_left)), n_prunable, before)
            units = free_units(remover.graph, [path])
            orderings.append(order(remover, units, draws, objective, search, goal, counts))
        model = shrink(model, keep_without(Graph(model), remover.removed))
        model = (retrain(model) or model) if retrain is not None else model
    return Pruned(model, tuple(orderings), before, count(model, shape))


def bottom_up(graph: Graph, keep: Mapping[str, int]) -> dict[str, int]:
    """How many channels layers keep, by path, in the order of the graph."""
    wanted: dict[str, int] = {}
    for name, n_kept in keep.items():
        path, labels = graph.layer(name).path, graph.features(name)
        units = free_units(graph, [path])
        n_free = sum(graph.units.unit(int(label)) in units for label in labels)
        least = max(len(labels) - n_free, 1)
        if isinstance(n_kept, bool) or not isinstance(n_kept, (int, np.integer)) or not least <= n_kept <= len(labels):
            raise PruningError(f"{path} can keep {least} to {len(labels)} channels, but is to keep {n_kept!r}")
        together = n_free // len(units)
        if (len(labels) - n_kept) % together:
            raise PruningError(f"the channels of {path} go {together} at a time, but it is to keep {n_kept}: "
                               f"{graph.explain(path)}")  # fmt: skip
        wanted[path] = int(n_kept)
    return {path: wanted[path] for path in graph.prunable() if path in wanted}
