"""Outlines of numbered objects as GeoJSON, which QuPath opens: the edges of their pixels, exactly.

A pixel (y, x) covers the square from x to x + 1 and from y to y + 1, as in QuPath. A corner of an outline depends on
four pixels only, so corners are collected block by block and joined to rings when an object is complete.

    1 1 0      o-------o         Rings turn from x to y around an object, and the other way around a hole. None comes
    1 1 1      |       o---o     to a corner twice: pixels that share a corner only are two polygons.
    0 0 1      o-------o   |
                       o---o
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from genenet.errors import InputError
from genenet.folder import writing
from genenet.object_table import measure_objects
from genenet.tiling import blocks, n_blocks
from genenet.volume import Volume, open_volume

# The shape of a block, unless asked for otherwise.
BLOCK = 1, 1024, 1024

# What QuPath makes of a feature; it holds millions of detections, but only thousands of annotations.
OBJECT_TYPES = "detection", "annotation"

# Columns of a table that an outline says by itself.
_PLACES = {"object", *(f"{axis}{end}" for axis in "zyx" for end in ("", "_first", "_last"))}

# Corners `(x, y)`, the first repeated at the end.
Ring = list[tuple[int, int]]

# Rings, the first around an object and the others around its holes.
Polygon = list[Ring]


def write_outlines(
    labels: Volume | np.ndarray | str | Path,
    path: str | Path,
    table: pd.DataFrame | None = None,
    *,
    classification: str = "nucleus",
    color: tuple[int, int, int] = (0, 158, 115),
    object_type: str = "detection",
    block: Sequence[int] = BLOCK,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write the outlines of numbered objects, with what was measured of them, as a GeoJSON FeatureCollection.

    Features are written as their objects are complete, so a slide of any size takes as much memory as the objects that
    cross one row of blocks. In QuPath: File, Import objects from file. Coordinates are pixels of the labels, so these
    must have been made at the slide's full resolution.

    Args:
        labels: Numbers `(z, y, x)` or `(y, x)`, 0 for what is no object. Every slice of an object is a feature.
        path: The `.geojson` to write.
        table: Of the objects, as `measure_objects` and `merge_volume` give it, measured if left out. Its columns
            become measurements, apart from places.
        classification: What the objects are; QuPath's class.
        color: Of the class, red, green and blue.
        object_type: `detection` or `annotation`.
        block: Pixels that are worked on at a time, `(z, y, x)`; z must be 1.
        overwrite: Replace the file if it exists.
        progress: Called with pixels looked at, and in all.

    Returns:
        How many features were written.

    Raises:
        InputError: The file exists, the volume holds no numbers of objects, the table lacks one of them, or an unknown
            type of object.
    """
    if object_type not in OBJECT_TYPES:
        raise InputError(f"`object_type` is {' or '.join(OBJECT_TYPES)}, but got {object_type!r}")
    if Path(path).exists() and not overwrite:
        raise InputError(f"{path} exists; choose another name, or ask to overwrite it (--overwrite)")
    volume = open_volume(labels)
    table = measure_objects(volume) if table is None else table
    properties = _Properties(table, {"name": classification, "color": list(color)}, object_type)
    n_written = 0
    with writing(path) as beside, beside.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        for z, objects in _complete_corners(volume, block, table, progress):
            for number, polygons in polygons_of(objects):
                feature = {"type": "Feature", "geometry": _geometry(polygons, z), "properties": properties.of(number)}
                file.write((",\n" if n_written else "\n") + json.dumps(feature, separators=(",", ":")))
                n_written += 1
        file.write("\n]}\n")
    return n_written


class _Properties:
    """What QuPath is told of an object beside its outline."""

    def __init__(self, table: pd.DataFrame, classification: Mapping[str, Any], object_type: str) -> None:
        names = [name for name in table.columns if name not in _PLACES and table[name].dtype.kind in "iuf"]
        self._names = names
        self._rows = dict(zip(table["object"].tolist(), table[names].to_numpy(float).tolist(), strict=True))
        self._same = {"objectType": object_type, "classification": dict(classification)}

    def of(self, number: int) -> dict[str, Any]:
        values = zip(self._names, self._rows[number], strict=True)
        # JSON has no NaN, and QuPath takes what is missing for NaN.
        measured = {name: round(value, 4) for name, value in values if np.isfinite(value)}
        return {**self._same, "name": str(number), "measurements": measured}


def _geometry(polygons: Sequence[Polygon], z: int) -> dict[str, Any]:
    several = len(polygons) > 1
    found = {
        "type": "MultiPolygon" if several else "Polygon",
        "coordinates": list(polygons) if several else polygons[0],
    }
    # QuPath's own: which slice; channels together, first time point.
    return {**found, "plane": {"c": -1, "z": z, "t": 0}} if z else found


