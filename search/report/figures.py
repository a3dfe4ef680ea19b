"""The report's charts: what each draws."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from search.report.drawing import BASELINE, INK, MUTED, NETWORK, Draw, ScoreAxis, log_ticks
from search.report.importance import DEEPER, SCORE
from search.report.results import Chosen, Finished, Results
from search.report.text import parameters, score

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SCORE_TITLE = "adjusted Rand score"


def score_axis(results: Results) -> ScoreAxis:
    """The axis of all charts of single networks."""
    baseline = None if results.baseline is None else results.baseline.adjusted_rand
    return ScoreAxis.of([network.adjusted_rand for network in results.finished], baseline)


def draw_scores(results: Results) -> Draw:
    """Scores from best to worst over the baseline's line (Guay et al. 2018, figure 2)."""

    def draw(figure: "Figure") -> None:
        axes = figure.add_subplot()
        networks = results.finished
        _scatter(axes, results, {network.number: rank for rank, network in enumerate(networks, 1)})
        if len(networks) <= 5 * figure.get_figwidth():
            axes.set_xticks(range(1, len(networks) + 1), [str(network.number) for network in networks])
            axes.set_xlabel("network, best to worst")
        else:
            axes.set_xlabel("rank")
        axes.set_xlim(0.3, len(networks) + 0.7)
        axes.tick_params(axis="x", length=0)

    return draw


# What a cost is called on an axis.
COSTS = {
    "n_parameters": "parameters",
    "n_multiply_adds_per_voxel": "multiply-adds per voxel",
    "training_bytes": "bytes of a training step",
    "latency_s_per_megavoxel": "seconds per million voxels",
}


def draw_sizes(results: Results) -> Draw:
    """Score against number of parameters, or another cost with the Pareto front."""

    def draw(figure: "Figure") -> None:
        axes = figure.add_subplot()
        axes.set_xscale("log")
        _scatter(axes, results, {network.number: network.cost for network in results.finished})
        front = sorted((network.cost, network.adjusted_rand) for network in results.finished if network.on_front)
        if front:
            axes.plot(*zip(*front, strict=True), color=MUTED, linewidth=1.2, drawstyle="steps-post", zorder=2)
        low, high = axes.get_xlim()
        ticks = [tick for tick in log_ticks(low, high) if high / low < 100 or f"{tick:e}"[0] == "1"]
        said = parameters if low >= 1 else "{:g}".format
        axes.set_xticks(ticks, [said(tick).replace(".0", "") if low >= 1 else said(tick) for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.grid(axis="x")
        axes.set_xlabel(COSTS[results.cost])

    return draw


def _scatter(axes: "Axes", results: Results, places: dict[int, float]) -> None:
    """Single networks, members of the ensemble and the baseline, told apart by colour and by shape."""
    groups: dict[str, list[Finished]] = {"network": [], "in the ensemble": [], results.baseline_name: []}
    for network in results.finished:
        name = "in the ensemble" if results.is_member(network) else "network"
        groups[results.baseline_name if network.is_baseline else name].append(network)
    looks: list[dict[str, Any]] = [
        {"marker": "o", "markersize": 6.5, "markerfacecolor": "white", "color": NETWORK, "markeredgewidth": 1.5},
        {"marker": "o", "markersize": 7.5, "color": NETWORK},
        {"marker": "D", "markersize": 7, "color": BASELINE},
    ]
    _mark_baseline(axes, results)
    axis = score_axis(results)
    for (name, networks), look in zip(groups.items(), looks, strict=True):
        if networks:
            where = [places[network.number] for network in networks]
            scores = [network.adjusted_rand for network in networks]
            axis.plot(axes, where, scores, label=name.removeprefix("the "), zorder=3, **look)
    axes.set_ylabel(_SCORE_TITLE)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderpad=0, borderaxespad=0.3)


def _mark_baseline(axes: "Axes", results: Results) -> None:
    if results.baseline is not None:
        axes.axhline(results.baseline.adjusted_rand, color=BASELINE, linewidth=1.4, linestyle=(0, (5, 3)), zorder=2)


def draw_curve(chosen: Chosen, results: Results) -> Draw:
    """The score of the 1, 2, ... best networks together, the chosen number marked."""

    def draw(figure: "Figure") -> None:
        axes = figure.add_subplot()
        counts = list(range(1, len(chosen.curve) + 1))
        axes.plot(counts, chosen.curve, color=NETWORK, linewidth=1.8, marker="o", markersize=4.5)
        low, high = min(chosen.curve), max(chosen.curve)
        room = max(high - low, 0.01)
        axes.set_ylim(low - 0.12 * room, high + 0.25 * room)
        axes.set_xlim(0.5, max(len(counts), 2) + 0.5)
        axes.set_xticks(counts)
        axes.tick_params(axis="x", length=0)
        axes.set_xlabel("networks in the ensemble")
        axes.set_ylabel(_SCORE_TITLE)
        if chosen.adjusted_rand is not None:
            _ring(axes, chosen.n_joined, chosen.adjusted_rand, "best " if chosen.of_the_best else "")
        baseline = results.baseline
        if baseline is not None and axes.get_ylim()[0] < baseline.adjusted_rand < axes.get_ylim()[1]:
            _mark_baseline(axes, results)

    return draw


def _ring(axes: "Axes", n_members: int, reached: float, who: str) -> None:
    axes.plot(n_members, reached, "o", markersize=11, markerfacecolor="none", color=INK, markeredgewidth=1.6)
    text = f"{who}{n_members}: {score(reached)}" if n_members > 1 else f"the best alone: {score(reached)}"
    where, side = ((0, 11), "center") if n_members > 1 else ((-6, 11), "left")
    axes.annotate(text, (n_members, reached), where, textcoords="offset points", ha=side, weight="bold")


def draw_importance(shares: dict[str, float]) -> Draw:
    """Bars, the most important hyperparameter on top."""

    def draw(figure: "Figure") -> None:
        axes = figure.add_subplot()
        names = list(shares)
        axes.barh(range(len(names)), list(shares.values()), color=NETWORK, height=0.62)
        for place, share in enumerate(shares.values()):
            axes.annotate(f"{share:.0%}", (share, place), (4, 0), textcoords="offset points", va="center", color=MUTED)
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.set_xlim(0, 1.15 * max(shares.values()))
        axes.set_xticks([])
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)

    return draw


