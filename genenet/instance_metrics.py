"""Scores of predicted objects against labelled ones, nuclei for instance. Count first, score later.

Both images give every object a number, and background 0; which number does not matter, and gaps do no harm. An object
is what has one number, in one piece or several. Every score is 1 at best and 0 at worst: 0 where one image has no
object, nan where neither has, for then there is nothing to score.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np
import scipy.sparse
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import connected_components

from genenet.errors import InputError

F1_THRESHOLDS = 0.5, 0.6, 0.7, 0.8, 0.9


@dataclasses.dataclass(frozen=True, eq=False)
class Overlaps:
    """Which objects share pixels with which, and how many; every score follows from this.

    Attributes:
        label_ids: `(n_labels,)` numbers of the labelled objects, rising.
        label_sizes: `(n_labels,)` their pixels, int64.
        instance_ids: `(n_instances,)` numbers of the predicted objects, rising.
        instance_sizes: `(n_instances,)` their pixels, int64.
        pairs: `(n_pairs, 2)` pairs that share pixels, as places in `label_ids` and `instance_ids`, rising.
        pair_sizes: `(n_pairs,)` the pixels they share, int64.
    """

    label_ids: np.ndarray
    label_sizes: np.ndarray
    instance_ids: np.ndarray
    instance_sizes: np.ndarray
    pairs: np.ndarray
    pair_sizes: np.ndarray

    @property
    def iou(self) -> np.ndarray:
        """Intersection over union of every pair, `(n_pairs,)`, above 0 and at most 1."""
        labels, instances = self.pairs.T
        return self.pair_sizes / (self.label_sizes[labels] + self.instance_sizes[instances] - self.pair_sizes)


@dataclasses.dataclass(frozen=True)
class PanopticQuality:
    """How well objects are found, times how well the found ones are outlined (Kirillov et al. 2019, eq. 2).

    Attributes:
        pq: Panoptic quality, `sq * dq`.
        sq: Segmentation quality, the mean intersection over union of the matched pairs; 0 where none match.
        dq: Detection quality, the F1 of finding an object; recognition quality to Kirillov et al.
        n_true_positives: Matched pairs.
        n_false_positives: Predicted objects without a match.
        n_false_negatives: Labelled objects without a match.
    """

    pq: float
    sq: float
    dq: float
    n_true_positives: int
    n_false_positives: int
    n_false_negatives: int


@dataclasses.dataclass(frozen=True)
class InstanceScores:
    """All scores of one image, or their means over several; each is from 0 to 1, or nan.

    Attributes:
        aggregated_jaccard: See `aggregated_jaccard_index`.
        aggregated_jaccard_one_to_one: The same with `one_to_one=True`, known as AJI+.
        pq: Panoptic quality at 0.5, see `PanopticQuality`.
        sq: Segmentation quality.
        dq: Detection quality.
        ensemble_dice: See `ensemble_dice`.
        foreground_dice: See `foreground_dice`.
        f1: See `f1_at`, for each of `F1_THRESHOLDS`.
    """

    aggregated_jaccard: float
    aggregated_jaccard_one_to_one: float
    pq: float
    sq: float
    dq: float
    ensemble_dice: float
    foreground_dice: float
    f1: dict[float, float]


def overlaps(labels: np.ndarray, instances: np.ndarray) -> Overlaps:
    """Count the pixels of all objects and of all pairs that overlap.

    >>> counted = overlaps(np.array([0, 7, 7, 7, 9]), np.array([1, 1, 2, 2, 0]))
    >>> counted.label_ids.tolist(), counted.label_sizes.tolist()
    ([7, 9], [3, 1])
    >>> counted.pairs.tolist(), counted.pair_sizes.tolist()  # 7 shares a pixel with 1, and two with 2
    ([[0, 0], [0, 1]], [1, 2])

    Args:
        labels: `(*space)` integers of any kind, 0 for background.
        instances: `(*space)` integers of any kind, 0 for background: the prediction.

    Raises:
        InputError: Shapes differ, something is not an integer, or a number is negative. All scores refuse the same.
    """
    rows, columns = _flat(labels, instances)
    changes = (rows[1:] != rows[:-1]) | (columns[1:] != columns[:-1])
    starts = np.flatnonzero(np.append(True, changes))  # runs are some ten times fewer to sort than pixels
    lengths = np.diff(starts, append=rows.size)
    label_ids, label_of, label_sizes = _sizes(rows[starts], lengths)
    instance_ids, instance_of, instance_sizes = _sizes(columns[starts], lengths)
    both = (label_of > 0) & (instance_of > 0)  # place 0 is background
    codes, _, pair_sizes = _sizes(label_of[both] * instance_ids.size + instance_of[both], lengths[both])
    pairs = np.stack(np.divmod(codes, instance_ids.size), axis=1) - 1
    return Overlaps(label_ids[1:], label_sizes[1:], instance_ids[1:], instance_sizes[1:], pairs, pair_sizes)


def aggregated_jaccard_index(labels: np.ndarray, instances: np.ndarray, *, one_to_one: bool = False) -> float:
    """Aggregated Jaccard index, AJI: shared pixels over joint pixels, summed over all objects (Kumar et al. 2017).

    Every labelled object is paired with the predicted one of highest intersection over union. The index is the sum of
    the pairs' intersections, over the sum of their unions, of labelled objects that overlap nothing, and of predicted
    ones that nobody was paired with. A predicted object may serve several labelled ones, and of equals the one with the
    smallest number is taken: so in the program of the MoNuSeg challenge, by which scores are published. The authors'
    first program took a predicted object away once it was used, and so the order of the objects changed the score.

    >>> labels, instances = np.array([1, 1, 1, 1, 2, 2, 0, 0]), np.array([1, 1, 1, 1, 1, 1, 0, 3])
    >>> round(aggregated_jaccard_index(labels, instances), 4)  # 1 is used twice: (4 + 2) / (6 + 6 + 1)
    0.4615
    >>> round(aggregated_jaccard_index(labels, instances, one_to_one=True), 4)  # and here once: 4 / (6 + 2 + 1)
    0.4444

    Args:
        labels: `(*space)` integers, 0 for background.
        instances: `(*space)` integers, 0 for background.
        one_to_one: Pair every object at most once, so that intersection over union sums to the most: AJI+, from the
            code of Graham et al. 2019. An object that covers several is then paid for once.
    """
    return _aggregated_jaccard(overlaps(labels, instances), one_to_one)


def panoptic_quality(labels: np.ndarray, instances: np.ndarray, *, iou_threshold: float = 0.5) -> PanopticQuality:
    """Panoptic quality of one class of objects (Kirillov et al. 2019; for nuclei, Graham et al. 2019).

    >>> found = panoptic_quality(np.array([1, 1, 1, 1, 2]), np.array([1, 1, 1, 0, 0]))
    >>> found.sq, round(found.dq, 4), found.pq  # 3 / 4, 2 * 1 / (2 + 1), and their product
    (0.75, 0.6667, 0.5)

    Args:
        labels: `(*space)` integers, 0 for background.
        instances: `(*space)` integers, 0 for background.
        iou_threshold: A pair matches above this, from 0.5 to below 1. From 0.5 on no object can match twice.
    """
    return _panoptic_quality(overlaps(labels, instances), iou_threshold)


def f1_at(labels: np.ndarray, instances: np.ndarray, thresholds: Sequence[float] = F1_THRESHOLDS) -> dict[float, float]:
    """F1 of finding an object, by the intersection over union above which it is found; from 0.5 to below 1.

    >>> f1_at(np.array([1, 1, 1, 1, 2]), np.array([1, 1, 1, 0, 2]), [0.5, 0.8])
    {0.5: 1.0, 0.8: 0.5}
    """
    counted = overlaps(labels, instances)
    return {threshold: _panoptic_quality(counted, threshold).dq for threshold in thresholds}


def ensemble_dice(labels: np.ndarray, instances: np.ndarray) -> float:
    """Dice coefficient summed over all pairs that overlap, DICE2 (Vu et al. 2019; Graham et al. 2019).

    Report it beside others only: one pixel that strays into a neighbour costs as much as both objects, and an object
    that overlaps nothing costs nothing.

    >>> ensemble_dice(np.array([1, 1, 1, 2, 2]), np.array([1, 1, 1, 1, 2]))  # 2 (3 + 1 + 1) / ((3+4) + (2+4) + (2+1))
    0.625
    """
    return _ensemble_dice(overlaps(labels, instances))


def foreground_dice(labels: np.ndarray, instances: np.ndarray) -> float:
    """Dice coefficient of objects against background, whichever object it is.

    >>> round(foreground_dice(np.array([1, 1, 2, 0]), np.array([5, 5, 5, 5])), 4)  # 2 * 3 / (3 + 4)
    0.8571
    """
    return _foreground_dice(overlaps(labels, instances))


def instance_scores(labels: np.ndarray, instances: np.ndarray) -> InstanceScores:
    """Give all scores of one image, and count only once.

    >>> result = instance_scores(np.array([1, 1, 1, 1, 2]), np.array([1, 1, 1, 0, 0]))
    >>> result.aggregated_jaccard, result.pq, result.f1[0.8]
    (0.6, 0.5, 0.0)
    """
    counted = overlaps(labels, instances)
    panoptic = _panoptic_quality(counted, 0.5)
    return InstanceScores(
        aggregated_jaccard=_aggregated_jaccard(counted, one_to_one=False),
        aggregated_jaccard_one_to_one=_aggregated_jaccard(counted, one_to_one=True),
        pq=panoptic.pq,
        sq=panoptic.sq,
        dq=panoptic.dq,
        ensemble_dice=_ensemble_dice(counted),
        foreground_dice=_foreground_dice(counted),
        f1={threshold: _panoptic_quality(counted, threshold).dq for threshold in F1_THRESHOLDS},
    )


def mean_scores(scores: Iterable[InstanceScores]) -> InstanceScores:
    """Average every score over images, each image weighing the same, as the MoNuSeg challenge does.

    What is nan, in images where neither side has an object, is left out. The mean `pq` is no product of means.

    >>> images = [([1, 1, 0], [1, 1, 0]), ([1, 1, 0], [0, 0, 3]), ([0, 0, 0], [0, 0, 0])]
    >>> mean_scores(instance_scores(np.array(labels), np.array(instances)) for labels, instances in images).pq
    0.5
    """
    images = list(scores)
    if not images:
        raise InputError("a mean must be over at least one image, but got none; score some with `instance_scores`")
    names = [field.name for field in dataclasses.fields(InstanceScores) if field.name != "f1"]
    means = {name: _mean([getattr(image, name) for image in images]) for name in names}
    return InstanceScores(**means, f1={key: _mean([image.f1[key] for image in images]) for key in images[0].f1})


def _flat(labels: np.ndarray, instances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Check both and make them flat, with one pixel of background first, so that 0 is there and comes first."""
    labels, instances = np.asarray(labels), np.asarray(instances)
    if labels.shape != instances.shape:
        raise InputError(
            f"labels and instances must have the same shape, but got {labels.shape} and {instances.shape}; "
            "give both for the same pixels"
        )
    for name, ids in (("labels", labels), ("instances", instances)):
        if ids.dtype.kind not in "iu":
            raise InputError(
                f"{name} must be integers, one number for each object, but got {ids.dtype}; "
                "`scipy.ndimage.label` numbers the objects of a mask"
            )
        if ids.dtype.kind == "i" and ids.size and ids.min() < 0:
            raise InputError(f"{name} must be 0 for background or above, but got {ids.min()}; set such pixels to 0")
    return np.pad(labels.ravel(), (1, 0)), np.pad(instances.ravel(), (1, 0))


