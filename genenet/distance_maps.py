"""Distance maps, from which touching objects are told apart: how far inside its object a voxel lies."""

from collections.abc import Callable

import numpy as np

from genenet.errors import InputError
from genenet.wording import known_instead


def distance_map(objects: np.ndarray, inside: np.ndarray, *, kind: str = "truncated", cap: float = 16.0) -> np.ndarray:
    """How far every voxel lies from the nearest one that is not of its object, in one of three units.

    Background and other objects bound an object alike; a voxel beside one has distance 1. The edge of the array is no
    border: of an object that it cuts, the distances are those to what can be seen, and may be too large near the cut.
    Where nothing bounds an object, because it fills the array, its distance is the array's longest side.

    - `truncated`: as a share of `cap` voxels, at most 1. Large objects are flat inside, so nothing depends on how
      large an object is, or on what lies beyond the window. Distances are those to the object's outermost voxels plus
      1, up to a voxel more than the exact ones.
    - `normalized`: as a share of the largest in the same object, so that every object peaks at 1: small nuclei have
      seeds as clear as large ones.
    - `voxels`: as a share of `cap` voxels without a limit, hence proportional to voxels: a peak says how large its
      object is.

    Mahbod et al. (2022) regress "nuclei distance maps" and do not say in which unit. What the group published for
    its data set CryoNuSeg (2021) makes Euclidean distances nucleus by nucleus and divides them by the largest of the
    image: `voxels`, up to a factor for each image. Naylor et al. (2019) regress chessboard distances in voxels.

    >>> objects = np.array([[1, 1, 1, 1, 2, 2, 0]])
    >>> distance_map(objects, objects > 0, cap=8.0)
    array([[0.5  , 0.375, 0.25 , 0.125, 0.125, 0.125, 0.   ]])
    >>> distance_map(objects, objects > 0, kind="normalized")
    array([[1.  , 0.75, 0.5 , 0.25, 1.  , 1.  , 0.  ]])

    Args:
        objects: `(*space)` integers: voxels with the same number are one object. Any numbers, with gaps.
        inside: `(*space)` booleans, which voxels belong to an object; the others get 0.
        kind: The unit, see above.
        cap: In voxels.

    Returns:
        `(*space)` float64.

    Raises:
        InputError: An unknown kind.
    """
    check_distance_kind(kind)
    numbers = _number(objects, inside)
    return np.where(inside, DISTANCE_KINDS[kind](numbers, cap), 0)


def check_distance_kind(kind: str) -> None:
    """Refuse a kind of distance map that there is not."""
    if kind not in DISTANCE_KINDS:
        raise InputError(f"`distance_kind` cannot be {kind!r}; {known_instead(kind, DISTANCE_KINDS)}")


def _truncated(numbers: np.ndarray, cap: float) -> np.ndarray:
    from scipy.ndimage import distance_transform_edt

    deep = np.ones(numbers.shape, bool)
    for here, there in _sides(numbers.ndim):
        differs = numbers[here] != numbers[there]
        deep[here] &= ~differs
        deep[there] &= ~differs
    if deep.all():
        return np.ones(numbers.shape)
    return np.minimum((distance_transform_edt(deep) + 1) / cap, 1)


def _normalized(numbers: np.ndarray, cap: float) -> np.ndarray:
    distances, inside = _exact(numbers), numbers > 0
    largest = np.ones(numbers.max() + 1)
    np.maximum.at(largest, numbers[inside], distances[inside])
    return distances / largest[numbers]


def _voxels(numbers: np.ndarray, cap: float) -> np.ndarray:
    return _exact(numbers) / cap


DISTANCE_KINDS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "truncated": _truncated,
    "normalized": _normalized,
    "voxels": _voxels,
}


def _exact(numbers: np.ndarray) -> np.ndarray:
    """Euclidean distances in voxels, objects side by side in as few transforms as they have colours.

    The nearest voxel outside an object touches it: one step back is nearer, hence inside. So it is not of an object
    of the same colour, and the nearest voxel of another colour is the nearest of another object.
    """
    from scipy.ndimage import distance_transform_edt, find_objects

    colors = _color(numbers)[numbers]
    distances = np.zeros(numbers.shape)
    for color, box in enumerate(find_objects(colors), start=1):
        around = tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in box)
        mask = colors[around] == color
        if mask.all():
            return np.full(numbers.shape, float(max(numbers.shape)))
        distances[around] += distance_transform_edt(mask)
    return distances


def _color(numbers: np.ndarray) -> np.ndarray:
    """Colour objects from 1 on so that those which touch differ; one colour per number, 0 for 0."""
    colors = np.ones(numbers.max() + 1, np.intp)
    colors[0] = 0
    touching: dict[int, set[int]] = {}
    for one, other in _touching(numbers):
        touching.setdefault(one, set()).add(other)
        touching.setdefault(other, set()).add(one)
    done: set[int] = set()
    for number, others in touching.items():
        taken = {int(colors[other]) for other in others & done}
        colors[number] = next(color for color in range(1, len(taken) + 2) if color not in taken)
        done.add(number)
    return colors


def _touching(numbers: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of objects with voxels side by side."""
    found, n = [np.zeros(0, np.int64)], int(numbers.max()) + 1
    for side in _sides(numbers.ndim):
        here, there = (numbers[part] for part in side)
        touches = (here != there) & (here > 0) & (there > 0)
        found.append(here[touches] * n + there[touches])
    return [divmod(pair, n) for pair in np.unique(np.concatenate(found)).tolist()]


def _number(objects: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Number objects from 1 on, without gaps; 0 outside. Runs are sorted instead of voxels, of which there are more."""
    flat, within = objects.ravel(), inside.ravel()
    changes = (flat[1:] != flat[:-1]) | (within[1:] != within[:-1])
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
    begins_inside = within[starts]
    numbers = np.zeros(len(starts), np.int64)
    numbers[begins_inside] = np.unique(flat[starts[begins_inside]], return_inverse=True)[1] + 1
    return np.repeat(numbers, np.diff(starts, append=flat.size)).reshape(objects.shape)


def _sides(n_dims: int) -> list[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """For every axis, what cuts out all voxels but the last, and all but the first."""
    return [
        (
            (slice(None),) * axis + (slice(None, -1),),
            (slice(None),) * axis + (slice(1, None),),
        )
        for axis in range(n_dims)
    ]
