"""From two maps to numbered objects: where there are objects, and where one ends and the next begins.

Mahbod et al. 2022, section 2.4: the distance map is smoothed by a Gaussian that follows the mean size of objects, its
local maxima are seeds, and a watershed from the seeds divides the foreground among them.

    foreground >= threshold   the mask; the mean diameter of its components
    distances                 smoothed -> maxima inside the mask -> seeds -> watershed inside the mask
                              small objects go, holes are filled, numbers in scan order
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy.ndimage

from genenet.errors import InputError
from genenet.wording import known_instead

# A Gaussian reaches so many standard deviations far.
TRUNCATE = 4.0


@dataclasses.dataclass(frozen=True)
class Merging:
    """How objects are made of the probability of foreground and of a distance map.

    The paper gives `min_size` only. Smoothing and distance are a compromise over nuclei of MoNuSeg, found again from
    distance maps made of their labels, normalized and truncated, clean and noisy: noisy ones want more.

    Attributes:
        threshold: The least probability of foreground, above 0 and up to 1.
        smoothing: The standard deviation of the Gaussian over the distance map, as a share of the mean diameter of
            objects; 0 leaves the map as it is. Too little, and one object gets several seeds; too much, and two that
            touch get one.
        min_distance: Maxima closer than this are one seed, along an axis, as a share of the mean diameter.
        min_peak: The least smoothed distance of a seed, in the map's own unit. A part of the mask without a seed
            is one object whatever its distances are.
        min_size: The least number of pixels of an object; 30 in the paper.
        fill_holes: Fill background that touches one object only, and not the edge of the image.
    """

    threshold: float = 0.5
    smoothing: float = 0.1
    min_distance: float = 0.2
    min_peak: float = 0.05
    min_size: int = 30
    fill_holes: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise InputError(f"`threshold` must lie above 0 and up to 1, but got {self.threshold}")
        for name, most in (("smoothing", 2), ("min_distance", 2), ("min_peak", math.inf), ("min_size", math.inf)):
            value = getattr(self, name)
            if not 0 <= value <= most or not math.isfinite(value):
                limits = "at least 0" if most == math.inf else f"in [0, {most}]"
                raise InputError(f"`{name}` must be {limits}, but got {value}")

    def to_dict(self) -> dict[str, Any]:
        """As plain data for YAML and JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Merging":
        """From plain data; what is left out is as recommended.

        Raises:
            InputError: An unknown key, or a value that cannot be.
        """
        kinds = {field.name: type(field.default) for field in dataclasses.fields(cls)}
        for name, value in values.items():
            if name not in kinds:
                raise InputError(f"merging: unknown key `{name}`; {known_instead(name, kinds)}")
            kind = kinds[name]
            fits = isinstance(value, (int, float) if kind is float else kind)
            if not fits or isinstance(value, bool) != (kind is bool):
                raise InputError(f"merging: `{name}` must be of type {kind.__name__}, but got {value!r}")
        return cls(**values)

    def sigma(self, mean_diameter: float) -> float:
        """The standard deviation of the Gaussian in pixels."""
        return self.smoothing * mean_diameter

    def radius(self, mean_diameter: float) -> int:
        """A seed is the maximum within so many pixels along every axis."""
        return max(1, round(self.min_distance * mean_diameter))


class Flooded(NamedTuple):
    """A mask divided into objects.

    Attributes:
        labels: int32; those from seeds come first, 1 to `n_seeded`, then components of the mask that have no seed.
        seeds: int32, the label where there is a seed, else 0.
        n_seeded: How many labels have a seed.
        n: How many labels there are.
    """

    labels: np.ndarray
    seeds: np.ndarray
    n_seeded: int
    n: int


