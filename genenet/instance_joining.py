"""What single blocks found becomes objects: pieces joined over borders, small ones left out, holes filled.

All of it is decided when all pieces are known, so nothing depends on where the borders lie.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import scipy.ndimage

from genenet.components import connected, touching
from genenet.instances import beside, number, owners_of
from genenet.tiling import Box
from genenet.volume import Volume, Writer, open_volume


@dataclasses.dataclass
class Parts:
    """What is known of the pieces of objects, an array with one row for each; row 0 stands for background.

    Attributes:
        seeds: The first place of the seed in the volume in scan order, -1 for pieces without one.
        sizes: Pixels.
        first: The first place of the piece.
    """

    seeds: np.ndarray
    sizes: np.ndarray
    first: np.ndarray


def join_pieces(labels: Volume, chunks: Sequence[int], parts: Parts, min_size: int) -> tuple[np.ndarray, int]:
    """The number of every piece's object, 0 if that is too small, and how many objects there are.

    Pieces with the same seed are one object, and so are those whose seeds touch over a border, which are flat tops
    larger than the margin. Pieces without a seed join each other, and then the object that they touch most.
    """
    pairs = touching(labels, chunks, axes=(1, 2))
    (one, other), in_seeds = pairs[:, :2].T >> 1, (pairs[:, 0] & pairs[:, 1] & 1) > 0
    seeded = parts.seeds >= 0
    pieces = np.flatnonzero(seeded)
    _, first, same = np.unique(parts.seeds[pieces], return_index=True, return_inverse=True)
    alike = in_seeds | ~(seeded[one] | seeded[other])
    n_groups, group = connected(
        np.concatenate([pieces, one[alike]]), np.concatenate([pieces[first][same], other[alike]]), len(seeded)
    )
    mixed = seeded[one] != seeded[other]
    one, other = np.where(seeded[one], other, one)[mixed], np.where(seeded[one], one, other)[mixed]
    contacts = pd.DataFrame({"alone": group[one], "object": group[other], "n": pairs[mixed, 2]})
    borders = contacts.groupby(["alone", "object"])["n"].sum().reset_index()
    longest = borders.sort_values(["n", "object"], ascending=[False, True]).drop_duplicates("alone")
    target = np.arange(n_groups)
    target[longest["alone"]] = longest["object"]
    group = target[group]
    sizes = np.bincount(group, parts.sizes, minlength=n_groups)
    places = np.full(n_groups, parts.first[0])
    np.minimum.at(places, group, parts.first)
    is_kept = sizes >= max(min_size, 1)
    return number(places, is_kept)[group], int(is_kept.sum())


def fill_blocks(
    labels: Volume,
    boxes: Sequence[Box],
    chunks: Sequence[int],
    table: np.ndarray,
    n_objects: int,
    filled: Writer,
    tell: Callable[[], None],
) -> np.ndarray:
    """Write objects and the background between them, numbered; give the object of every number, with holes filled."""
    pairs, is_open, n_before = [np.zeros((0, 2), np.int64)], [np.zeros(1, bool)], n_objects
    for box in boxes:
        objects = table[labels.read(box)[0]]  # type: ignore[arg-type]
        holes, n_holes = scipy.ndimage.label(objects == 0)
        numbers = np.where(objects > 0, objects, holes + n_before)
        filled.write(box, numbers[None].astype(np.uint64))  # type: ignore[arg-type]
        pairs.append(beside(numbers, n_objects))
        at_edge = np.zeros(n_holes + 1, bool)
        for axis in (0, 1):
            side = box[axis + 1]
            at_edge[holes.take([0] if side.start == 0 else [], axis)] = True
            at_edge[holes.take([-1] if side.stop == labels.shape[axis + 1] else [], axis)] = True
        is_open.append(at_edge[1:])
        n_before += n_holes
        tell()
    filled.close()
    over = touching(open_volume(filled.name), chunks, axes=(1, 2))[:, :2]
    over.sort(axis=1)
    low, high = over.T
    n_holes = n_before - n_objects + 1
    of_holes = low > n_objects
    n_groups, group = connected(low[of_holes] - n_objects, high[of_holes] - n_objects, n_holes)
    open_groups = np.zeros(n_groups, bool)
    open_groups[group[np.concatenate(is_open)]] = True
    edge = over[(low <= n_objects) & (high > n_objects)]
    objects, beside_them = np.concatenate([*pairs, edge]).T
    owners = owners_of(objects, group[beside_them - n_objects], open_groups)
    return np.concatenate([np.arange(n_objects + 1), owners[group[1:]]])
