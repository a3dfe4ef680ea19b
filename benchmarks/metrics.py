"""Adjusted Rand score of whole volumes, over scikit-learn's: `python -m benchmarks.metrics`."""

import json
import statistics
import time

import numpy as np
import sklearn.metrics

import genenet.metrics

N_CLASSES, SHAPE, CHANGED, ROUNDS, TARGET = 7, (10, 800, 800), 0.1, 7, 40


def volumes():
    """Make labels of blocks some 40 voxels wide, and a prediction that is wrong in one voxel of ten."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(N_CLASSES, size=(SHAPE[0], SHAPE[1] // 40, SHAPE[2] // 40), dtype=np.uint8)
    labels = coarse.repeat(40, axis=1).repeat(40, axis=2)
    other = rng.integers(N_CLASSES, size=SHAPE, dtype=np.uint8)
    return labels, np.where(rng.random(SHAPE) < CHANGED, other, labels)


def timed(score, *arrays):
    """Give a score and the seconds that it took."""
    start = time.perf_counter()
    value = score(*arrays)
    return value, time.perf_counter() - start


def main():
    """Run both in turn, so that what else the machine does slows both, and compare."""
    labels, prediction = volumes()
    ratios, differences = [], []
    for _ in range(ROUNDS):
        theirs, their_s = timed(sklearn.metrics.adjusted_rand_score, labels.ravel(), prediction.ravel())
        ours, our_s = timed(genenet.metrics.adjusted_rand_score, labels, prediction)
        ratios.append(their_s / our_s)
        differences.append(abs(ours - theirs))
        print(f"scikit-learn {their_s * 1e3:.0f} ms, genenet {our_s * 1e3:.1f} ms, ratio {ratios[-1]:.0f}")
    line = {"benchmark": "metrics", "ratio": "sklearn_over_genenet_adjusted_rand"}
    line |= {"value": round(statistics.median(ratios), 1), "target": TARGET, "difference": max(differences)}
    print(json.dumps(line))


if __name__ == "__main__":
    main()
