"""Before people's time is spent: how a score would rise with the area corrected, in several orders."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from genenet.components import values_of
from genenet.corrections.effort import Effort
from genenet.corrections.regions import REGION, Regions
from genenet.corrections.simulate import Corrector
from genenet.corrections.store import Corrections
from genenet.errors import InputError
from genenet.formats.boxes import Box
from genenet.metrics import adjusted_rand_from_contingency, contingency
from genenet.volume import Volume, open_volume

ORDERS = ("doubtful", "random", "sequential")


class Point(NamedTuple):
    """How it stands after some work.

    Attributes:
        area: Of the volume, how much was looked at, 0 to 1.
        minutes: Spent.
        adjusted_rand: Score of the labels as they are then.
        wrong: Share of voxels that are still wrong.
    """

    area: float
    minutes: float
    adjusted_rand: float
    wrong: float


def compare_orders(
    segmentation: Volume | str | Path,
    truth: Volume | str | Path,
    doubt: Volume | str | Path,
    *,
    ignore: int | None = None,
    size: Sequence[int] = REGION,
    share: float = 1.0,
    smallest: int = 1,
    effort: Effort | None = None,
    orders: Sequence[str] = ORDERS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, list[Point]]:
    """Correct a whole volume in several orders, region by region.

    Args:
        segmentation: Class values `(z, y, x)`; a file.
        truth: What they should be.
        doubt: The networks' entropy or disagreement.
        ignore: A value of `truth` that nobody knows.
        size: Of a region, in voxels.
        share: Of the connected errors, how many are seen.
        smallest: Connected errors of fewer voxels are left as they are.
        effort: A person's time.
        orders: Of `doubtful`, `random`, `sequential`.
        seed: Of the random order, and of what is overlooked.
        progress: Called with regions done, and in all.

    Returns:
        By order, a point before the work and one after each region.

    Raises:
        InputError: Shapes differ, or an order that nobody knows.
    """
    labels, correct, map_ = (open_volume(source) for source in (segmentation, truth, doubt))
    if map_.shape[:3] != labels.shape:
        raise InputError(f"{map_.name} has shape {map_.shape[:3]}, but {labels.name} has {labels.shape}")
    for order in orders:
        if order not in ORDERS:
            raise InputError(f"an order is one of {', '.join(ORDERS)}, but got {order!r}")
    regions = Regions.measure(map_, size=size, effort=effort)
    found, n_done, n_regions = {}, 0, len(regions.all_boxes()) * len(orders)
    for order in orders:
        found[order] = _walk(labels, correct, _boxes(regions, order, seed), ignore, (share, smallest), effort, seed)
        n_done += len(found[order]) - 1
        if progress is not None:
            progress(n_done, n_regions)
    return found


def _boxes(regions: Regions, order: str, seed: int) -> list[Box]:
    if order == "doubtful":
        return [regions.box(place) for place in regions.order()]
    boxes = regions.all_boxes()
    if order == "random":
        return [boxes[place] for place in np.random.default_rng(seed).permutation(len(boxes))]
    return boxes


def _walk(
    labels: Volume,
    truth: Volume,
    boxes: Sequence[Box],
    ignore: int | None,
    seen: tuple[float, int],
    effort: Effort | None,
    seed: int,
) -> list[Point]:
    """Correct region after region; counts of label against prediction change by what a region changes."""
    known = np.array(sorted(values_of(truth) | values_of(labels)))
    unknown = len(known)

    def count(predicted: np.ndarray, box: Box) -> np.ndarray:
        right = truth.read(box)
        codes = np.searchsorted(known, right)
        codes = np.where(right == ignore, unknown, codes) if ignore is not None else codes
        found = np.searchsorted(known, predicted)
        return contingency(codes.astype(np.int64), found.astype(np.int64), unknown, ignore=unknown)

    counts = sum(count(labels.read(box), box) for box in boxes)
    points = [_point(np.asarray(counts), 0.0, 0.0)]
    with tempfile.TemporaryDirectory() as place:
        kept = Corrections.create(Path(place) / "simulated", segmentation=str(labels.source))
        corrector = Corrector(kept, truth, share=seen[0], smallest=seen[1], effort=effort, unknown=ignore, seed=seed)
        for box in boxes:
            before = corrector.session.labels.read(box)
            corrector.correct(box)
            counts = counts + count(corrector.session.labels.read(box), box) - count(before, box)
            area = corrector.voxels / np.prod(labels.shape)
            points.append(_point(np.asarray(counts), float(area), corrector.seconds / 60))
        corrector.close()
    return points


def _point(counts: np.ndarray, area: float, minutes: float) -> Point:
    wrong = 1 - np.trace(counts) / max(counts.sum(), 1)
    return Point(area, minutes, float(adjusted_rand_from_contingency(counts)), float(wrong))


def plot_orders(found: dict[str, list[Point]], path: Path) -> None:
    """Draw the score against the area, and against the time; PNG or what else the suffix names."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(8.4, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    colors = dict(zip(ORDERS, ("#0072b2", "#999999", "#d55e00"), strict=True))
    for name, points in found.items():
        score = [point.adjusted_rand for point in points]
        left.plot(
            [100 * point.area for point in points],
            score,
            color=colors[name],
            label=f"{name} first" if name == "doubtful" else name,
        )
        right.plot([point.minutes for point in points], score, color=colors[name])
    left.set(xlabel="area looked at, %", ylabel="adjusted Rand score")
    right.set(xlabel="minutes")
    left.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(left=0)
    figure.savefig(path, dpi=150)