def draw_dependence(values: "pd.DataFrame", names: Sequence[str]) -> Draw:
    """Score against the value of each hyperparameter, side by side, or two by two on phones."""
    scores = values[SCORE].tolist()

    def draw(figure: "Figure") -> None:
        n_columns = len(names) if figure.get_figwidth() > 6 else min(2, len(names))
        grid = figure.subplots(-(-len(names) // n_columns), n_columns, sharey=True, squeeze=False)
        for axes, name in zip(grid.flat, names, strict=False):
            places = _place(axes, name, values[name].tolist())
            look = {"marker": "o", "markersize": 5, "color": NETWORK, "alpha": 0.75, "markeredgewidth": 0}
            ScoreAxis.of(scores).plot(axes, places, scores, **look)
        for axes in grid.flat[len(names) :]:
            axes.set_visible(False)
        for axes in grid[:, 0]:
            axes.set_ylabel(_SCORE_TITLE)

    return draw


def _place(axes: "Axes", name: str, drawn: list[Any]) -> list[float]:
    """Set up the horizontal axis for a hyperparameter; gives where its values lie."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(name.replace(DEEPER, "\n(mean of deeper levels)"))
    if any(isinstance(value, str) for value in drawn):
        options = sorted(set(drawn))
        axes.set_xticks(range(len(options)), options)
        axes.set_xlim(-0.5, len(options) - 0.5)
        return [options.index(value) + (7 * i % 11 - 5) * 0.03 for i, value in enumerate(drawn)]  # apart, side by side
    if name.startswith("log10_") and not name.endswith(DEEPER) and max(drawn) - min(drawn) < 4:
        places = [10**value for value in drawn]
        axes.set_xlabel(name.removeprefix("log10_"))
        axes.set_xscale("log")
        axes.set_xticks(log_ticks(min(places), max(places)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.2g}")
        axes.set_xticks([], minor=True)
        return places
    whole = all(float(value).is_integer() for value in drawn)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=whole))
    return drawn
