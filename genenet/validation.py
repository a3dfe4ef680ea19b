"""What a network is worth on annotated parts: how well it tells classes apart, and how far its distances are off."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from genenet.averaging import MeanPredictor, answer_part, count_box
from genenet.blocks import Answer
from genenet.dataset import Part
from genenet.distance_maps import distance_map
from genenet.label_table import UNLABELLED
from genenet.metrics import scores
from genenet.settings import WindowSettings
from genenet.tiling import Box

# Scores that a training records, by name; all but the last are better when higher.
SCORES = ("adjusted_rand", "mean_iou", "accuracy", "mean_dice", "distance_mse")


def validate(
    predictor: MeanPredictor, parts: Sequence[Part], n_classes: int, windows: WindowSettings
) -> dict[str, float]:
    """Score networks on whole parts, block by block, all parts counted together.

    Args:
        predictor: The networks.
        parts: Annotated.
        n_classes: Of the annotation.
        windows: What distances mean (`distance_kind`, `distance_cap`).

    Returns:
        By name, of `SCORES`, what these networks can be scored by: classes, and the mean squared error of distances.
    """
    table, square, n_known = np.zeros((n_classes, n_classes), np.int64), 0.0, 0
    for part in parts:
        for box, answer, distances in _with_distances(predictor, part, windows):
            if predictor.n_classes:
                table += count_box(part, box, answer.probabilities)
            if distances is not None and answer.distances is not None:
                known = distances >= 0
                square += float(
                    np.square(answer.distances - distances, where=known, out=np.zeros_like(distances)).sum()
                )
                n_known += int(known.sum())
    found = {}
    if predictor.n_classes:
        counted = scores(table)
        found = {name: float(getattr(counted, name)) for name in SCORES[:-1]}
    if predictor.gives_distances:
        found["distance_mse"] = square / max(n_known, 1)
    return found


def worth(found: dict[str, float]) -> float:
    """What weights are kept by: the adjusted Rand score; for networks that give distances only, less squared error."""
    if "adjusted_rand" in found:
        return found["adjusted_rand"]
    return -found.get("distance_mse", math.inf)


def true_distances(part: Part, z: slice, windows: WindowSettings, n_dims: int) -> np.ndarray:
    """The distances of slices of a part as in training, `(z, y, x)` float32; -1 where nobody labelled.

    Objects are looked at slice by slice for 2-D networks, in the slices together for others.
    """
    start, shape = (z.start, 0, 0), (z.stop - z.start, *part.shape[1:])
    labels, objects = part.read_labels(start, shape), part.read_objects(start, shape)
    inside = (labels > 0) & (labels != UNLABELLED)
    pieces = zip(objects, inside, strict=True) if n_dims == 2 else [(objects, inside)]
    maps = [distance_map(*piece, kind=windows.distance_kind, cap=windows.distance_cap) for piece in pieces]
    return np.where(labels == UNLABELLED, -1, np.stack(maps).reshape(shape)).astype(np.float32)


def dims_of_distances(predictor: MeanPredictor) -> int:
    """Spatial axes of the networks that give distances."""
    return max(member.plan.n_dims for member in predictor.members if "distance" in member.gives)


def _with_distances(
    predictor: MeanPredictor, part: Part, windows: WindowSettings
) -> Iterator[tuple[Box, Answer, np.ndarray | None]]:
    """Blocks of a part, and the true distances there where networks give them."""
    if not predictor.gives_distances:
        for box, answer in answer_part(predictor, part):
            yield box, answer, None
        return
    n_dims = dims_of_distances(predictor)
    z, whole = slice(0, 0), np.empty((0, 0, 0), np.float32)
    for box, answer in answer_part(predictor, part):
        if (box[0].start, box[0].stop) != (z.start, z.stop):
            z = box[0]
            whole = true_distances(part, z, windows, n_dims)
        yield box, answer, whole[:, box[1], box[2]]
