"""Families of networks on the vnc data, each network for the same time: plain, residual, dilated or pyramid, hybrid.

    python -m benchmarks.families [FOLDER]

Eight random networks of each family train for 100 s. Every hybrid is trained once more with all its kernels within
sections, otherwise the same: what it loses is what the neighbouring sections give. Train on z 0-10, validate on
z 11-13. Families take turns, so that what else a machine does falls on all. Run again, it continues. Prints tables,
rank correlations of hyperparameters with the score, and JSON lines; figures of a run stand in docs/RESULTS.md.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

from genenet.device import import_keras

import_keras()

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

from benchmarks.vnc import CLASSES, data_settings  # noqa: E402
from genenet.ensemble import Ensemble  # noqa: E402
from genenet.genes import ROOTS, NetworkRoot  # noqa: E402
from genenet.settings import TrainingSettings, WindowSettings  # noqa: E402
from search.space import Choice, Levels, Range, Space  # noqa: E402
from search.study import Study  # noqa: E402

SECONDS = 100
COMMON: dict[str, Any] = {
    "activation": Choice("relu", "elu", "leaky_relu"),
    "normalization": Choice("none", "batch"),
    "log10_learning_rate": Range(-3.2, -2.2),
    "log10_l2_kernel": Range(-14, -5),
}
PATHS: dict[str, Any] = {
    "n_scales": Range(2, 4),
    "n_features": Levels(Range(8, 28), Range(-4, 4), Range(-4, 4)),
    "n_convs": Levels(Range(1, 3), Range(0, 1), Range(-1, 1)),
    "pooling": Choice("max", "strided"),
    "upsampling": Choice("transposed", "resize"),
    **COMMON,
}
FULL_RESOLUTION: dict[str, Any] = {
    "n_features": Levels(Range(8, 28), Range(-4, 4), Range(-4, 4)),
    "n_convs": Levels(Range(1, 2), Range(0, 1), Range(-1, 1)),
    **COMMON,
}

# By study: family, preset, ranges, networks.
STUDIES: dict[str, tuple[str, str, dict[str, Any], int]] = {
    "plain": ("plain", "EncoderDecoder", PATHS, 8),
    "residual": (
        "residual",
        "ResidualUNet",
        {**PATHS, "shortcut": Choice("residual", "dense"), "squeeze_excitation": Choice("off", "on")},
        8,
    ),
    "dilated": ("dilated or pyramid", "DilatedNet", {**FULL_RESOLUTION, "n_scales": Range(3, 5)}, 4),
    "pyramid": ("dilated or pyramid", "PyramidNet", {**FULL_RESOLUTION, "n_branches": Range(2, 5)}, 4),
    "hybrid": (
        "hybrid 2D-3D",
        "Hybrid2D3D",
        {**PATHS, "n_scales": Range(2, 3), "n_convs": Levels(Range(1, 2)), "n_branches": Range(1, 3)},
        8,
    ),
}
WITHIN_SECTIONS = "hybrid within sections"


def make(name: str, folder: Path) -> Study:
    """The study of a family, or the one of the hybrids' twins."""
    _, preset, ranges, n_trials = STUDIES[name if name in STUDIES else "hybrid"]
    base = ROOTS[preset](len(CLASSES), window_size=192)
    # Five sections of a hybrid's window count like five windows.
    windows = WindowSettings(batch_size=1 if base.n_dims == 3 else 6)
    training = TrainingSettings(
        steps=100_000, seconds=SECONDS, validate_every=200, checkpoint_every=200, windows=windows
    )
    drawn = n_trials if name in STUDIES else 0
    return Study.create(
        folder / name, Space(base, ranges), data=data_settings(), n_trials=drawn, training=training, baseline=False
    )


def within_sections(net: NetworkRoot) -> NetworkRoot:
    """The same network with kernels of 1x3x3 only."""
    twin: NetworkRoot = net.copy()  # type: ignore[assignment]
    twin.update({
        path: {"spatial_mode": 0} for path, deltas in net.deltas.items() if path and "spatial_mode" in deltas
    })  # fmt: skip
    return twin


def run(studies: dict[str, Study]) -> None:
    """One network of each study after the other; a hybrid is followed by its twin."""
    twins = studies[WITHIN_SECTIONS]
    for turn in range(1, 9):
        for name in STUDIES:
            study = studies[name]
            if study.n_drawn() < turn <= STUDIES[name][3]:
                with_budget(study, turn)
        n_twins = len(twins.trials())
        for trial in [trial for trial in studies["hybrid"].trials() if trial.state["state"] == "done"][n_twins:]:
            twins.enqueue(within_sections(trial.blueprint), label=f"twin of {trial.number}")
            twins.run()


def with_budget(study: Study, n_trials: int) -> None:
    """Work until so many networks were drawn."""
    study.extend(n_trials=n_trials)
    study.run()


