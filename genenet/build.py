"""From a plan to a Keras model; only layers that come with Keras, so the model loads without genenet."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import keras

from genenet import operations as op
from genenet.dense_evaluation import DensePatches
from genenet.errors import InputError
from genenet.plan import IMAGE, Plan
from genenet.seeds import derived_seed

# Names that Keras writes differently; crelu is made of layers.
FUNCTIONS = {"identity": "linear"}


def _regularizer(penalties: op.Penalties) -> keras.regularizers.Regularizer | None:
    return keras.regularizers.L1L2(penalties.l1, penalties.l2) if penalties.l1 or penalties.l2 else None


def _by_dims(name: str, n_dims: int, suffix: str = "") -> Any:
    """A layer class for a number of axes: `Conv` -> `keras.layers.Conv2D`."""
    return getattr(keras.layers, f"{name}{n_dims}D{suffix}")


def _weights(penalties: op.Penalties, seed: int) -> dict[str, Any]:
    return {
        "kernel_initializer": keras.initializers.GlorotUniform(seed=seed),
        "kernel_regularizer": _regularizer(penalties),
        "bias_regularizer": _regularizer(penalties),
    }


def _convolution(o: op.Convolution, n_dims: int, seed: int, **common: Any) -> keras.Layer:
    return _by_dims("Conv", n_dims)(
        o.features,
        o.kernel,
        dilation_rate=tuple(o.dilation if side > 1 else 1 for side in o.kernel),
        padding="same" if o.same else "valid",
        use_bias=o.bias,
        **_weights(o.penalties, seed),
        **common,
    )


def _depthwise(o: op.DepthwiseConvolution, n_dims: int, seed: int, **common: Any) -> keras.Layer:
    if n_dims == 3:  # Keras has no DepthwiseConv3D
        return _convolution(o, n_dims, seed, groups=o.features, **common)
    weights = {name.replace("kernel", "depthwise"): value for name, value in _weights(o.penalties, seed).items()}
    return keras.layers.DepthwiseConv2D(
        o.kernel, dilation_rate=o.dilation, padding="same" if o.same else "valid", use_bias=o.bias, **weights, **common
    )


def _strided(o: op.StridedConvolution, n_dims: int, seed: int, **common: Any) -> keras.Layer:
    return _by_dims("Conv", n_dims)(o.features, o.factor, strides=o.factor, **_weights(o.penalties, seed), **common)


def _transposed(o: op.TransposedConvolution, n_dims: int, seed: int, **common: Any) -> keras.Layer:
    return _by_dims("Conv", n_dims, "Transpose")(
        o.features, o.factor, strides=o.factor, **_weights(o.penalties, seed), **common
    )


def _patch_pool(o: op.PatchPool, size: int, **common: Any) -> keras.Layer:
    """Sizes are rounded up: where one neighbour is missing at the end, `same` cuts the last maximum there."""
    whole = (size - o.side) % o.stride == 0
    return keras.layers.MaxPooling2D(o.side, o.stride, padding="valid" if whole else "same", **common)


def _pad(o: op.Padded, tensor: Any, n_dims: int, *, name: str, dtype: str) -> Any:
    """Zeros on both sides: Keras' own `same` puts fewer before than after where there is a stride."""
    if not any(o.padding):
        return tensor
    return _by_dims("ZeroPadding", n_dims)(o.padding, name=f"{name}__pad", dtype=dtype)(tensor)


def _normalization(o: op.Normalization, n_channels: int, **common: Any) -> keras.Layer:
    if o.kind == "batch":
        # Keras' momentum of 0.99 needs thousands of steps to forget its start; short trials have hundreds.
        return keras.layers.BatchNormalization(momentum=0.9, epsilon=o.epsilon, **common)
    groups = next(groups for groups in range(min(8, n_channels), 0, -1) if n_channels % groups == 0)
    return keras.layers.GroupNormalization(groups, epsilon=o.epsilon, **common)


