"""Projective maps of a plane, and how images and labels are read at the places that they give.

source = H(place + displacement)        `H` is 3x3, a place is (y, x, 1), divided by its last coordinate
"""

import numpy as np


def draw_projection(
    shape: tuple[int, int],
    rng: np.random.Generator,
    *,
    scale: float = 0.0,
    shift: float = 0.0,
    perspective: float = 0.0,
    border: float = 0.0,
) -> np.ndarray:
    """Draw a projective map of a window that keeps its middle, up to `shift`.

    Args:
        shape: Of the window, `(y, x)`.
        rng: Where all randomness comes from.
        scale: Objects become up to `1 + scale` times as large or as small.
        shift: Largest shift, in voxels.
        perspective: Largest displacement of each corner in y and in x, as a share of the window's side; below 1/4, so
            that the corners stay a convex quadrilateral and everything between them is read from between them.
        border: How far beyond the window, in voxels, the corners lie.

    Returns:
        `(3, 3)`, from places in the window to places in the source, in voxels of both; the first voxel of the window
        is (0, 0) in either.
    """
    centre = (np.array(shape) - 1) / 2
    half = np.maximum(centre + border, 0.5)
    corners = np.array([(-1.0, -1.0), (-1.0, 1.0), (1.0, -1.0), (1.0, 1.0)])
    moved = corners + 2 * perspective * rng.uniform(-1, 1, corners.shape)
    zoom = (1 + scale) ** rng.uniform(-1, 1)
    targets = centre + moved * half * zoom + shift * rng.uniform(-1, 1, 2)
    to_unit = np.diag([1 / half[0], 1 / half[1], 1.0])
    to_unit[:2, 2] = -centre / half
    return _through(corners, targets) @ to_unit


def projection_reach(shape: tuple[int, int], *, scale: float, shift: float, perspective: float, border: float) -> float:
    """Bound how far beyond the window `draw_projection` reads, in voxels, for places up to `border` beyond it."""
    half = max(0.5, (max(shape) - 1) / 2 + border)
    return border + half * ((1 + 2 * perspective) * (1 + scale) - 1) + shift


def project(projection: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Apply a projective map to places, float32."""
    rows, columns = rows.astype(np.float32), columns.astype(np.float32)
    down, right, depth = (a * rows + (b * columns + c) for a, b, c in projection.astype(np.float32))
    return down / depth, right / depth


def nearest_sources(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Number the voxels of a plane of `shape` that lie nearest to places within it."""
    if rows.dtype.kind == "f":
        rows, columns = (
            np.rint(places).astype(np.intp).clip(0, size - 1)
            for places, size in zip((rows, columns), shape, strict=True)
        )
    return rows * shape[1] + columns


def sample_linear(image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Read an image between its voxels, bilinearly in y and x.

    Args:
        image: `(*slices, y, x, channels)` float32; all slices are read alike.
        rows: `(height, width)`, where to read in y, within the image.
        columns: The same in x.

    Returns:
        `(*slices, height, width, channels)` float32.
    """
    *slices, height, width, n_channels = image.shape
    flat = image.reshape(*slices, height * width, n_channels)
    top, left = (
        places.astype(np.intp).clip(0, max(size - 2, 0))
        for places, size in zip((rows, columns), (height, width), strict=True)
    )
    below, right = width * min(1, height - 1), min(1, width - 1)
    first = top * width + left
    down, across = (rows - top).astype(np.float32)[..., None], (columns - left).astype(np.float32)[..., None]
    upper = _between(flat.take(first, -2), flat.take(first + right, -2), across)
    first += below
    lower = _between(flat.take(first, -2), flat.take(first + right, -2), across)
    return _between(upper, lower, down)


def _between(one: np.ndarray, other: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Mix two arrays, in place of the second."""
    other -= one
    other *= share
    other += one
    return other


def _through(corners: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The projective map that takes four points to four others: eight linear equations in its eight numbers."""
    ones, none = np.ones((4, 1)), np.zeros((4, 3))
    places = np.hstack([corners, ones])
    equations = np.vstack([
        np.hstack([places, none, -targets[:, :1] * corners]),
        np.hstack([none, places, -targets[:, 1:] * corners]),
    ])  # fmt: skip
    return np.append(np.linalg.solve(equations, targets.T.ravel()), 1).reshape(3, 3)