def table(studies: dict[str, Study]) -> pd.DataFrame:
    """All finished networks with their families, best first."""
    boards = [
        study.leaderboard().assign(study=name, family=STUDIES[name][0] if name in STUDIES else name)
        for name, study in studies.items()
        if study.trials()
    ]
    return pd.concat(boards).sort_values("adjusted_rand", ascending=False, ignore_index=True)


def hyperparameters(studies: dict[str, Study]) -> pd.DataFrame:
    """Root values, costs and scores of all drawn networks."""
    rows = []
    for name in STUDIES:
        for trial in studies[name].trials():
            if trial.state["state"] != "done":
                continue
            net = trial.blueprint
            rows.append({
                "family": STUDIES[name][0],
                "adjusted_rand": trial.state["adjusted_rand"],
                "steps": trial.state["steps"],
                **{key: net.value(key) for key in net.vocabulary if key in STUDIES[name][2]},
                "log10 parameters": np.log10(net.n_parameters),
                "log10 multiply-adds per voxel": np.log10(net.cost().n_multiply_adds_per_voxel),
                "receptive field": net.cost().receptive_field[-1],
                "convolutions": sum(map(sum, net.layers_per_stack())),
            })  # fmt: skip
    return pd.DataFrame(rows)


def importance(rows: pd.DataFrame) -> pd.Series:
    """Spearman's correlation with the score within families (scores less their family's median), strongest first."""
    score = rows["adjusted_rand"] - rows.groupby("family")["adjusted_rand"].transform("median")
    found = {}
    for key in rows.columns.drop(["family", "adjusted_rand"]):
        column = rows[key].dropna()
        options = column if column.dtype.kind in "iuf" else None
        if options is not None and options.nunique() > 1:
            found[key] = column.corr(score[column.index], method="spearman")
        elif options is None:
            for option in sorted(column.unique())[1 if column.nunique() == 2 else 0 :]:
                found[f"{key} = {option}"] = (
                    (column == option).astype(float).corr(score[column.index], method="spearman")
                )
    return pd.Series(found).dropna().sort_values(key=lambda values: -values.abs())


def draw(board: pd.DataFrame, pairs: pd.DataFrame, path: Path) -> None:
    """Draw the scores of the families, and the hybrids beside their twins."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    families = list(dict.fromkeys(family for family, *_ in STUDIES.values()))
    for place, family in enumerate(families):
        score = board.loc[board["family"] == family, "adjusted_rand"].to_numpy()
        left.scatter(np.full(len(score), place), score, color="#0072b2", s=24, alpha=0.8)
        left.hlines(np.median(score), place - 0.25, place + 0.25, color="#d55e00", linewidth=2)
    left.set_xticks(range(len(families)), families)
    left.set_ylabel("validation adjusted Rand score")
    left.set_title("networks, and the median of their family", fontsize=10)
    right.scatter(pairs["twin"], pairs["hybrid"], color="#0072b2", s=24)
    low, high = pairs[["twin", "hybrid"]].min().min() - 0.02, pairs[["twin", "hybrid"]].max().max() + 0.02
    right.plot([low, high], [low, high], color="#999999", linewidth=1)
    right.set_xlabel("all kernels within sections")
    right.set_ylabel("kernels across sections")
    right.set_title("the same hybrids with and without 3-D kernels", fontsize=10)
    figure.suptitle(f"vnc, {SECONDS} s per network", fontsize=11)
    figure.savefig(path, dpi=110)


def main(folder: Path) -> None:
    """Run all studies to their end and say what came out."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    studies = {name: make(name, folder) for name in (*STUDIES, WITHIN_SECTIONS)}
    run(studies)
    board = table(studies)
    columns = ["study", "trial", "adjusted_rand", "mean_iou", "n_parameters", "lpes", "lpds", "steps"]
    print(board[columns].to_string(index=False))
    print(importance(hyperparameters(studies)).to_string())
    scores = {name: {t.number: t.state.get("adjusted_rand") for t in study.trials()} for name, study in studies.items()}
    hybrids = {trial.state["label"]: trial.state for trial in studies[WITHIN_SECTIONS].trials()}
    pairs = pd.DataFrame(
        [
            {"hybrid": score, "twin": hybrids[f"twin of {number}"]["adjusted_rand"]}
            for number, score in scores["hybrid"].items()
            if score is not None
        ]
    )
    print(pairs.to_string(index=False))
    draw(board, pairs, folder / "families.png")
    best = board.groupby("family")["adjusted_rand"].max()
    everything = [network for name in STUDIES for network in studies[name].networks()]
    ensemble = Ensemble.select(everything, studies["plain"].data, max_members=6)
    together = max(point.adjusted_rand for point in ensemble.curve)
    others = [family for family in best.index if family != "plain"]
    results = {f"best of {family} over best of plain": best[family] / best["plain"] for family in others}
    results["hybrid over the same within sections, median"] = float((pairs["hybrid"] / pairs["twin"]).median())
    results["ensemble of all families over best of all"] = together / board["adjusted_rand"].max()
    for name, value in results.items():
        print(json.dumps({"benchmark": "families", "ratio": name, "value": round(float(value), 4)}))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/families"))
