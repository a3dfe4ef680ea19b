"""Objects in a segmentation: connected components per class, joined over the borders of blocks, in a table.

Every block is labelled by itself (scipy); labels that touch over a border are joined in a graph; then every block is
numbered anew. dask-image does the same, but holds the labels of the whole volume, or works them out twice.
"""

import contextlib
import dataclasses
import functools
import itertools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.ndimage
import scipy.sparse

from genenet.classes import SegmentationClass, default_classes
from genenet.errors import InputError
from genenet.folder import remove, split_suffix, writing
from genenet.formats import ome_zarr, place
from genenet.manifest import held
from genenet.object_table import Pieces, measure
from genenet.pyramid import add_levels
from genenet.tiling import Box, blocks
from genenet.volume import Volume, Writer, check_not_read, create_volume, open_volume

# The shape of a block, unless asked for otherwise.
BLOCK = 64, 256, 256


def find_components(
    segmentation: Volume | str | Path,
    output: str | Path,
    *,
    classes: Sequence[SegmentationClass],
    min_voxels: int = 1,
    connectivity: int = 1,
    cleaned: str | Path | None = None,
    block: Sequence[int] = BLOCK,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Number the objects of a segmentation, block by block, and measure them.

    Args:
        segmentation: Class values, `(z, y, x)`.
        output: Where the numbers are written, from 1 on, 0 for what is no object; `.ome.zarr`, `.tif`, `.h5` or `.npy`.
        classes: Whose objects; other values are background.
        min_voxels: Smaller objects are left out.
        connectivity: 1, voxels of an object share faces; 2, faces or edges; 3, faces, edges or corners.
        cleaned: Also write the segmentation here, with 0 in place of the objects left out.
        block: Voxels that are worked on at a time, `(z, y, x)`.
        overwrite: Replace outputs that exist.
        progress: Called with voxels looked at, and in all: every voxel is looked at twice.

    Returns:
        One row per object: `object`, `value`, `class`, `voxels`, `z`, `y`, `x` (the centre, in voxels), `z_first`,
        `y_first`, `x_first`, `z_last`, `y_last`, `x_last`; and `volume_um3`, where the size of voxels is known.

    Raises:
        InputError: An output exists or another program is writing it, the volume does not hold class values, or an
            unknown connectivity.
    """
    volume = segmentation if isinstance(segmentation, Volume) else open_volume(segmentation)
    if volume.n_channels != 1 or volume.dtype.kind not in "ui":
        raise InputError(f"{volume.name} holds {volume.dtype} in {volume.n_channels} channels, but not class values")
    if connectivity not in (1, 2, 3):
        raise InputError(f"`connectivity` is 1, 2 or 3, but got {connectivity}")
    targets = [str(output), *([] if cleaned is None else [str(cleaned)])]
    for target in targets:
        check_not_read(volume, target)
    shape, size = volume.shape, volume.voxel_size_nm
    chunks = tuple(min(side, n) for side, n in zip(block, shape, strict=True))
    boxes = list(blocks(shape, chunks))
    done, n_looks = itertools.count(1), 2 * math.prod(shape)

    def tell() -> None:
        if progress is not None:
            progress(int(next(done) * n_looks / (2 * len(boxes))), n_looks)

    rough_path = Path(split_suffix(place.target(output).path)[0] + ".rough.part.zarr")
    with contextlib.ExitStack() as stack:
        stack.enter_context(held([place.target(target).path for target in targets]))
        for target in targets:
            place.check_free(target, overwrite=overwrite)
        stack.callback(remove, rough_path)
        rough = create_volume(rough_path, shape, np.uint64, chunks=chunks, overwrite=True)
        pieces = _label_blocks(volume, boxes, rough, classes, connectivity, tell)
        labels = open_volume(rough_path)
        numbers, pieces = _join(labels, chunks, pieces, connectivity, min_voxels)
        dtype = np.uint32 if len(pieces.sizes) < 2**32 else np.uint64
        make = functools.partial(create_volume, voxel_size_nm=size, chunks=chunks, overwrite=True)
        writers = [make(place.partial_name(output), shape, dtype)]
        if cleaned is not None:
            everything = classes_of(volume, with_background=True)
            writers.append(make(place.partial_name(cleaned), shape, volume.dtype, classes=everything))
        for box in boxes:
            _renumber(volume, labels, box, numbers, writers, [entry.value for entry in classes])
            tell()
        for writer, target in zip(writers, targets, strict=True):
            writer.close()
            where = place.target(place.partial_name(target))
            if where.format == "ome_zarr":
                add_levels(where.path, labels=True)
        for target in targets:
            place.publish(place.partial_name(target), target)
    return _table(pieces, classes, size)


def classes_of(
    segmentation: Volume, block: Sequence[int] = BLOCK, *, with_background: bool = False
) -> tuple[SegmentationClass, ...]:
    """The classes of a segmentation, as an OME-Zarr names them, else every value it holds; without the background 0."""
    if isinstance(segmentation.source, (str, os.PathLike)):
        where = place.find(segmentation.source)
        if where.format == "ome_zarr" and (found := ome_zarr.read_classes(where.path, where.inner)):
            return tuple(entry for entry in found if entry.value != 0 or with_background)
    values = values_of(segmentation, block)
    return tuple(default_classes(sorted(values if with_background else values - {0})))


def values_of(labels: Volume, block: Sequence[int] = BLOCK) -> set[int]:
    """All values of a label volume."""
    found: set[int] = set()
    for box in blocks(labels.shape, block):
        found |= set(np.unique(labels.read(box)).tolist())  # type: ignore[arg-type]
    return found


def _label_blocks(
    volume: Volume,
    boxes: Sequence[Box],
    rough: Writer,
    classes: Sequence[SegmentationClass],
    connectivity: int,
    tell: Callable[[], None],
) -> Pieces:
    """Label every block by itself, with numbers that no other block has."""
    structure = scipy.ndimage.generate_binary_structure(3, connectivity)
    parts, n_before = [Pieces.none(1)], 1
    for box in boxes:
        values = volume.read(box)  # type: ignore[arg-type]
        labels = np.zeros(values.shape, np.int64)
        found: list[int] = []
        for entry in classes:
            own, n_own = scipy.ndimage.label(values == entry.value, structure)
            np.add(labels, own + len(found), out=labels, where=own > 0)
            found += [entry.value] * n_own
        if found:
            parts.append(measure(labels, found, [side.start for side in box]))
            rough.write(box, np.where(labels > 0, labels + (n_before - 1), 0).astype(np.uint64))  # type: ignore[arg-type]
            n_before += len(found)
        tell()
    rough.close()
    return Pieces.joined(parts)


def _join(
    labels: Volume, chunks: Sequence[int], pieces: Pieces, connectivity: int, min_voxels: int
) -> tuple[np.ndarray, Pieces]:
    """The final number of every block's label, and what is known of the objects, small ones left out."""
    n = len(pieces.sizes)
    first, second, _ = touching(labels, chunks, connectivity).T
    same = pieces.classes[first] == pieces.classes[second]
    first, second = first[same], second[same]
    n_found, group = connected(first, second, n)
    objects = pieces.merged(group, n_found)
    kept = objects.sizes >= max(min_voxels, 1)
    numbers = np.zeros(n_found, np.int64)
    # In the order of their first labels, so that the same segmentation gives the same numbers.
    order = np.full(n_found, n)
    np.minimum.at(order, group, np.arange(n))
    chosen = np.argsort(order)
    chosen = chosen[kept[chosen]]
    numbers[chosen] = np.arange(1, len(chosen) + 1)
    ordered = Pieces(*(getattr(objects, field.name)[chosen] for field in dataclasses.fields(Pieces)))
    return numbers[group], ordered


def connected(first: np.ndarray, second: np.ndarray, n: int) -> tuple[int, np.ndarray]:
    """How many groups `n` things form that are joined in pairs, and the group of each, in the order of their first."""
    graph = scipy.sparse.coo_matrix((np.ones(len(first), bool), (first, second)), (n, n))
    return scipy.sparse.csgraph.connected_components(graph, directed=False)


def touching(
    labels: Volume, chunks: Sequence[int], connectivity: int = 1, axes: Sequence[int] = (0, 1, 2)
) -> np.ndarray:
    """Pairs of labels that touch over borders between blocks, and by how many voxels, int64 `(n, 3)`; not 0.

    Args:
        labels: Of all blocks.
        chunks: The shape of a block.
        connectivity: As of `find_components`.
        axes: Those on which the borders stand; 0, 1 and 2 are z, y and x.
    """
    pairs = [np.empty((0, 3), np.int64), *_touching(labels, chunks, connectivity, axes)]
    return np.concatenate(pairs)


def _touching(labels: Volume, chunks: Sequence[int], connectivity: int, axes: Sequence[int]) -> Iterator[np.ndarray]:
    shape = labels.shape
    for axis, box in itertools.product(axes, blocks(shape, chunks)):
        if box[axis].stop == shape[axis]:
            continue
        across = [other for other in range(3) if other != axis]
        near, far = list(box), list(box)
        near[axis] = slice(box[axis].stop - 1, box[axis].stop)
        far[axis] = slice(box[axis].stop, box[axis].stop + 1)
        margin = []
        more = 1 if connectivity > 1 else 0  # voxels on either side, for those that touch at edges and corners
        for other in across:
            low, high = max(box[other].start - more, 0), min(box[other].stop + more, shape[other])
            margin.append((low - (box[other].start - more) + 1 - more, box[other].stop + more - high + 1 - more))
            far[other] = slice(low, high)
        one = labels.read(tuple(near)).squeeze(axis).astype(np.int64)  # type: ignore[arg-type]
        two = np.pad(labels.read(tuple(far)).squeeze(axis).astype(np.int64), margin)  # type: ignore[arg-type]
        for a, b in itertools.product(range(3), repeat=2):
            if abs(a - 1) + abs(b - 1) >= connectivity:
                continue
            beside = two[a : a + one.shape[0], b : b + one.shape[1]]
            both = (one > 0) & (beside > 0)
            if both.any():
                pairs, counts = np.unique(np.stack([one[both], beside[both]], 1), axis=0, return_counts=True)
                yield np.column_stack([pairs, counts])


def _renumber(
    volume: Volume, labels: Volume, box: Box, numbers: np.ndarray, writers: Sequence[Writer], chosen: Sequence[int]
) -> None:
    objects = numbers[labels.read(box).astype(np.int64)]  # type: ignore[arg-type]
    writers[0].write(box, objects)  # type: ignore[arg-type]
    for writer in writers[1:]:
        values = volume.read(box)  # type: ignore[arg-type]
        is_gone = np.isin(values, chosen) & (objects == 0)
        writer.write(box, np.where(is_gone, 0, values).astype(values.dtype))  # type: ignore[arg-type]


def _table(pieces: Pieces, classes: Sequence[SegmentationClass], size_nm: Sequence[float] | None) -> pd.DataFrame:
    names = {entry.value: entry.name for entry in classes}
    columns = {
        "object": np.arange(1, len(pieces.sizes) + 1),
        "value": pieces.classes,
        "class": [names.get(value, "") for value in pieces.classes.tolist()],
        **pieces.columns(),
    }
    if size_nm is not None:
        columns["volume_um3"] = pieces.sizes * math.prod(size_nm) / 1e9
    return pd.DataFrame(columns)


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write objects as CSV, in one step."""
    with writing(path) as beside:
        table.to_csv(beside, index=False)