def merge(
    foreground: np.ndarray,
    distances: np.ndarray,
    merging: Merging | None = None,
    *,
    mean_diameter: float | None = None,
) -> np.ndarray:
    """Make numbered objects of two maps that fit into memory; `merge_volume` does it block by block.

    >>> y, x = np.mgrid[:20, :40]
    >>> far = [np.hypot(y - 10, x - middle) for middle in (12, 26)]
    >>> depth = np.clip(1 - np.minimum(*far) / 9, 0, None)
    >>> labels = merge(depth > 0, depth)
    >>> labels[10, 12], labels[10, 26], labels.max(), labels[0, 0]
    (np.int32(1), np.int32(2), np.int32(2), np.int32(0))

    Args:
        foreground: Probabilities `(y, x)` or `(z, y, x)`; uint8 with 255 for 1, or booleans.
        distances: Of the same shape, large inside an object and small at its border; uint8 with 255 for 1.
        merging: How; as recommended if left out.
        mean_diameter: Of objects, in pixels; measured in the mask if left out.

    Returns:
        int32, from 1 on in the order of the objects' first pixels, 0 for background.

    Raises:
        InputError: The maps have different shapes, or hold what is no number.
    """
    merging = merging or Merging()
    if np.shape(foreground) != np.shape(distances):
        raise InputError(
            f"foreground and distances must have one shape, but got {np.shape(foreground)} and {np.shape(distances)}"
        )
    if np.ndim(foreground) not in (2, 3) or 0 in np.shape(foreground):
        raise InputError(f"maps are (y, x) or (z, y, x), but got the shape {np.shape(foreground)}")
    mask = as_map(foreground, "the foreground") >= merging.threshold
    depth = as_map(distances, "the distances")
    if mean_diameter is None:
        mean_diameter = measure_diameter(mask, merging.min_size)
    smoothed, tops = find_tops(mask, depth, merging, mean_diameter)
    flooded = flood(mask, smoothed, tops, merging.radius(mean_diameter))
    sizes = np.bincount(flooded.labels.ravel(), minlength=flooded.n + 1)
    numbers = number(first_places(flooded.labels, flooded.n), sizes >= max(merging.min_size, 1))
    labels = numbers[flooded.labels].astype(np.int32)
    return fill_holes(labels) if merging.fill_holes else labels


def as_map(values: np.ndarray, name: str) -> np.ndarray:
    """A map as float32: floats as they are, uint8 with 255 for 1, and booleans.

    Raises:
        InputError: Other numbers, or NaN or infinity among them.
    """
    values = np.asarray(values)
    if values.dtype == np.uint8:
        return values.astype(np.float32) / np.float32(255)
    if values.dtype.kind not in "bf":
        raise InputError(f"a map holds floats, booleans, or uint8 with 255 for 1, but {name} holds {values.dtype}")
    found = values.astype(np.float32, copy=False)
    if not np.isfinite(found).all():
        raise InputError(f"{name} holds NaN or infinity; write 0 where nothing is known")
    return found


def measure_diameter(mask: np.ndarray, min_size: int = 0) -> float:
    """The diameter of the disc (in 3-D the ball) as large as the mean component of a mask, in pixels.

    Objects that touch count as one, so the diameter is somewhat too large where they are dense: by a tenth to a third
    in the nuclei of MoNuSeg. Components below `min_size` do not count; it is 0 where there is no other.

    >>> measure_diameter(np.ones((10, 10))).__round__(2)
    11.28
    """
    labels, n = scipy.ndimage.label(mask)
    sizes = np.bincount(labels.ravel(), minlength=n + 1)[1:]
    return diameter(sizes[sizes >= max(min_size, 1)], mask.ndim)


def diameter(sizes: np.ndarray, n_dims: int = 2) -> float:
    """The diameter of the disc or ball of mean size; 0 of none."""
    if not len(sizes):
        return 0.0
    mean = float(np.mean(sizes))
    return 2 * math.sqrt(mean / math.pi) if n_dims == 2 else (6 * mean / math.pi) ** (1 / 3)


def find_tops(
    mask: np.ndarray, distances: np.ndarray, merging: Merging, mean_diameter: float
) -> tuple[np.ndarray, np.ndarray]:
    """The smoothed distances, and where in the mask these are the maximum of all within `radius` along every axis.

    Both depend on what is nearby only: on `reach(merging, mean_diameter)` pixels around.
    """
    sigma, radius = merging.sigma(mean_diameter), merging.radius(mean_diameter)
    smoothed = distances
    if sigma > 0:
        smoothed = scipy.ndimage.gaussian_filter(distances, sigma, mode="nearest", truncate=TRUNCATE)
    inside = np.where(mask, smoothed, np.float32(-np.inf))
    highest = scipy.ndimage.maximum_filter(inside, size=2 * radius + 1, mode="nearest")
    return smoothed, mask & (inside == highest) & (inside >= merging.min_peak)


def reach(merging: Merging, mean_diameter: float) -> int:
    """How many pixels around decide whether one is a maximum."""
    return int(TRUNCATE * merging.sigma(mean_diameter) + 0.5) + merging.radius(mean_diameter)


