"""Make a model physically smaller: layers with fewer features, and what is left of their weights."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from pruning.channels import Labels
from pruning.errors import PruningError
from pruning.graph import Graph
from pruning.registry import Weight

Keep = Callable[[Labels], np.ndarray]


def shrink(model: keras.Model, keep: Mapping[str, Any], *, optimizer: bool = True) -> keras.Model:
    """A smaller model that computes what the model computes without some channels.

    What is tied to a removed channel goes with it: the other operand of a sum, the normalisation, the kernels that read
    it. `Graph(model).explain(layer)` says what that is.

    Args:
        model: A built functional or Sequential model; it stays as it is.
        keep: By layer (name, or path such as `backbone/conv1`): the indices of the channels that stay, or booleans.
        optimizer: Where the model is compiled, cut the optimizer's variables too, so that training goes on.

    Returns:
        A model of the same kind with the same layer names.

    Raises:
        PruningError: An unknown layer, a wrong index, no channel left, a channel that has to stay, layers that are tied
            but keep other channels, or a model whose graph cannot be read.

    Example:
        >>> image = keras.Input((8, 8, 1))
        >>> first = keras.layers.Conv2D(4, 3, name="first")(image)
        >>> model = keras.Model(image, keras.layers.Conv2D(2, 3, name="last")(first))
        >>> small = shrink(model, {"first": [0, 2, 3]})
        >>> tuple(small.get_layer("last").kernel.shape)
        (3, 3, 3, 2)
    """
    graph = Graph(model)
    stays = graph.keeping(graph.removed(keep))
    pairs: list[tuple[Any, Any]] = []
    small = _cloned(model, graph, stays, pairs)
    cuts = _cuts(graph)
    for old, new in pairs:
        for mine, other in zip(old.variables, new.variables, strict=True):
            values = _cut(keras.ops.convert_to_numpy(mine), cuts.get(id(mine)), stays)
            if tuple(other.shape) != values.shape:
                raise PruningError(
                    f"{old.name} was built with {tuple(other.shape)} where {values.shape} is left of {mine.path}; "
                    "its rule does not say how its configuration changes"
                )
            other.assign(values)
    if optimizer and getattr(model, "optimizer", None) is not None and model.compiled:
        _cut_optimizer(model, small, cuts, stays)
    return small


def masked(model: keras.Model, keep: Mapping[str, Any]) -> keras.Model:
    """A copy that does not look at some channels: every kernel that reads them has zeros there.

    It gives what the smaller model gives, at the size and speed of the whole one; see `shrink` for `keep`.
    """
    graph = Graph(model)
    stays = graph.keeping(graph.removed(keep))
    pairs: list[tuple[Any, Any]] = []
    copy = _cloned(model, graph, lambda labels: np.ones(len(labels), bool), pairs)
    cuts = _cuts(graph)
    for old, new in pairs:
        for mine, other in zip(old.variables, new.variables, strict=True):
            values = np.array(keras.ops.convert_to_numpy(mine))
            weight = cuts.get(id(mine))
            if weight is not None and weight.reads is not None and weight.reads in weight.axes:
                gone = ~stays(weight.axes[weight.reads])
                np.moveaxis(values, weight.reads, 0)[gone] = 0
            other.assign(values)
    return copy


def _cuts(graph: Graph) -> dict[int, Weight]:
    """How variables are cut, by `id`."""
    return {id(weight.variable): weight for entry in graph.seen.values() for weight in entry.weights}


def _cut(values: np.ndarray, weight: Weight | None, stays: Keep) -> np.ndarray:
    """What is left of a variable."""
    for axis, labels in weight.axes.items() if weight is not None else ():
        values = np.compress(stays(labels), values, axis)
    return values


def _cloned(model: keras.Model, graph: Graph, stays: Keep, pairs: list[tuple[Any, Any]]) -> keras.Model:
    """A model of layers of its own, as large as what stays; collects pairs of layers, old and new."""

    def count(labels: Labels) -> int:
        return int(stays(labels).sum())

    def inputs(inner: keras.Model) -> Any:
        """What a model within the model is built on: its inputs, with as many channels as come in."""
        made = []
        for tensor, channels in zip(inner.inputs, graph.given[id(inner)], strict=True):
            shape = list(tensor.shape)
            if channels is not None:
                shape[channels.axis] = count(channels.labels)
            made.append(keras.Input(batch_shape=shape, dtype=tensor.dtype, name=tensor.name))
        return made[0] if isinstance(inner, keras.Sequential) else keras.tree.pack_sequence_as(inner.input, made)

    def clone(layer: Any) -> Any:
        if isinstance(layer, keras.Model):
            return keras.models.clone_model(layer, inputs(layer), clone_function=clone)
        if not isinstance(layer, keras.Layer):
            return layer  # raw operations hold nothing that depends on the number of channels
        config = layer.get_config()
        entry = graph.seen.get(id(layer))
        if entry is not None and entry.configure is not None:
            entry.configure(config, count)
        new = type(layer).from_config(config)
        pairs.append((layer, new))
        return new

    return keras.models.clone_model(model, clone_function=clone)


def _cut_optimizer(model: keras.Model, small: keras.Model, cuts: Mapping[int, Weight], stays: Keep) -> None:
    """Give the smaller model's optimizer what is left of the moments."""
    old, new = model.optimizer, small.optimizer
    if not old.built:
        return
    new.build(small.trainable_variables)
    places = {id(variable): index for index, variable in enumerate(old._trainable_variables)}
    by_slot: dict[int, int] = {}
    for slots in vars(old).values():
        if isinstance(slots, list) and len(slots) == len(places) and all(isinstance(v, keras.Variable) for v in slots):
            by_slot |= {id(slot): index for index, slot in enumerate(slots)}
    for mine, other in zip(old.variables, new.variables, strict=True):
        values = keras.ops.convert_to_numpy(mine)
        index = by_slot.get(id(mine))
        if index is not None and values.shape != tuple(other.shape):
            values = _cut(values, cuts.get(id(old._trainable_variables[index])), stays)
        other.assign(values)
