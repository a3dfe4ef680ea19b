"""Prune the branches of an instance segmentation, and score the objects (Mahbod et al. 2022, figure 2)."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

import pruning
from genenet.averaging import MeanPredictor
from genenet.dataset import Dataset
from genenet.ensemble import Ensemble
from genenet.errors import InputError
from genenet.folder import writing
from genenet.instance_segmentation import check_branches, evaluate_instances, write_merging
from genenet.instances import Merging
from genenet.prune_network import PrunedNetwork, PruningSettings, prune_network
from genenet.settings import TrainingSettings
from pruning.magnitude import ratios

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVE = "curve.csv"

# What is drawn over the compression ratio: a column, and what it is called.
DRAWN = {
    "foreground_dice": "Dice",
    "distance_mse": "squared error of distances",
    "aggregated_jaccard": "AJI",
    "pq": "PQ",
}


def prune_branches(
    ensemble: Ensemble,
    data: Dataset | str | Path,
    folder: Path | str,
    settings: PruningSettings | None = None,
    training: TrainingSettings | None = None,
    *,
    rounds: int = 1,
    merging: Merging | None = None,
    others: Mapping[str, Dataset | str | Path] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Prune every branch in rounds, train after each, and score the objects each time.

    Args:
        ensemble: The branches; they stay as they are.
        data: What is trained and validated on.
        folder: Gets a folder per branch with all rounds, one per round that holds the branches together (`cr2`, `cr4`,
            ... after halvings of single weights, `round1`, ... where channels go), `curve.csv` and `curve.png`. The
            same call again continues.
        settings: What goes from every branch; single weights down to a sixteenth, layer by layer, if left out. Without
            a learning rate in them branches train as they began, as in the paper: at a tenth of it some hundred steps
            do not bring back what halving takes.
        training: After every round; none if left out. Windows are drawn as each branch's were.
        rounds: Of channels, as for `prune_network`; single weights go in halvings.
        merging: How branches are merged, dense and pruned alike.
        others: Further data to score on, by name; their validation parts.
        progress: Called with rounds scored and rounds in all.

    Returns:
        A row per round and data: `data`; of all branches together `compression_ratio`, `theoretical_speedup` and
        `measured_speedup`, by Keras in float32, one training window after the other; and what `score_branches` gives.

    Raises:
        InputError: Networks that cannot be merged, or that do not fit the data; further data called `validation`.
        PruningError: The target cannot be reached.
    """
    folder, data = Path(folder), Dataset.open(data)
    settings = settings or PruningSettings("magnitude", compression_ratio=16, scope="layer")
    check_branches(ensemble)
    if "validation" in (others or {}):
        raise InputError("further data must not be called validation: that is the data's own part")
    pruned = []
    for index, member in enumerate(ensemble.members):
        rate = settings.learning_rate
        own = dataclasses.replace(
            settings, learning_rate=10.0**member.blueprint.log10_learning_rate if rate is None else rate
        )
        again = None if training is None else dataclasses.replace(training, windows=member.windows)
        pruned.append(prune_network(member, data, folder / f"branch{index}", own, again, rounds=rounds))
    halvings = ratios(settings.compression_ratio) if settings.compression_ratio else []
    scored_on = {"validation": data, **{name: Dataset.open(other) for name, other in (others or {}).items()}}
    rows, n_stages = [], len(pruned[0].stages)
    for place in range(n_stages):
        together = dataclasses.replace(ensemble, members=tuple(done.stages[place] for done in pruned))
        costs = _costs(pruned, place)
        if halvings:
            costs["compression_ratio"] = [1.0, *halvings][place]
        if place:
            name = f"cr{costs['compression_ratio']:g}" if halvings else f"round{place}"
            together.save(folder / name)
            write_merging(folder / name, merging or Merging(), together)
        predictor = together.predictor()
        for name, entry in scored_on.items():
            rows.append({"data": name, **costs, **score_branches(together, entry, merging, predictor)})
        if progress is not None:
            progress(place + 1, n_stages)
    found = pd.DataFrame(rows)
    with writing(folder / CURVE) as beside:
        found.to_csv(beside, index=False)
    draw_curves({settings.scope if halvings else settings.method: found}, folder / "curve.png")
    return found


def score_branches(
    ensemble: Ensemble, data: Dataset, merging: Merging | None = None, predictor: MeanPredictor | None = None
) -> dict[str, float]:
    """Score the objects, and the distances, on a validation part.

    Returns:
        By name: `aggregated_jaccard`, `pq`, `sq`, `dq`, `foreground_dice`, `distance_mse`; means over images.
    """
    found, rows = evaluate_instances(ensemble, data, merging=merging, predictor=predictor)
    names = ("aggregated_jaccard", "pq", "sq", "dq", "foreground_dice")
    return {**{name: getattr(found, name) for name in names}, "distance_mse": float(rows["distance_mse"].mean())}


def _costs(pruned: Sequence[PrunedNetwork], place: int) -> dict[str, float | None]:
    """What a round bought, all branches together."""
    before = pruning.Row.together("before", [done.report.rows[0] for done in pruned])
    now = pruning.Row.together("now", [done.report.rows[place] for done in pruned], before)
    return {
        "compression_ratio": now.compression_ratio,
        "theoretical_speedup": now.theoretical_speedup,
        "measured_speedup": now.speedup,
    }


def draw_curves(curves: Mapping[str, pd.DataFrame], path: Path | str) -> "Figure":
    """Draw scores over the compression ratio, a panel per score, a line per way of pruning and data (figures 2 and 3).

    Args:
        curves: Of `prune_branches`, by how they were made.
        path: Where the picture goes, PNG or SVG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (column, title) in zip(figure.subplots(1, len(DRAWN)), DRAWN.items(), strict=True):
        for way, curve in curves.items():
            for name, part in curve.groupby("data", sort=False):
                axes.plot(part["compression_ratio"], part[column], marker="o", markersize=3, label=f"{way}, {name}")
        axes.set_xscale("log", base=2)
        axes.set_xlabel("compression ratio")
        axes.set_title(title, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    with writing(path) as beside:
        figure.savefig(beside, format=Path(path).suffix.lstrip("."), dpi=150)
    return figure
