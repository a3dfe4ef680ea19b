"""What a network adds to the networks that a study has: how much better their ensemble is with it, and why.

A network is worth having if it is good, or if it errs elsewhere than the others. Krogh and Vedelsby (1995) say by how
much: the ensemble's squared error is the members' mean error less their mean *ambiguity*, the mean square of what a
member says otherwise than the ensemble.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from genenet.folder import writing
from genenet.network import Network
from genenet.predictions import draw_sample, probabilities_at
from genenet.selection import MAX_MEMBERS
from genenet.selection_rules import score_probabilities
from search.goals import ENSEMBLE_AWARE
from search.study import Study
from search.trial import PROBABILITIES, Trial

# Networks are compared on so many labelled voxels of the validation parts, drawn at random.
N_VOXELS = 2**19


class Group(NamedTuple):
    """Networks that are averaged.

    Attributes:
        n_members: How many.
        total: Their summed probabilities, float32 `(n, classes)`.
        adjusted_rand: What they score.
    """

    n_members: int
    total: np.ndarray
    adjusted_rand: float


def contribution(study: Study, trial: Trial, network: Network, work: Path) -> dict[str, Any]:
    """What a trial's network adds to the best ensemble of those that finished before.

    Args:
        study: Which.
        trial: One that was just trained.
        network: What came out.
        work: Where what it says about the sampled voxels is kept, for the trials to come.

    Returns:
        `ensemble_gain`, by how much the ensemble's adjusted Rand score on the sample is higher with it (0 if it is the
        first network); its `ambiguity` there; and `ensemble_aware`, the gain on top of its own score.
    """
    sample = draw_sample(study.data, study.asked.seed, N_VOXELS)
    own = probabilities_at(network, study.data, sample).astype(np.float16)
    with writing(work / PROBABILITIES) as beside, beside.open("wb") as stream:
        np.savez(stream, probabilities=own)
    others = [other for other in study.trials() if other.number != trial.number and other.state["state"] == "done"]
    ranked = sorted(others, key=lambda other: -other.state["adjusted_rand"])
    known = [other.folder / PROBABILITIES for other in ranked if (other.folder / PROBABILITIES).exists()]
    before = best_group(sample.labels, [np.load(path)["probabilities"] for path in known[:MAX_MEMBERS]])
    alone = network.scores["adjusted_rand"]
    if before is None:
        return {"ensemble_gain": 0.0, "ambiguity": 0.0, ENSEMBLE_AWARE: alone}
    total = before.total + own
    gain = score_probabilities(sample.labels, total).adjusted_rand - before.adjusted_rand
    return {
        "ensemble_gain": gain,
        "ambiguity": ambiguity(own, total / (before.n_members + 1)),
        ENSEMBLE_AWARE: alone + gain,
    }


def best_group(labels: np.ndarray, ranked: Sequence[np.ndarray]) -> Group | None:
    """The n best networks together, n such that they score best; None where there are none.

    Args:
        labels: Of the sampled voxels.
        ranked: What networks say about them, the best network first.
    """
    best, total = None, np.zeros(ranked[0].shape if ranked else 0, np.float32)
    for n_members, probabilities in enumerate(ranked, 1):
        total = total + probabilities
        reached = score_probabilities(labels, total).adjusted_rand
        if best is None or reached > best.adjusted_rand:
            best = Group(n_members, total, reached)
    return best


def ambiguity(member: np.ndarray, mean: np.ndarray) -> float:
    """The mean square of what a member says otherwise than the ensemble, summed over classes: 0 to 2.

    >>> ambiguity(np.array([[1.0, 0.0]]), np.array([[0.5, 0.5]]))
    0.5
    """
    return float(((member.astype(np.float32) - mean) ** 2).sum(-1).mean())
