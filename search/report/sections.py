"""The report's sections of charts and of the table: what stands in each, and what to say while it is missing."""

from genenet.wording import plural
from search.report.drawing import PHONE, PHONE_TALL, chart
from search.report.figures import (
    COSTS,
    draw_curve,
    draw_dependence,
    draw_importance,
    draw_scores,
    draw_sizes,
    score_axis,
)
from search.report.html import Markup, element, figure, join, row, table
from search.report.importance import measure_importance
from search.report.results import Chosen, Finished, Results
from search.report.text import above_baseline, command, duration, listed, parameters, score
from search.study import Study

N_IN_TABLE = 10
N_SCATTERED = 4
_FEW_NETWORKS = 50  # below which importances are called a hint

_HEADER = (
    "net",
    "#score",
    "#correction",
    "#parameters",
    "LPES",
    "LPDS",
    "#learning rate",
    "#window",
    "#steps",
    "#time",
)


def _missing(*parts: str) -> Markup:
    """In the place of something that is not there yet."""
    return element("p", *parts, class_="missing")


def _code(*words: object) -> Markup:
    return element("code", command(*words))


def scores(study: Study, results: Results) -> Markup:
    """All scores, sorted, against the baseline."""
    if not results.finished:
        run = _code("search", "run", study.folder)
        return _missing("There is nothing to show before the first network has finished; ", run, " runs the search.")
    said = above_baseline(results)
    caption = "Validation adjusted Rand score of every finished network, best to worst. "
    if results.baseline is not None:
        caption += f"The dashed line is {results.baseline_name}, trained under the same budget. "
    if results.ensemble is not None:
        caption += "Filled circles are members of the ensemble. "
    picture = chart(draw_scores(results), f"Scores of {len(results.finished)} networks, sorted. {said}")
    return join(element("p", said), figure(picture, caption, _cut(results)))


def _cut(results: Results) -> str:
    """Which networks the charts show at their lower edge."""
    floor = score_axis(results).floor
    low = [network for network in results.finished if floor is not None and network.adjusted_rand < floor]
    if not low:
        return ""
    names = [f"net {network.number}: {score(network.adjusted_rand)}" for network in low[:5]]
    more = f" and {len(low) - len(names)} more" if len(low) > len(names) else ""
    return f"Triangles at the lower edge score less than the axis shows ({', '.join(names)}{more})."


def ensemble(study: Study, results: Results) -> Markup:
    """The ensemble's score by number of members."""
    chosen, make = results.ensemble, _code("ensemble", study.folder)
    if chosen is None:
        return _missing("No ensemble has been chosen yet; ", make, " chooses one and writes its curve.")
    said = [_missing("Networks have finished since this was chosen; ", make, " chooses again.")]
    said = [] if chosen.is_current else said
    if not chosen.curve:
        return join(*said, _missing("The ensemble came without a curve; ", make, " makes one."))
    return join(*said, element("p", _gain(chosen)), figure(_curve(chosen, results), *_about(chosen)))


def _curve(chosen: Chosen, results: Results) -> Markup:
    return chart(draw_curve(chosen, results), f"Ensemble score for 1 to {len(chosen.curve)} networks.")


def _gain(chosen: Chosen) -> str:
    if len(chosen.members) == 1 or chosen.adjusted_rand is None:
        return "The best network alone scores best; adding others does not help here."
    gain = chosen.adjusted_rand - chosen.curve[0]
    who = f"the best {len(chosen.members)}" if chosen.of_the_best else f"the {len(chosen.members)} chosen networks"
    alone = "the best network" if chosen.of_the_best else "the first of them"
    said = f"Together {who} score {score(gain)} more than {alone} alone."
    if chosen.ambiguity is None:
        return said
    by = f"{chosen.ambiguity:.3f}"
    return f"{said} Their ambiguity is {by}: by so much the ensemble's squared error is less than theirs on average."


def _about(chosen: Chosen) -> tuple[str, ...]:
    how = "vote on the class of each voxel" if chosen.vote else "are averaged in their class probabilities"
    names = listed([f"net {number}" if number is not None else "a network from elsewhere" for number in chosen.members])
    which = "The 1, 2, … best networks" if chosen.of_the_best else "The networks, as they joined one by one,"
    again = "" if chosen.n_joined == len(chosen.members) else " Some joined again and count for more."
    return (
        f"{which} {how}.{again} The circle marks the ensemble that was chosen: {names}. ",
        "It was chosen on this same validation part, so that it may score a little less on new data.",
    )


