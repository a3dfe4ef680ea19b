"""Mini-batches drawn at random, and the loss on them."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from pruning.errors import PruningError

# A loss as Keras takes it: a name, a `keras.losses.Loss`, or a function of labels and predictions.
Loss = str | Callable[..., Any]


class Batch(NamedTuple):
    """A mini-batch.

    Attributes:
        images: What the model reads, one array per input.
        labels: What the loss compares, one array per output.
        weights: Of the labels, one array per output; None where all count alike.
        key: The same for the same batch; None where a batch comes but once.
    """

    images: list[np.ndarray]
    labels: list[np.ndarray]
    weights: list[np.ndarray] | None
    key: int | None


def read_batch(content: Any, key: int | None = None) -> Batch:
    """Read `(x, y)` or `(x, y, sample_weight)`.

    Raises:
        PruningError: Anything else.
    """
    if not isinstance(content, (tuple, list)) or len(content) not in (2, 3):
        raise PruningError(f"a batch must be (x, y) or (x, y, sample_weight), but got {type(content).__name__}")
    parts = [[np.asarray(array) for array in keras.tree.flatten(part)] for part in content]
    return Batch(parts[0], parts[1], parts[2] if len(parts) == 3 else None, key)


class Draws:
    """Mini-batches from data, new ones with every draw as far as there are more.

    Args:
        data: A sequence of batches (a list, a `keras.utils.PyDataset`), from which batches are drawn at random; or
            another iterable, whose next batches are taken, from its start again at its end.
        n_batches: How many are drawn at once.
        seed: Of the draws.

    Raises:
        PruningError: The data gives no batches.
    """

    def __init__(self, data: Any, n_batches: int, seed: int = 0) -> None:
        if n_batches < 1:
            raise PruningError(f"`n_batches` must be at least 1, but got {n_batches}")
        self._data = data
        self._n_batches = n_batches
        self._rng = np.random.default_rng(seed)
        self._is_sequence = hasattr(data, "__getitem__") and hasattr(data, "__len__")
        if self._is_sequence and not _length(data):
            raise PruningError("the data gives no batches")
        self._next: Iterator[Any] = iter(())

    def draw(self) -> list[Batch]:
        """So many batches; all there are where these are fewer."""
        if not self._is_sequence:
            return [read_batch(self._take()) for _ in range(self._n_batches)]
        length = _length(self._data)
        places = self._rng.permutation(length)[: self._n_batches]
        # A list gives the same batch at the same place; other sequences may augment.
        return [
            read_batch(self._data[int(place)], int(place) if isinstance(self._data, (list, tuple)) else None)
            for place in sorted(places)
        ]

    def _take(self) -> Any:
        for content in self._next:
            return content
        self._next = iter(self._data)
        for content in self._next:
            return content
        raise PruningError("the data gives no batches")


def _length(data: Any) -> int:
    n_batches = getattr(data, "num_batches", None)
    return int(len(data) if n_batches is None else n_batches)


class Objective:
    """A loss over all outputs of a model.

    Args:
        loss: As Keras takes it, for all outputs alike; or a sequence of one per output, None where an output has none.
        loss_weights: One per output; 1 where left out.
    """

    def __init__(self, loss: Loss | Sequence[Loss | None], loss_weights: Sequence[float] | None = None) -> None:
        self._losses = list(loss) if isinstance(loss, (list, tuple)) else loss
        self._weights = loss_weights

    def functions(self, n_outputs: int) -> list[Callable[..., Any] | None]:
        """One loss per output.

        Raises:
            PruningError: There are more or fewer losses than outputs.
        """
        each = self._losses if isinstance(self._losses, list) else [self._losses] * n_outputs
        if len(each) != n_outputs or self._weights is not None and len(self._weights) != n_outputs:
            raise PruningError(f"the model has {n_outputs} outputs, but {len(each)} losses or other weights were given")
        return [None if loss is None else keras.losses.get(loss) for loss in each]

    def total(self, labels: Sequence[Any], weights: Sequence[Any] | None, predictions: Sequence[Any]) -> Any:
        """The weighed sum over outputs: a scalar tensor."""
        total: Any = 0.0
        for index, function in enumerate(self.functions(len(predictions))):
            if function is None:
                continue
            if weights is None:
                value = function(labels[index], predictions[index])
            elif isinstance(function, keras.losses.Loss):
                value = function(labels[index], predictions[index], sample_weight=weights[index])
            else:
                values = function(labels[index], predictions[index])
                value = values * keras.ops.cast(weights[index], values.dtype)
            scale = 1.0 if self._weights is None else self._weights[index]
            total = total + scale * keras.ops.mean(keras.ops.cast(value, "float32"))
        return total


def check_loss(value: float, what: str) -> float:
    """A loss that is a number.

    Raises:
        PruningError: It is not.
    """
    if not math.isfinite(value):
        raise PruningError(f"the loss {what} is {value}; check the data, the loss and the model's weights")
    return value
