"""What a model costs: parameters, numbers that are not 0, multiply-adds, activations."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from pruning.errors import PruningError
from pruning.graph import functional_graph

Shape = tuple[int | None, ...]

# By kind of layer: the names of its kernels, and whether every number of them is used once per voxel of what the layer
# writes (0) or of what it reads (1).
KERNELS: dict[str, tuple[tuple[str, ...], int]] = {
    **{f"Conv{n}D": (("kernel",), 0) for n in (1, 2, 3)},
    **{f"Conv{n}DTranspose": (("kernel",), 1) for n in (1, 2, 3)},
    **{f"DepthwiseConv{n}D": (("kernel",), 0) for n in (1, 2)},
    **{f"SeparableConv{n}D": (("depthwise_kernel", "pointwise_kernel"), 0) for n in (1, 2)},
    "Dense": (("kernel",), 0),
}


class Count(NamedTuple):
    """What a model, or one of its layers, costs for one input.

    Attributes:
        n_parameters: Numbers in trainable variables.
        n_nonzero: Those that are not 0.
        n_multiply_adds: Of one forward pass, in convolutions and dense layers; one that is called twice counts twice.
        n_nonzero_multiply_adds: Those whose weight is not 0.
        n_activations: Numbers that layers write, all of them together.
    """

    n_parameters: int = 0
    n_nonzero: int = 0
    n_multiply_adds: int = 0
    n_nonzero_multiply_adds: int = 0
    n_activations: int = 0

    def plus(self, other: "Count") -> "Count":
        """Both together."""
        return Count(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


def compression_ratio(before: Count, after: Count) -> float:
    """Parameters before over parameters after that are not 0 (Blalock et al. 2020); 1 where nothing went."""
    return before.n_parameters / max(after.n_nonzero, 1)


def theoretical_speedup(before: Count, after: Count) -> float:
    """Multiply-adds before over those after whose weight is not 0 (Blalock et al. 2020); 1 where nothing went."""
    return before.n_multiply_adds / max(after.n_nonzero_multiply_adds, 1)


def count(model: keras.Model, shape: Sequence[int] | None = None) -> Count:
    """Count what a model costs.

    Args:
        model: A built functional or Sequential model.
        shape: Of one input, without the batch; needed where the model's own sizes are open, and for models with one
            input only.

    Raises:
        PruningError: Sizes are open and none were given, or the model's graph cannot be read.

    Example:
        >>> image = keras.Input((8, 8, 1))
        >>> model = keras.Model(image, keras.layers.Conv2D(2, 3)(image))
        >>> count(model)
        Count(n_parameters=20, n_nonzero=18, n_multiply_adds=648, n_nonzero_multiply_adds=648, n_activations=72)
    """
    total = Count()
    for layer in count_layers(model, shape).values():
        total = total.plus(layer)
    return total


def count_layers(model: keras.Model, shape: Sequence[int] | None = None) -> dict[str, Count]:
    """The same by layer, in the order of the graph; by path below the model for models within it."""
    counts: dict[str, Count] = {}
    counted: set[int] = set()
    for path, layer, read, written in _calls(model, shape):
        n_parameters = n_nonzero = 0
        for variable in getattr(layer, "trainable_variables", []):
            if id(variable) not in counted:
                counted.add(id(variable))
                n_parameters += math.prod(variable.shape)
                n_nonzero += _nonzero(variable)
        n_all = n_kept = 0
        names, place = KERNELS.get(type(layer).__name__, ((), 0))
        for name in names:
            kernel = getattr(layer, name)
            uses = _n_voxels(layer, (written, read)[place][0])
            n_all += uses * math.prod(kernel.shape)
            n_kept += uses * _nonzero(kernel)
        n_written = sum(math.prod([size or 1 for size in each[1:]]) for each in written)
        one = Count(n_parameters, n_nonzero, n_all, n_kept, n_written)
        counts[path] = counts.get(path, Count()).plus(one)
    return counts


def _nonzero(variable: Any) -> int:
    return int(np.count_nonzero(keras.ops.convert_to_numpy(variable)))


def _n_voxels(layer: Any, shape: Shape) -> int:
    """Voxels of a tensor, without batch and channels."""
    axis = 1 if getattr(layer, "data_format", "channels_last") == "channels_first" else len(shape) - 1
    return math.prod([size or 1 for place, size in enumerate(shape) if place not in (0, axis)])


def _calls(
    model: keras.Model, shape: Sequence[int] | None
) -> Iterator[tuple[str, Any, tuple[Shape, ...], tuple[Shape, ...]]]:
    """Every call of a layer: path, layer, shapes that it reads and writes."""
    graph = functional_graph(model)
    shapes = [tensor.shape if shape is None else (None, *shape) for tensor in graph.inputs]
    if shape is not None and len(shapes) > 1:
        raise PruningError(f"`shape` is of one input, but {model.name} has {len(shapes)}; build it with sizes instead")
    if any(None in each[1:] for each in shapes):
        raise PruningError(
            f"{model.name} leaves sizes open: {shapes}; give the shape of one input, `shape=(256, 256, 1)`"
        )
    found: list[tuple[str, Any, tuple[Shape, ...], tuple[Shape, ...]]] = []
    tensors = [keras.KerasTensor((1, *each[1:]), t.dtype) for each, t in zip(shapes, graph.inputs, strict=True)]
    _follow(graph, tensors, "", lambda *call: found.append(call))
    yield from found


def _follow(graph: Any, tensors: list[Any], above: str, note: Callable[..., None]) -> Any:
    """Run shapes through a model's graph, and through those of models within it."""

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        given = [tensor for tensor in keras.tree.flatten((args, kwargs)) if isinstance(tensor, keras.KerasTensor)]
        if isinstance(layer, keras.Model):
            return _follow(functional_graph(layer), given, f"{above}{layer.name}/", note)
        out = layer.compute_output_spec(*args, **kwargs)
        written = tuple(tensor.shape for tensor in keras.tree.flatten(out))
        note(f"{above}{layer.name}", layer, tuple(tensor.shape for tensor in given), written)
        return out

    return graph._run_through_graph(tensors, call_fn=call)
