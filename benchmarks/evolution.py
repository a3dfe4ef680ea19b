"""Evolution against random search on the vnc data: as many networks, each for the same time.

    python -m benchmarks.evolution [FOLDER]

Both samplers draw encoder-decoders, plain, residual or dense, with or without attention at the skips; each trains 24
for 45 s. They take turns, so that what else a machine does falls on both. Train on z 0-10,
validate on z 11-13. Run again, it continues. Prints tables, and JSON lines; figures of a run stand in docs/RESULTS.md.
"""

import json
import logging
import sys
from pathlib import Path

from genenet.device import import_keras

import_keras()

import numpy as np  # noqa: E402

from benchmarks.families import with_budget  # noqa: E402
from benchmarks.vnc import CLASSES, data_settings  # noqa: E402
from genenet.ensemble import Ensemble  # noqa: E402
from genenet.genes import EncoderDecoder  # noqa: E402
from genenet.settings import TrainingSettings, WindowSettings  # noqa: E402
from search.space import Choice, Levels, Limits, Range, Space  # noqa: E402
from search.study import Study  # noqa: E402

N_TRIALS, SECONDS = 24, 45
SAMPLERS = ("random", "evolution")


def space() -> Space:
    """What worked in other runs, and what may or may not help."""
    return Space(
        EncoderDecoder(n_classes=len(CLASSES), window_size=128),
        {
            "n_scales": Range(1, 4),
            "n_features": Levels(Range(6, 24), Range(-3, 3), Range(-3, 3)),
            "n_convs": Levels(Range(1, 3), Range(0, 1), Range(-1, 1)),
            "shortcut": Choice("none", "residual", "dense"),
            "merge": Choice("concatenate", "sum", "gate"),
            "pooling": Choice("max", "strided"),
            "upsampling": Choice("transposed", "resize"),
            "activation": Choice("relu", "elu", "leaky_relu"),
            "normalization": Choice("none", "batch"),
            "log10_learning_rate": Range(-3.4, -2.0),
            "log10_l2_kernel": Range(-14, -5),
            "window_size": Range(96, 192),
        },
    )


def make(sampler: str, folder: Path) -> Study:
    """The study of a sampler."""
    windows = WindowSettings(batch_size=4)
    training = TrainingSettings(
        steps=100_000, seconds=SECONDS, validate_every=1000, checkpoint_every=1000, windows=windows
    )
    return Study.create(
        folder / sampler,
        space(),
        data=data_settings(),
        n_trials=N_TRIALS,
        sampler=sampler,
        training=training,
        limits=Limits(max_multiply_adds=100_000),
        baseline=False,
    )


def scores(study: Study) -> list[float]:
    """The scores of trained networks, in the order of their trials; one that failed counts nothing."""
    kept = [trial for trial in study.trials() if trial.state["state"] in ("done", "failed")]
    return [float(trial.state.get("adjusted_rand") or 0.0) for trial in kept]


def draw(found: dict[str, list[float]], together: dict[str, list[float]], path: Path) -> None:
    """Draw scores over trials with the best so far, and the ensembles' curves."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for (sampler, values), color in zip(found.items(), ("#999999", "#0072b2"), strict=True):
        numbers = range(1, len(values) + 1)
        left.scatter(numbers, values, color=color, s=16)
        left.step(numbers, np.maximum.accumulate(values), color=color, where="post", label=f"{sampler}, best so far")
        curve = together[sampler]
        right.plot(range(1, len(curve) + 1), curve, color=color, marker="o", markersize=3, label=sampler)
    left.set_xlabel("networks trained")
    left.set_ylabel("validation adjusted Rand score")
    low = min(float(np.median(values)) for values in found.values()) - 0.15
    left.set_ylim(bottom=max(0.0, low))
    left.legend(frameon=False)
    right.set_xlabel("networks in the ensemble")
    right.legend(frameon=False)
    figure.suptitle(f"vnc, {SECONDS} s per network (networks below the axis are left out)", fontsize=11)
    figure.savefig(path, dpi=110)


def main(folder: Path) -> None:
    """Run both to their end and say what came out."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    studies = {sampler: make(sampler, folder) for sampler in SAMPLERS}
    for turn in range(1, N_TRIALS + 1):
        for study in studies.values():
            if study.n_drawn() < turn:
                with_budget(study, turn)
    found = {sampler: scores(study) for sampler, study in studies.items()}
    ensembles = {sampler: Ensemble.select(study.networks(), study.data) for sampler, study in studies.items()}
    together = {name: [point.adjusted_rand for point in ensemble.curve] for name, ensemble in ensembles.items()}
    columns = ["trial", "adjusted_rand", "mean_iou", "n_parameters", "lpes", "lpds", "steps"]
    for sampler, study in studies.items():
        print(sampler)
        print(study.leaderboard()[columns].to_string(index=False))
        print(" ".join(f"{value:.4f}" for value in together[sampler]))
    draw(found, together, folder / "evolution.png")
    half = N_TRIALS // 2
    results = {}
    for what, worth in (
        ("best", {name: max(values) for name, values in found.items()}),
        ("median_of_the_second_half", {name: float(np.median(values[half:])) for name, values in found.items()}),
        ("ensemble", {name: max(values) for name, values in together.items()}),
    ):
        results |= {f"{what}_{name}": worth[name] for name in SAMPLERS}
        results[f"{what}_evolution_over_random"] = worth["evolution"] / worth["random"]
    for name, value in results.items():
        print(json.dumps({"benchmark": "evolution", "ratio": name, "value": round(value, 4)}))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/evolution"))
