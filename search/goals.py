"""What a search is after: scores that should be high, costs that should be low."""

from typing import Any

from genenet.errors import InputError
from genenet.genes import NetworkRoot
from genenet.wording import known_instead

# By name: whether more is better. The first three come from the validation part, the others from the blueprint alone.
DIRECTIONS = {
    "adjusted_rand": "maximize",
    "mean_iou": "maximize",
    "accuracy": "maximize",
    "n_parameters": "minimize",
    "n_multiply_adds_per_voxel": "minimize",
    "training_bytes": "minimize",
}


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
