"""How much each voxel counts in the loss."""

from collections.abc import Sequence

import numpy as np

from genenet.label_table import UNLABELLED


def class_weights(counts: Sequence[int], *, balance: float = 1.0, floor: float = 0.01) -> np.ndarray:
    """Weights from inverse class frequency.

    The rarest class weighs 1, others less by `frequency**balance`, none less than the floor (docs/facts.md, G15); then
    all are scaled so that a voxel weighs 1 on average.

    Args:
        counts: Labelled voxels per class, all positive.
        balance: 1 for the inverse frequency, 0 for equal weights, between them for less than full balance.
        floor: The least weight, relative to the rarest class, 0 to 1.

    Returns:
        `(256,)` float32: weights by class index, 0 for UNLABELLED and for indices that no class has.

    >>> [round(float(weight), 3) for weight in class_weights([900, 100])[:3]]
    [0.556, 5.0, 0.0]
    """
    frequency = np.asarray(counts, np.float64) / sum(counts)
    weights = np.maximum(floor, (frequency.min() / frequency) ** balance)
    table = np.zeros(256, np.float32)
    table[: len(weights)] = weights / np.sum(weights * frequency)
    return table


def boundary_weights(
    labels: np.ndarray, *, maximum: float = 25.0, steps: int = 50, coefficient: float = 0.2, decay: float = 0.98
) -> np.ndarray:
    """Weights that diffuse from the boundaries between classes (docs/facts.md, G15).

    Boundary voxels begin at 1, the others at 0; heat diffuses for `steps` explicit steps while it decays; 0.2 of the
    largest is subtracted, and the rest scaled to `maximum`.

    Args:
        labels: Class indices `(y, x)`; boundaries to UNLABELLED do not count.
        maximum: The weight added at the strongest boundary.
        steps: Steps of diffusion; one spreads by one voxel.
        coefficient: Diffusion per step, below 0.25 for stability.
        decay: Factor per step.

    Returns:
        `(y, x)` float32, 0 to `maximum`, to be added to 1.
    """
    edge = np.zeros(labels.shape, bool)
    for axis in range(labels.ndim):
        low, high = (
            np.take(labels, range(*ends), axis) for ends in ((0, -1 + labels.shape[axis]), (1, labels.shape[axis]))
        )
        differs = (low != high) & (low != UNLABELLED) & (high != UNLABELLED)
        pad = [(0, 0)] * labels.ndim
        pad[axis] = (0, 1)
        edge |= np.pad(differs, pad)
        pad[axis] = (1, 0)
        edge |= np.pad(differs, pad)
    heat = edge.astype(np.float32)
    for _ in range(steps):
        padded = np.pad(heat, 1, mode="edge")
        around = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
        heat = np.float32(decay) * (heat + np.float32(coefficient) * (around - 4 * heat))
    heat = np.maximum(heat - np.float32(0.2) * heat.max(), 0)
    return heat * np.float32(maximum / heat.max()) if heat.max() > 0 else heat
