"""The experiment of Guay et al. 2018 on the vnc data: random networks against the original U-Net, and their ensembles.

    python -m benchmarks.vnc time  [FOLDER]     every network trains for 100 s
    python -m benchmarks.vnc steps [FOLDER]     every network trains for 400 steps

Windows are 192x192, six to a step, for all; so the original U-Net has its 31 million parameters but same padding,
since with valid padding such a window would give 12x12 voxels. Train on z 0-10, validate on z 11-13. Run again, it
continues. Prints a table, and JSON lines; figures of a run stand in docs/RESULTS.md.
"""

import json
import logging
import os
import sys
from pathlib import Path

from genenet.device import import_keras
from genenet.errors import InputError

import_keras()

from genenet.ensemble import Ensemble  # noqa: E402
from genenet.genes import EncoderDecoder, UNet  # noqa: E402
from genenet.settings import TrainingSettings, WindowSettings  # noqa: E402
from search.report import write_report  # noqa: E402
from search.space import Choice, Levels, Range, Space  # noqa: E402
from search.study import Study  # noqa: E402

N_TRIALS = 16
CLASSES = {
    "intracellular": "#4a6fa5",
    "membrane": "#f5e9c8",
    "glia": "#7fb069",
    "mitochondria": "#d1495b",
    "synapse": "#edae49",
}


def data_settings() -> dict:
    """The vnc data as a data file."""
    folder = os.environ.get("GENENET_DATA")
    if not folder:
        raise InputError("GENENET_DATA must name the folder that holds vnc/image.tif and vnc/labels.tif")
    return {
        "image": str(Path(folder) / "vnc" / "image.tif"),
        "labels": str(Path(folder) / "vnc" / "labels.tif"),
        "voxel_size_nm": [45.0, 4.6, 4.6],
        "classes": [{"value": v, "name": n, "color": c} for v, (n, c) in enumerate(CLASSES.items())],
        "training": {"z": [0, 11]},
        "validation": {"z": [11, 14]},
    }


def space() -> Space:
    """Networks of 2 to 4 scales, from some fifty thousand to some fifteen million parameters."""
    return Space(
        EncoderDecoder(n_classes=len(CLASSES), window_size=192),
        {
            "n_scales": Range(2, 4),
            "n_features": Levels(Range(8, 28), Range(-4, 4), Range(-4, 4)),
            "n_convs": Levels(Range(1, 3), Range(0, 1), Range(-1, 1)),
            "pooling": Choice("max", "strided"),
            "upsampling": Choice("transposed", "resize"),
            "activation": Choice("relu", "elu", "leaky_relu"),
            "normalization": Choice("none", "batch"),
            "log10_learning_rate": Range(-3.2, -2.2),
            "log10_l2_kernel": Range(-14, -5),
        },
    )


def study(budget: str, folder: Path) -> Study:
    """The study of one budget."""
    windows = WindowSettings(batch_size=6)
    settings = {
        "time": TrainingSettings(steps=100_000, seconds=100, validate_every=200, checkpoint_every=200, windows=windows),
        "steps": TrainingSettings(steps=400, validate_every=100, checkpoint_every=100, windows=windows),
    }
    baseline = UNet(n_classes=len(CLASSES), padding="same", window_size=192)
    return Study.create(
        folder, space(), data=data_settings(), n_trials=N_TRIALS, training=settings[budget], baseline=baseline
    )


def main(budget: str, folder: Path) -> None:
    """Run a study to its end and say what came out."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    run = study(budget, folder)
    run.run()
    board = run.leaderboard()
    ensemble = Ensemble.select(run.networks(), run.data)
    ensemble.save(run.folder / "ensemble")
    write_report(run)
    draw(board, ensemble, budget, run.folder / "result.png")
    print(board.to_string(index=False))
    for point in ensemble.curve:
        print(f"{point.n_members:2d} {point.alone:.4f} {point.adjusted_rand:.4f} {point.mean_iou:.4f}")
    baseline = float(board.loc[board["label"] == "baseline", "adjusted_rand"].iloc[0])
    best_alone = float(board["adjusted_rand"].max())
    best_together = max(point.adjusted_rand for point in ensemble.curve)
    results = {
        "baseline": baseline,
        "best_single": best_alone,
        "ensemble": best_together,
        "n_members": len(ensemble.members),
        "n_above_baseline": int((board["adjusted_rand"] > baseline).sum()),
        "n_networks": int((board["label"] != "baseline").sum()),
        "ensemble_over_best_single": best_together / best_alone,
        "best_single_over_baseline": best_alone / baseline,
    }
    for name, value in results.items():
        print(json.dumps({"benchmark": f"vnc.{budget}", "ratio": name, "value": round(value, 4)}))


def draw(board, ensemble: Ensemble, budget: str, path: Path) -> None:
    """Draw the paper's Figure 2, and the ensemble's curve."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    is_baseline = (board["label"] == "baseline").to_numpy()
    score = board["adjusted_rand"].to_numpy()
    place = range(1, len(score) + 1)
    colors = ["#d55e00" if flag else "#0072b2" for flag in is_baseline]
    left.scatter(place, score, c=colors, s=28)
    left.axhline(float(score[is_baseline][0]), color="#d55e00", linewidth=1, linestyle="--", label="original U-Net")
    left.set_xlabel("networks, best first")
    left.set_ylabel("validation adjusted Rand score")
    left.set_ylim(bottom=max(0.0, float(score[is_baseline][0]) - 0.12))
    left.legend(frameon=False)
    together = [point.adjusted_rand for point in ensemble.curve]
    right.plot(
        range(1, len(together) + 1), together, color="#0072b2", marker="o", markersize=4, label="ensemble of the n best"
    )
    right.plot(
        range(1, len(together) + 1), [p.alone for p in ensemble.curve], ".", color="#999999", label="n-th network alone"
    )
    right.set_xlabel("n")
    right.set_ylim(bottom=max(0.0, together[0] - 0.12))
    right.legend(frameon=False)
    unit = "100 s" if budget == "time" else "400 steps"
    figure.suptitle(f"vnc, {unit} per network (networks below the axis are left out)", fontsize=11)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    which = sys.argv[1] if len(sys.argv) > 1 else ""
    if which not in ("time", "steps"):
        sys.exit("usage: python -m benchmarks.vnc time|steps [FOLDER]")
    main(which, Path(sys.argv[2] if len(sys.argv) > 2 else f"runs/vnc-{which}"))