def _complete_corners(
    volume: Volume, block: Sequence[int], table: pd.DataFrame, progress: Callable[[int, int], None] | None
) -> Iterator[tuple[int, np.ndarray]]:
    """Corners of objects whose last row has been read, with their slice; every object of a slice once."""
    if block[0] != 1:
        raise InputError(f"outlines are drawn slice by slice, so `block` begins with 1, but got {tuple(block)}")
    rows = table[["object", "y_last"]].sort_values("object").to_numpy(np.int64)
    waiting = [np.zeros((0, 6), np.int64)]
    n_done, n_pixels, n_columns = 0, np.prod(volume.shape), n_blocks(volume.shape[2:], block[2:])
    for index, (z, y, x) in enumerate(blocks(volume.shape, block)):
        # One pixel more before, so that every corner has its four pixels in one block; the last block has those after.
        start = max(y.start - 1, 0), max(x.start - 1, 0)
        part = volume.read((z, slice(start[0], y.stop), slice(start[1], x.stop)))[0]
        ends = y.stop == volume.shape[1], x.stop == volume.shape[2]
        found = corners_of(np.pad(part, [(int(y.start == 0), int(ends[0])), (int(x.start == 0), int(ends[1]))]))
        found[:, 1:3] += y.start, x.start
        waiting.append(found)
        n_done += (y.stop - y.start) * (x.stop - x.start)
        if progress is not None:
            progress(n_done, int(n_pixels))
        if (index + 1) % n_columns:
            continue
        corners = np.concatenate(waiting)
        if len(unknown := np.setdiff1d(corners[:, 0], rows[:, 0])):
            raise InputError(f"the table lacks object {unknown[0]} of {volume.name}; measure it again")
        last = rows[np.searchsorted(rows[:, 0], corners[:, 0]), 1]
        is_complete = (last < y.stop - 1) | ends[0]  # the lowest corners lie below the last row
        waiting = [corners[~is_complete]]
        yield z.start, corners[is_complete]


def corners_of(labels: np.ndarray) -> np.ndarray:
    """Corners of the outlines of all objects, of those that lie between four pixels of an array.

    Args:
        labels: `(y, x)`, 0 for what is no object.

    Returns:
        `(n, 6)`: the object; y and x of the corner, 0 between the first two rows or columns; whether its edges go
        right rather than left, and down rather than up; and whether it is concave.
    """
    rows, columns = max(labels.shape[0] - 1, 0), max(labels.shape[1] - 1, 0)
    found = []
    for down, right in (0, 0), (0, 1), (1, 0), (1, 1):
        pixel = labels[down : down + rows, right : right + columns]
        along = labels[down : down + rows, 1 - right : 1 - right + columns]
        across = labels[1 - down : 1 - down + rows, right : right + columns]
        opposite = labels[1 - down : 1 - down + rows, 1 - right : 1 - right + columns]
        convex = (pixel > 0) & (along != pixel) & (across != pixel)
        concave = (along > 0) & (along == across) & (along == opposite) & (along != pixel)
        for where, owner in (convex, pixel), (concave, along):
            y, x = np.nonzero(where)
            same = np.broadcast_to(np.array([right, down, owner is along]), (len(y), 3))
            found.append(np.column_stack([owner[where].astype(np.int64), y, x, same]))
    return np.concatenate(found)


def polygons_of(corners: np.ndarray) -> Iterator[tuple[int, list[Polygon]]]:
    """Join corners, as `corners_of` gives them, to polygons, object by object.

    >>> [(number, polygons)] = polygons_of(corners_of(np.pad([[7, 7]], 1)))
    >>> number, polygons
    (7, [[[(0, 0), (2, 0), (2, 1), (0, 1), (0, 0)]]])
    """
    objects, y, x, right, down, _ = corners.T
    # Edges join corners that follow each other along a row, or a column; where two meet, the one that ends comes first.
    order = np.lexsort((right, x, y, objects))
    corners = corners[order]
    objects, y, x, right, down, is_concave = corners.T
    along = np.arange(len(corners)) ^ 1
    columns = np.lexsort((down, y, x, objects))
    across = np.empty(len(corners), np.int64)
    across[columns[0::2]], across[columns[1::2]] = columns[1::2], columns[0::2]
    points = list(zip(x.tolist(), y.tolist(), strict=True))
    turns, steps, hole = along.tolist(), across.tolist(), is_concave.tolist()
    ends = np.flatnonzero(np.diff(objects, append=-1)) + 1
    seen, first = bytearray(len(points)), 0
    for end in ends.tolist():
        rings: list[Ring] = []
        for start in range(first, end):
            if seen[start]:
                continue
            ring, at = [], start
            while not seen[at]:
                other = turns[at]
                seen[at] = seen[other] = True
                ring += [points[at], points[other]]
                at = steps[other]
            # The first corner of a ring is its highest, there the leftmost; it is concave around a hole only.
            rings += _simple(ring[::-1] if hole[start] else ring)
        yield int(objects[first]), _with_holes(rings)
        first = end


def _simple(ring: Ring) -> list[Ring]:
    """Closed rings that come to no point twice, of one that may."""
    if len(set(ring)) == len(ring):
        return [[*ring, ring[0]]]
    found: list[Ring] = []
    places: dict[tuple[int, int], int] = {}
    path: Ring = []
    for point in ring:
        if (before := places.get(point)) is not None:
            found.append([*path[before:], point])
            for passed in path[before:]:
                del places[passed]
            del path[before:]
        places[point] = len(path)
        path.append(point)
    return [*found, [*path, path[0]]]


def _with_holes(rings: Sequence[Ring]) -> list[Polygon]:
    """Give every hole to the innermost ring around it."""
    if len(rings) == 1:
        return [[rings[0]]]
    areas = [_area(ring) for ring in rings]
    around = [(area, [ring]) for area, ring in zip(areas, rings, strict=True) if area > 0]
    for area, ring in zip(areas, rings, strict=True):
        if area < 0:
            x, y = min(ring, key=lambda point: point[::-1])
            inside = [each for each in around if len(around) == 1 or _is_inside(x + 0.5, y - 0.5, each[1][0])]
            min(inside, key=lambda each: each[0])[1].append(ring)
    return [polygon for _, polygon in around]


def _is_inside(x: float, y: float, ring: Ring) -> bool:
    edges = zip(ring, ring[1:], strict=False)
    return sum(a[0] == b[0] and a[0] < x and min(a[1], b[1]) < y < max(a[1], b[1]) for a, b in edges) % 2 == 1


def _area(ring: Ring) -> float:
    """Above 0 if it turns from x to y."""
    return sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(ring, ring[1:], strict=False)) / 2
