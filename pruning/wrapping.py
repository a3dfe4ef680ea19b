"""Layers that are pruned while they train: the way of working of tensorflow_model_optimization, on Keras 3."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from pruning.errors import PruningError, PruningWarning
from pruning.masks import Pattern, blocks, n_of_m, single
from pruning.schedules import ConstantSparsity, PruningSchedule
from pruning.zeros import without_zeros

# What is pruned of Keras' own layers, by class; a dot leads into the cell of a recurrent layer.
PRUNABLE: dict[str, tuple[str, ...]] = {
    **{f"Conv{n}D{kind}": ("kernel",) for n in (1, 2, 3) for kind in ("", "Transpose")},
    **{f"SeparableConv{n}D": ("pointwise_kernel",) for n in (1, 2)},
    "Dense": ("kernel",),
    "Embedding": ("embeddings",),
    **dict.fromkeys(("SimpleRNN", "GRU", "LSTM"), ("cell.kernel", "cell.recurrent_kernel")),
}

# Layers of Keras with few weights, left as they are without a word.
SMALL = ("Depthwise", "Normalization", "PReLU")


class PrunableLayer:
    """What a layer of one's own inherits from besides `keras.layers.Layer` to say what may be pruned."""

    def get_prunable_weights(self) -> Sequence[Any]:
        """The variables whose smallest numbers go."""
        raise NotImplementedError


def prunable_weights(layer: Any) -> list[Any] | None:
    """The variables of a built layer that are pruned; None where that is not known."""
    if hasattr(layer, "get_prunable_weights"):
        return list(layer.get_prunable_weights())
    names = _names(layer)
    if names is None:
        return None
    found = []
    for name in names:
        owner = layer
        for part in name.split("."):
            owner = getattr(owner, part)
        found.append(owner)
    return found


def _names(layer: Any) -> tuple[str, ...] | None:
    is_of_keras = type(layer).__module__.partition(".")[0] == "keras"
    return PRUNABLE.get(type(layer).__name__) if is_of_keras else None


def is_prunable(layer: Any) -> bool:
    """Whether it is known what of a layer is pruned."""
    return hasattr(layer, "get_prunable_weights") or _names(layer) is not None


