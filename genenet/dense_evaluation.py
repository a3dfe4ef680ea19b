"""Evaluate a Keras patch classifier on every pixel at once; `genenet.patch_maps` says how."""

from collections.abc import Callable
from typing import Any

import keras

from genenet.errors import InputError
from genenet.patch_maps import Axis, Chain

POINTWISE = (
    "Activation",
    "ReLU",
    "LeakyReLU",
    "ELU",
    "Softmax",
    "BatchNormalization",
    "Dropout",
    "SpatialDropout2D",
    "Rescaling",
)


def chain_of(model: keras.Model) -> list[Any]:
    """A model's layers one after the other, models within it unrolled.

    Raises:
        InputError: They do not stand in a chain.
    """
    found: list[Any] = []
    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        if isinstance(layer, keras.Model):
            found += chain_of(layer)
        elif isinstance(layer.input, list) or len(layer._inbound_nodes) != 1 or len(layer._outbound_nodes) > 1:
            raise InputError(f"{layer.name} does not stand in a chain of layers; dense evaluation needs one")
        else:
            found.append(layer)
    return found


def _check(layer: Any, flat: bool) -> None:
    """Refuse what cannot be evaluated densely."""
    kind = type(layer).__name__
    if kind == "Conv2D" and not flat:
        if layer.padding != "valid" or layer.groups != 1 or tuple(layer.dilation_rate) != (1, 1):
            raise InputError(f"{layer.name} has padding, groups or dilation; dense evaluation takes plain convolutions")
        if tuple(layer.strides) != (1, 1):
            raise InputError(f"{layer.name} has a stride; dense evaluation takes strides in pools only")
    elif kind not in ("MaxPooling2D", "AveragePooling2D", "Flatten", "Dense", *POINTWISE) or (kind == "Dense") > flat:
        raise InputError(
            f"{layer.name}, a {kind}, cannot be evaluated densely; what can is a chain of convolutions without "
            "padding, pools, and layers that work on each value by itself, then a Flatten and dense layers"
        )
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        raise InputError(f"{layer.name} has channels first; dense evaluation takes channels last")


@keras.saving.register_keras_serializable("genenet")
class DensePatches(keras.layers.Layer):
    """A patch classifier on every pixel; see `dense`.

    Args:
        classifier: From patches of one size to class probabilities.
    """

    def __init__(self, classifier: keras.Model, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if len(classifier.inputs) != 1 or len(classifier.outputs) != 1 or None in classifier.inputs[0].shape[1:]:
            raise InputError(f"{classifier.name} must read patches of one fixed size, `(height, width, channels)`")
        if len(classifier.inputs[0].shape) != 4:
            raise InputError(f"{classifier.name} must read 2-D patches, `(height, width, channels)`")
        self.classifier = classifier
        _, self.height, self.width, _ = classifier.inputs[0].shape
        flat = False
        for layer in chain_of(classifier):
            flat = flat or isinstance(layer, keras.layers.Flatten)
            _check(layer, flat)
        chain = self._chain()
        if (chain.rows.size, chain.columns.size) != (1, 1):
            sizes = f"{chain.rows.size}x{chain.columns.size}"
            raise InputError(f"{classifier.name} gives {sizes} answers per patch, not one")

    def _chain(self) -> Chain:
        """All layers."""
        chain = Chain(Axis(self.height), Axis(self.width))
        for layer in chain_of(self.classifier):
            kind = type(layer).__name__
            if kind == "Conv2D":
                chain.convolve(layer.kernel, layer.bias if layer.use_bias else None)
                chain.pointwise(layer.activation)
            elif kind == "Dense":
                rows, columns = chain.rows.size, chain.columns.size
                n_in, n_out = layer.kernel.shape
                kernel = keras.ops.reshape(layer.kernel, (rows, columns, n_in // (rows * columns), n_out))
                chain.convolve(kernel, layer.bias if layer.use_bias else None)
                chain.pointwise(layer.activation)
            elif kind in ("MaxPooling2D", "AveragePooling2D"):
                axes = list(zip((chain.rows, chain.columns), layer.pool_size, layer.strides, strict=True))
                cut = [layer.padding == "same" and _is_cut(layer, *axis) for axis in axes]
                chain.pool(layer.pool_size, layer.strides, largest=kind == "MaxPooling2D", cut=cut)
            elif kind != "Flatten":
                chain.pointwise(_as_function(layer))
        return chain

    def call(self, inputs: Any) -> Any:
        """Images to class probabilities; see `dense`."""
        return self._chain().run(inputs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """`(batch, H - height + 1, W - width + 1, classes)`."""
        n, height, width, _ = input_shape
        sizes = [
            None if size is None else size - patch + 1 for size, patch in ((height, self.height), (width, self.width))
        ]
        return (n, *sizes, self.classifier.outputs[0].shape[-1])

    def get_config(self) -> dict[str, Any]:
        """With the classifier."""
        return {**super().get_config(), "classifier": keras.saving.serialize_keras_object(self.classifier)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "DensePatches":
        """From `get_config`."""
        return cls(keras.saving.deserialize_keras_object(config.pop("classifier")), **config)


def _as_function(layer: Any) -> Callable[[Any], Any]:
    """A layer that keeps the precision of what it is given."""
    if not layer.weights and "Dropout" not in type(layer).__name__:
        function: Callable[[Any], Any] = layer.call
        return function
    return lambda x: keras.ops.cast(layer(x), x.dtype)


def _is_cut(layer: Any, axis: Axis, kernel: int, stride: int) -> bool:
    """Whether the last window of a padded pool is cut; refuses one whose first window is."""
    missing = max((-(-axis.size // stride) - 1) * stride + kernel - axis.size, 0)
    if missing > 1 or missing and type(layer).__name__ == "AveragePooling2D":
        raise InputError(
            f"{layer.name} pads {missing} positions around {axis.size}; dense evaluation takes maxima whose last "
            "window alone is cut, by one position"
        )
    return missing == 1


def dense(classifier: keras.Model) -> keras.Model:
    """Evaluate a patch classifier on every pixel at once.

    Args:
        classifier: From patches `(batch, height, width, channels)` of one size to class probabilities
            `(batch, classes)`: convolutions without padding, pools, and layers that work on each value by itself, then
            a flattening and dense layers. Max pools may have padding `same` where that cuts the last window alone.

    Returns:
        A model from images `(batch, H, W, channels)`, of any size that holds a patch, to class probabilities
        `(batch, H - height + 1, W - width + 1, classes)`: those of the patch that begins at each pixel, up to rounding.

    Raises:
        InputError: A layer that cannot be evaluated this way, by name.
    """
    image = keras.Input((None, None, classifier.inputs[0].shape[-1]), name="image")
    return keras.Model(image, DensePatches(classifier, name="patches")(image), name=f"dense_{classifier.name}")
