"""Instances: all scores of an image of nuclei, over the same scores by loops over objects.

    python -m benchmarks.instances [scores]

The image is synthetic, 1000x1000 pixels with 1,500 nuclei that touch; the prediction is the same moved by a few pixels,
a tenth of the nuclei gone and another tenth split in two. `regionprops` looks at each object in its box; `masks` makes
a mask of the whole image for each object, as published programs do. Ends with JSON lines; `s_per_image_over_half` is
the time against half a second.
"""

import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.ndimage
import scipy.optimize
import skimage.measure

from genenet.instance_metrics import F1_THRESHOLDS, instance_scores

SIZE, N_NUCLEI, RADIUS, MOVED, ROUNDS = 1000, 1500, 11, (2, 3), 7

Counted = tuple[dict[tuple[int, int], int], dict[int, int], dict[int, int]]  # of pairs, labels, instances


def images() -> tuple[np.ndarray, np.ndarray]:
    """Labels and a prediction, int32."""
    rng = np.random.default_rng(0)
    seeds = np.zeros((SIZE, SIZE), np.int32)
    seeds.flat[rng.choice(seeds.size, N_NUCLEI, replace=False)] = 1 + np.arange(N_NUCLEI)
    distances, nearest = scipy.ndimage.distance_transform_edt(seeds == 0, return_indices=True)
    labels = np.where(distances < RADIUS, seeds[tuple(nearest)], 0)
    moved = np.roll(labels, MOVED, (0, 1))
    fate = rng.random(N_NUCLEI + 1)
    split = (fate > 0.9)[moved] & (moved > 0) & (np.arange(SIZE) // 6 % 2 == 0)
    return labels, np.where((fate < 0.1)[moved], 0, moved + split * np.int32(N_NUCLEI))


def by_regionprops(labels: np.ndarray, instances: np.ndarray) -> Counted:
    """Count by a loop over the boxes of scikit-image."""
    pairs: dict[tuple[int, int], int] = {}
    sizes: tuple[dict[int, int], dict[int, int]] = {}, {}
    for region in skimage.measure.regionprops(labels):
        sizes[0][region.label] = int(region.area)
        found, counts = np.unique(instances[region.slice][region.image], return_counts=True)
        pairs |= {(region.label, int(other)): int(n) for other, n in zip(found, counts, strict=True) if other}
    for region in skimage.measure.regionprops(instances):
        sizes[1][region.label] = int(region.area)
    return pairs, *sizes


def by_masks(labels: np.ndarray, instances: np.ndarray) -> Counted:
    """Count by a mask of the whole image for each object and each pair."""
    pairs, sizes = {}, {}
    for label in np.unique(labels)[1:].tolist():
        mask = labels == label
        sizes[label] = int(mask.sum())
        for other in np.unique(instances[mask]).tolist():
            if other:
                pairs[label, other] = int((mask & (instances == other)).sum())
    return pairs, sizes, {other: int((instances == other).sum()) for other in np.unique(instances)[1:].tolist()}


def score(counted: Counted) -> dict[str, float]:
    """All scores by loops over pairs; the one-to-one pairing by one table of all objects."""
    pairs, labels, instances = counted
    joint = {pair: labels[pair[0]] + instances[pair[1]] - shared for pair, shared in pairs.items()}
    iou = {pair: shared / joint[pair] for pair, shared in pairs.items()}

    def aggregated_jaccard(chosen: list[tuple[int, int]]) -> float:
        unused_labels, unused = (
            set(labels) - {pair[0] for pair in chosen},
            set(instances) - {pair[1] for pair in chosen},
        )
        alone = sum(labels[label] for label in unused_labels) + sum(instances[other] for other in unused)
        return sum(pairs[pair] for pair in chosen) / (sum(joint[pair] for pair in chosen) + alone)

    best: dict[int, tuple[int, int]] = {}
    for pair in sorted(pairs):
        if pair[0] not in best or iou[pair] > iou[best[pair[0]]]:
            best[pair[0]] = pair
    rows, columns = sorted(labels), sorted(instances)
    table = np.zeros((len(rows), len(columns)))
    for (label, other), value in iou.items():
        table[rows.index(label), columns.index(other)] = value
    assigned = [(rows[i], columns[j]) for i, j in zip(*scipy.optimize.linear_sum_assignment(-table), strict=True)]
    matched = [value for value in iou.values() if value > 0.5]
    n, foreground = len(labels) + len(instances), sum(labels.values()) + sum(instances.values())
    found = {f"f1_{t}": 2 * sum(value > t for value in iou.values()) / n for t in F1_THRESHOLDS}
    return found | {
        "aggregated_jaccard": aggregated_jaccard(list(best.values())),
        "aggregated_jaccard_one_to_one": aggregated_jaccard([pair for pair in assigned if pair in pairs]),
        "pq": sum(matched) * 2 / n,
        "ensemble_dice": 2 * sum(pairs.values()) / sum(labels[label] + instances[other] for label, other in pairs),
        "foreground_dice": 2 * sum(pairs.values()) / foreground,
    }


def timed(work: Callable[..., Any], *arrays: np.ndarray) -> tuple[Any, float]:
    """What comes out, and the seconds that it took."""
    start = time.perf_counter()
    result = work(*arrays)
    return result, time.perf_counter() - start


def scores() -> None:
    """Run all in turn, so that what else the machine does slows all, and compare."""
    pair = images()
    naive = {"regionprops": (by_regionprops, ROUNDS), "masks": (by_masks, 1)}  # the latter takes many seconds
    ours_s: list[float] = []
    for name, (count, rounds) in naive.items():
        ratios, difference = [], 0.0
        for _ in range(rounds):
            ours, our_s = timed(instance_scores, *pair)
            theirs, their_s = timed(lambda *arrays, count=count: score(count(*arrays)), *pair)
            expected = dataclasses.asdict(ours) | {f"f1_{threshold}": value for threshold, value in ours.f1.items()}
            difference = max(difference, *(abs(value - expected[key]) for key, value in theirs.items()))
            ours_s.append(our_s)
            ratios.append(their_s / our_s)
            print(f"genenet {our_s * 1e3:.1f} ms, {name} {their_s * 1e3:.0f} ms, ratio {ratios[-1]:.0f}")
        line = {"benchmark": "instances", "ratio": f"{name}_over_genenet_scores"}
        print(json.dumps(line | {"value": round(statistics.median(ratios), 1), "difference": difference}))
    line = {"benchmark": "instances", "ratio": "s_per_image_over_half"}
    print(json.dumps(line | {"value": round(statistics.median(ours_s) / 0.5, 3), "target": 1}))


PARTS = {"scores": scores}  # `merging` joins here


def main() -> None:
    """Run all parts, or those named."""
    for name in sys.argv[1:] or PARTS:
        PARTS[name]()


if __name__ == "__main__":
    main()
