"""Smooth fields, cells and chains of balls: the geometry from which `genenet.phantom` draws."""

import dataclasses
from collections.abc import Iterator

import numpy as np
from scipy import ndimage

COARSE_NM = 50.0
"""Smooth fields are made on a grid of about this spacing and enlarged slice by slice."""

CELL_RADII_NM = np.array([1900.0, 830.0, 2700.0])
"""Half axes of a platelet: along z, across, along its length."""

CELL_SPACING = 1.5
"""Least distance of cell centres in half axes; at 1.5 unswollen cells fill about 0.64 of a volume."""


@dataclasses.dataclass(frozen=True)
class Lattice:
    """A volume's voxels together with the coarse grid that lies over them.

    Attributes:
        shape: Voxels, `(z, y, x)`.
        voxel_size_nm: Edge lengths of a voxel, `(z, y, x)`.
    """

    shape: tuple[int, int, int]
    voxel_size_nm: tuple[float, float, float]

    @property
    def factor(self) -> np.ndarray:
        """Voxels per coarse cell, at least 1 per axis."""
        return np.maximum(1, np.rint(COARSE_NM / np.asarray(self.voxel_size_nm))).astype(int)

    @property
    def coarse_shape(self) -> tuple[int, ...]:
        """Coarse cells per axis, the last ones perhaps beyond the volume's edge."""
        return tuple(int(n) for n in -(-np.asarray(self.shape) // self.factor))

    @property
    def spacing_nm(self) -> np.ndarray:
        """Edge lengths of a coarse cell."""
        return self.factor * np.asarray(self.voxel_size_nm)

    def noise(self, rng: np.random.Generator, sigma_nm: float) -> np.ndarray:
        """A smooth random field on the coarse grid, mean 0 and standard deviation 1 within the volume."""
        white = rng.standard_normal(self.coarse_shape, dtype=np.float32)
        smooth = ndimage.gaussian_filter(white, sigma_nm / self.spacing_nm)
        return (smooth - smooth.mean()) / (smooth.std() + 1e-9)

    def slice(self, field: np.ndarray, z: int) -> np.ndarray:
        """What a coarse field is worth in slice `z`, at full resolution."""
        position = np.clip((z + 0.5) / self.factor[0] - 0.5, 0, len(field) - 1)
        below, rest = int(position), position % 1
        above = min(below + 1, len(field) - 1)
        return enlarge(field[below] * (1 - rest) + field[above] * rest, self.factor[1:], self.shape[1:])


def enlarge(plane: np.ndarray, factor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Enlarge a plane smoothly: quadratic B-splines, as repetition followed by two running means."""
    large = np.asarray(plane, np.float32)
    for axis, (times, length) in enumerate(zip(factor, shape, strict=True)):
        large = np.take(large, np.arange(length) // times, axis=axis)
        large = ndimage.uniform_filter1d(large, times, axis=axis, mode="nearest")
        # An even window leans half a voxel to one side; the second one leans back.
        large = ndimage.uniform_filter1d(large, times, axis=axis, mode="nearest", origin=-1 if times % 2 == 0 else 0)
    return large


def grain(rng: np.random.Generator, lattice: Lattice, sigma_nm: float) -> Iterator[np.ndarray]:
    """Yield one fine random field of unit variance per slice, each remembering the one above as 3-D grain would."""
    voxel = np.asarray(lattice.voxel_size_nm)
    factor = np.maximum(1, (sigma_nm / 1.5 / voxel[1:]).astype(int))
    sigma = np.maximum(sigma_nm / (voxel[1:] * factor), 0.3)
    shape = -(-np.asarray(lattice.shape[1:]) // factor)
    memory = np.exp(-((voxel[0] / (2 * sigma_nm)) ** 2))  # autocorrelation of a Gaussian field one slice further
    state = None
    for _ in range(lattice.shape[0]):
        fresh = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigma)
        fresh /= fresh.std() + 1e-9
        state = fresh if state is None else memory * state + np.sqrt(1 - memory**2) * fresh
        yield enlarge(state, factor, lattice.shape[1:])


def cells(rng: np.random.Generator, lattice: Lattice, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Pack flattened, roughly parallel cells until they fill `fraction` of the volume.

    Returns:
        Depth below the nearest cell membrane in nm (negative outside), and the index of the nearest cell; both on
        the coarse grid.
    """
    # A small volume may lie between cells or inside one: draw anew until cells hardly have to swell or shrink.
    layouts = []
    for _ in range(6):
        outline, cleft, owner = _layout(rng, lattice)
        swelling = np.quantile(np.where(cleft > 0, outline, outline.min()), 1 - fraction)
        layouts.append((abs(swelling), np.minimum(outline - swelling, cleft).astype(np.float32), owner))
        if abs(swelling) < 120:
            break
    _, depth, owner = min(layouts, key=lambda layout: layout[0])
    return depth, owner


def _layout(rng: np.random.Generator, lattice: Lattice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depth below the nearest cell's own outline, depth from the cleft to its neighbour, and its index."""
    best, second = np.full((2, *lattice.coarse_shape), -np.float32(1e4))
    owner = np.zeros(lattice.coarse_shape, np.int32)
    heading = rng.uniform(0, np.pi)
    # Three fields in turn, so that neighbours differ and no face between two cells is flat.
    wobbles = [70 * lattice.noise(rng, 350) for _ in range(3)]
    for index, centre in enumerate(_scatter(rng, lattice, heading)):
        box, depth = _cell(rng, lattice, centre, heading + rng.normal(0, 0.13))
        if depth.size == 0:
            continue
        depth += rng.uniform(0.4, 1.4) * wobbles[index % 3][box]
        owner[box] = np.where(depth > best[box], index, owner[box])
        second[box] = np.maximum(second[box], np.minimum(best[box], depth))
        best[box] = np.maximum(best[box], depth)
    return best + 14 * lattice.noise(rng, 110), (best - second) / 2 - 45 - 22 * lattice.noise(rng, 300), owner


def _scatter(rng: np.random.Generator, lattice: Lattice, heading: float) -> np.ndarray:
    """Cell centres in nm, `(n, 3)`, no two closer than cells can lie when they press a little on each other."""
    extent = np.asarray(lattice.coarse_shape) * lattice.spacing_nm
    margin = CELL_RADII_NM[[0, 2, 2]]
    n_darts = int(80 * np.prod((extent + 2 * margin) / CELL_RADII_NM)) // 4
    darts = rng.uniform(-margin, extent + margin, (n_darts, 3))
    # In units of a cell's half axes, along its own directions, cells are unit balls.
    flat = np.stack([darts[:, 0], *_turn(darts[:, 1], darts[:, 2], heading)], axis=1) / CELL_RADII_NM
    kept: list[int] = []
    for index in range(n_darts):
        if not kept or np.min(np.sum((flat[kept] - flat[index]) ** 2, axis=1)) > CELL_SPACING**2:
            kept.append(index)
    return darts[kept]


def _cell(
    rng: np.random.Generator, lattice: Lattice, centre: np.ndarray, heading: float
) -> tuple[tuple[slice, ...], np.ndarray]:
    """Where one cell may lie on the coarse grid, and the depth below its membrane there."""
    tall, wide, long = CELL_RADII_NM * rng.uniform(0.75, 1.25, 3)
    bend, *tilt = rng.normal(0, (0.08 / long, 0.2, 0.2))
    reach = 400 + 1.2 * np.array([tall + abs(tilt[0]) * wide + abs(tilt[1]) * long, long, long])
    box = box_around(centre - reach, centre + reach, lattice.coarse_shape, lattice.spacing_nm)
    z, y, x = (axis - middle for axis, middle in zip(coordinates(box, lattice.spacing_nm), centre, strict=True))
    across, along = _turn(y, x, heading)
    up = (z + tilt[0] * across + tilt[1] * along) / tall
    across = (across + bend * along**2) / wide
    along = np.abs(along / long)
    # Quadratic across and cubic along: blunt ends. Distance to first order: level over gradient.
    level = 1 - across**2 - up**2 - along**3
    slope = 2 * np.sqrt((across / wide) ** 2 + (up / tall) ** 2 + (1.5 * along**2 / long) ** 2)
    return box, np.minimum(level / (slope + 1e-6), wide).astype(np.float32)


def _turn(y: np.ndarray, x: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates across and along a direction in the plane."""
    return np.cos(angle) * y - np.sin(angle) * x, np.sin(angle) * y + np.cos(angle) * x


def box_around(
    low_nm: np.ndarray, high_nm: np.ndarray, shape: tuple[int, ...], spacing_nm: np.ndarray
) -> tuple[slice, ...]:
    """The part of a grid between two corners, perhaps empty."""
    start = np.clip(np.floor(low_nm / spacing_nm), 0, shape).astype(int)
    stop = np.clip(np.ceil(high_nm / spacing_nm), 0, shape).astype(int)
    return tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))


def coordinates(box: tuple[slice, ...], spacing_nm: np.ndarray) -> list[np.ndarray]:
    """Voxel centres along each axis in nm, as float32 arrays that broadcast against each other."""
    axes = (
        (np.arange(part.start, part.stop, dtype=np.float32) + 0.5) * step
        for part, step in zip(box, spacing_nm, strict=True)
    )
    return list(np.ix_(*axes))


def chain(rng: np.random.Generator, radius_nm: float, n_balls: int, bend: float) -> np.ndarray:
    """Balls strung along a random path around the origin, `(n_balls, 4)` rows of z, y, x and radius in nm.

    One ball is a granule, three are a sausage, twelve are a canal.
    """
    turns = rng.normal(size=(n_balls, 3)) * np.r_[1.0, np.full(n_balls - 1, bend)][:, None]
    headings = np.cumsum(turns, axis=0)
    headings /= np.linalg.norm(headings, axis=1, keepdims=True) + 1e-9
    radii = radius_nm * np.exp(rng.normal(0, 0.12, n_balls))
    path = np.cumsum(headings * 0.6 * radii[:, None], axis=0)
    return np.c_[path - path.mean(axis=0), radii]


def chain_volume_nm3(balls: np.ndarray) -> float:
    """About how much a chain fills: a capsule around its path."""
    radius = balls[:, 3].mean()
    return np.pi * radius**2 * (4 / 3 * radius + 0.6 * radius * (len(balls) - 1))


def chain_depth(balls: np.ndarray, lattice: Lattice, margin_nm: float) -> tuple[tuple[slice, ...], np.ndarray]:
    """The voxels around a chain and their depth below its surface in nm, negative outside."""
    spacing = np.asarray(lattice.voxel_size_nm)
    reach = balls[:, 3:] + margin_nm + spacing / 2  # so that no voxel within the margin is left out
    box = box_around((balls[:, :3] - reach).min(0), (balls[:, :3] + reach).max(0), lattice.shape, spacing)
    z, y, x = coordinates(box, spacing)
    depth = np.full(np.broadcast_shapes(z.shape, y.shape, x.shape), -np.inf, np.float32)
    for ball_z, ball_y, ball_x, radius in balls.astype(np.float32):
        distance = np.sqrt((z - ball_z) ** 2 + ((y - ball_y) ** 2 + (x - ball_x) ** 2))
        np.maximum(depth, radius - distance, out=depth)
    return box, depth


def bumps(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A lumpy field between -2.5 and 2.5 of about unit variance: cosines of random weight, a few waves per axis."""
    weights = rng.standard_normal((3, 4, 4)) / np.sqrt(2 * 2.5 * 2.5)
    waves = (
        np.cos(np.pi * np.outer((np.arange(length) + 0.5) / length, np.arange(count)))
        for length, count in zip(shape, weights.shape, strict=True)
    )
    return np.clip(np.einsum("abc,za,yb,xc->zyx", weights, *waves, optimize=True), -2.5, 2.5).astype(np.float32)


def innermost(mask: np.ndarray, fraction: float, off_centre_nm: np.ndarray, lattice: Lattice) -> np.ndarray:
    """Pick a fraction of a mask's voxels around its middle, never those that touch the outside."""
    places = np.argwhere(ndimage.binary_erosion(mask, np.ones((3, 3, 3)), border_value=1))
    picked = np.zeros_like(mask)
    if len(places) > 0:
        nm = places * np.asarray(lattice.voxel_size_nm)
        distance = np.sum((nm - nm.mean(0) - off_centre_nm) ** 2, axis=1)
        nearest = np.argsort(distance, kind="stable")[: round(fraction * np.count_nonzero(mask))]
        picked[tuple(places[nearest].T)] = True
    return picked


def shot_noise(rng: np.random.Generator, grey: np.ndarray) -> np.ndarray:
    """What the detector adds to a plane of grey levels from 0 to 255.

    It counts electrons from heavy metal and the picture is inverted, so dark tissue is noisier. Variances and
    correlations (0.55 along the fast scan axis, 0.25 across it) as measured on the public platelet slice train_z00.
    """
    white = rng.standard_normal(grey.shape, dtype=np.float32)
    along = ndimage.convolve1d(white, np.array([-0.08, 0.4, 1, 0.4, -0.08]) / np.sqrt(1.333), axis=1)
    both = ndimage.convolve1d(along, np.array([0.13, 1, 0.13]) / np.sqrt(1.034), axis=0)
    return both * np.sqrt(140 + 1.15 * np.clip(255 - grey, 0, 255))
