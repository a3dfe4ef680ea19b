"""Prune the branches of an instance segmentation, and score the objects (Mahbod et al. 2022, figure 2)."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

import pruning
from genenet.averaging import MeanPredictor
from genenet.dataset import Dataset
from genenet.ensemble import Ensemble
from genenet.errors import InputError
from genenet.folder import read_json, write_json, writing
from genenet.instance_segmentation import check_branches, evaluate_instances, write_merging
from genenet.instances import Merging
from genenet.prune_network import PrunedNetwork, PruningSettings, compare_rounds, prune_rounds
from genenet.settings import TrainingSettings
from pruning.magnitude import ratios

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVE, SCORES = "curve.csv", "scores.json"

# What is drawn over the compression ratio: a column, and what it is called.
DRAWN = {
    "semantic_dice": "Dice of the foreground",
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
        progress: Called with networks pruned and trained, and their number in all.

    Returns:
        A row per round and data: `data`; `compression_ratio`, of the kernels where single weights go, else of all
        parameters; `theoretical_speedup` and `measured_speedup` of all branches together, by Keras in float32, one
        training window after the other; and what `score_branches` gives. While it is at work `curve.csv` has what is
        done so far, without speed-ups.

    Raises:
        InputError: Networks that cannot be merged, or that do not fit the data; further data called `validation`.
        PruningError: The target cannot be reached.
    """
    folder, data, merging = Path(folder), Dataset.open(data), merging or Merging()
    settings = settings or PruningSettings("magnitude", compression_ratio=16)
    check_branches(ensemble)
    if "validation" in (others or {}):
        raise InputError("further data must not be called validation: that is the data's own part")
    scored_on = {"validation": data, **{name: Dataset.open(other) for name, other in (others or {}).items()}}
    for entry in scored_on.values():
        ensemble.check(entry)
    halvings = ratios(settings.compression_ratio) if settings.compression_ratio else []
    n_rounds = len(halvings) or rounds
    names = [f"cr{ratio:g}" for ratio in halvings] or [f"round{number}" for number in range(1, n_rounds + 1)]
    places = [folder / f"branch{index}" for index in range(len(ensemble.members))]
    branches = []
    for member, place in zip(ensemble.members, places, strict=True):
        rate = settings.learning_rate
        own = dataclasses.replace(
            settings, learning_rate=10.0**member.blueprint.log10_learning_rate if rate is None else rate
        )
        again = None if training is None else dataclasses.replace(training, windows=member.windows)
        branches.append(prune_rounds(member, data, place, own, again, rounds=rounds))
    curve = _Curve(folder, scored_on, merging, settings.scope if halvings else settings.method)
    curve.add(ensemble, {"compression_ratio": 1.0})
    for number, name in enumerate(names):
        members = []
        for index, branch in enumerate(branches):
            members.append(next(branch))
            if progress is not None:
                progress(number * len(branches) + index + 1, n_rounds * len(branches))
        together = dataclasses.replace(ensemble, members=tuple(members))
        _save(together, folder / name, merging)
        curve.add(together, {"compression_ratio": halvings[number]} if halvings else {})
    pruned = [
        compare_rounds(member, data, place, n_rounds) for member, place in zip(ensemble.members, places, strict=True)
    ]
    for number, name in enumerate(names, 1):  # the branches' rounds have their last places now
        _save(
            dataclasses.replace(ensemble, members=tuple(done.stages[number] for done in pruned)), folder / name, merging
        )
    return curve.finish([_costs(pruned, number) for number in range(n_rounds + 1)])


def _save(together: Ensemble, folder: Path, merging: Merging) -> None:
    together.save(folder)
    write_merging(folder, merging, together)


class _Curve:
    """Scores over the rounds, in `curve.csv` and `curve.png` as they come; what was scored once is not scored again.

    Args:
        folder: Where they go, with `scores.json`, in which a call after a kill finds them.
        scored_on: Data by name.
        merging: How branches are merged.
        way: Of pruning, for the picture.
    """

    def __init__(self, folder: Path, scored_on: Mapping[str, Dataset], merging: Merging, way: str) -> None:
        self._folder, self._scored_on, self._merging, self._way = folder, scored_on, merging, way
        folder.mkdir(parents=True, exist_ok=True)
        self._known = read_json(folder / SCORES) if (folder / SCORES).exists() else {}
        self._rounds: list[tuple[dict[str, float | None], dict[str, dict[str, float]]]] = []

    def add(self, together: Ensemble, costs: dict[str, float | None]) -> None:
        """Score a round."""
        predictor: MeanPredictor | None = None
        found = {}
        for name, data in self._scored_on.items():
            images = [part.image.name for part in data.validation]
            made_of = json.dumps([together.identity, data.fingerprint, images, self._merging.to_dict()])
            if made_of not in self._known:
                predictor = predictor or together.predictor()  # loaded once for all data, and not if all is known
                self._known[made_of] = score_branches(together, data, self._merging, predictor)
                write_json(self._folder / SCORES, self._known)
            found[name] = self._known[made_of]
        self._rounds.append((costs, found))
        self._write()

    def finish(self, costs: Sequence[dict[str, float | None]]) -> pd.DataFrame:
        """Add what every round costs, where it is not known yet."""
        self._rounds = [({**new, **old}, found) for new, (old, found) in zip(costs, self._rounds, strict=True)]
        return self._write()

    def _write(self) -> pd.DataFrame:
        rows = [{"data": name, **costs, **found} for costs, each in self._rounds for name, found in each.items()]
        table = pd.DataFrame(rows)
        with writing(self._folder / CURVE) as beside:
            table.to_csv(beside, index=False)
        if table["compression_ratio"].notna().all():
            draw_curves({self._way: table}, self._folder / "curve.png")
        return table


def score_branches(
    ensemble: Ensemble, data: Dataset, merging: Merging | None = None, predictor: MeanPredictor | None = None
) -> dict[str, float]:
    """Score the objects, the foreground, and the distances, on a validation part.

    Returns:
        By name: `aggregated_jaccard`, `pq`, `sq`, `dq`, `foreground_dice` of the objects; `semantic_dice` of the
        foreground before merging; `distance_mse`; means over images.
    """
    found, rows = evaluate_instances(ensemble, data, merging=merging, predictor=predictor)
    names = ("aggregated_jaccard", "pq", "sq", "dq", "foreground_dice")
    means = {name: float(rows[name].mean()) for name in ("semantic_dice", "distance_mse")}
    return {**{name: getattr(found, name) for name in names}, **means}


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
