"""What Keras' layers do to channels: one small function per kind."""

from typing import Any

import numpy as np

from pruning.channels import Channels, Labels, spread
from pruning.registry import Call, Flow, Weight, rule

# Functions that mix channels, so that removing one changes the others.
MIXING = ("softmax", "log_softmax", "sparsemax", "glu", "threshold_softmax")


def channel_axis(layer: Any, rank: int) -> int:
    """Where a layer expects channels, the batch counted."""
    return 1 if getattr(layer, "data_format", "channels_last") == "channels_first" else rank - 1


def function_name(function: Any) -> str:
    """The name of an activation."""
    return str(getattr(function, "__name__", type(function).__name__)).lower()


def labels_at(call: Call, axis: int) -> Labels | None:
    """The labels of the first input along an axis; its channels have to stay where they lie along another."""
    channels = call.inputs[0]
    if channels is None:
        return None
    if channels.axis != axis:
        call.protect(f"reads axis {axis}, but its channels lie along axis {channels.axis}")
        return None
    return channels.labels


def finish(call: Call, labels: Labels, axis: int) -> Channels:
    """New channels, which have to stay where the layer's own activation mixes them."""
    name = function_name(getattr(call.layer, "activation", None))
    if name in MIXING:
        call.units.protect(labels, f"{call.path} ends in {name}, which mixes channels")
    return Channels(axis, labels)


def kernel_weights(layer: Any, kernel: Weight, bias: Labels) -> tuple[Weight, ...]:
    """A kernel and, where there is one, the bias."""
    return (kernel, Weight(layer.bias, {0: bias})) if layer.use_bias else (kernel,)


def features(
    call: Call, axis: int, made: Labels, read: Labels | None, *, kernel_axes: tuple[int, int], size: str = "filters"
) -> Flow:
    """What a layer with one kernel makes: the axes of its kernel are those of what it makes and of what it reads."""
    made_axis, read_axis = kernel_axes
    axes = {made_axis: made} if read is None else {made_axis: made, read_axis: read}
    return Flow(
        (finish(call, made, axis),),
        kernel_weights(call.layer, Weight(call.layer.kernel, axes, read_axis), made),
        lambda config, count: config.update({size: count(made)}),
    )


# -- layers that make channels ---


@rule("Conv1D", "Conv2D", "Conv3D")
def convolution(call: Call) -> Flow:
    """Kernels `(*sides, in / groups, out)`."""
    layer, rank = call.layer, len(call.shapes[0])
    axis = channel_axis(layer, rank)
    read = labels_at(call, axis)
    if layer.groups > 1:
        return _grouped(call, read, axis)
    return features(call, axis, call.units.new(layer.filters), read, kernel_axes=(rank - 1, rank - 2))