@keras.saving.register_keras_serializable("pruning")
class PruneLowMagnitude(keras.layers.Wrapper):
    """A layer whose smallest weights are 0, more of them as training goes on.

    Args:
        layer: What is pruned.
        pruning_schedule: When, and to what sparsity; half from the first step on if left out.
        block_size: Inputs by outputs that go together.
        block_pooling_type: What counts of a block: `AVG` or `MAX`.
        sparsity_m_by_n: `(m, n)`: m of every n inputs in a row go, whatever the schedule's sparsity.
        **kwargs: As for other layers.

    Attributes:
        masks: One variable per pruned weight, 1 where it stays.
        pruning_step: The step at which masks were worked out last; -1 if never.

    Raises:
        PruningError: It is not known what of the layer may be pruned, or options exclude each other.
    """

    def __init__(
        self,
        layer: Any,
        pruning_schedule: PruningSchedule | dict[str, Any] | None = None,
        block_size: Sequence[int] = (1, 1),
        block_pooling_type: str = "AVG",
        sparsity_m_by_n: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        if not is_prunable(layer):
            raise PruningError(
                f"it is not known which weights of {layer.name}, a {type(layer).__name__}, may be pruned; give it a "
                "method `get_prunable_weights` that returns them"
            )
        super().__init__(layer, **{"name": f"prune_low_magnitude_{layer.name}", **kwargs})
        if isinstance(pruning_schedule, dict):
            pruning_schedule = keras.saving.deserialize_keras_object(pruning_schedule)
        schedule: Any = ConstantSparsity(0.5, 0) if pruning_schedule is None else pruning_schedule
        self.pruning_schedule: PruningSchedule = schedule
        self.block_size = tuple(block_size)
        self.block_pooling_type = block_pooling_type
        self.sparsity_m_by_n = None if sparsity_m_by_n is None else tuple(sparsity_m_by_n)
        self.masks: list[Any] = []
        self._pattern = self._make_pattern()

    def _make_pattern(self) -> Pattern:
        if self.block_pooling_type not in ("AVG", "MAX"):
            raise PruningError(f"`block_pooling_type` must be AVG or MAX, but got {self.block_pooling_type!r}")
        if self.sparsity_m_by_n is not None:
            if self.block_size != (1, 1):
                raise PruningError("give either `block_size` or `sparsity_m_by_n`")
            n_zeros, together = self.sparsity_m_by_n
            return n_of_m(together - n_zeros, together)
        if self.block_size == (1, 1):
            return single
        return blocks(*self.block_size, pool="mean" if self.block_pooling_type == "AVG" else "max")

    def build(self, input_shape: Any = None) -> None:
        """Build the layer, and a mask per weight that is pruned."""
        if not self.layer.built:
            self.layer.build(input_shape)
            self.layer.built = True
        self.masks = [
            self.add_weight(shape=weight.shape, initializer="ones", trainable=False, name=f"mask{index}")
            for index, weight in enumerate(self.pruned)
        ]
        self.pruning_step = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(-1), dtype="int32", trainable=False, name="pruning_step"
        )
        self.built = True

    @property
    def pruned(self) -> list[Any]:
        """The variables that are pruned."""
        return prunable_weights(self.layer) or []

    def call(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """As the layer does; its weights have the zeros in them."""
        return self.layer(inputs, *args, **kwargs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """As the layer's."""
        return self.layer.compute_output_shape(input_shape)

    def update(self, step: int, sparsity: float) -> None:
        """Work masks out anew from the weights as they are, and write the zeros."""
        for weight, mask in zip(self.pruned, self.masks, strict=True):
            values = keras.ops.convert_to_numpy(weight)
            chosen = self._pattern(values.reshape(-1, values.shape[-1]) if values.ndim == 1 else values, 1 - sparsity)
            mask.assign(chosen.reshape(values.shape).astype("float32"))
        self.pruning_step.assign(step)
        self.write_zeros()

    def write_zeros(self) -> None:
        """Set what is masked to 0."""
        for weight, mask in zip(self.pruned, self.masks, strict=True):
            weight.assign(keras.ops.multiply(weight, keras.ops.cast(mask, weight.dtype)))

    def get_prunable_weights(self) -> list[Any]:
        """The variables that are pruned."""
        return self.pruned

    def around(self, layer: Any) -> "PruneLowMagnitude":
        """A wrapper with the same options around another layer."""
        return PruneLowMagnitude(
            layer, self.pruning_schedule, self.block_size, self.block_pooling_type, self.sparsity_m_by_n, name=self.name
        )

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {
            **super().get_config(),
            "pruning_schedule": keras.saving.serialize_keras_object(self.pruning_schedule),
            "block_size": list(self.block_size),
            "block_pooling_type": self.block_pooling_type,
            "sparsity_m_by_n": None if self.sparsity_m_by_n is None else list(self.sparsity_m_by_n),
        }


def prune_low_magnitude(to_prune: Any, pruning_schedule: PruningSchedule | None = None, **options: Any) -> Any:
    """Wrap layers so that their smallest weights go while they train.

    Train with the callback `UpdatePruningStep`, then take the wrappers off with `strip_pruning`.

    Args:
        to_prune: A layer; a functional or Sequential model, which stays as it is; or a list of layers.
        pruning_schedule: When, and to what sparsity.
        **options: As for `PruneLowMagnitude`.

    Returns:
        A wrapped layer, a model with wrapped layers and the same weights, or a list.

    Warns:
        PruningWarning: The model has layers of which it is not known what may be pruned; they are left as they are.

    Raises:
        PruningError: Nothing of it can be pruned.
    """
    options = {"pruning_schedule": pruning_schedule, **options}
    if isinstance(to_prune, keras.Model):
        return _wrapped(to_prune, options)
    if isinstance(to_prune, (list, tuple)):
        return [_wrap_one(layer, options) for layer in to_prune]
    if isinstance(to_prune, keras.layers.Layer):
        return _wrap_one(to_prune, options)
    kind = type(to_prune).__name__
    raise PruningError(f"`to_prune` must be a layer, a model, or a list of layers, but got {kind}")


def _wrap_one(layer: Any, options: dict[str, Any]) -> Any:
    """Layers without weights have nothing to prune."""
    if isinstance(layer, PruneLowMagnitude) or not is_prunable(layer) and layer.built and not layer.weights:
        return layer
    return PruneLowMagnitude(layer, **options)


def _wrapped(model: keras.Model, options: dict[str, Any]) -> keras.Model:
    left: list[str] = []

    def change(layer: Any, new: Any) -> Any:
        if isinstance(layer, PruneLowMagnitude):
            return layer.around(new)
        if is_prunable(layer):
            return PruneLowMagnitude(new, **options)
        if any(len(weight.shape) > 1 for weight in layer.trainable_weights) and not _is_known_plain(layer):
            left.append(f"{layer.name} ({type(layer).__name__})")
        return new

    wrapped = _rebuilt(model, change)
    if left:
        warnings.warn(
            f"{', '.join(left)} are not pruned: it is not known which of their weights may be; a method "
            "`get_prunable_weights` says it",
            PruningWarning,
            stacklevel=3,
        )
    if not any(True for _ in wrappers(wrapped)):
        raise PruningError(f"{model.name} has no layer that could be pruned")
    return wrapped


def _is_known_plain(layer: Any) -> bool:
    """Layers of Keras that are left as they are on purpose."""
    return type(layer).__module__.partition(".")[0] == "keras" and any(part in type(layer).__name__ for part in SMALL)


def _rebuilt(model: keras.Model, change: Callable[[Any, Any], Any]) -> keras.Model:
    """A copy with the same weights whose layers were changed, `change(layer, copy)`; of a wrapped one a bare copy."""
    from pruning.graph import functional_graph

    functional_graph(model)
    pairs: list[tuple[Any, Any]] = []

    def clone(layer: Any) -> Any:
        if isinstance(layer, keras.Model):
            return keras.models.clone_model(layer, clone_function=clone)
        if not isinstance(layer, keras.layers.Layer):
            return layer
        bare = layer.layer if isinstance(layer, PruneLowMagnitude) else layer
        changed = change(layer, type(bare).from_config(bare.get_config()))
        pairs.append((layer, changed))
        return changed

    copy = keras.models.clone_model(model, clone_function=clone)
    for old, new in pairs:
        inner = new.layer if isinstance(new, PruneLowMagnitude) and not isinstance(old, PruneLowMagnitude) else new
        old = old.layer if isinstance(old, PruneLowMagnitude) and not isinstance(new, PruneLowMagnitude) else old
        for mine, other in zip(old.variables, inner.variables, strict=True):
            other.assign(mine)
    return copy


def wrappers(model: Any) -> Iterator[PruneLowMagnitude]:
    """The wrapped layers of a model, those of models within it too."""
    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, PruneLowMagnitude):
            yield layer


def strip_pruning(model: keras.Model, shrink: bool = False) -> keras.Model:
    """Take the wrappers off.

    Args:
        model: As from `prune_low_magnitude`; it stays as it is.
        shrink: Remove channels that nothing reads any more, too.

    Returns:
        A model of plain layers with the zeros in their weights.

    Warns:
        PruningWarning: Nothing was ever pruned.

    Raises:
        PruningError: The model is no functional or Sequential one.
    """
    found = list(wrappers(model))
    if found and all(int(wrapper.pruning_step) < 0 for wrapper in found):
        warnings.warn(
            f"nothing of {model.name} was pruned: train it with the callback UpdatePruningStep()",
            PruningWarning,
            stacklevel=2,
        )
    bare: list[tuple[PruneLowMagnitude, Any]] = []

    def change(layer: Any, new: Any) -> Any:
        if isinstance(layer, PruneLowMagnitude):
            bare.append((layer, new))
        return new

    plain = _rebuilt(model, change)
    for wrapper, layer in bare:
        for weight, mask in zip(prunable_weights(layer) or [], wrapper.masks, strict=True):
            weight.assign(keras.ops.multiply(weight, keras.ops.cast(mask, weight.dtype)))
    return without_zeros(plain) if shrink else plain


def prune_scope() -> Any:
    """A scope in which models with wrapped layers are loaded; they load without one too."""
    return keras.saving.custom_object_scope({"PruneLowMagnitude": PruneLowMagnitude})


def sparsity_of(wrapper: PruneLowMagnitude) -> float:
    """The share of a wrapper's pruned weights that are masked."""
    masks = [keras.ops.convert_to_numpy(mask) for mask in wrapper.masks]
    return 1 - float(sum(mask.sum() for mask in masks)) / max(sum(mask.size for mask in masks), 1)


def threshold_of(wrapper: PruneLowMagnitude) -> float:
    """The smallest magnitude that stays; 0 where nothing does."""
    left = [
        np.abs(keras.ops.convert_to_numpy(weight))[keras.ops.convert_to_numpy(mask) > 0]
        for weight, mask in zip(wrapper.pruned, wrapper.masks, strict=True)
    ]
    return min((float(values.min()) for values in left if values.size), default=0.0)
