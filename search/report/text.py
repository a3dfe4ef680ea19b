"""How the report writes numbers and says what came out."""

import math
import shlex

from genenet.wording import plural
from search.report.results import Results


def score(value: float | None) -> str:
    """A score with three decimals.

    >>> score(0.55617), score(-0.0021), score(None)
    ('0.556', '−0.002', '–')
    """
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}".replace("-", "−")


def parameters(count: float) -> str:
    """A count of parameters as in Table 1 of Guay et al. 2018.

    >>> [parameters(n) for n in (39_300_000, 485_709, 10_365, 812, 999_960)]
    ['39.3M', '486k', '10.4k', '812', '1.0M']
    """
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * size:
            return f"{count / size:.0f}{unit}" if unit == "k" and count >= 99_950 else f"{count / size:.1f}{unit}"
    return f"{count:.0f}"


def duration(seconds: float | None) -> str:
    """A time that people can compare.

    >>> [duration(s) for s in (4.95, 119.7, 3500, 7383, 200_000)]
    ['5 s', '2 min', '58 min 20 s', '2 h 3 min', '55 h 33 min']
    """
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole >= 3600:
        return " ".join(_units(whole // 60, 60, "h", "min"))
    return " ".join(_units(whole, 60, "min", "s")) or "0 s"


def _units(count: int, size: int, large: str, small: str) -> list[str]:
    whole, rest = divmod(count, size)
    return [f"{number} {unit}" for number, unit in ((whole, large), (rest, small)) if number]


def listed(words: list[str]) -> str:
    """Words in a row.

    >>> listed(["glia", "membrane", "synapse"])
    'glia, membrane and synapse'
    """
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def command(*words: object) -> str:
    """A command line to be copied."""
    return shlex.join(["genenet", *map(str, words)])


def summary(results: Results) -> str:
    """What came out, in one sentence."""
    best, baseline, chosen = results.best, results.baseline, results.ensemble
    if best is None:
        states = [f"{count} {state}" for state, count in results.states.items()]
        return f"No network has finished yet ({', '.join(states)})." if states else "No network has been tried yet."
    compared = f"; {results.baseline_name} at the same budget {score(baseline.adjusted_rand)}" if baseline else ""
    if chosen is None or chosen.adjusted_rand is None or len(chosen.members) == 1:
        count = len(results.finished)
        who = f"The best of {count} networks" if count > 1 else "The one network that has finished"
        said = f"{who} reaches an adjusted Rand score of {score(best.adjusted_rand)}"
        said += ", and no ensemble exceeds it" if chosen is not None and chosen.is_current and chosen.curve[1:] else ""
        return f"{said}." if best is baseline else f"{said}{compared}."
    ranked = f" the best {len(chosen.members)} of" if chosen.is_current and chosen.of_the_best else ""
    networks = plural(len(results.finished) if ranked else len(chosen.members), "network")
    said = f"The ensemble of{ranked} {networks} reaches an adjusted Rand score of {score(chosen.adjusted_rand)}"
    if best is baseline:
        return f"{said}; the best single network, {results.baseline_name}, {score(best.adjusted_rand)}."
    return f"{said}; the best single network {score(best.adjusted_rand)}{compared.replace(';', ',')}."


def above_baseline(results: Results) -> str:
    """How many networks beat the baseline, in one sentence."""
    baseline = results.baseline
    if baseline is None:
        return "There is no finished baseline to compare with."
    others = [network for network in results.finished if network is not baseline]
    count = sum(network.adjusted_rand > baseline.adjusted_rand for network in others)
    name = f"{results.baseline_name} ({score(baseline.adjusted_rand)})"
    if not others:
        return f"Only {name} has finished."
    if count in (0, len(others)):
        return f"{'None' if not count else 'All'} of the {plural(len(others), 'other network')} score above {name}."
    return f"{count} of the {plural(len(others), 'other network')} score{'s' if count == 1 else ''} above {name}."


def progress(results: Results) -> str:
    """What is still to come, in one sentence; empty when nothing is."""
    left = results.n_left
    if not left:
        return ""
    return f"The search is not finished: {plural(left, 'network')} {'is' if left == 1 else 'are'} still to come."
