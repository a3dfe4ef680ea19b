"""What a search is after: scores that should be high, costs that should be low."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from genenet.errors import InputError
from genenet.genes import NetworkRoot
from genenet.wording import known_instead

LATENCY, ENSEMBLE_AWARE = "latency_s_per_megavoxel", "ensemble_aware"
CORRECTION = "correction_min_per_megavoxel"
AGGREGATED_JACCARD, PANOPTIC = "aggregated_jaccard", "pq"

# By name: whether more is better. The first three come from the validation part; latency is measured on it, on the
# worker's machine; the time that a person would take to correct it is predicted from the errors there; an
# ensemble-aware score has on top what the network adds to the study's ensemble (`search/contribution.py`). Those of
# objects need networks that give distances. The others come from the blueprint alone.
DIRECTIONS = {
    "adjusted_rand": "maximize",
    "mean_iou": "maximize",
    "accuracy": "maximize",
    ENSEMBLE_AWARE: "maximize",
    AGGREGATED_JACCARD: "maximize",
    PANOPTIC: "maximize",
    LATENCY: "minimize",
    CORRECTION: "minimize",
    "n_parameters": "minimize",
    "n_multiply_adds_per_voxel": "minimize",
    "training_bytes": "minimize",
}

# Known only of networks that were trained for them.
MEASURED = (LATENCY, ENSEMBLE_AWARE, CORRECTION, AGGREGATED_JACCARD, PANOPTIC)

# Scores of objects, by which a study may rank its networks.
OF_OBJECTS = (AGGREGATED_JACCARD, PANOPTIC)


def check(objectives: tuple[str, ...]) -> None:
    """Refuse names that nobody knows.

    Raises:
        InputError: An unknown or a repeated objective, or none.
    """
    for name in objectives:
        if name not in DIRECTIONS:
            raise InputError(f"there is no objective `{name}`; {known_instead(name, DIRECTIONS)}")
    if not objectives or len(set(objectives)) < len(objectives):
        raise InputError(f"a study needs objectives, each once, but got {list(objectives)}")


def front(rows: Sequence[Sequence[float]], objectives: Sequence[str]) -> list[int]:
    """Which of some networks no other one beats in all objectives: the Pareto front, in the order of the first one.

    Args:
        rows: The objectives' values by network.
        objectives: Names.

    >>> front([(0.7, 10), (0.8, 30), (0.6, 20), (0.8, 40)], ["adjusted_rand", "n_parameters"])
    [1, 0]
    """
    signs = [1 if DIRECTIONS[name] == "maximize" else -1 for name in objectives]
    worth = np.array([[sign * value for sign, value in zip(signs, row, strict=True)] for row in rows])
    worth = worth.reshape(len(rows), len(objectives))
    beaten = [bool(((worth >= mine).all(1) & (worth > mine).any(1)).any()) for mine in worth]
    return sorted((place for place, lost in enumerate(beaten) if not lost), key=lambda place: -worth[place][0])


def values(objectives: tuple[str, ...], found: dict[str, Any], net: NetworkRoot, batch_size: int) -> list[float]:
    """What a sampler is told about a trial.

    Args:
        objectives: Names.
        found: Validation scores by name.
        net: The trial's blueprint.
        batch_size: Windows per training step.
    """
    cost = None if found.keys() >= set(objectives) else net.cost(batch_size=batch_size)
    return [float(found[name] if name in found else getattr(cost, name)) for name in objectives]