def _activation(o: op.Activation, tensor: Any, *, name: str, dtype: str) -> Any:
    penalty = _regularizer(o.penalties)
    if o.function != "crelu":
        function = FUNCTIONS.get(o.function, o.function)
        return keras.layers.Activation(function, activity_regularizer=penalty, name=name, dtype=dtype)(tensor)
    negative = keras.layers.Rescaling(-1.0, name=f"{name}__negative", dtype=dtype)(tensor)
    halves = [
        keras.layers.ReLU(activity_regularizer=penalty, name=f"{name}__{sign}", dtype=dtype)(half)
        for sign, half in (("plus", tensor), ("minus", negative))
    ]
    return keras.layers.Concatenate(name=name, dtype=dtype)(halves)


def _squeeze_excitation(o: op.SqueezeExcitation, tensor: Any, n_dims: int, seed: int, *, name: str, dtype: str) -> Any:
    n_channels = tensor.shape[-1]
    means = _by_dims("GlobalAveragePooling", n_dims)(keepdims=True, name=f"{name}__means", dtype=dtype)(tensor)
    sizes = (("hidden", o.hidden(n_channels), "relu"), ("factors", n_channels, "sigmoid"))
    for part, features, function in sizes:
        initializer = keras.initializers.GlorotUniform(seed=derived_seed(seed, part))
        means = keras.layers.Dense(
            features, function, kernel_initializer=initializer, name=f"{name}__{part}", dtype=dtype
        )(means)
    return keras.layers.Multiply(name=name, dtype=dtype)([tensor, means])


def _build_layer(operation: op.Operation, inputs: list[Any], *, name: str, n_dims: int, dtype: str, seed: int) -> Any:
    common: dict[str, Any] = {"name": name, "dtype": dtype}
    seed = derived_seed(seed, name)
    make: dict[type[op.Operation], Callable[[Any], keras.Layer]] = {
        op.DepthwiseConvolution: lambda o: _depthwise(o, n_dims, seed, **common),
        op.Convolution: lambda o: _convolution(o, n_dims, seed, **common),
        op.PaddedConvolution: lambda o: _convolution(o, n_dims, seed, strides=o.stride, **common),
        op.PaddedMaxPool: lambda o: _by_dims("MaxPooling", n_dims)(o.kernel, o.stride, **common),
        op.TransposedConvolution: lambda o: _transposed(o, n_dims, seed, **common),
        op.StridedConvolution: lambda o: _strided(o, n_dims, seed, **common),
        op.MeanPool: lambda o: _by_dims("AveragePooling", n_dims)(o.factor, **common),
        op.MaxPool: lambda o: _by_dims("MaxPooling", n_dims)(o.factor, **common),
        op.PatchPool: lambda o: _patch_pool(o, inputs[0].shape[1], **common),
        op.Repeat: lambda o: _by_dims("UpSampling", n_dims)(o.factor, **common),
        op.Crop: lambda o: _by_dims("Cropping", n_dims)(o.amount, **common),
        op.Normalization: lambda o: _normalization(o, inputs[0].shape[-1], **common),
        op.Dropout: lambda o: keras.layers.Dropout(o.rate, seed=seed, **common),
        op.Softmax: lambda o: keras.layers.Softmax(**common),
    }
    several: dict[type[op.Operation], str] = {op.Concatenate: "Concatenate", op.Add: "Add", op.Multiply: "Multiply"}
    if type(operation) in several:
        return getattr(keras.layers, several[type(operation)])(**common)(inputs)
    if isinstance(operation, op.Padded):
        inputs = [_pad(operation, inputs[0], n_dims, **common)]
    if isinstance(operation, op.SqueezeExcitation):
        return _squeeze_excitation(operation, inputs[0], n_dims, seed, **common)
    if isinstance(operation, op.Activation):
        return _activation(operation, inputs[0], name=name, dtype=dtype)
    return make[type(operation)](operation)(inputs[0])


