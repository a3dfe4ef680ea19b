"""Which networks to average: rules that say which comes first, second, ..., by what each says about labelled voxels."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from genenet.metrics import Scores, contingency, scores


def score_probabilities(labels: np.ndarray, probabilities: np.ndarray) -> Scores:
    """Score the most probable classes.

    Args:
        labels: Class indices, `(n,)`.
        probabilities: `(n, classes)`, or sums of such.
    """
    prediction = probabilities.argmax(-1).astype(np.uint8)
    return scores(contingency(labels, prediction, probabilities.shape[-1]))


class Candidates(NamedTuple):
    """Networks to choose from, the best one alone first.

    Attributes:
        labels: Class indices, `(n,)`.
        probabilities: What each network says, `(n, classes)`.
        seconds: How long each takes for a million voxels; None where it was not measured.
    """

    labels: np.ndarray
    probabilities: Sequence[np.ndarray]
    seconds: Sequence[float] | None = None

    def score(self, total: np.ndarray) -> float:
        """Adjusted Rand score of summed probabilities."""
        return score_probabilities(self.labels, total).adjusted_rand


# Gives numbers of candidates in the order in which they join; at most so many, with repetitions where a network may
# count more than once.
Rule = Callable[[Candidates, int], list[int]]


def best_first(candidates: Candidates, most: int) -> list[int]:
    """By the score of each network alone (Guay et al. 2018)."""
    return list(range(min(most, len(candidates.probabilities))))


def greedy(candidates: Candidates, most: int) -> list[int]:
    """Always the network with which the ensemble scores best, each once (Caruana et al. 2004)."""
    return _join(candidates, most, lambda joined, number: number not in joined, lambda gain, number: gain)


def greedy_with_replacement(candidates: Candidates, most: int) -> list[int]:
    """The same, where a network may join again: it then counts for more."""
    return _join(candidates, most, lambda joined, number: True, lambda gain, number: gain)


def per_second(limit_s: float) -> Rule:
    """Always the network that gains most per second, as long as all together take no longer than a limit.

    Args:
        limit_s: Seconds per million voxels.
    """

    def rule(candidates: Candidates, most: int) -> list[int]:
        seconds = candidates.seconds
        if seconds is None:
            raise ValueError("the networks' times are not known")

        def may_join(joined: list[int], number: int) -> bool:
            return number not in joined and sum(seconds[each] for each in (*joined, number)) <= limit_s

        def worth(gain: float, number: int) -> float:
            # What is lost counts for more the longer it takes: else slow networks would seem to lose least.
            return gain / seconds[number] if gain > 0 else gain * seconds[number]

        return _join(candidates, most, may_join, worth)

    return rule


# By name; `per_second` needs its limit.
RULES: dict[str, Rule] = {
    "best": best_first,
    "greedy": greedy,
    "greedy_with_replacement": greedy_with_replacement,
}


def _join(
    candidates: Candidates,
    most: int,
    may_join: Callable[[list[int], int], bool],
    worth: Callable[[float, int], float],
) -> list[int]:
    """Let networks join one by one: the one that is worth most, by what the score gains.

    Of two that are worth as much, the one that is better alone.
    """
    joined: list[int] = []
    total, reached = np.zeros(candidates.probabilities[0].shape, np.float32), 0.0
    while len(joined) < most:
        found = {
            number: candidates.score(total + probabilities)
            for number, probabilities in enumerate(candidates.probabilities)
            if may_join(joined, number)
        }
        if not found:
            break
        chosen = max(found, key=lambda number: worth(found[number] - reached, number))
        joined.append(chosen)
        total, reached = total + candidates.probabilities[chosen], found[chosen]
    return joined
