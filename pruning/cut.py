"""What a model's loss would be without some of its channels, for many candidates and few forward passes.

A layer's channels matter only where they are read. So the model is cut there: what comes before is run once and kept,
what comes after is run for several candidates side by side in the batch. A convolution or dense layer that reads them
is linear, so it is run once, and every candidate takes away its own channel's share. Nothing is approximated.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from pruning.batches import Batch, Objective
from pruning.gates import downstream, find_gates, needed_for, places_of
from pruning.graph import Graph
from pruning.tail import Head, Slopes, Tail, arguments_of

# No more candidates side by side than this, and no more bytes of what they write.
MOST_CANDIDATES, MOST_BYTES = 64, 2**28

# A candidate that removes nothing.
NOTHING = -1


class Cut:
    """A model cut where some of its channels are read.

    Args:
        graph: Of a model that may be changed.
        units: What may be removed.
        objective: The loss.
        at_weights: Whether a channel is removed by zeros in the kernel and bias that make it, as Roels et al. 2017
            write, instead of where it is read.
        most: Candidates side by side; as many as fit if left out.

    Attributes:
        units: What may be removed, in order.
    """

    def __init__(
        self,
        graph: Graph,
        units: Iterable[int],
        objective: Objective,
        *,
        at_weights: bool = False,
        most: int | None = None,
    ) -> None:
        self.graph = graph
        self.units = sorted(set(units))
        self.objective = objective
        self._most = min(MOST_CANDIDATES, len(self.units), most or MOST_CANDIDATES)
        self._gates = find_gates(graph, set(self.units), at_weights)
        first = {gate.step for gate in self._gates}
        self._after = downstream(graph, first)
        before = [step for number, step in enumerate(graph.steps) if number not in self._after]
        written = {value for number in self._after for value in graph.steps[number].writes}
        read = {value for number in self._after for value in graph.steps[number].reads}
        self.values = sorted((read | set(graph.outputs)) - written)
        self._before = needed_for(before, self.values)
        self._places = [places_of(graph, gate, self.units) for gate in self._gates]
        self._heads: dict[Any, keras.Model] = {}
        self._tails: dict[Any, tuple[keras.Model, int]] = {}
        self._slopes: dict[Any, tuple[keras.Model, Slopes]] = {}
        self._kept: dict[int, list[Any]] = {}

    def losses(self, batch: Batch, units: Sequence[int]) -> np.ndarray:
        """The loss on a batch without each of some units, `(n_units,)`; `NOTHING` for the model as it is."""
        values = self._run_head(batch)
        tail, width = self._tail(batch, values)
        found: list[np.ndarray] = []
        for start in range(0, len(units), width):
            chunk = list(units[start : start + width])
            padded = chunk + [NOTHING] * (width - len(chunk))
            rows = [
                part
                for gate, places in zip(self._gates, self._places, strict=True)
                for part in (places.shares(padded) if gate.linear else [places.factors(padded)])
            ]
            out = tail.predict_on_batch(_tensors([*values, *batch.labels, *(batch.weights or []), *rows]))
            found.append(np.asarray(out)[: len(chunk)])
        return np.concatenate(found).astype(float) if found else np.zeros(0)

    def predicted(self, batch: Batch) -> np.ndarray:
        """By how much the loss would rise to first order without each unit, `(n_units,)`.

        The derivative of the loss with respect to a factor on the channel, at 1 (Molchanov et al. 2017, but signed).
        """
        values = self._run_head(batch)
        key = _signature(batch)
        if key not in self._slopes:
            layer = Slopes(self.graph, self._gates, self._after, self.values, batch, self.objective)
            inputs = [_input(array) for array in (*values, *batch.labels, *(batch.weights or []))]
            model = keras.Model(inputs, layer(inputs, training=False))
            model.compile(keras.optimizers.SGD(1.0), loss=_same, jit_compile=False)
            self._slopes[key] = model, layer
        model, layer = self._slopes[key]
        with _frozen(layer.parts):
            model.train_on_batch(_tensors([*values, *batch.labels, *(batch.weights or [])]), np.zeros(1, np.float32))
            # A step of plain gradient descent from 0 at rate 1 leaves the negative gradient.
            rises = np.zeros(len(self.units))
            for factors, places in zip(model.trainable_variables, self._places, strict=True):
                places.add(rises, keras.ops.convert_to_numpy(factors))
                factors.assign(np.zeros(factors.shape))
        return rises

    def _run_head(self, batch: Batch) -> list[Any]:
        """The values at the cut, kept for batches that may come again."""
        if batch.key is not None and batch.key in self._kept:
            return self._kept[batch.key]
        if self.values == sorted(self.graph.inputs):
            by_number = dict(zip(self.graph.inputs, batch.images, strict=True))
            return [by_number[value] for value in self.values]
        key = _signature(batch)
        if key not in self._heads:
            layer = Head(self.graph, self._before, self.values)
            inputs = [_input(array) for array in batch.images]
            self._heads[key] = keras.Model(inputs, layer(inputs, training=False))
        found = keras.tree.flatten(self._heads[key].predict_on_batch(_given(batch.images)))
        values = _tensors(found)
        if batch.key is not None and sum(_n_bytes(x) for kept in self._kept.values() for x in kept) < 2 * MOST_BYTES:
            self._kept[batch.key] = values
        return values

    def _tail(self, batch: Batch, values: Sequence[Any]) -> tuple[keras.Model, int]:
        key = _signature(batch)
        if key not in self._tails:
            width = self._width(values)
            layer = Tail(self.graph, self._gates, self._after, self.values, batch, self.objective, width)
            inputs = [_input(array) for array in (*values, *batch.labels, *(batch.weights or []))]
            for gate, places in zip(self._gates, self._places, strict=True):
                n_channels = len(gate.channels)
                if gate.linear:
                    inputs.append(keras.Input(batch_shape=(width, places.widest), dtype="int32"))
                    inputs.append(keras.Input(batch_shape=(width, places.widest)))
                else:
                    inputs.append(keras.Input(batch_shape=(width, n_channels)))
            self._tails[key] = keras.Model(inputs, layer(inputs, training=False)), width
        return self._tails[key]

    def _width(self, values: Sequence[Any]) -> int:
        """How many candidates fit side by side."""
        shapes = {number: keras.KerasTensor(x.shape, x.dtype) for number, x in zip(self.values, values, strict=True)}
        n_written = 0
        for number in sorted(self._after):
            step = self.graph.steps[number]
            args, kwargs = arguments_of(step, [shapes[value] for value in step.reads])
            out = keras.tree.flatten(step.node.operation.compute_output_spec(*args, **kwargs))
            shapes |= dict(zip(step.writes, out, strict=True))
            n_written += sum(int(np.prod(tensor.shape)) for tensor in out)
        return int(np.clip(MOST_BYTES // (4 * n_written), 1, self._most))


@contextmanager
def _frozen(layers: Sequence[Any]) -> Iterator[None]:
    """Within, layers do not train."""
    before = [(layer, layer.trainable) for layer in layers]
    try:
        for layer in layers:
            layer.trainable = False
        yield
    finally:
        for layer, trainable in before:
            layer.trainable = trainable


def _same(_: Any, loss: Any) -> Any:
    return loss


def _tensors(arrays: Sequence[Any]) -> list[Any]:
    """As tensors, all of them: PyTorch takes no mixture."""
    return [keras.ops.convert_to_tensor(array) for array in arrays]


def _given(arrays: Sequence[Any]) -> Any:
    """As Keras wants what a model with a list of inputs is called with."""
    return arrays[0] if len(arrays) == 1 else list(arrays)


def _input(array: Any) -> Any:
    return keras.Input(batch_shape=tuple(array.shape), dtype=keras.backend.standardize_dtype(array.dtype))


def _signature(batch: Batch) -> Any:
    arrays = (*batch.images, *batch.labels, *(batch.weights or ()))
    return tuple((tuple(array.shape), str(array.dtype)) for array in arrays)


def _n_bytes(x: Any) -> int:
    return int(np.prod(x.shape)) * 4
