"""From two maps to numbered objects on whole slides, block by block: what `genenet.instances.merge` gives of all.

Every block is merged with a margin around, and its core is kept. An object that a border cuts has the same seed in both
blocks, so pieces with one seed are one object. What is small, and what is a hole, is decided when all pieces are known.

    |<--------------- read --------------->|
    | reach |<-------- merged -------->| reach |     here maxima are those of the whole image
            | margin |<- core ->| margin |           here objects are, if they are smaller than the margin
"""

import contextlib
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.ndimage

from genenet.errors import InputError
from genenet.folder import remove, split_suffix
from genenet.formats import place
from genenet.instance_joining import Parts, fill_blocks, join_pieces
from genenet.instances import (
    Merging,
    as_map,
    diameter,
    find_tops,
    first_places,
    flood,
    reach,
)
from genenet.manifest import held
from genenet.object_table import measure_objects
from genenet.pyramid import add_levels
from genenet.tiling import Box, blocks
from genenet.volume import Volume, Writer, create_volume, open_volume

# The sides `(y, x)` of a block, unless asked for otherwise.
BLOCK = 1024, 1024

# The margin in mean diameters, unless asked for otherwise.
MARGIN = 4.0

# The mean diameter is measured in windows of such a side, drawn at random, until there were so many components.
WINDOW, ENOUGH = 2048, 2000


