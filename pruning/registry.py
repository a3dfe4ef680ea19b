"""Rules: what a kind of layer does to channels."""

from collections.abc import Callable
from typing import Any, NamedTuple

from pruning.channels import Channels, Labels, Units

# Changes a copy of a layer's configuration, given how many of some labels stay.
Configure = Callable[[dict[str, Any], Callable[[Labels], int]], None]


class Weight(NamedTuple):
    """How a layer's variable is cut.

    Attributes:
        variable: A `keras.Variable`.
        axes: Labels by axis; axes that are not named stay whole.
        reads: The axis along which the layer sums over what it reads; None where it does not.
    """

    variable: Any
    axes: dict[int, Labels]
    reads: int | None = None


class Flow(NamedTuple):
    """What a layer does to channels: what a rule gives.

    Attributes:
        outputs: The channels of each output; None where none can be removed.
        weights: How the layer's variables are cut.
        configure: Changes a copy of the layer's configuration, given how many of some labels stay.
    """

    outputs: tuple[Channels | None, ...]
    weights: tuple[Weight, ...] = ()
    configure: Configure | None = None


class Call(NamedTuple):
    """One call of a layer, as rules see it.

    Attributes:
        layer: The layer or operation.
        inputs: The channels of its inputs; None where none can be removed.
        shapes: Of its inputs, the batch first.
        output_shapes: Of its outputs.
        units: Where labels are made, united and protected.
        path: The layer's name, below the names of the models that hold it.
        constant: Whether the call was also given an array that is no input.
    """

    layer: Any
    inputs: tuple[Channels | None, ...]
    shapes: tuple[tuple[int | None, ...], ...]
    output_shapes: tuple[tuple[int | None, ...], ...]
    units: Units
    path: str
    constant: bool = False

    def protect(self, why: str) -> Flow:
        """Have everything that comes in stay; what goes out cannot be removed."""
        for channels in self.inputs:
            if channels is not None:
                self.units.protect(channels.labels, f"{self.path} {why}")
        return Flow((None,) * len(self.output_shapes))


Rule = Callable[[Call], Flow]

RULES: dict[str, Rule] = {}


def rule(*kinds: type | str) -> Callable[[Rule], Rule]:
    """Register the rule of one's own kind of layer.

    Args:
        kinds: Layer classes; names for those of Keras.

    Example:
        A layer that scales every channel by a weight of its own:

        >>> import keras
        >>> class Scale(keras.layers.Layer):
        ...     def build(self, shape):
        ...         self.scale = self.add_weight(shape=(shape[-1],))
        ...     def call(self, inputs):
        ...         return inputs * self.scale
        >>> @rule(Scale)
        ... def scale(call):
        ...     (channels,) = call.inputs
        ...     weights = () if channels is None else (Weight(call.layer.scale, {0: channels.labels}),)
        ...     return Flow((channels,), weights)
    """

    def register(function: Rule) -> Rule:
        for kind in kinds:
            RULES[kind if isinstance(kind, str) else _key(kind)] = function
        return function

    return register


def _key(kind: type) -> str:
    """A class by name; Keras' own ones by their name alone, operations apart from layers."""
    if not kind.__module__.startswith("keras."):
        return f"{kind.__module__}.{kind.__qualname__}"
    return f"ops.{kind.__name__}" if ".src.ops." in kind.__module__ else kind.__name__


def find_rule(layer: Any) -> Rule | None:
    """The rule of a layer's class, or of the class that it takes its `call` from."""
    for kind in type(layer).__mro__:
        if _key(kind) in RULES:
            return RULES[_key(kind)] if type(layer).call is kind.call else None  # type: ignore[attr-defined]
    return None
