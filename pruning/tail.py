"""The two parts of a model that is cut, as layers, so that Keras compiles them on every backend."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import keras

from pruning.batches import Batch, Objective
from pruning.gates import Gate
from pruning.graph import Graph, Step


def arguments_of(step: Step, tensors: Sequence[Any]) -> tuple[Any, Any]:
    """What a layer is called with, `(args, kwargs)`."""
    return step.node.arguments.fill_in({id(t): x for t, x in zip(step.node.input_tensors, tensors, strict=True)})


def run_step(step: Step, tensors: Sequence[Any]) -> list[Any]:
    """Call a layer as the model does."""
    args, kwargs = arguments_of(step, tensors)
    kwargs.pop("training", None)
    return keras.tree.flatten(step.node.operation(*args, **kwargs))


def _layers(steps: Iterable[Step]) -> list[keras.Layer]:
    found = {id(step.node.operation): step.node.operation for step in steps}
    return [layer for layer in found.values() if isinstance(layer, keras.Layer)]


@dataclasses.dataclass
class _Held:
    """What a layer knows; held apart, so that Keras does not take the layers in it for parts of that layer."""

    inputs: list[int]
    steps: list[Step]
    values: list[int]
    outputs: list[int] = dataclasses.field(default_factory=list)
    gates: dict[int, Gate] = dataclasses.field(default_factory=dict)
    n_labels: int = 0
    n_weights: int = 0
    objective: Any = None


class Head(keras.layers.Layer):
    """From the model's inputs to the cut."""

    def __init__(self, graph: Graph, steps: Sequence[Step], values: Sequence[int]) -> None:
        super().__init__()
        self.parts = _layers(steps)
        self._held = _Held(graph.inputs, list(steps), list(values))
        self.built = True

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Images to the values at the cut."""
        known = dict(zip(self._held.inputs, keras.tree.flatten(inputs), strict=True))
        for step in self._held.steps:
            known |= dict(zip(step.writes, run_step(step, [known[value] for value in step.reads]), strict=True))
        return [known[value] for value in self._held.values]


class Tail(keras.layers.Layer):
    """From the cut to the losses of candidates, which lie side by side in the batch, candidate by candidate."""

    def __init__(
        self,
        graph: Graph,
        gates: Sequence[Gate],
        after: set[int],
        values: Sequence[int],
        batch: Batch,
        objective: Objective,
        width: int = 1,
    ) -> None:
        super().__init__()
        numbers = sorted(after)
        steps = [graph.steps[number] for number in numbers]
        self.parts = _layers(steps)
        self.width = width
        self._held = _Held(
            graph.inputs,
            steps,
            list(values),
            graph.outputs,
            {numbers.index(gate.step): gate for gate in gates},
            len(batch.labels),
            len(batch.weights or ()),
            objective,
        )
        self.built = True

    def compute_output_spec(self, *_: Any, **__: Any) -> Any:
        """One loss per candidate."""
        return keras.KerasTensor((self.width,), "float32")

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Values at the cut, labels, weights, and what goes per gate to losses."""
        held = self._held
        inputs = list(inputs)
        known = {value: inputs.pop(0) for value in held.values}
        labels, weights = ([inputs.pop(0) for _ in range(count)] for count in (held.n_labels, held.n_weights))
        rows = self._rows(inputs)
        wide: set[int] = set()  # values that lie side by side for all candidates
        for number, step in enumerate(held.steps):
            gate = held.gates.get(number)
            if gate is not None and gate.linear:
                out = [self._without_shares(step.node.operation, known[step.reads[0]], *rows[number])]
            else:
                tensors = [known[v] if v in wide else self._widen(known[v]) for v in step.reads]
                if gate is not None and not gate.at_output:
                    tensors[0] = self._switch(tensors[0], rows[number][0], gate)
                out = run_step(step, tensors)
                if gate is not None and gate.at_output:
                    out[0] = self._switch(out[0], rows[number][0], gate)
            known |= dict(zip(step.writes, out, strict=True))
            wide |= set(step.writes)
        found = []
        for place in range(self.width):
            predictions = [self._candidate(known[v], place) if v in wide else known[v] for v in held.outputs]
            found.append(held.objective.total(labels, weights or None, predictions))
        return keras.ops.stack(found)

    def _rows(self, inputs: list[Any]) -> dict[int, list[Any]]:
        """What goes, by gate."""
        return {
            number: [inputs.pop(0) for _ in range(2 if gate.linear else 1)] for number, gate in self._held.gates.items()
        }

    def _widen(self, x: Any) -> Any:
        return keras.ops.tile(x, (self.width, *[1] * (len(x.shape) - 1))) if self.width > 1 else x

    def _candidate(self, x: Any, place: int) -> Any:
        n_images = x.shape[0] // self.width
        return x[place * n_images : (place + 1) * n_images]

    def _switch(self, x: Any, factors: Any, gate: Gate) -> Any:
        """Every candidate times its own factors, `(width, n_channels)`."""
        ops, shape = keras.ops, x.shape
        alone = [1] * (len(shape) - 1)
        alone[gate.channels.axis - 1] = shape[gate.channels.axis]
        factors = ops.reshape(ops.cast(factors, x.dtype), (self.width, 1, *alone))
        x = ops.reshape(x, (self.width, shape[0] // self.width, *shape[1:]))
        x = x * factors + gate.fill * (1 - factors) if gate.fill else x * factors
        return ops.reshape(x, shape)

    def _without_shares(self, layer: Any, x: Any, indices: Any, counts: Any) -> Any:
        """What a convolution or dense layer gives without some of its input's channels, by candidate."""
        ops = keras.ops
        kernel = ops.cast(layer.kernel, layer.compute_dtype)
        x = ops.cast(x, layer.compute_dtype)
        first = getattr(layer, "data_format", "channels_last") == "channels_first"
        axis = 1 if first else len(x.shape) - 1
        reads = len(kernel.shape) - 2
        alone = [1] * len(x.shape)
        alone[axis] = indices.shape[1]
        whole, found = _apply(layer, x, kernel), []
        for place in range(self.width):
            channels = ops.take(x, indices[place], axis) * ops.reshape(ops.cast(counts[place], x.dtype), alone)
            found.append(whole - _apply(layer, channels, ops.take(kernel, indices[place], reads)))
        out = ops.concatenate(found)
        if layer.use_bias:
            shape = [1] * len(out.shape)
            shape[axis] = -1
            out = out + ops.reshape(ops.cast(layer.bias, out.dtype), shape)
        return out if layer.activation is None else layer.activation(out)


def _apply(layer: Any, x: Any, kernel: Any) -> Any:
    """The sum that a layer computes, without bias and activation."""
    if isinstance(layer, keras.layers.Dense):
        return keras.ops.matmul(x, kernel)
    return keras.ops.conv(
        x, kernel, list(layer.strides), layer.padding, layer.data_format, dilation_rate=layer.dilation_rate
    )


class Slopes(Tail):
    """The loss with a factor of 1 plus a weight on every channel; the weights' gradients are what is wanted of it."""

    def __init__(self, graph: Graph, gates: Sequence[Gate], *rest: Any) -> None:
        super().__init__(graph, [gate._replace(linear=False) for gate in gates], *rest)
        self.added = {
            number: self.add_weight(shape=(len(gate.channels),), initializer="zeros", name=f"factor{number}")
            for number, gate in self._held.gates.items()
        }

    def _rows(self, inputs: list[Any]) -> dict[int, list[Any]]:
        return {number: [keras.ops.reshape(1 + weight, (1, -1))] for number, weight in self.added.items()}
