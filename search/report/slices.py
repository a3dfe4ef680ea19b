"""Example slices of the validation part, segmented by the ensemble and by a network to hold it against."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from genenet.averaging import MeanPredictor, score_part
from genenet.averaging import predict_part as predict_blocks
from genenet.dataset import Dataset, Part
from genenet.ensemble import Ensemble
from genenet.errors import InputError
from genenet.label_table import UNLABELLED
from genenet.metrics import Scores, contingency, scores
from genenet.network import Network
from genenet.plan import Plan
from genenet.tiling import fit_core
from genenet.wording import plural
from search.report.results import Finished, Results

# Sides that a crop may have, in voxels; the first at which the predictions cost no more than this many multiply-adds,
# some ten seconds on two cores.
CROP_SIDES = (512, 384, 256)
MAX_MULTIPLY_ADDS = 10**12

N_EXAMPLES = 2
_N_CANDIDATES = 8  # slices looked at to choose from
_PERCENTILES = (0.5, 99.5)  # of the image, shown as black and white


@dataclasses.dataclass(frozen=True)
class Contender:
    """Networks whose segmentation is shown.

    Attributes:
        name: What to call it in a title.
        networks: Its members.
        vote: Whether they vote.
    """

    name: str
    networks: tuple[Network, ...]
    vote: bool = False


@dataclasses.dataclass(frozen=True)
class Example:
    """A crop of a validation slice.

    Attributes:
        part: The crop, as a part of one slice.
        image: `(y, x)` or `(y, x, 3)` uint8.
        labels: `(y, x)` class indices, or UNLABELLED.
        predictions: `(y, x)` class indices, one per contender.
    """

    part: Part
    image: np.ndarray
    labels: np.ndarray
    predictions: tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What contenders make of the validation part.

    Attributes:
        data: The annotated volumes.
        contenders: The ensemble, or the best network; then what it is held against, if there is anything.
        examples: Crops.
        scores: One per contender.
        is_whole: Whether the scores are of the whole validation part; else of the examples.
        shares: Share of each class among the labelled voxels scored.
    """

    data: Dataset
    contenders: tuple[Contender, ...]
    examples: tuple[Example, ...]
    scores: tuple[Scores, ...]
    is_whole: bool
    shares: tuple[float, ...]


def choose_contenders(results: Results) -> tuple[Contender, ...]:
    """The ensemble or else the best network, against the baseline or else the network in the middle of the ranking."""
    usable = [network for network in results.finished if (network.trial.network_folder / "network.json").exists()]
    by_number = {network.number: network for network in usable}
    first, used = None, set()
    chosen = results.ensemble
    if chosen is not None and all(number in by_number for number in chosen.members):
        members = [by_number[number] for number in chosen.members if number is not None]
        name = f"ensemble of {plural(len(members), 'network')}"
        first = Contender(name, tuple(member.trial.network() for member in members), chosen.vote)
        used = set(chosen.members) if len(members) == 1 else set()
    elif usable:
        first = Contender(f"best network (net {usable[0].number})", (usable[0].trial.network(),))
        used = {usable[0].number}
    if first is None:
        return ()
    rivals = [network for network in usable if network.number not in used]
    return (first, *(_rival(rivals, results),)) if rivals else (first,)