def sizes(study: Study, results: Results) -> Markup:
    """Scores against numbers of parameters."""
    if not results.finished:
        return _missing("No network has finished yet.")
    counts = [network.n_parameters for network in results.finished]
    said = f"The networks have {parameters(min(counts))} to {parameters(max(counts))} parameters."
    axis = "number of trainable parameters" if results.cost == "n_parameters" else COSTS[results.cost]
    caption = f"Score against {axis}, on a logarithmic axis. Networks far to the left are small "
    caption += "and quick; those far up segment well. "
    front = [network for network in results.finished if network.on_front]
    if front:
        caption += f"The line joins the {plural(len(front), 'network')} that no other one beats in all objectives. "
    picture = chart(draw_sizes(results), f"Scores against {axis}.")
    return join(element("p", said if len(counts) > 1 else ""), figure(picture, caption, _cut(results)))


def importance(study: Study, results: Results) -> Markup:
    """Which hyperparameters the score depended on, and how."""
    found = measure_importance(study)
    if not found.shares:
        return _missing("Which hyperparameters mattered cannot be said yet. ", found.missing)
    caption = "Share of the differences in score that each hyperparameter explains "
    caption += f"(functional ANOVA of {plural(len(found.values), 'network')}). "
    caption += "With so few networks this is a hint, not a finding." if len(found.values) < _FEW_NETWORKS else ""
    alt = "Bars of hyperparameter importance."
    bars = chart(draw_importance(found.shares), alt, (720, 50 + 26 * len(found.shares)), PHONE)
    names = list(found.shares)[:N_SCATTERED]
    dots = chart(draw_dependence(found.values, names), "Scores against hyperparameters.", (1040, 270), PHONE_TALL)
    vocabulary = study.space.base.vocabulary
    known = [name for name in dict.fromkeys(name.partition(" ")[0] for name in names) if name in vocabulary]
    meanings = [join(element("code", name), f" {vocabulary[name].meaning}. ") for name in known]
    said = f"Each point is a network: its score against the {plural(len(names), 'hyperparameter')} that mattered most. "
    return join(figure(bars, caption), figure(dots, said, *meanings))


def ranking(study: Study, results: Results) -> Markup:
    """The best networks and the baseline (Guay et al. 2018, table 1)."""
    if not results.finished:
        return _missing("No network has finished yet.")
    shown = list(results.finished[:N_IN_TABLE])
    if results.baseline is not None and results.baseline not in shown:
        shown.append(results.baseline)
    said = "The best networks" + (f" and {results.baseline_name}" if results.baseline is not None else "")
    said += ". LPES and LPDS are the numbers of convolution layers per encoding stack, finest first, and per decoding "
    said += "stack, deepest first; the window is the side in voxels of what one training step reads. "
    said += "Correction is how many minutes a person would take to mend a million voxels, "
    said += f"as {plural(study.effort.n_slices, 'corrected slice')} tell. " if study.effort.n_slices else "a guess. "
    said += "A dot marks members of the ensemble." if results.ensemble is not None else ""
    rest = len(results.finished) - len(shown)
    more = [element("p", f"{plural(rest, 'more network')} in leaderboard.csv.", class_="note")] if rest else []
    rows = [_row(network, results) for network in shown]
    return join(element("p", said), table(_HEADER, rows, class_="ranking"), *more)


def _row(network: Finished, results: Results) -> Markup:
    label = results.baseline_name.removeprefix("the ") if network.is_baseline else network.label
    named = [str(network.number)]
    if label:
        named.append(element("span", f" {label}", class_="label"))
    if results.is_member(network):
        named.append(element("span", "●", class_="member", title="member of the ensemble"))
    sides = network.window if len(set(network.window)) > 1 else network.window[:1]
    cells = [
        join(*named),
        score(network.adjusted_rand),
        "–" if network.correction_min is None else f"{network.correction_min:#.3g}",
        parameters(network.n_parameters),
        ",".join(map(str, network.encode)),
        ",".join(map(str, network.decode)),
        f"{network.learning_rate:#.2g}",
        "×".join(map(str, sides)),
        "–" if network.steps is None else f"{network.steps:,}",
        duration(network.seconds),
    ]
    return row(_HEADER, cells, class_="baseline" if network.is_baseline else None)
