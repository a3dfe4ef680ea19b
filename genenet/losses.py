"""What training minimises."""

import keras


def squared_error() -> keras.losses.Loss:
    """Mean squared error of distances `(batch, *space, 1)`; `sample_weight` `(batch, *space)` leaves voxels out."""
    return keras.losses.MeanSquaredError(reduction="sum_over_batch_size")


def cross_entropy() -> keras.losses.Loss:
    """Cross-entropy of class scores `(batch, *space, classes)` against indices `(batch, *space)`.

    Averaged over voxels; `sample_weight` `(batch, *space)` weighs them, 0 leaves a voxel out. The blueprint's l1 and l2
    penalties are added by the layers themselves (Guay et al. 2018, section 2.1).
    """
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum_over_batch_size")