def _rival(rivals: Sequence[Finished], results: Results) -> Contender:
    baseline = next((network for network in rivals if network.is_baseline), None)
    if baseline is not None:
        return Contender(results.baseline_name.removeprefix("the "), (baseline.trial.network(),))
    middle = rivals[len(rivals) // 2]
    return Contender(f"middle of the ranking (net {middle.number})", (middle.trial.network(),))


def compare(data: Dataset, contenders: tuple[Contender, ...]) -> Comparison:
    """Segment the examples, and score the contenders on the whole validation part if that is cheap."""
    plans = [network.blueprint.plan_layers() for contender in contenders for network in contender.networks]
    stride = math.lcm(*(step for plan in plans for step in plan.total_stride))
    costs = {side: sum(multiply_adds_per_voxel(plan, side) for plan in plans) for side in CROP_SIDES}
    fitting = [side for side in CROP_SIDES if costs[side] * N_EXAMPLES * side**2 <= MAX_MULTIPLY_ADDS]
    side = fitting[0] if fitting else CROP_SIDES[-1]
    crops = choose_crops(data, side, stride)
    n_voxels = sum(math.prod(part.shape) for part in data.validation)
    is_whole = n_voxels * costs[side] <= MAX_MULTIPLY_ADDS
    predictions, found = [], []
    for contender in contenders:
        predictor = Ensemble(contender.networks, contender.vote).predictor()
        predictions.append([predict_part(predictor, crop)[0] for crop in crops])
        if is_whole:
            tables = [score_part(predictor, part, data.n_classes) for part in data.validation]
        else:
            pairs = zip(crops, predictions[-1], strict=True)
            tables = [contingency(_labels(c), p, data.n_classes, ignore=UNLABELLED) for c, p in pairs]
        found.append(scores(np.sum(tables, axis=0)))
    examples = [
        Example(crop, _as_grey(crop), _labels(crop), shown)
        for crop, shown in zip(crops, zip(*predictions, strict=True), strict=True)
    ]
    counts = found[0].confusion.sum(axis=1)
    shares = tuple(float(count) for count in counts / max(counts.sum(), 1))
    return Comparison(data, contenders, tuple(examples), tuple(found), is_whole, shares)


def multiply_adds_per_voxel(plan: Plan, side: int) -> float:
    """Roughly what a network computes per voxel of a square core: each layer's parameters at each of its places."""
    stride = plan.total_stride
    core = [max(side // step, 1) * step for step in stride]
    sizes = plan.sizes(fit_core(plan, core).input)
    channels = {name: layer.n_channels for name, layer in plan.layers.items()}
    work = sum(
        layer.operation.n_parameters([channels[source] for source in layer.inputs]) * math.prod(sizes[name])
        for name, layer in plan.layers.items()
    )
    return work / math.prod(core)


def choose_crops(data: Dataset, side: int, stride: int) -> list[Part]:
    """Choose crops of different slices, where many classes stand and each about as much as it can.

    Args:
        data: The annotated volumes.
        side: Voxels per side at the most.
        stride: Crops begin at multiples of it, so that their segmentation is that of the whole slice.

    Raises:
        InputError: The slices looked at have no labelled voxel.
    """
    slices = [(part, z) for part in data.validation for z in range(part.shape[0]) if _is_labelled(part, z)]
    spaced = np.unique(np.linspace(0, len(slices) - 1, min(_N_CANDIDATES, len(slices))).round().astype(int))
    chosen = []
    for group in np.array_split(spaced, min(N_EXAMPLES, len(spaced)) or 1):
        crops = [crop for index in group for crop in _crops(slices[index], side, stride)]
        if crops:
            chosen.append(max(crops, key=lambda crop: _entropy(crop.count(data.n_classes))))
    if not chosen:
        raise InputError("no voxel of the validation part is labelled")
    return chosen


def _is_labelled(part: Part, z: int) -> bool:
    return bool((part.read_labels((z, 0, 0), (1, *part.shape[1:])) != UNLABELLED).any())


def _crops(where: tuple[Part, int], side: int, stride: int) -> list[Part]:
    """Up to nine crops of a slice's labelled region: its corners, the middles of its sides, and its centre."""
    part, z = where
    known = part.read_labels((z, 0, 0), (1, *part.shape[1:]))[0] != UNLABELLED
    starts = [_starts(np.flatnonzero(known.any(axis=1 - axis)), known.shape[axis], side, stride) for axis in (0, 1)]
    corner, (height, width) = part.start, known.shape
    return [
        dataclasses.replace(
            part,
            box=(
                slice(corner[0] + z, corner[0] + z + 1),
                slice(corner[1] + y, corner[1] + min(y + side, height)),
                slice(corner[2] + x, corner[2] + min(x + side, width)),
            ),
        )
        for y in starts[0]
        for x in starts[1]
    ]


def _starts(labelled: np.ndarray, size: int, side: int, stride: int) -> list[int]:
    """Where crops begin along an axis: at the labelled region's ends, and in the middle."""
    first, last = int(labelled[0]), max(int(labelled[0]), int(labelled[-1]) + 1 - side)
    places = [min(first + (last - first) * step // 2, max(size - side, 0)) for step in range(3)]
    return sorted({place // stride * stride for place in places})


def _entropy(counts: np.ndarray) -> float:
    shares = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(shares * np.log(shares)).sum()) if shares.size else -1.0


def predict_part(predictor: MeanPredictor, part: Part) -> np.ndarray:
    """Class indices of a whole part, `(z, y, x)` uint8, block by block."""
    result = np.zeros(part.shape, np.uint8)
    for box, answer in predict_blocks(predictor, part):
        result[box] = answer.argmax(-1)
    return result


def _labels(crop: Part) -> np.ndarray:
    return crop.read_labels((0, 0, 0), crop.shape)[0]


def _as_grey(crop: Part) -> np.ndarray:
    """The image stretched to 0..255; three channels stay colours, of others the first is shown."""
    image = crop.read_image((0, 0, 0), crop.shape)[0].astype(np.float32)
    if image.shape[-1] != 3:
        image = image[..., 0]
    low, high = np.percentile(image, _PERCENTILES)
    return np.clip((image - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
