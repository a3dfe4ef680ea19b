"""Images to numbered objects: networks give foreground and distances, and merging makes objects of them.

The networks are an ensemble in which some tell foreground from background and some give distances, or one network that
gives both (Mahbod et al. 2022, section 2). How they are merged stands beside them, in `merging.json`.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from genenet.averaging import MeanPredictor, answer_part, answers
from genenet.dataset import Dataset, Part
from genenet.ensemble import Ensemble
from genenet.errors import InputError
from genenet.folder import read_json, write_json
from genenet.instance_metrics import InstanceScores, instance_scores, mean_scores
from genenet.instances import Merging, merge
from genenet.label_table import UNLABELLED
from genenet.network import Network
from genenet.settings import WindowSettings
from genenet.validation import dims_of_distances, true_distances

MERGING = "merging.json"
TUNED_FOR = "networks"

# Of foreground, where it is scored before merging.
SEMANTIC_THRESHOLD = 0.5


def read_merging(folder: Path | str) -> Merging:
    """How the networks of a folder are merged: as was found for them, else as is recommended."""
    for path in (Path(folder) / MERGING, Path(folder) / "ensemble" / MERGING):
        if path.exists():
            return Merging.from_dict({key: value for key, value in read_json(path).items() if key != TUNED_FOR})
    return Merging()


def write_merging(folder: Path | str, merging: Merging, ensemble: Ensemble) -> None:
    """Write how the networks of a folder are merged, and for which networks that was found."""
    write_json(Path(folder) / MERGING, {**merging.to_dict(), TUNED_FOR: ensemble.identity})


def is_tuned(folder: Path | str, ensemble: Ensemble) -> bool:
    """Whether it was found for these networks how they are merged."""
    path = Path(folder) / MERGING
    return path.exists() and read_json(path).get(TUNED_FOR) == ensemble.identity


def check_branches(ensemble: Ensemble) -> None:
    """Refuse networks that cannot be merged into objects.

    Raises:
        InputError: None tells foreground from background, or none gives distances.
    """
    ensemble.check_classes()
    if not any("distance" in member.gives for member in ensemble.members):
        raise InputError(
            f"{ensemble.members[0].folder} gives no distances, by which objects are told apart; put a network beside "
            "it that was trained with `target=distance`, or train one with `distance_weight` above 0"
        )
    units = {(m.windows.distance_kind, m.windows.distance_cap): m for m in ensemble.members if "distance" in m.gives}
    if len(units) > 1:
        one, other, *_ = units.items()
        raise InputError(
            f"{one[1].folder} learned {one[0][0]} distances in units of {one[0][1]:g} and {other[1].folder} "
            f"{other[0][0]} ones in units of {other[0][1]:g}; distances of one kind only can be averaged"
        )


def predict_maps(
    predictor: MeanPredictor,
    shape: Sequence[int],
    read: Callable[[Sequence[int], Sequence[int]], np.ndarray],
    max_bytes: float = math.inf,
) -> tuple[np.ndarray, np.ndarray]:
    """The probability of foreground and the distances of a whole image that fits into memory, `(z, y, x)` float32.

    Args:
        predictor: The networks.
        shape: Of the image, `(z, y, x)`.
        read: Gives boxes of it (`genenet.averaging.Reader`).
        max_bytes: What a block may take of memory, about.
    """
    foreground, distances = (np.empty(tuple(shape), np.float32) for _ in range(2))
    for box, answer in answers(predictor, shape, read, max_bytes=max_bytes):
        foreground[box] = 1 - answer.probabilities[..., 0]
        distances[box] = answer.distances
    return foreground, distances


def merge_slices(foreground: np.ndarray, distances: np.ndarray, merging: Merging) -> np.ndarray:
    """Merge maps `(z, y, x)` slice by slice, as `merge_volume` does; objects are numbered through all slices, int64."""
    slices, n_before = [], 0
    for probability, depth in zip(foreground, distances, strict=True):
        found = merge(probability, depth, merging).astype(np.int64)
        slices.append(np.where(found > 0, found + n_before, 0))
        n_before += int(found.max(initial=0))
    return np.stack(slices)


@dataclasses.dataclass(frozen=True)
class Maps:
    """What networks say of an annotated image, and what is true.

    Attributes:
        name: Of the image.
        foreground, distances: `(z, y, x)` float32.
        objects: True objects by number, `(z, y, x)`; 0 for background.
        truth: True distances, in the unit of those predicted; -1 where nobody labelled.
    """

    name: str
    foreground: np.ndarray
    distances: np.ndarray
    objects: np.ndarray
    truth: np.ndarray

    def merged(self, merging: Merging) -> np.ndarray:
        """Objects, slice by slice, numbered through all slices: `(z, y, x)`."""
        return merge_slices(self.foreground, self.distances, merging)

    def score(self, merging: Merging) -> InstanceScores:
        """Score the objects against the true ones; what lies for the most part where nobody labelled does not count."""
        found, unknown = self.merged(merging), self.truth < 0
        if unknown.any():
            sizes, outside = (np.bincount(each.ravel()) for each in (found, np.where(unknown, found, 0)))
            is_kept = 2 * np.pad(outside, (0, len(sizes) - len(outside))) <= sizes
            found = np.where(unknown | ~is_kept[found], 0, found)
        return instance_scores(self.objects, found)

    @property
    def semantic_dice(self) -> float:
        """The Dice score of foreground at 0.5, before merging, where somebody labelled (Mahbod et al. 2022, 2.5)."""
        known = self.truth >= 0
        found, true = (self.foreground >= SEMANTIC_THRESHOLD) & known, (self.objects > 0) & known
        both = np.count_nonzero(found) + np.count_nonzero(true)
        return 2 * np.count_nonzero(found & true) / both if both else math.nan

    @property
    def distance_mse(self) -> float:
        """The mean squared error of the distances, where somebody labelled."""
        known = self.truth >= 0
        return float(np.square(self.distances[known] - self.truth[known]).mean())


def maps_of(
    ensemble: Ensemble,
    data: Dataset | str | Path,
    part: str = "validation",
    *,
    precision: str = "auto",
    predictor: MeanPredictor | None = None,
) -> list[Maps]:
    """What networks say of every image of a part, held in memory.

    Args:
        ensemble: The networks.
        data: Annotated images.
        part: `validation` or `training`.
        precision: Of the networks' computation.
        predictor: The networks, if they are loaded already.

    Raises:
        InputError: The networks or the data do not fit, or cannot be merged.
    """
    data = Dataset.open(data)
    ensemble.check(data)
    check_branches(ensemble)
    predictor = predictor or ensemble.predictor(precision)
    windows, n_dims = _meaning(ensemble, predictor)
    found = []
    for entry in getattr(data, part):
        foreground, distances = predict_maps(predictor, entry.shape, entry.read_image)
        truth = true_distances(entry, slice(0, entry.shape[0]), windows, n_dims)
        found.append(Maps(_name_of(entry), foreground, distances, true_objects(entry), truth))
    return found


def _meaning(ensemble: Ensemble, predictor: MeanPredictor) -> tuple[WindowSettings, int]:
    """What the distances mean that an ensemble gives: their unit, and along how many axes they were measured."""
    member = next(member for member in ensemble.members if "distance" in member.gives)
    return member.windows, dims_of_distances(predictor)


def true_objects(part: Part) -> np.ndarray:
    """The numbered objects of an annotated part, `(z, y, x)` int64; 0 for background and where nobody labelled.

    Every slice has numbers of its own, as merged ones have.
    """
    labels, objects = (read((0, 0, 0), part.shape) for read in (part.read_labels, part.read_objects))
    found = np.where((labels > 0) & (labels != UNLABELLED), objects, 0)
    apart = np.arange(len(found)).reshape(-1, 1, 1) * (int(found.max(initial=0)) + 1)
    return np.where(found > 0, found + apart, 0)


def _name_of(part: Part) -> str:
    return Path(part.image.name).stem


def evaluate_instances(
    ensemble: Ensemble,
    data: Dataset | str | Path,
    part: str = "validation",
    *,
    merging: Merging | None = None,
    precision: str = "auto",
    predictor: MeanPredictor | None = None,
) -> tuple[InstanceScores, pd.DataFrame]:
    """Score the objects that networks find against annotated ones, image by image.

    Args:
        ensemble: The networks.
        data: Annotated images.
        part: `validation` or `training`.
        merging: How maps become objects; as recommended if left out.
        precision: Of the networks' computation.
        predictor: The networks, if they are loaded already.

    Returns:
        The mean over images; and a row per image, in which stand the scores of the two maps too: `semantic_dice`, and
        `distance_mse`, the mean squared error of its distances.

    Raises:
        InputError: The networks or the data do not fit, or cannot be merged.
    """
    maps = maps_of(ensemble, data, part, precision=precision, predictor=predictor)
    found = [each.score(merging or Merging()) for each in maps]
    rows = [
        {
            "image": each.name,
            **dataclasses.asdict(score),
            "semantic_dice": each.semantic_dice,
            "distance_mse": each.distance_mse,
        }
        for each, score in zip(maps, found, strict=True)
    ]
    return mean_scores(found), pd.DataFrame(rows)


def select_branches(networks: Sequence[Network], data: Dataset | str | Path, *, max_members: int = 15) -> Ensemble:
    """Choose among many networks: those whose mean tells foreground best, and those whose mean distances are the best.

    Networks that tell classes apart are chosen by `Ensemble.select`. Of those that give distances only, the best n
    alone join, n by the squared error of their mean on the validation part; none does if the chosen have two heads
    and do better alone.

    Args:
        networks: Of both kinds, or with two heads.
        data: Whose validation part decides.
        max_members: The most of each kind.

    Raises:
        InputError: No network tells classes apart, or none gives distances.
    """
    data = Dataset.open(data)
    telling = [network for network in networks if network.gives_classes]
    if not telling:
        raise InputError("none of the networks tells foreground from background; name one that does")
    chosen = Ensemble.select(telling, data, max_members=max_members)
    only = sorted((n for n in networks if not n.gives_classes), key=lambda n: n.scores["distance_mse"])[:max_members]
    candidate = _with_members(chosen, only)
    check_branches(candidate)
    means = _DistanceMeans(data, candidate)
    weights = candidate.weights or (1.0,) * len(candidate.members)
    best, best_error = chosen, math.inf
    for member, weight in zip(chosen.members, weights, strict=False):
        if "distance" in member.gives:
            best_error = means.add(member, weight)
    for n_members, member in enumerate(only, 1):
        error = means.add(member, 1.0)
        if error < best_error:
            best, best_error = _with_members(chosen, only[:n_members]), error
    return best


class _DistanceMeans:
    """Mean distances of more and more networks, each of which is loaded and run once.

    Args:
        data: On whose validation part.
        ensemble: All that may be added; what distances mean is the same for all.
    """

    def __init__(self, data: Dataset, ensemble: Ensemble) -> None:
        self._parts = data.validation
        windows, n_dims = _meaning(ensemble, ensemble.geometry())
        self._truth = [true_distances(part, slice(0, part.shape[0]), windows, n_dims) for part in self._parts]
        self._sums = [np.zeros(part.shape, np.float32) for part in self._parts]
        self._weight = 0.0

    def add(self, network: Network, weight: float) -> float:
        """Add a network; gives the mean squared error of the mean so far, the mean over parts."""
        predictor = MeanPredictor((network.predictor(),))
        self._weight += weight
        errors = []
        for part, total, truth in zip(self._parts, self._sums, self._truth, strict=True):
            for box, answer in answer_part(predictor, part):
                if answer.distances is not None:  # as all that are added give them
                    total[box] += np.float32(weight) * answer.distances
            known = truth >= 0
            errors.append(np.square(total[known] / np.float32(self._weight) - truth[known]).mean())
        return float(np.mean(errors))


def _with_members(ensemble: Ensemble, more: Sequence[Network]) -> Ensemble:
    """An ensemble and some networks that join it, each of which counts once."""
    n = len(more)
    return dataclasses.replace(
        ensemble,
        members=(*ensemble.members, *more),
        weights=(*ensemble.weights, *[1.0] * n) if ensemble.weights else (),
        temperatures=(*ensemble.temperatures, *[1.0] * n) if ensemble.temperatures else (),
        axes=(*ensemble.axes, *["z"] * n) if ensemble.axes else (),
    )


# What is tried for merging, by name: from, to.
RANGES = {"threshold": (0.3, 0.7), "smoothing": (0.0, 0.4), "min_distance": (0.1, 0.8), "min_peak": (0.0, 0.4)}


def tune_merging(
    maps: Sequence[Maps], *, n_trials: int = 60, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> tuple[Merging, float]:
    """Find how to merge by the mean aggregated Jaccard index over annotated images, with Optuna's TPE.

    The recommended values are tried first, so nothing worse than these comes out.

    Args:
        maps: Of images that networks did not learn from.
        n_trials: How many ways are tried.
        seed: Of what is drawn.
        progress: Called with ways tried and ways in all.

    Returns:
        The best, and its score.
    """
    import optuna

    usual = Merging()

    def score(trial: optuna.Trial) -> float:
        drawn = {name: trial.suggest_float(name, *ends) for name, ends in RANGES.items()}
        merging = Merging.from_dict({**usual.to_dict(), **drawn})
        found = mean_scores([each.score(merging) for each in maps]).aggregated_jaccard
        if progress is not None:
            progress(trial.number + 1, n_trials)
        return 0.0 if math.isnan(found) else found

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    study.enqueue_trial({name: getattr(usual, name) for name in RANGES})
    study.optimize(score, n_trials)
    best = {name: round(value, 4) for name, value in study.best_params.items()}
    return Merging.from_dict({**usual.to_dict(), **best}), study.best_value
