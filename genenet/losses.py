"""What training minimises."""

import keras


def cross_entropy() -> keras.losses.Loss:
    """Cross-entropy of class scores `(batch, *space, classes)` against indices `(batch, *space)`.

    Averaged over voxels; `sample_weight` `(batch, *space)` weighs them, 0 leaves a voxel out. The blueprint's l1 and l2
    penalties are added by the layers themselves (Guay et al. 2018, section 2.1).
    """
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum_over_batch_size")
