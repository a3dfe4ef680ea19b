"""What a network costs before it is built: parameters, work, context, memory; from the plan alone."""

import dataclasses
import math
from collections.abc import Sequence
from typing import TypeGuard

from genenet.operations import (
    Activation,
    Convolution,
    Dropout,
    MaxPool,
    Multiply,
    Normalization,
    Operation,
    Padded,
    PaddedMaxPool,
    Softmax,
)
from genenet.plan import IMAGE, Plan, PlannedLayer

FLOAT_BYTES = 4

# Activations whose slope needs their input; the others' follows from their output.
NEEDS_INPUT = ("softplus", "leaky_relu")


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one window costs.

    Attributes:
        n_parameters: Trainable parameters, auxiliary heads included.
        n_multiply_adds: Of one forward pass over the window.
        n_multiply_adds_per_voxel: The same per voxel of the output.
        receptive_field: Voxels per axis that enter one voxel of the output; at most, where networks pool.
        training_bytes: Estimated peak memory of one float32 training step, beyond what the program has anyway.
    """

    n_parameters: int
    n_multiply_adds: int
    n_multiply_adds_per_voxel: float
    receptive_field: tuple[int, ...]
    training_bytes: int


def cost(plan: Plan, window: tuple[int, ...], batch_size: int = 1) -> Cost:
    """Work out what a network costs.

    Args:
        plan: Its layers.
        window: What a call reads, voxels per axis; a shape that fits.
        batch_size: Windows per training step.

    Raises:
        InputError: The window does not fit.
    """
    sizes = plan.sizes(window)
    n_multiply_adds = plan.n_multiply_adds(window)
    n_voxels = math.prod(sizes[plan.output.name])
    n_parameters = plan.n_parameters
    return Cost(
        n_parameters,
        n_multiply_adds,
        n_multiply_adds / n_voxels,
        receptive_field(plan),
        training_bytes(plan, sizes, batch_size),
    )


def receptive_field(plan: Plan) -> tuple[int, ...]:
    """Voxels per axis that one voxel of the output depends on, at the place where it is most."""
    fields = []
    for axis in range(plan.n_dims):
        widest = 0
        for place in range(plan.total_stride[axis]):
            first, end = plan.needs(place, place + 1, axis)[IMAGE]
            widest = max(widest, end - first)
        fields.append(widest)
    return tuple(fields)


def training_bytes(plan: Plan, sizes: dict[str, tuple[int, ...]], batch_size: int) -> int:
    """Peak memory of one float32 training step.

    What the backward pass needs stays from the forward pass: the inputs of convolutions, the outputs of activations and
    pools, what is normalised. On its way back every value has a gradient, which is let go where it was used, and the
    libraries copy what a convolution reads and writes into an order of their own. Dilated convolutions hold a copy of
    their input whose voxels were moved to the batch, with zeros around; what has a stride and zeros around, a copy with
    these. Weights, their gradients and Adam's two moments come on top.

    Held against measurements by `benchmarks.memory`.
    """
    kept = {IMAGE}
    for name, layer in plan.layers.items():
        kept |= needed_backwards(plan, name, layer)
    volume = {name: batch_size * layer.n_channels * math.prod(sizes[name]) for name, layer in plan.layers.items()}
    held = float(sum(volume[name] for name in kept))
    held += 2 * sum(volume[head.scores] for head in plan.heads)  # class probabilities and the gradient of the scores
    for name, layer in plan.layers.items():
        if isinstance(layer.operation, Padded) or is_dilated(layer.operation):
            source = layer.inputs[0]
            held += volume[source] * math.prod(layer.operation.padded(n, i) / n for i, n in enumerate(sizes[source]))
        elif isinstance(layer.operation, Activation) and layer.operation.function == "crelu":
            held += volume[name]  # its halves, before they are put side by side
    largest = max(volume[name] + sum(volume[source] for source in layer.inputs) for name, layer in plan.layers.items())
    return FLOAT_BYTES * int(held + 2 * largest + 4 * plan.n_parameters)


def inference_bytes(plan: Plan, sizes: dict[str, tuple[int, ...]], batch_size: int) -> int:
    """Peak memory of one float32 forward pass.

    A layer's output lives until the last layer that reads it is done; skips live long. A convolution takes a copy of
    what it reads besides. A dilated one takes two of what it reads and two of what it writes, whose voxels were moved
    to the batch: zeros are put around, and more of them until the dilation divides every side that the kernel spreads
    over. Activations are applied where their input lies.

    Held against measurements by `benchmarks.memory inference`.
    """
    names = list(plan.layers)
    read_last = {source: place for place, name in enumerate(names) for source in plan.layers[name].inputs}
    volume = {name: batch_size * plan.layers[name].n_channels * math.prod(sizes[name]) for name in names}
    live = peak = volume[IMAGE]
    for place, name in enumerate(names[1:], 1):
        layer = plan.layers[name]
        gone = sum(volume[source] for source in set(layer.inputs) if read_last[source] == place)
        if isinstance(layer.operation, (Activation, Softmax, Normalization)) and gone >= volume[name]:
            live += volume[name] - gone
            continue
        copied = 0
        if is_dilated(layer.operation):
            source = layer.inputs[0]
            copied = 2 * batch_size * plan.layers[source].n_channels * _moved(layer.operation, sizes[source])
            copied += 2 * batch_size * layer.n_channels * _moved(layer.operation, sizes[name], zeros_around=False)
        elif isinstance(layer.operation, Convolution):
            copied = volume[layer.inputs[0]]
        peak = max(peak, live + volume[name] + copied)
        live += volume[name] - gone
    return FLOAT_BYTES * (peak + plan.n_parameters)


def _moved(operation: Convolution, sizes: Sequence[int], *, zeros_around: bool = True) -> int:
    """How many voxels are moved to the batch for a dilated convolution."""
    steps = [operation.dilation if side > 1 else 1 for side in operation.kernel]
    wide = [operation.padded(n, axis) if zeros_around else n for axis, n in enumerate(sizes)]
    return math.prod(math.ceil(n / step) * step for n, step in zip(wide, steps, strict=True))


def is_dilated(operation: Operation) -> TypeGuard[Convolution]:
    """Whether the taps of a convolution lie apart."""
    return isinstance(operation, Convolution) and operation.dilation > 1 and max(operation.kernel) > 1


def needed_backwards(plan: Plan, name: str, layer: PlannedLayer) -> set[str]:
    """The layers whose outputs a layer's backward pass reads."""
    operation = layer.operation
    if is_dilated(operation):
        return set()
    n_parameters = operation.n_parameters([plan.layers[source].n_channels for source in layer.inputs])
    if n_parameters or isinstance(operation, Multiply):
        return set(layer.inputs)
    if isinstance(operation, (MaxPool, PaddedMaxPool)):
        return {name, *layer.inputs}
    if isinstance(operation, Activation):
        if operation.function == "identity":
            return set()
        return set(layer.inputs) if operation.function in NEEDS_INPUT else {name}
    return {name} if isinstance(operation, (Softmax, Dropout)) else set()