def flood(mask: np.ndarray, smoothed: np.ndarray, tops: np.ndarray, radius: int) -> Flooded:
    """Divide a mask among seeds by watershed; maxima within `radius` of each other along every axis are one seed.

    Such maxima are equally high. What lies between them outside the mask keeps them apart.
    """
    from skimage.segmentation import watershed

    around = mask & scipy.ndimage.maximum_filter(tops, size=radius)
    regions, n_seeded = scipy.ndimage.label(around, np.ones((3,) * mask.ndim))
    seeds = np.where(tops, regions, np.int32(0))
    levels = -smoothed.astype(np.float64)
    # Seeds in scan order, before all else: at equal levels the watershed would take them as its heap happens to lie.
    levels[tops] = np.arange(-np.count_nonzero(tops), 0) + levels.min(initial=0)
    labels = watershed(levels, seeds, mask=mask)
    alone, n_alone = scipy.ndimage.label(mask & (labels == 0))
    np.add(alone, n_seeded, out=labels, where=alone > 0)
    return Flooded(labels, seeds, n_seeded, n_seeded + n_alone)


def first_places(labels: np.ndarray, n: int) -> np.ndarray:
    """Where in scan order every label 0 to `n` comes first; a number beyond all places for those that do not."""
    found = np.full(n + 1, labels.size)
    found[labels.ravel()[::-1]] = np.arange(
        labels.size - 1, -1, -1
    )  # of those that are put in one place the last stays
    return found


def number(first: np.ndarray, is_kept: np.ndarray) -> np.ndarray:
    """The number of every label, by its first place: from 1 on for those that are kept, else 0; label 0 has 0.

    >>> number(np.array([0, 7, 3, 5]), np.array([True, True, False, True]))
    array([0, 2, 0, 1])
    """
    chosen = np.flatnonzero(is_kept[1:]) + 1
    chosen = chosen[np.argsort(first[chosen], kind="stable")]
    numbers = np.zeros(len(first), np.int64)
    numbers[chosen] = np.arange(1, len(chosen) + 1)
    return numbers


def fill_holes(labels: np.ndarray) -> np.ndarray:
    """Give background that touches one object only, and not the edge of the image, to that object.

    A hole with another object in it stays, since it touches both.

    >>> ring = np.ones((3, 3), int)
    >>> ring[1, 1] = 0
    >>> fill_holes(np.pad(ring, 1))[2, 2]
    np.int64(1)
    """
    n_objects = int(labels.max(initial=0))
    holes, n_holes = scipy.ndimage.label(labels == 0)
    is_open = np.zeros(n_holes + 1, bool)
    for axis in range(labels.ndim):
        is_open[holes.take([0, -1], axis)] = True
    closed = np.where(is_open[holes], 0, holes + n_objects)
    pairs = beside(np.where(labels > 0, labels, closed), n_objects)
    owners = owners_of(pairs[:, 0], pairs[:, 1] - n_objects, is_open)
    return np.where(labels > 0, labels, owners[holes]).astype(labels.dtype)


def beside(labels: np.ndarray, n_objects: int) -> np.ndarray:
    """Pairs that touch, once each, int64 `(n, 2)`: an object, 1 to `n_objects`, and a hole, labelled beyond; not 0."""
    found, n_labels = [np.zeros(0, np.int64)], int(labels.max(initial=0)) + 1
    for axis in range(labels.ndim):
        sides = [labels[(slice(None),) * axis + (side,)] for side in (slice(None, -1), slice(1, None))]
        for one, other in (sides, sides[::-1]):
            touch = (other > n_objects) & (one <= n_objects) & (one > 0)
            found.append(one[touch].astype(np.int64) * n_labels + other[touch])
    return np.stack(np.divmod(np.unique(np.concatenate(found)), n_labels), 1)


def owners_of(objects: np.ndarray, holes: np.ndarray, is_open: np.ndarray) -> np.ndarray:
    """The object around every hole, 0 where there are several or the hole is open.

    Args:
        objects: Of pairs that touch, from 1 on.
        holes: Of the same pairs, indices of `is_open`.
        is_open: Whether a hole reaches the edge of the image.
    """
    low, high = np.full(len(is_open), np.iinfo(np.int64).max), np.zeros(len(is_open), np.int64)
    np.minimum.at(low, holes, objects)
    np.maximum.at(high, holes, objects)
    return np.where((low == high) & ~is_open, high, 0)