def _sizes(ids: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Different numbers, the place of each run's number among them, and the pixels of each."""
    different, places = np.unique(ids, return_inverse=True)
    sizes = np.bincount(places, weights=lengths, minlength=different.size)  # floats, but exact up to 2**53
    return different, places, sizes.astype(np.int64)


def _aggregated_jaccard(counted: Overlaps, one_to_one: bool) -> float:
    chosen = _one_to_one_pairs(counted) if one_to_one else _best_pairs(counted)
    shared, partners = counted.pair_sizes[chosen].sum(), counted.pairs[chosen, 1]
    unused = np.delete(counted.instance_sizes, partners).sum()
    # A union is a label and what its partner has outside, so each label is in the sum once, paired or not.
    joint = counted.label_sizes.sum() + counted.instance_sizes[partners].sum() - shared + unused
    return _ratio(shared, joint)


def _best_pairs(counted: Overlaps) -> np.ndarray:
    """Of every label's pairs the one of highest intersection over union, the first of equals."""
    labels = counted.pairs[:, 0]
    order = np.lexsort((-counted.iou, labels))  # stable
    return order[np.unique(labels[order], return_index=True)[1]]


def _one_to_one_pairs(counted: Overlaps) -> np.ndarray:
    """The pairs that sum to the most, no object in two; by groups that overlaps link, for one table would be vast."""
    iou, (labels, instances) = counted.iou, counted.pairs.T
    n_labels, n_instances = counted.label_ids.size, counted.instance_ids.size
    edges = scipy.sparse.coo_array((iou, (labels, instances + n_labels)), shape=(n_labels + n_instances,) * 2)
    group_of = connected_components(edges, directed=False)[1][labels]
    order = np.argsort(group_of, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(group_of[order])) + 1)
    chosen = [group if group.size < 2 else group[_assigned(counted.pairs[group], iou[group])] for group in groups]
    return np.concatenate(chosen)