@dataclasses.dataclass(frozen=True)
class MapPair:
    """The probability of foreground and the distances, read box by box.

    Attributes:
        foreground: `(z, y, x)`, or `(z, y, x, channels)` with a channel to take.
        distances: `(z, y, x)`.
        channel: Of the foreground; None where it has no channels.
    """

    foreground: Volume
    distances: Volume
    channel: int | None = None

    def __post_init__(self) -> None:
        n_channels = self.foreground.n_channels
        if n_channels > 1 and self.channel is None:
            raise InputError(f"{self.foreground.name} has {n_channels} channels; say by `channel` which is foreground")
        if self.channel is not None and not 0 <= self.channel < n_channels:
            raise InputError(f"`channel` must lie in [0, {n_channels - 1}], but got {self.channel}")
        if self.distances.n_channels > 1:
            raise InputError(
                f"a distance map has one channel, but {self.distances.name} has {self.distances.n_channels}"
            )
        if self.foreground.shape[:3] != self.distances.shape:
            raise InputError(
                f"foreground and distances must have one shape, but {self.foreground.name} has "
                f"{self.foreground.shape[:3]} and {self.distances.name} has {self.distances.shape}"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Of both, `(z, y, x)`."""
        return self.distances.shape

    def mask(self, box: Box, threshold: float) -> np.ndarray:
        """Where there is foreground, `(y, x)`, in a box of one slice."""
        return _mask(self.foreground, box, threshold, self.channel)

    def depth(self, box: Box) -> np.ndarray:
        """The distances in a box of one slice, `(y, x)`."""
        return as_map(self.distances.read(box)[0], self.distances.name)  # type: ignore[arg-type]


def _mask(foreground: Volume, box: Box, threshold: float, channel: int | None) -> np.ndarray:
    values = foreground.read(box)[0]  # type: ignore[arg-type]
    return as_map(values if values.ndim == 2 else values[..., channel], foreground.name) >= threshold


def merge_volume(
    foreground: Volume | np.ndarray | str | Path,
    distances: Volume | np.ndarray | str | Path,
    output: str | Path,
    merging: Merging | None = None,
    *,
    mean_diameter: float | None = None,
    channel: int | None = None,
    image: Volume | np.ndarray | str | Path | None = None,
    block: Sequence[int] = BLOCK,
    margin: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Make numbered objects of two maps, block by block, each slice by itself, and measure them.

    The objects and their numbers are those that `merge` gives for a whole slice, as long as objects are smaller than
    the margin. A larger one is put together from what touches over the borders of blocks. Nothing is kept of a run
    that was stopped: the same call again begins anew, and the output gets its name when it is whole.

    Args:
        foreground: Probabilities `(z, y, x)`; uint8 with 255 for 1. NaN is refused wherever it is read.
        distances: Of the same shape, large inside an object; read only where there is foreground.
        output: Gets the numbers; `.ome.zarr`, `.tif`, `.h5` or `.npy`.
        merging: How; as recommended if left out.
        mean_diameter: Of objects, in pixels; measured in a sample if left out (`sample_diameter`).
        channel: Which channel of the foreground, if it has several.
        image: Whose brightness is measured in every object.
        block: The sides `(y, x)` of a block.
        margin: Read around every block, in pixels; four mean diameters if left out.
        overwrite: Replace the output if it exists.
        progress: Called with pixels looked at, and in all; every pixel is looked at three times, or twice where holes
            stay.

    Returns:
        One row per object, as `measure_objects` gives. Numbers go from 1 on without a gap, in the order of the objects'
        first pixels: slice by slice, row by row. They do not depend on the blocks.

    Raises:
        InputError: The output exists or another program is writing it; maps or image do not fit together, or hold what
            is no number.
    """
    merging = merging or Merging()
    maps = MapPair(open_volume(foreground), open_volume(distances), channel)
    shape, size = maps.shape, maps.foreground.voxel_size_nm or maps.distances.voxel_size_nm
    if len(block) != 2 or min(block) < 1 or (margin is not None and margin < 0):
        raise InputError(
            f"`block` is two sides (y, x) of a pixel or more, and `margin` not negative, but got {block}, {margin}"
        )
    picture = None if image is None else open_volume(image)
    if picture is not None and picture.shape[:3] != shape:
        raise InputError(f"the image must have the shape {shape} of the maps, but {picture.name} has {picture.shape}")
    chunks = (1, min(block[0], shape[1]), min(block[1], shape[2]))
    boxes = list(blocks(shape, chunks))
    done, n_looks = itertools.count(1), (3 if merging.fill_holes else 2) * math.prod(shape)

    def tell() -> None:
        if progress is not None:
            progress(next(done) * math.prod(shape) // len(boxes), n_looks)

    target = place.target(output)
    with contextlib.ExitStack() as stack:
        stack.enter_context(held([target.path]))
        place.check_free(output, overwrite=overwrite)
        if mean_diameter is None:
            mean_diameter = sample_diameter(maps.foreground, merging, channel=channel)
        scratch = functools.partial(_scratch, stack, target.path, shape, chunks)
        rough = scratch("pieces")
        margin = math.ceil(MARGIN * mean_diameter) if margin is None else margin
        parts = _flood_blocks(maps, boxes, rough, merging, mean_diameter, margin, tell)
        labels = open_volume(rough.name)
        numbers, n_objects = join_pieces(labels, chunks, parts, merging.min_size)
        table = np.repeat(numbers, 2)
        if merging.fill_holes:
            filled = scratch("holes")
            table = fill_blocks(labels, boxes, chunks, table, n_objects, filled, tell)
            labels = open_volume(filled.name)
        partial = place.partial_name(output)
        dtype = np.uint32 if n_objects < 2**32 else np.uint64
        writer = create_volume(partial, shape, dtype, voxel_size_nm=size, chunks=chunks, overwrite=True)
        for box in boxes:
            writer.write(box, table[labels.read(box)])  # type: ignore[arg-type]
            tell()
        writer.close()
        if target.format == "ome_zarr":
            add_levels(place.target(partial).path, labels=True)
        found = measure_objects(open_volume(partial), picture, block=chunks)
        place.publish(partial, output)
    return found


def sample_diameter(foreground: Volume, merging: Merging | None = None, *, channel: int | None = None) -> float:
    """The mean diameter of objects in a volume, in pixels: of all if it is one window, else of a fixed sample.

    Windows are drawn until they held some thousand components of the mask; those that a window cuts do not count,
    unless there are no others.
    """
    merging = merging or Merging()
    shape = foreground.shape[:3]
    boxes = list(blocks(shape, (1, WINDOW, WINDOW)))
    whole, cut, n_whole = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
    for index in np.random.default_rng(0).permutation(len(boxes)):
        box = boxes[index]
        labels, n = scipy.ndimage.label(_mask(foreground, box, merging.threshold, channel))
        sizes = np.bincount(labels.ravel(), minlength=n + 1)
        is_cut = np.zeros(n + 1, bool)
        for axis in (0, 1):
            side = box[axis + 1]
            is_cut[labels.take([0] if side.start > 0 else [], axis)] = True
            is_cut[labels.take([-1] if side.stop < shape[axis + 1] else [], axis)] = True
        is_object = sizes >= max(merging.min_size, 1)
        is_object[0] = False
        whole.append(sizes[is_object & ~is_cut])
        cut.append(sizes[is_object & is_cut])
        n_whole += len(whole[-1])
        if n_whole >= ENOUGH:
            break
    return diameter(np.concatenate(whole if n_whole else cut))


def _scratch(
    stack: contextlib.ExitStack, output: Path, shape: Sequence[int], chunks: Sequence[int], name: str
) -> Writer:
    """A volume of numbers beside the output that goes when the work ends."""
    path = Path(f"{split_suffix(output)[0]}.{name}.part.zarr")
    stack.callback(remove, path)
    return create_volume(path, shape, np.uint64, chunks=chunks, overwrite=True)


def _flood_blocks(
    maps: MapPair,
    boxes: Sequence[Box],
    rough: Writer,
    merging: Merging,
    mean_diameter: float,
    margin: int,
    tell: Callable[[], None],
) -> Parts:
    """Merge every block by itself, and write the numbers of its pieces: twice these, plus 1 in seeds."""
    found, n_before = [np.array([[-1], [0], [math.prod(maps.shape)]], np.int64)], 1
    for box in boxes:
        if (merged := _flood_block(maps, box, merging, mean_diameter, margin)) is not None:
            pieces, in_seed, rows = merged
            codes = np.where(pieces > 0, 2 * (pieces + (n_before - 1)) + in_seed, 0)
            rough.write(box, codes[None].astype(np.uint64))  # type: ignore[arg-type]
            found.append(rows)
            n_before += rows.shape[1]
        tell()
    rough.close()
    return Parts(*np.concatenate(found, 1))


def _flood_block(
    maps: MapPair, box: Box, merging: Merging, mean_diameter: float, margin: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Pieces 1, 2, ... in a core, where their seeds are, and rows for `Parts`; None where there is no foreground."""
    shape, radius = maps.shape, merging.radius(mean_diameter)
    inner = _grown(box, margin + radius, shape)
    outer = _grown(inner, reach(merging, mean_diameter), shape)
    mask = maps.mask(outer, merging.threshold)
    if not mask[_within(box, outer)].any():
        return None
    smoothed, tops = find_tops(mask, maps.depth(outer), merging, mean_diameter)
    there = _within(inner, outer)
    flooded = flood(mask[there], smoothed[there], tops[there], radius)
    core = _within(box, inner)
    sizes = np.bincount(flooded.labels[core].ravel(), minlength=flooded.n + 1)
    sizes[0] = 0
    chosen = np.flatnonzero(sizes)
    numbers = np.zeros(flooded.n + 1, np.int64)
    numbers[chosen] = np.arange(1, len(chosen) + 1)
    pieces = numbers[flooded.labels[core]]
    seeds = _in_volume(first_places(flooded.seeds, flooded.n)[chosen], inner, shape)
    first = _in_volume(first_places(pieces, len(chosen))[1:], box, shape)
    rows = np.stack([np.where(chosen <= flooded.n_seeded, seeds, -1), sizes[chosen], first])
    return pieces, flooded.seeds[core] > 0, rows


def _grown(box: Box, by: int, shape: Sequence[int]) -> Box:
    """A box of one slice with so many pixels more on every side, as far as the volume goes."""
    z, *sides = box
    return z, *(slice(max(s.start - by, 0), min(s.stop + by, n)) for s, n in zip(sides, shape[1:], strict=True))


def _within(box: Box, other: Box) -> Box:
    """Where a box lies in a larger one, `(y, x)`."""
    return tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(box[1:], other[1:], strict=True))


def _in_volume(places: np.ndarray, box: Box, shape: Sequence[int]) -> np.ndarray:
    """Places in scan order within a box of one slice, as places in the whole volume."""
    y, x = np.divmod(places, box[2].stop - box[2].start)
    return (box[0].start * shape[1] + y + box[1].start) * shape[2] + x + box[2].start
