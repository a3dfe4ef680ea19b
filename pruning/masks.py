"""Masks: which single weights stay, by magnitude, in any pattern; and how zeros stay zero in training."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from pruning.errors import PruningError, PruningWarning
from pruning.flops import KERNELS
from pruning.graph import Graph

# Which weights stay, by `path/name` of the kernel.
Masks = dict[str, np.ndarray]

# From weights and the share of them that stays to which stay.
Pattern = Callable[[np.ndarray, float], np.ndarray]


def kernels(model: keras.Model, layers: Sequence[str] | None = None) -> dict[str, keras.Variable]:
    """The kernels of a model's convolutions and dense layers, by `path/name`; shared layers once.

    Args:
        model: A built functional or Sequential model.
        layers: Their names or paths; all that have kernels if left out.

    Raises:
        PruningError: An unknown layer, or one without a kernel.
    """
    graph = Graph(model)
    entries = list(graph.seen.values()) if layers is None else [graph.layer(name) for name in layers]
    found: dict[str, keras.Variable] = {}
    for entry in entries:
        names = KERNELS.get(type(entry.layer).__name__, ((), 0))[0]
        if not names and layers is not None:
            raise PruningError(f"{entry.path} has no kernel whose weights could be masked")
        found |= {f"{entry.path}/{name}": getattr(entry.layer, name) for name in names}
    if not found:
        raise PruningError(f"{model.name} has no kernels whose weights could be masked")
    return found


# -- patterns ---


def n_kept(size: int, kept: float) -> int:
    """How many of so many weights a share is, to the nearest."""
    return int(np.floor(size * kept + 0.5))


def largest(scores: np.ndarray, count: int) -> np.ndarray:
    """Which are the `count` largest scores; of equal ones the first.

    >>> largest(np.array([3.0, 1.0, 2.0]), 2)
    array([ True, False,  True])
    """
    mask = np.zeros(scores.size, bool)
    if count > 0:
        mask[np.argsort(-scores.ravel(), kind="stable")[:count]] = True
    return mask.reshape(scores.shape)


def single(weights: np.ndarray, kept: float) -> np.ndarray:
    """The weights of greatest magnitude, each by itself (Han et al. 2015)."""
    return largest(np.abs(weights), n_kept(weights.size, kept))


def blocks(height: int, width: int, *, pool: str = "mean") -> Pattern:
    """Blocks of inputs by outputs that stay or go as a whole, by the mean or the largest magnitude in them.

    Blocks lie in the last two axes of a kernel, `(..., in, out)`; those at the end may be cut.
    """
    if height < 1 or width < 1:
        raise PruningError(f"a block needs sides of at least 1, but got {height}x{width}")
    if pool not in ("mean", "max"):
        raise PruningError(f"`pool` must be mean or max, but got {pool!r}")

    def pattern(weights: np.ndarray, kept: float) -> np.ndarray:
        """Pool, choose, and spread over blocks."""
        *sides, n_in, n_out = weights.shape
        rows, columns = -(-n_in // height), -(-n_out // width)
        padded = np.full((*sides, rows * height, columns * width), np.nan)
        padded[..., :n_in, :n_out] = np.abs(weights)
        parts = padded.reshape(*sides, rows, height, columns, width)
        scores = (np.nanmean if pool == "mean" else np.nanmax)(parts, axis=(-3, -1))
        mask = largest(scores, n_kept(scores.size, kept))
        return mask.repeat(height, -2).repeat(width, -1)[..., :n_in, :n_out]

    return pattern


def n_of_m(n: int, m: int) -> Pattern:
    """At most `n` of every `m` inputs in a row stay, for each output: 2 of 4 is what some GPUs have kernels for.

    The share that stays is `n / m` whatever is asked for. Inputs at the end that fill no row of `m` stay.

    >>> n_of_m(1, 2)(np.array([[1.0], [3.0], [2.0], [0.5]]), 0.5).ravel()
    array([False,  True,  True, False])
    """
    if not 0 < n < m:
        raise PruningError(f"of every `m` weights `n` stay, 0 < n < m, but got n={n}, m={m}")

    def pattern(weights: np.ndarray, kept: float) -> np.ndarray:
        """Rank within every row of m."""
        *sides, n_in, n_out = weights.shape
        whole = n_in // m * m
        parts = np.abs(weights[..., :whole, :]).reshape(*sides, whole // m, m, n_out)
        ranks = np.argsort(np.argsort(-parts, axis=-2, kind="stable"), axis=-2, kind="stable")
        mask = np.ones(weights.shape, bool)
        mask[..., :whole, :] = (ranks < n).reshape(*sides, whole, n_out)
        return mask

    return pattern


# -- masks of a model ---


def magnitude_masks(
    model: keras.Model,
    kept: float,
    *,
    scope: str = "layer",
    layers: Sequence[str] | None = None,
    pattern: Pattern = single,
    least: float = 0.0,
    before: Masks | None = None,
) -> Masks:
    """Which weights stay when the smallest go (Han et al. 2015).

    Args:
        model: A built functional or Sequential model.
        kept: The share of weights that stays, above 0 and at most 1.
        scope: `layer`: so much of every kernel; `network`: of all kernels together, by one threshold.
        layers: Which; all with kernels if left out.
        pattern: How weights go together within a kernel; for `layer` only.
        least: The share that every kernel keeps at least, for `network`.
        before: Masks so far; what went before does not come back, and `kept` counts all the same from the whole.

    Returns:
        Booleans of the kernels' shapes, by `path/name`.

    Warns:
        PruningWarning: A kernel keeps nothing, so that its layer gives the same whatever it reads.

    Raises:
        PruningError: A share or scope that cannot be, an unknown layer.
    """
    if not 0 < kept <= 1:
        raise PruningError(f"the share of weights that stays must lie above 0 and be at most 1, but got {kept}")
    if not 0 <= least <= kept:
        raise PruningError(f"`least` must lie between 0 and the share that stays, {kept:g}, but got {least}")
    found = {name: np.array(keras.ops.convert_to_numpy(k)) for name, k in kernels(model, layers).items()}
    if before is not None:
        found = {
            name: np.where(before[name], values, 0) if name in before else values for name, values in found.items()
        }
    if scope == "layer":
        masks = {name: pattern(values, kept) for name, values in found.items()}
    elif scope == "network":
        if pattern is not single:
            raise PruningError("a pattern needs scope='layer'")
        masks = _over_all(found, kept, least)
    else:
        raise PruningError(f"`scope` must be layer or network, but got {scope!r}")
    if before is not None:
        masks = {name: mask & before[name] if name in before else mask for name, mask in masks.items()}
    warn_of_empty(masks, kept)
    return masks


def _over_all(weights: Mapping[str, np.ndarray], kept: float, least: float) -> Masks:
    """One threshold for all; kernels that would keep less than `least` keep that, and the others give way."""
    scores = np.concatenate([np.abs(values).ravel() for values in weights.values()])
    certain = np.concatenate([largest(np.abs(v), int(np.ceil(v.size * least))).ravel() for v in weights.values()])
    chosen = certain | largest(np.where(certain, -1.0, scores), n_kept(scores.size, kept) - int(certain.sum()))
    ends = np.cumsum([values.size for values in weights.values()])[:-1]
    parts = np.split(chosen, ends)
    return {name: part.reshape(values.shape) for part, (name, values) in zip(parts, weights.items(), strict=True)}


def warn_of_empty(masks: Masks, kept: float) -> None:
    """Say which kernels keep nothing."""
    empty = [name.rpartition("/")[0] for name, mask in masks.items() if not mask.any()]
    if empty:
        names = ", ".join(empty[:5]) + (f" and {len(empty) - 5} more" if len(empty) > 5 else "")
        warnings.warn(
            f"with {kept:.2%} of the weights left, {names} would keep none and give the same whatever they read; "
            "`least=0.01` keeps 1 % of every layer, scope='layer' as much of all",
            PruningWarning,
            stacklevel=3,
        )


def apply_masks(model: keras.Model, masks: Masks) -> None:
    """Write the zeros, in place."""
    for name, kernel in _masked(model, masks):
        kernel.assign(keras.ops.convert_to_numpy(kernel) * masks[name])


@contextmanager
def held_at_zero(model: keras.Model, masks: Masks) -> Iterator[None]:
    """Within, no optimizer changes the zeros, whatever its momentum or weight decay; they are written at the start.

    Every step ends with the kernel's constraint, so the zeros hold on all backends. Constraints that kernels have are
    applied too, and are back afterwards.
    """
    pairs = _masked(model, masks)
    before = [kernel.constraint for _, kernel in pairs]
    try:
        for (name, kernel), constraint in zip(pairs, before, strict=True):
            kernel.constraint = Zeros(masks[name], constraint)
        apply_masks(model, masks)
        yield
    finally:
        for (_, kernel), constraint in zip(pairs, before, strict=True):
            kernel.constraint = constraint


def _masked(model: keras.Model, masks: Masks) -> list[tuple[str, keras.Variable]]:
    found = kernels(model)
    unknown = masks.keys() - found.keys()
    if unknown:
        raise PruningError(f"{model.name} has no kernel {sorted(unknown)[0]}; the masks belong to another model")
    for name, mask in masks.items():
        if mask.shape != tuple(found[name].shape):
            raise PruningError(f"{name} has shape {tuple(found[name].shape)}, but its mask has {mask.shape}")
    return [(name, found[name]) for name in masks]


class Zeros(keras.constraints.Constraint):
    """Keeps weights at 0.

    Args:
        mask: Which weights stay.
        then: What the variable was held to before.
    """

    def __init__(self, mask: np.ndarray, then: Any = None) -> None:
        self._mask = mask.astype(np.float32)
        self._then = then

    def __call__(self, value: Any) -> Any:
        """The value with zeros."""
        value = value if self._then is None else self._then(value)
        return value * keras.ops.convert_to_tensor(self._mask, value.dtype)
