"""Which whole channels go: by norms, by a first-order estimate of the loss, from the largest layer, or at random."""

import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from pruning.batches import Draws, Loss, Objective
from pruning.cut import Cut
from pruning.errors import PruningError
from pruning.flops import count_layers
from pruning.graph import Graph, Seen
from pruning.loss_based import Remover, free_units
from pruning.ordering import keep_without
from pruning.prune_by_loss import bottom_up
from pruning.shrink import masked
from pruning.target import Costs, Goal, Target

# From the weights that make a channel, one row per channel of a layer, to a score; the lowest go first.
Norm = Callable[[np.ndarray], np.ndarray]


def l1(rows: np.ndarray) -> np.ndarray:
    """Sums of magnitudes (Li et al. 2017)."""
    return np.abs(rows).sum(1)


def l2(rows: np.ndarray) -> np.ndarray:
    """Euclidean norms."""
    return np.sqrt((rows**2).sum(1))


def geometric_median(rows: np.ndarray) -> np.ndarray:
    """Sums of distances to the layer's other channels; others make up for one in their midst (He et al. 2019)."""
    squares = (rows**2).sum(1)
    distances = squares[:, None] + squares[None] - 2 * rows @ rows.T
    return np.sqrt(np.maximum(distances, 0)).sum(1)


NORMS: dict[str, Norm] = {"l1": l1, "l2": l2, "geometric_median": geometric_median}
CRITERIA = (*NORMS, "batch_norm", "first_order", "largest_layer", "random")


