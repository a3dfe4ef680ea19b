"""What brings several tensors together does to channels, and what raw operations do."""

import numpy as np

from pruning.channels import Channels, Labels
from pruning.registry import Call, Flow, rule
from pruning.rules import passed

# -- layers that bring several together ---


@rule("Concatenate", "ops.Concatenate")
def concatenate(call: Call) -> Flow:
    """Channels side by side; along another axis, channels that stay or go together."""
    axis = call.layer.axis % len(call.shapes[0])
    known = [channels for channels in call.inputs if channels is not None]
    if not known:
        return Flow((None,))
    if any(channels.axis != known[0].axis for channels in known):
        return call.protect("brings together channels that lie along different axes")
    if known[0].axis != axis:
        return together(call)
    rows = []
    for channels, shape in zip(call.inputs, call.shapes, strict=True):
        if channels is None:
            count = shape[axis]
            if count is None:
                return call.protect("joins an input whose channels are not counted")
            labels = call.units.new(count)
            call.units.protect(labels, f"they come from an input of {call.path} whose channels have to stay")
            rows.append(labels)
        else:
            rows.append(channels.labels)
    return Flow((Channels(axis, np.concatenate(rows)),))


def together(call: Call) -> Flow:
    """Inputs of one shape, or that are repeated along axes: channels at the same place stay or go together."""
    rank = len(call.output_shapes[0])
    if call.constant:
        return call.protect("works with an array of constants")
    known = [
        (channels, shape) for channels, shape in zip(call.inputs, call.shapes, strict=True) if channels is not None
    ]
    if not known:
        return Flow((None,))
    # Axes count from the end, where shapes of different length begin to match.
    places = {channels.axis - len(shape) for channels, shape in known if len(channels) > 1}
    if len(places) != 1:
        return call.protect("brings together channels that lie along different axes, or a single one")
    (place,) = places
    count = call.output_shapes[0][place]
    first: Labels | None = None
    for channels, shape in zip(call.inputs, call.shapes, strict=True):
        size = shape[place] if -place <= len(shape) else 1
        if channels is not None and channels.axis - len(shape) == place and len(channels) == count:
            first = channels.labels if first is None else first
            call.units.unite(first, channels.labels)
        elif channels is not None:
            call.units.protect(channels.labels, f"{call.path} repeats them over the channels of another input")
        elif size != 1:
            return call.protect("joins them with an input whose channels have to stay")
    if first is None:
        return call.protect("repeats them over the channels of another input")
    return Flow((Channels(rank + place, first),))


for _name in ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"):
    rule(_name)(together)


# -- raw operations ---


for _name in ("Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Maximum", "Minimum", "Power"):
    rule(f"ops.{_name}")(together)


def elementwise(call: Call) -> Flow:
    """A function of each value."""
    return call.protect("works with an array of constants") if call.constant else passed(call)


for _name in (
    "Relu", "Relu6", "Sigmoid", "Softplus", "Softsign", "Silu", "HardSilu", "Elu", "Selu", "Gelu", "LeakyRelu",
    "HardSigmoid", "HardTanh", "TanhShrink", "SoftShrink", "HardShrink", "Celu", "Threshold", "LogSigmoid",
    "Squareplus", "Tanh", "Abs", "Absolute", "Negative", "Square", "Sqrt", "Rsqrt", "Exp", "Expm1", "Log", "Log1p",
    "Sign", "Clip", "Sin", "Cos", "Cast", "Identity", "StopGradient", "Positive", "Reciprocal",
):  # fmt: skip
    rule(f"ops.{_name}")(elementwise)


@rule("ops.Mean", "ops.Max", "ops.Min", "ops.Sum")
def reduction(call: Call) -> Flow:
    """Over axes other than the channels'."""
    channels, rank = call.inputs[0], len(call.shapes[0])
    if channels is None:
        return Flow((None,))
    axes = call.layer.axis
    axes = range(rank) if axes is None else [axes] if isinstance(axes, int) else axes
    axes = {axis % rank for axis in axes}
    if channels.axis in axes:
        return call.protect("brings all channels together")
    before = 0 if call.layer.keepdims else sum(axis < channels.axis for axis in axes)
    return Flow((Channels(channels.axis - before, channels.labels),))


@rule("ops.Transpose")
def transpose(call: Call) -> Flow:
    """Axes in another order."""
    channels, rank = call.inputs[0], len(call.shapes[0])
    if channels is None:
        return Flow((None,))
    order = list(call.layer.axes) if call.layer.axes is not None else list(range(rank))[::-1]
    return Flow((Channels([axis % rank for axis in order].index(channels.axis), channels.labels),))


@rule("ops.MaxPool", "ops.AveragePool", "ops.Pad")
def sized(call: Call) -> Flow:
    """Sizes change, but not the number of channels."""
    channels = call.inputs[0]
    if channels is None:
        return Flow((None,))
    if call.output_shapes[0][channels.axis] != len(channels):
        return call.protect("changes the number of channels")
    return passed(call)


@rule("ops.GetItem")
def item(call: Call) -> Flow:
    """A part of a tensor that holds all its channels."""
    channels, shape, after = call.inputs[0], call.shapes[0], call.output_shapes[0]
    if channels is None:
        return Flow((None,))
    if len(after) != len(shape) or after[channels.axis] != len(channels):
        return call.protect("takes a part of its channels")
    return passed(call)
