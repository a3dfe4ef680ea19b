"""Instances: scores and merging over the same by loops over objects; the whole pipeline in two precisions.

    python -m benchmarks.instances [scores] [merging] [pipeline]

The image is synthetic, 1000x1000 pixels with 1,500 nuclei that touch; the prediction is the same moved by a few pixels,
a tenth of the nuclei gone and another tenth split in two. `regionprops` looks at each object in its box; `masks` makes
a mask of the whole image for each object, as published programs do. Ends with JSON lines; `s_per_image_over_half` is
the time against half a second.
"""

import dataclasses
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage
import scipy.optimize
import skimage.feature
import skimage.filters
import skimage.measure
import skimage.segmentation

from genenet.classes import SegmentationClass
from genenet.distance_maps import distance_map
from genenet.ensemble import Ensemble
from genenet.instance_metrics import F1_THRESHOLDS, instance_scores
from genenet.instance_segmentation import merge_slices, predict_maps
from genenet.instances import Merging, merge
from genenet.network import save_network
from genenet.normalization import Normalization
from genenet.phantom_tissue import tissue
from genenet.volume import open_volume

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


def timed(work: Callable[..., Any], *arrays: Any) -> tuple[Any, float]:
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


def naive_merge(foreground: np.ndarray, distances: np.ndarray, merging: Merging) -> np.ndarray:
    """The steps of Mahbod et al. one by one, as scikit-image has them; a mask of the whole image for every object."""
    mask = foreground >= merging.threshold
    regions = skimage.measure.regionprops(skimage.measure.label(mask, connectivity=1))
    areas = [region.area for region in regions if region.area >= merging.min_size]
    diameter = float(2 * np.sqrt(np.mean(areas) / np.pi))
    smoothed = skimage.filters.gaussian(distances, merging.sigma(diameter), preserve_range=True)
    tops = skimage.feature.peak_local_max(
        smoothed, min_distance=merging.radius(diameter), threshold_abs=merging.min_peak, labels=mask.astype(int)
    )
    seeds = np.zeros(mask.shape, np.int32)
    seeds[tuple(tops.T)] = 1 + np.arange(len(tops))
    found = skimage.segmentation.watershed(-smoothed, seeds, mask=mask)
    labels, n_objects = np.zeros_like(found), 0
    for number in range(1, found.max() + 1):
        one = scipy.ndimage.binary_fill_holes(found == number)
        if one.sum() >= merging.min_size:
            n_objects += 1
            labels[one & (labels == 0)] = n_objects
    return labels


def merging() -> None:
    """Merge ideal maps of 1,500 nuclei, in turn with the naive steps."""
    labels, _ = images()
    depth = distance_map(labels, labels > 0, kind="normalized").astype(np.float32)
    mask, settings, ratios = (labels > 0).astype(np.float32), Merging(), []
    for _ in range(3):
        ours, our_s = timed(merge, mask, depth, settings)
        theirs, their_s = timed(naive_merge, mask, depth, settings)
        ratios.append(their_s / our_s)
        scored = [instance_scores(labels, each).aggregated_jaccard for each in (ours, theirs)]
        print(f"genenet {our_s:.2f} s, AJI {scored[0]:.3f}; naive {their_s:.2f} s, AJI {scored[1]:.3f}")
    line = {"benchmark": "instances", "ratio": "naive_over_genenet_merging"}
    print(json.dumps(line | {"value": round(statistics.median(ratios), 1)}))


def pipeline() -> None:
    """An image of 1000x1000 by two ResNet-34 branches, untrained, from pixels to numbered nuclei, in two precisions."""
    from genenet.device import import_keras

    import_keras()
    from genenet.genes import ResNetUNet

    image, _ = tissue((SIZE, SIZE))
    with tempfile.TemporaryDirectory() as folder:
        members = []
        for target in ("classes", "distance"):
            net = ResNetUNet(depth=34, target=target)
            network = save_network(
                Path(folder) / target, net.build(), net, Normalization((128.0,) * 3, (64.0,) * 3),
                (SegmentationClass(0, "background", "#000000"), SegmentationClass(1, "nuclei", "#ffffff")), {},
                details={},
            )  # fmt: skip
            members.append(network)
        by_precision = {word: Ensemble(tuple(members)).predictor(word) for word in ("float32", "bfloat16")}
        volume = open_volume(image[None])
        spent: dict[str, list[float]] = {word: [] for word in by_precision}
        for number in range(4):
            for word, predictor in by_precision.items():
                maps, maps_s = timed(predict_maps, predictor, (1, SIZE, SIZE), volume.read_mirrored)
                _, merge_s = timed(merge_slices, *maps, Merging())
                if number:  # graphs are traced in the first round
                    spent[word].append(maps_s + merge_s)
                    print(f"{word}: networks {maps_s:.2f} s, merging {merge_s:.2f} s")
    ratio = statistics.median(a / b for a, b in zip(*spent.values(), strict=True))
    line = {"benchmark": "instances", "ratio": "float32_over_bfloat16_pipeline"}
    print(json.dumps(line | {"value": round(ratio, 2), "target": 2.5}))


PARTS = {"scores": scores, "merging": merging, "pipeline": pipeline}


def main() -> None:
    """Run all parts, or those named."""
    for name in sys.argv[1:] or PARTS:
        PARTS[name]()


if __name__ == "__main__":
    main()