def select_channels(
    model: keras.Model,
    target: Target | Mapping[str, int],
    by: str = "l1",
    *,
    scope: str = "network",
    data: Any = None,
    loss: Loss | Sequence[Loss | None] | None = None,
    shape: Sequence[int] | None = None,
    n_batches: int = 4,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Choose the channels that stay, for `shrink`.

    Args:
        model: A built functional or Sequential model; it stays as it is.
        target: When to stop; or how many channels stay, by layer.
        by: What a channel is worth. `l1`, `l2`, `geometric_median`: of the kernel and bias that make it, over the mean
            of its layer; `batch_norm`: the magnitude of the scale that normalization gives it; `first_order`: by how
            much the loss would rise without it, to first order; `largest_layer`: a random one from the layer that has
            most left; `random`. Tied channels are worth their mean.
        scope: `network`: the least worth of all go first; `layer`: every layer loses the same share, for a target that
            is a share.
        data: Batches, for `first_order`.
        loss: For `first_order`.
        shape: Of one input, where the model leaves it open and the target is of multiply-adds.
        n_batches: For `first_order`.
        seed: Of what is random.

    Returns:
        Indices of the channels that stay, by layer; layers that keep all are left out.

    Raises:
        PruningError: An unknown criterion or layer, a target that cannot be reached, data missing.

    Example:
        >>> image = keras.Input((8, 8, 1))
        >>> x = keras.layers.Conv2D(8, 3, name="first")(image)
        >>> model = keras.Model(image, keras.layers.Conv2D(2, 3, name="last")(x))
        >>> len(select_channels(model, Target(share=0.5))["first"])
        4
    """
    if by not in CRITERIA:
        raise PruningError(f"`by` must be one of {', '.join(CRITERIA)}, but got {by!r}")
    if scope not in ("network", "layer"):
        raise PruningError(f"`scope` must be network or layer, but got {scope!r}")
    graph, rng = Graph(model), np.random.default_rng(seed)
    units = free_units(graph, None)
    worth = _worth(graph, units, by, rng, data, loss, n_batches)
    remover = Remover(graph)
    if isinstance(target, Target) and scope == "network":
        costs = Costs(graph, count_layers(model, shape) if _needs_costs(target) else {})
        gone = _take(remover, units, worth, Goal(target, len(units), costs.before), costs, by, rng)
    else:
        for path, n_left in _sizes(graph, target).items():
            mine = free_units(graph, [path])
            n_gone = remover.n_above(path, n_left)
            ranked = sorted(mine, key=lambda unit: worth[unit])
            for unit in [unit for unit in ranked if unit not in remover.removed][:n_gone]:
                if remover.can_go(unit):
                    remover.take(unit)
        gone = remover.removed
    return keep_without(graph, gone)


def _needs_costs(target: Target) -> bool:
    if target.loss_increase is not None:
        raise PruningError("`loss_increase` needs the true loss; use `loss_ordering` or `prune_by_loss`")
    return target.multiply_adds is not None or target.parameters is not None


def _sizes(graph: Graph, target: Target | Mapping[str, int]) -> dict[str, int]:
    if not isinstance(target, Target):
        return bottom_up(graph, target)
    if target.share is None:
        raise PruningError("scope='layer' needs Target(share=...) or channels by layer")
    share = target.share
    return {path: max(1, round(len(graph.features(path)) * (1 - share))) for path in graph.prunable()}


def _take(
    remover: Remover,
    units: Sequence[int],
    worth: Mapping[int, float],
    goal: Goal,
    costs: Costs,
    by: str,
    rng: np.random.Generator,
) -> set[int]:
    """What goes, of what is worth least, until the goal is reached."""
    if by == "largest_layer":
        sequence = list(_of_the_largest(remover, units, rng))
    else:
        sequence = []
        for unit in sorted(units, key=lambda unit: worth[unit]):
            if remover.can_go(unit):
                remover.take(unit)
                sequence.append(unit)

    def is_reached(n_removed: int) -> bool:
        return goal.reached(n_removed, costs.left(sequence[:n_removed]))

    if not is_reached(len(sequence)):
        raise goal.refuse(costs.left(sequence))
    return set(sequence[: bisect.bisect_left(range(len(sequence)), True, key=is_reached)])


def _of_the_largest(remover: Remover, units: Sequence[int], rng: np.random.Generator) -> Iterator[int]:
    """Random units, each of the layer with most channels left, until none may go."""
    free = set(units)
    while found := next(filter(None, (free & layer for layer in remover.largest_first())), None):
        unit = sorted(found)[int(rng.integers(len(found)))]
        remover.take(unit)
        yield unit


def _worth(
    graph: Graph,
    units: Sequence[int],
    by: str,
    rng: np.random.Generator,
    data: Any,
    loss: Any,
    n_batches: int,
) -> dict[int, float]:
    """What units are worth."""
    if by in ("random", "largest_layer"):
        return dict(zip(units, rng.random(len(units)).tolist(), strict=True))
    if by == "first_order":
        if data is None or loss is None:
            raise PruningError("by='first_order' needs `data` and `loss`")
        scratch = Graph(masked(graph.model, {}))
        cut, batches = Cut(scratch, units, Objective(loss)), Draws(data, n_batches).draw()
        rises = np.mean([cut.predicted(batch) for batch in batches], 0)
        return dict(zip(cut.units, rises.tolist(), strict=True))
    scores: dict[int, list[float]] = {unit: [] for unit in units}
    for entry in graph.seen.values():
        labels, values = _scales(entry) if by == "batch_norm" else _norms(entry, NORMS[by])
        for unit, value in zip(graph.units_of(labels).tolist(), values.tolist(), strict=True):
            if unit in scores:
                scores[unit].append(value)
    missing = [unit for unit, found in scores.items() if not found]
    if missing:
        layer, _ = Remover(graph).name(missing[0])
        raise PruningError(f"by='batch_norm' needs normalization with a scale after every layer; {layer} has none")
    return {unit: float(np.mean(found)) for unit, found in scores.items()}


def _norms(entry: Seen, norm: Norm) -> tuple[np.ndarray, np.ndarray]:
    """Labels that a layer makes, and the norms of what makes them, over their mean."""
    if entry.makes is None:
        return np.zeros(0, int), np.zeros(0)
    rows = []
    for weight in entry.weights:
        for axis, labels in weight.axes.items():
            if axis != weight.reads and len(labels) == len(entry.makes) and (labels == entry.makes).all():
                values = keras.ops.convert_to_numpy(weight.variable)
                rows.append(np.moveaxis(values, axis, 0).reshape(len(labels), -1))
    values = norm(np.concatenate(rows, 1).astype(float))
    return entry.makes, values / max(float(values.mean()), 1e-30)


def _scales(entry: Seen) -> tuple[np.ndarray, np.ndarray]:
    """Labels that a normalization scales, and the magnitudes of its scales."""
    gamma = getattr(entry.layer, "gamma", None)
    for weight in entry.weights:
        if gamma is not None and weight.variable is gamma:
            (labels,) = weight.axes.values()
            return labels, np.abs(keras.ops.convert_to_numpy(gamma)).ravel()
    return np.zeros(0, int), np.zeros(0)