def _assigned(pairs: np.ndarray, iou: np.ndarray) -> np.ndarray:
    """Places of the pairs that sum to the most."""
    (_, rows), (_, columns) = (np.unique(ids, return_inverse=True) for ids in pairs.T)
    table = np.zeros((rows.max() + 1, columns.max() + 1))
    table[rows, columns] = iou
    partner = np.full(len(table), -1)
    partner.put(*linear_sum_assignment(table, maximize=True))
    return np.flatnonzero(partner[rows] == columns)


def _panoptic_quality(counted: Overlaps, iou_threshold: float) -> PanopticQuality:
    if not 0.5 <= iou_threshold < 1:
        raise InputError(
            "a threshold of intersection over union must be from 0.5 to below 1, but got "
            f"{iou_threshold}; below 0.5 an object could match several"
        )
    n_labels, n_instances = counted.label_ids.size, counted.instance_ids.size
    iou = counted.iou
    matched = iou[iou > iou_threshold]
    dq = _ratio(2 * matched.size, n_labels + n_instances)
    sq = float(matched.mean()) if matched.size else dq  # which is 0, or nan
    return PanopticQuality(sq * dq, sq, dq, matched.size, n_instances - matched.size, n_labels - matched.size)


def _ensemble_dice(counted: Overlaps) -> float:
    if not counted.pair_sizes.size:
        return _ratio(0, counted.label_ids.size + counted.instance_ids.size)
    labels, instances = counted.pairs.T
    total = counted.label_sizes[labels].sum() + counted.instance_sizes[instances].sum()
    return _ratio(2 * counted.pair_sizes.sum(), total)


def _foreground_dice(counted: Overlaps) -> float:
    return _ratio(2 * counted.pair_sizes.sum(), counted.label_sizes.sum() + counted.instance_sizes.sum())


def _ratio(part: int, whole: int) -> float:
    return float(part / whole) if whole else math.nan


def _mean(values: list[float]) -> float:
    """The mean of what is not nan, the same in any order."""
    scored = [value for value in values if not math.isnan(value)]
    return math.fsum(scored) / len(scored) if scored else math.nan