class Built(NamedTuple):
    """Two models that share their layers.

    Attributes:
        model: From images `(batch, *space, channels)` to the answers of the plan's heads, class probabilities
            `(batch, *space, classes)` as a rule; a list of these and of distances `(batch, *space, 1)` where there is a
            distance head besides.
        trainer: To a list of what the losses compare, in the order of the plan's heads.
    """

    model: keras.Model
    trainer: keras.Model


def build_patches(
    plan: Plan, shape: tuple[int | None, ...], side: int, *, name: str, precision: str = "float32", seed: int = 0
) -> Built:
    """Build the plan of a patch classifier: for one patch; for other shapes the same on every pixel at once.

    Args:
        plan: As for whole images, dilations and all.
        shape: `(y, x, channels)`; None for sizes that stay open.
        side: Of a patch.
        name: The model's name.
        precision: A Keras dtype policy.
        seed: Of the first weights.

    Returns:
        The model to use and the model to train, `(batch, *space', classes)` both.
    """
    check_shape(plan, shape)
    image = tensor = keras.Input((side, side, shape[-1]), name=IMAGE)
    (head,) = plan.heads
    by_name = {IMAGE: image}
    for layer in list(plan.layers.values())[1:]:
        operation = layer.operation
        if isinstance(operation, op.Convolution):
            operation = dataclasses.replace(operation, dilation=1)
        tensor = _build_layer(
            operation,
            [by_name[source] for source in layer.inputs],
            name=layer.name,
            n_dims=2,
            dtype="float32" if layer.name in (head.scores, head.answer) else precision,
            seed=seed,
        )
        by_name[layer.name] = tensor
    if shape[:2] == (side, side):
        scores, answer = by_name[head.scores], by_name[head.answer]
        return Built(keras.Model(image, answer, name=name), keras.Model(image, [scores], name=f"{name}_training"))
    classifier = keras.Model(image, by_name[head.scores], name=name)
    whole = keras.Input(shape, name=IMAGE)
    scores = DensePatches(classifier, name=head.scores, dtype=precision)(whole)
    answer = keras.layers.Softmax(name=head.answer, dtype="float32")(scores)
    return Built(keras.Model(whole, answer, name=name), keras.Model(whole, [scores], name=f"{name}_training"))


def check_shape(plan: Plan, shape: tuple[int | None, ...]) -> None:
    """Refuse an input shape of the wrong length or channels, or one that does not fit."""
    n_channels = plan.layers[IMAGE].n_channels
    if len(shape) != plan.n_dims + 1 or shape[-1] != n_channels:
        wanted = ", ".join(["size"] * plan.n_dims)
        raise InputError(f"the input shape must be ({wanted}, {n_channels}), but got {shape}")
    if None not in shape[:-1]:
        plan.sizes(shape[:-1])  # type: ignore[arg-type]


def build_model(
    plan: Plan, shape: tuple[int | None, ...], *, name: str, precision: str = "float32", seed: int = 0
) -> Built:
    """Build a plan's layers.

    Args:
        plan: What to build; the heads compute in float32.
        shape: `(*space, channels)`; None for sizes that stay open.
        name: The model's name.
        precision: A Keras dtype policy.
        seed: Of the first weights and of dropout.

    Returns:
        The model to use and the model to train.

    Raises:
        InputError: A shape of the wrong length or channels, or one that does not fit.
    """
    check_shape(plan, shape)
    image = keras.Input(shape, name=IMAGE)
    tensors = {IMAGE: image}
    heads = {plan.layers[head.scores].gene for head in plan.heads} | {plan.layers[h.answer].gene for h in plan.heads}
    for layer in list(plan.layers.values())[1:]:
        dtype = "float32" if layer.gene in heads else precision
        inputs = [tensors[source] for source in layer.inputs]
        tensors[layer.name] = _build_layer(
            layer.operation, inputs, name=layer.name, n_dims=plan.n_dims, dtype=dtype, seed=seed
        )
    answers = [tensors[head.answer] for head in plan.heads if not head.auxiliary]
    model = keras.Model(image, answers[0] if len(answers) == 1 else answers, name=name)
    return Built(model, keras.Model(image, [tensors[head.scores] for head in plan.heads], name=f"{name}_training"))
