"""What training minimises."""

from collections.abc import Callable
from typing import Any

import keras

# Keeps Dice's ratio defined where a batch holds no foreground and none is predicted.
SMOOTH = 1.0


def squared_error() -> keras.losses.Loss:
    """Mean squared error of distances `(batch, *space, 1)`; `sample_weight` `(batch, *space)` leaves voxels out."""
    return keras.losses.MeanSquaredError(reduction="sum_over_batch_size")


def cross_entropy() -> keras.losses.Loss:
    """Cross-entropy of class scores `(batch, *space, classes)` against indices `(batch, *space)`.

    Averaged over voxels; `sample_weight` `(batch, *space)` weighs them, 0 leaves a voxel out. The blueprint's l1 and l2
    penalties are added by the layers themselves (Guay et al. 2018, section 2.1).
    """
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum_over_batch_size")


class DiceLoss(keras.losses.Loss):
    """1 less the Dice coefficient of foreground over a whole batch, from 0 to 1 (Milletari et al. 2016).

    Args:
        from_logits: Whether predictions are scores before the sigmoid.
        name: Of the loss.
    """

    def __init__(self, from_logits: bool = True, name: str = "dice") -> None:
        super().__init__(name=name, reduction=None, dtype="float32")
        self.from_logits = from_logits

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The loss of a batch, a scalar.

        Args:
            y_true: Class indices `(batch, *space)`; foreground is what is above 0.
            y_pred: Scores or shares of foreground `(batch, *space, 1)`.
            sample_weight: `(batch, *space)`; 0 leaves a voxel out.
        """
        ops = keras.ops
        share = ops.cast(ops.squeeze(y_pred, -1), "float32")
        share = ops.sigmoid(share) if self.from_logits else share
        truth = ops.cast(ops.reshape(ops.convert_to_tensor(y_true), ops.shape(share)) > 0, "float32")
        weight = ops.ones_like(share) if sample_weight is None else ops.cast(sample_weight, "float32")
        both = ops.sum(weight * share * truth)
        return 1 - (2 * both + SMOOTH) / (ops.sum(weight * share) + ops.sum(weight * truth) + SMOOTH)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The same, without weights."""
        return self(y_true, y_pred)

    def get_config(self) -> dict[str, Any]:
        """What makes another one like it."""
        return {"from_logits": self.from_logits, "name": self.name}


# By kind of head, as a plan names it: what its scores are compared by.
LOSSES: dict[str, Callable[[], keras.losses.Loss]] = {
    "classes": cross_entropy,
    "foreground": DiceLoss,
    "distance": squared_error,
}
