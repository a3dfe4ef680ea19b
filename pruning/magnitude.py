"""Remove the smallest weights, train, and again (Han et al. 2015; Mahbod et al. 2022, algorithm 1)."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from pruning.errors import PruningError
from pruning.masks import Masks, Pattern, held_at_zero, kernels, magnitude_masks, single
from pruning.shrink import masked

# Trains a model in place: compiles and fits it. What it gives is kept with the round.
Fit = Callable[[keras.Model], Any]


@dataclasses.dataclass(frozen=True)
class Round:
    """One round of pruning and training.

    Attributes:
        compression_ratio: Weights of the masked kernels over those that are left.
        fitted: What `fit` gave: a score, a history.
    """

    compression_ratio: float
    fitted: Any


@dataclasses.dataclass(frozen=True)
class Thinned:
    """A model with zeros.

    Attributes:
        model: As large as before.
        masks: Which weights stay, by `path/name` of their kernel.
        rounds: In order.
    """

    model: keras.Model
    masks: Masks
    rounds: tuple[Round, ...]


def ratios(compression_ratio: float, per_round: float = 2.0) -> list[float]:
    """The compression ratios after each round; the last round takes the rest.

    >>> ratios(16), ratios(20)
    ([2.0, 4.0, 8.0, 16.0], [2.0, 4.0, 8.0, 16.0, 20.0])
    """
    if not compression_ratio > 1 or not per_round > 1:
        raise PruningError(f"a compression ratio must be above 1, but got {compression_ratio}, {per_round} per round")
    n_rounds = max(1, math.ceil(math.log(compression_ratio, per_round) - 1e-9))
    return [min(per_round**number, float(compression_ratio)) for number in range(1, n_rounds + 1)]


def iterative_magnitude(
    model: keras.Model,
    fit: Fit,
    compression_ratio: float,
    scope: str = "layer",
    *,
    per_round: float = 2.0,
    rewind_to: Sequence[np.ndarray] | None = None,
    layers: Sequence[str] | None = None,
    pattern: Pattern = single,
    least: float = 0.0,
    on_round: Callable[[keras.Model, Round], None] | None = None,
) -> Thinned:
    """Remove the smallest half of the weights that are left, train the others, and again.

    Biases and normalization are not masked, and the ratio counts masked kernels only; `count` counts everything.

    Args:
        model: A built functional or Sequential model, trained; it stays as it is.
        fit: Trains a model in place; it is given a copy, whose zeros hold while it trains.
        compression_ratio: At the end, above 1; not only powers of 2.
        scope: `layer` or `network`, as for `magnitude_masks`.
        per_round: By how much the ratio grows with every round; `math.inf` prunes in one shot.
        rewind_to: Weights, as from `model.get_weights()`, from which every round trains again (Frankle & Carbin 2019);
            what the last round gave if left out.
        layers: Which; all with kernels if left out.
        pattern: How weights go together, as for `magnitude_masks`.
        least: As for `magnitude_masks`.
        on_round: Called with the model and the round after each.

    Raises:
        PruningError: As for `magnitude_masks`; a compression ratio that is not above 1; a `fit` after which masked
            weights are not 0.

    Example:
        >>> image = keras.Input((8, 8, 1))
        >>> model = keras.Model(image, keras.layers.Conv2D(4, 3, name="conv")(image))
        >>> thinned = iterative_magnitude(model, lambda model: None, compression_ratio=4)
        >>> int(thinned.masks["conv/kernel"].sum()), [each.compression_ratio for each in thinned.rounds]
        (9, [2.0, 4.0])
    """
    model = masked(model, {})
    masks: Masks | None = None
    rounds: list[Round] = []
    for ratio in ratios(compression_ratio, per_round):
        masks = magnitude_masks(
            model, 1 / ratio, scope=scope, layers=layers, pattern=pattern, least=least, before=masks
        )
        if rewind_to is not None:
            model.set_weights(list(rewind_to))
        with held_at_zero(model, masks):
            fitted = fit(model)
        _check_zeros(model, masks)
        real = sum(mask.size for mask in masks.values()) / max(sum(int(mask.sum()) for mask in masks.values()), 1)
        rounds.append(Round(real, fitted))
        if on_round is not None:
            on_round(model, rounds[-1])
    return Thinned(model, masks or {}, tuple(rounds))


def _check_zeros(model: keras.Model, masks: Masks) -> None:
    found = kernels(model)
    for name, mask in masks.items():
        if np.any(keras.ops.convert_to_numpy(found[name])[~mask]):
            raise PruningError(
                f"masked weights of {name} are not 0 after `fit`; it must train the model that it is given, with a "
                "Keras optimizer, and not set its weights"
            )