def _grouped(call: Call, read: Labels | None, axis: int) -> Flow:
    """Every group keeps as many channels as the others: those at the same place in it.

    With one channel per group, as in a depthwise convolution, groups go with their channel.
    """
    layer, rank, groups = call.layer, len(call.shapes[0]), call.layer.groups
    if read is not None and len(read) == groups:
        made = np.repeat(read, layer.filters // groups)
        weights = kernel_weights(layer, Weight(layer.kernel, {rank - 1: made}), made)
        return Flow(
            (finish(call, made, axis),),
            weights,
            lambda config, count: config.update(filters=count(made), groups=count(read)),
        )
    made = call.units.new(layer.filters)
    call.units.unite_all(made.reshape(groups, -1))
    if read is None:
        return features(call, axis, made, None, kernel_axes=(rank - 1, rank - 2))
    rows = read.reshape(groups, -1)
    call.units.unite_all(rows)
    return features(call, axis, made, rows[0], kernel_axes=(rank - 1, rank - 2))


@rule("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")
def transposed(call: Call) -> Flow:
    """Kernels `(*sides, out, in)`."""
    layer, rank = call.layer, len(call.shapes[0])
    axis = channel_axis(layer, rank)
    made = call.units.new(layer.filters)
    return features(call, axis, made, labels_at(call, axis), kernel_axes=(rank - 2, rank - 1))


@rule("SeparableConv1D", "SeparableConv2D")
def separable(call: Call) -> Flow:
    """A kernel `(*sides, in, multiplier)` per channel, then one `(1, 1, in * multiplier, out)`."""
    layer, rank = call.layer, len(call.shapes[0])
    axis = channel_axis(layer, rank)
    read, made = labels_at(call, axis), call.units.new(layer.filters)
    between = {} if read is None else {rank - 2: np.repeat(read, layer.depth_multiplier)}
    pointwise = Weight(layer.pointwise_kernel, {rank - 1: made, **between}, rank - 2)
    weights = kernel_weights(layer, pointwise, made)
    if read is not None:
        weights = (Weight(layer.depthwise_kernel, {rank - 2: read}), *weights)
    return Flow((finish(call, made, axis),), weights, lambda config, count: config.update(filters=count(made)))


@rule("Dense")
def dense(call: Call) -> Flow:
    """A kernel `(in, out)` on the last axis."""
    axis = len(call.shapes[0]) - 1
    made = call.units.new(call.layer.units)
    return features(call, axis, made, labels_at(call, axis), kernel_axes=(1, 0), size="units")


# -- layers that pass channels on ---


@rule("DepthwiseConv1D", "DepthwiseConv2D")
def depthwise(call: Call) -> Flow:
    """A kernel `(*sides, in, multiplier)`: every channel becomes as many."""
    layer, rank = call.layer, len(call.shapes[0])
    axis = channel_axis(layer, rank)
    read = labels_at(call, axis)
    if read is None:
        return Flow((None,))
    made = np.repeat(read, layer.depth_multiplier)
    weights = kernel_weights(layer, Weight(layer.kernel, {rank - 2: read}), made)
    return Flow((finish(call, made, axis),), weights)


def passed(call: Call) -> Flow:
    """What works on every channel by itself and keeps the axes."""
    return Flow((call.inputs[0],))


for _name in (
    "Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "GaussianDropout", "GaussianNoise",
    "AlphaDropout", "ActivityRegularization", "Identity", "ReLU", "LeakyReLU", "ELU",
    "MaxPooling1D", "MaxPooling2D", "MaxPooling3D", "AveragePooling1D", "AveragePooling2D", "AveragePooling3D",
    "UpSampling1D", "UpSampling2D", "UpSampling3D", "ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D",
    "Cropping1D", "Cropping2D", "Cropping3D",
):  # fmt: skip
    rule(_name)(passed)


@rule("Activation")
def activation(call: Call) -> Flow:
    """A function of each value, unless it mixes channels."""
    name = function_name(call.layer.activation)
    return call.protect(f"is {name}, which mixes channels") if name in MIXING else passed(call)


@rule("Softmax", "LayerNormalization", "RMSNormalization", "UnitNormalization")
def along_axes(call: Call) -> Flow:
    """What brings values along some axes together: channels pass if they do not lie along one of them."""
    channels = call.inputs[0]
    if channels is None:
        return Flow((None,))
    axes = call.layer.axis
    axes = [axes] if isinstance(axes, int) else axes
    if channels.axis in {axis % len(call.shapes[0]) for axis in axes}:
        return call.protect("brings all channels together")
    return passed(call)


@rule("PReLU")
def prelu(call: Call) -> Flow:
    """A slope per voxel and channel, or shared along axes."""
    channels = call.inputs[0]
    if channels is None or call.layer.alpha.shape[channels.axis - 1] == 1:
        return passed(call)
    return Flow((channels,), (Weight(call.layer.alpha, {channels.axis - 1: channels.labels}),))


@rule("BatchNormalization")
def batch_normalization(call: Call) -> Flow:
    """Scale, shift, mean and variance per channel."""
    layer, channels = call.layer, call.inputs[0]
    if channels is None:
        return Flow((None,))
    if layer.axis % len(call.shapes[0]) != channels.axis:
        return passed(call)
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    variables = [variable for name in names if (variable := getattr(layer, name, None)) is not None]
    return Flow((channels,), tuple(Weight(variable, {0: channels.labels}) for variable in variables))


@rule("GroupNormalization")
def group_normalization(call: Call) -> Flow:
    """Groups go as a whole, so that those that stay are normalised as before."""
    layer, channels = call.layer, call.inputs[0]
    if channels is None:
        return Flow((None,))
    if layer.axis % len(call.shapes[0]) != channels.axis:
        return call.protect("normalises along another axis than its channels'")
    rows = channels.labels.reshape(layer.groups, -1)
    call.units.unite_all(rows.T)
    variables = [variable for name in ("gamma", "beta") if (variable := getattr(layer, name, None)) is not None]
    first = rows[:, 0]
    return Flow(
        (channels,),
        tuple(Weight(variable, {0: channels.labels}) for variable in variables),
        lambda config, count: config.update(groups=count(first)),
    )


@rule("Rescaling")
def rescaling(call: Call) -> Flow:
    """One factor for all channels."""
    if np.size(call.layer.scale) > 1 or np.size(call.layer.offset) > 1:
        return call.protect("has a factor per channel")
    return passed(call)


@rule(
    "GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling3D",
    "GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalMaxPooling3D",
)  # fmt: skip
def global_pooling(call: Call) -> Flow:
    """One value per channel."""
    channels, rank = call.inputs[0], len(call.shapes[0])
    if channels is None:
        return Flow((None,))
    axis = channel_axis(call.layer, rank)
    if channels.axis != axis:
        return call.protect(f"expects channels along axis {axis}")
    return Flow((Channels(axis if call.layer.keepdims else 1, channels.labels),))


@rule("Flatten")
def flatten(call: Call) -> Flow:
    """Channels become a label per element; Keras moves them to the end first."""
    channels, shape = call.inputs[0], list(call.shapes[0])
    if channels is None:
        return Flow((None,))
    axis = channels.axis
    if call.layer.data_format == "channels_first" and len(shape) > 2:
        shape, axis = [shape[0], *shape[2:], shape[1]], (axis - 2) % (len(shape) - 1) + 1
    labels = spread(channels.labels, axis, shape)
    if labels is None:
        return call.protect("flattens a tensor whose sizes are open")
    return Flow((Channels(1, labels),))


@rule("Reshape")
def reshape(call: Call) -> Flow:
    """The channels have to be last, before and after."""
    channels, shape, after = call.inputs[0], call.shapes[0], call.output_shapes[0]
    if channels is None:
        return Flow((None,))
    if channels.axis != len(shape) - 1 or after[-1] != len(channels):
        return call.protect("reshapes its channels")
    last = channels.labels

    def configure(config: dict[str, Any], count: Any) -> None:
        config["target_shape"] = (*config["target_shape"][:-1], count(last))

    return Flow((Channels(len(after) - 1, last),), configure=configure)


@rule("Permute")
def permute(call: Call) -> Flow:
    """Axes in another order."""
    channels = call.inputs[0]
    if channels is None:
        return Flow((None,))
    return Flow((Channels(1 + list(call.layer.dims).index(channels.axis), channels.labels),))


@rule("InputLayer")
def image(call: Call) -> Flow:
    """The channels of what is given have to stay."""
    return Flow((None,) * len(call.output_shapes))
