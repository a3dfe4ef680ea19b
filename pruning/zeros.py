"""Channels that nothing reads any more."""

import keras
import numpy as np

from pruning.errors import PruningError
from pruning.graph import Graph
from pruning.loss_based import Remover
from pruning.ordering import keep_without
from pruning.shrink import shrink


def unread_units(graph: Graph) -> set[int]:
    """Units of which every kernel that reads them has zeros there, what reads only those included.

    One channel of every layer stays.
    """
    remover = Remover(graph)
    while True:
        stays = graph.keeping(remover.removed)
        read: set[int] = set()
        found: set[int] = set()
        for entry in graph.seen.values():
            for weight in entry.weights:
                if weight.reads is None or weight.reads not in weight.axes:
                    continue
                values = np.abs(keras.ops.convert_to_numpy(weight.variable))
                for axis, labels in weight.axes.items():
                    if axis != weight.reads:
                        values = np.compress(stays(labels), values, axis)
                others = tuple(axis for axis in range(values.ndim) if axis != weight.reads)
                units = graph.units_of(weight.axes[weight.reads])
                found |= set(units.tolist())
                read |= set(units[values.sum(others) > 0].tolist())
        free = {unit for unit in found - read if graph.units.reason(unit) is None}
        before = len(remover.removed)
        for unit in sorted(free):
            if remover.can_go(unit):
                remover.take(unit)
        if len(remover.removed) == before:
            return remover.removed


def without_zeros(model: keras.Model) -> keras.Model:
    """A smaller model without the channels that nothing reads; it computes the same.

    Raises:
        PruningError: The model's graph cannot be read.
    """
    if not isinstance(model, keras.Model):
        raise PruningError(f"`model` must be a Keras model, but got {type(model).__name__}")
    graph = Graph(model)
    return shrink(model, keep_without(graph, unread_units(graph)))
