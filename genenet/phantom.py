"""A synthetic volume of platelets with every class of the real thing, of any size, from a seed."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

import genenet.phantom_shapes as shapes
from genenet.classes import SegmentationClass
from genenet.errors import InputError

CLASSES = (
    SegmentationClass(0, "background", "#000000"),
    SegmentationClass(1, "cytoplasm", "#4a5d80"),
    SegmentationClass(2, "mitochondria", "#e4572e"),
    SegmentationClass(3, "alpha granules", "#f2b134"),
    SegmentationClass(4, "canalicular system", "#4fc3f7"),
    SegmentationClass(5, "dense granules", "#8bc34a"),
    SegmentationClass(6, "dense granule cores", "#f06bc7"),
)
BACKGROUND, CYTOPLASM, MITOCHONDRION, ALPHA_GRANULE, CANAL, DENSE_GRANULE, CORE = range(7)

VOXEL_SIZE_NM = (50.0, 10.0, 10.0)

# Fraction of voxels per class: the counts in Guay et al. 2018 for 50 x 800 x 800 voxels.
CELL_FRACTION = 0.639
CORE_FRACTION = 0.000475 / (0.00235 + 0.000475)

# Mean grey levels (0 to 255) of the public platelet slice train_z00, read off inside its labels.
BACKGROUND_GREY = 217
CELL_GREY = 128
CELL_GREY_SPREAD = 16
ALPHA_GREY = -38  # relative to the cell around it
MITOCHONDRION_GREY = 48
LUMEN_GREY = 213
HALO_GREY = 165
CORE_GREY = 45
DARK_GREY = 28  # glycogen and other dark clumps in the cytoplasm


@dataclasses.dataclass(frozen=True)
class _Organelle:
    """How often a class occurs and how big its objects are."""

    value: int
    fraction: float
    radius_nm: tuple[float, float]
    n_balls: tuple[int, int]
    bend: float
    roughness: float


_ORGANELLES = (
    _Organelle(MITOCHONDRION, 0.00616, (120, 180), (2, 6), 0.3, 0.10),
    _Organelle(DENSE_GRANULE, 0.00235 + 0.000475, (125, 180), (1, 3), 0.3, 0.10),
    _Organelle(ALPHA_GRANULE, 0.0464, (110, 240), (1, 4), 0.3, 0.07),
    _Organelle(CANAL, 0.0312, (60, 105), (3, 18), 0.5, 0.15),
)


@dataclasses.dataclass(frozen=True)
class _Scene:
    """A volume being drawn: labels and noiseless grey levels at full size, the rest on the coarse grid."""

    lattice: shapes.Lattice
    labels: np.ndarray
    grey: np.ndarray
    depth: np.ndarray
    cell_grey: np.ndarray
    crowd: np.ndarray


def phantom(
    shape: Sequence[int] = (50, 800, 800),
    *,
    seed: int = 0,
    voxel_size_nm: Sequence[float] = VOXEL_SIZE_NM,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw platelets as a serial block-face electron microscope would show them, with labels.

    For demonstrations, tests and benchmarks that need a labelled volume of some size without a download. Classes
    (`CLASSES`) occur as often as in the platelet volume of Guay et al. 2018.

    Args:
        shape: Voxels, `(z, y, x)`, at least `(1, 32, 32)`. Every class finds a place from about 16 x 256 x 256 on.
        seed: The same seed gives the same volume.
        voxel_size_nm: Edge lengths of a voxel, `(z, y, x)`, from 1 to 200; objects keep their size in nm. Dense
            granule cores need slices no thicker than about 80 nm.

    Returns:
        Image and labels, uint8, both of the given shape.

    Raises:
        InputError: If the shape, the seed or the voxel size cannot be used.

    >>> image, labels = phantom((4, 64, 64), seed=1)
    >>> image.shape, image.dtype, int(labels.max()) < len(CLASSES)
    ((4, 64, 64), dtype('uint8'), True)
    """
    lattice = _lattice(shape, voxel_size_nm)
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise InputError(f"`seed` must be a whole number of at least 0, but got {seed!r}; try 0")
    cell_rng, place_rng, image_rng = np.random.default_rng(seed).spawn(3)
    scene = _draw_cells(cell_rng, lattice)
    _draw_debris(scene, place_rng)
    for organelle in _ORGANELLES:
        _fill(scene, organelle, place_rng)
    _take_image(image_rng, scene)
    return scene.grey, scene.labels


def _lattice(shape: Sequence[int], voxel_size_nm: Sequence[float]) -> shapes.Lattice:
    """The checked arguments."""
    sides, edges = (tuple(given) if np.iterable(given) else (given,) for given in (shape, voxel_size_nm))
    whole = all(isinstance(side, int | np.integer) for side in sides)
    if len(sides) != 3 or not whole or any(n < least for n, least in zip(sides, (1, 32, 32), strict=True)):
        raise InputError(
            f"`shape` must be three whole numbers (z, y, x), at least (1, 32, 32), but got {sides}; try (24, 320, 320)"
        )
    if len(edges) != 3 or not all(isinstance(edge, float | int | np.number) and 1 <= edge <= 200 for edge in edges):
        raise InputError(
            f"`voxel_size_nm` must be three lengths (z, y, x) from 1 to 200, but got {edges}; try {VOXEL_SIZE_NM}"
        )
    z, y, x = (int(side) for side in sides)
    return shapes.Lattice((z, y, x), (float(edges[0]), float(edges[1]), float(edges[2])))


def _draw_cells(rng: np.random.Generator, lattice: shapes.Lattice) -> _Scene:
    """Cells with membranes and the texture of their cytoplasm, as yet without organelles."""
    depth, owner = shapes.cells(rng, lattice, CELL_FRACTION)
    n_cells = owner.max() + 1
    crowd = lattice.noise(rng, 300)
    scene = _Scene(
        lattice,
        np.zeros(lattice.shape, np.uint8),
        np.zeros(lattice.shape, np.uint8),
        depth,
        rng.normal(CELL_GREY, CELL_GREY_SPREAD, n_cells)[owner] + 12 * lattice.noise(rng, 150),
        crowd,
    )
    ruffle = 6 + 13 * np.clip(rng.normal(0, 1, n_cells)[owner] + lattice.noise(rng, 500), 0, 2)
    crowding = 0.8 * np.clip(crowd, -0.8, 1.4) + 0.6 * lattice.noise(rng, 80)
    ruffles, clumps, fine = (
        shapes.grain(part, lattice, sigma) for part, sigma in zip(rng.spawn(3), (45, 29, 20), strict=True)
    )
    for z, (bump, clump, speck) in enumerate(zip(ruffles, clumps, fine, strict=True)):
        below = lattice.slice(depth, z) + lattice.slice(ruffle, z) * bump
        inside = lattice.slice(scene.cell_grey, z) + 15 * speck
        # Dark clumps where the cell is crowded, none right under the membrane.
        dark = np.clip((clump + lattice.slice(crowding, z) - 1.5) / 0.7, 0, 1) * np.clip((below - 40) / 60, 0, 1)
        inside += (DARK_GREY - inside) * dark
        inside -= 34 * np.exp(-(((below - 16) / 16) ** 2)) * (1 + 0.5 * bump)
        scene.labels[z] = np.where(below > 0, CYTOPLASM, BACKGROUND)
        scene.grey[z] = np.clip(np.where(below > 0, inside, BACKGROUND_GREY), 0, 255)
    return scene


def _draw_debris(scene: _Scene, rng: np.random.Generator) -> None:
    """Filopodia on the cells and vesicles between them; both are labelled as cytoplasm."""
    volume_um3 = np.prod(scene.lattice.shape) * np.prod(scene.lattice.voxel_size_nm) / 1e9
    outside = np.argwhere(scene.depth < -200), np.argwhere(np.abs(scene.depth + 20) < 20)
    for number in range(rng.poisson(0.9 * volume_um3)):
        vesicle = number % 6 == 0
        places = outside[0 if vesicle else 1]
        if len(places) == 0:
            continue
        start = (rng.choice(places) + rng.uniform(size=3)) * scene.lattice.spacing_nm
        size = rng.uniform(70, 220) if vesicle else rng.uniform(15, 35)
        balls = shapes.chain(rng, size, 2 if vesicle else int(rng.integers(8, 40)), 0.4)
        balls[:, :3] += start
        box, depth = shapes.chain_depth(balls, scene.lattice, 0)
        depth += 0.13 * size * shapes.bumps(rng, depth.shape)
        hollow = (depth > 45) & vesicle & (number % 12 == 0)
        free = (depth > 0) & (scene.labels[box] == BACKGROUND) & ~hollow
        scene.labels[box][free] = CYTOPLASM
        scene.grey[box][free] = np.where(depth < 30, 70, 115)[free]


def _fill(scene: _Scene, organelle: _Organelle, rng: np.random.Generator) -> None:
    """Place objects of one class until it fills its fraction of the volume."""
    voxel_nm3 = float(np.prod(scene.lattice.voxel_size_nm))
    quota = organelle.fraction * scene.labels.size * voxel_nm3
    smallest = 4 / 3 * np.pi * (0.7 * organelle.radius_nm[0]) ** 3
    filled, n_placed, n_failed = 0.0, 0, 0
    while filled < 0.97 * quota and n_failed < 120:
        balls = shapes.chain(
            rng, rng.uniform(*organelle.radius_nm), int(rng.integers(*organelle.n_balls)), organelle.bend
        )
        if organelle.value == CANAL and rng.random() < 0.04:
            balls *= 2  # a lacuna
        # At least two objects per class, so that both ends of the volume get one; smaller ones where it is crowded.
        room = max(min(quota / 2, 1.2 * (quota - filled)), smallest)
        balls *= min(1.0, np.cbrt(room / shapes.chain_volume_nm3(balls))) * max(0.6, 1 - n_failed / 100)
        # The first goes to the last third of the slices, the second to the first two, the others everywhere evenly.
        level = (0.83, 0.3)[n_placed] if n_placed < 2 and n_failed < 60 else 0.5 + (n_placed + n_failed) * 0.618034
        balls[:, :3] += _seat(scene, organelle, rng, balls[:, 3].max(), level)
        n_voxels = _add(scene, organelle, rng, balls)
        filled += n_voxels * voxel_nm3
        n_placed, n_failed = (n_placed + 1, 0) if n_voxels else (n_placed, n_failed + 1)


def _seat(scene: _Scene, organelle: _Organelle, rng: np.random.Generator, radius: float, level: float) -> np.ndarray:
    """A point in nm about `level` of the way through the slices and deep enough in a cell."""
    z = min(int((level + rng.normal(0, 0.03)) % 1 * len(scene.depth)), len(scene.depth) - 1)
    depth = scene.depth[z].ravel()
    mouth = organelle.value == CANAL and rng.random() < 0.1
    places = np.flatnonzero(np.abs(depth - 10) < 30 if mouth else depth > radius + 50)
    if len(places) == 0:
        places = np.array([depth.argmax()])
    some = rng.choice(places, 2 if organelle.value == CANAL else 1)
    place = some[np.argmax(scene.crowd[z].ravel()[some])]
    where = np.array([z, *np.unravel_index(place, scene.depth[z].shape)])
    return (where + rng.uniform(size=3)) * scene.lattice.spacing_nm


def _add(scene: _Scene, organelle: _Organelle, rng: np.random.Generator, balls: np.ndarray) -> int:
    """Draw one object if it fits, and count its voxels."""
    lumpiness = organelle.roughness * balls[:, 3].mean()
    box, depth = shapes.chain_depth(balls, scene.lattice, 25 + 2.5 * lumpiness)
    labels, grey = scene.labels[box], scene.grey[box]
    free = labels == CYTOPLASM
    if not np.any(free & (depth > 0)):
        return 0
    lumps = shapes.bumps(rng, depth.shape)
    depth += lumpiness * lumps
    inside = free & (depth > 0)
    # Canals may open to the outside; nothing else may touch anything but cytoplasm.
    allowed = free | (labels == BACKGROUND) if organelle.value == CANAL else free
    if not allowed[depth > -25].all() or 2 * np.count_nonzero(inside) < np.count_nonzero(depth > 0):
        return 0
    middle = np.clip(balls[:, :3].mean(0) // scene.lattice.spacing_nm, 0, np.array(scene.depth.shape) - 1)
    shade = _shade(organelle.value, rng, depth, lumps, scene.cell_grey[tuple(middle.astype(int))], scene.lattice)
    labels[inside] = organelle.value
    grey[inside] = np.clip(shade, 0, 255)[inside]
    if organelle.value == DENSE_GRANULE:
        core = shapes.innermost(inside, CORE_FRACTION, rng.normal(0, 15, 3), scene.lattice)
        labels[core], grey[core] = CORE, CORE_GREY
    return int(np.count_nonzero(inside))


def _shade(
    value: int,
    rng: np.random.Generator,
    depth: np.ndarray,
    lumps: np.ndarray,
    cell_grey: float,
    lattice: shapes.Lattice,
) -> np.ndarray | float:
    """Noiseless grey levels of one object of class `value`."""
    own = rng.normal()
    if value == MITOCHONDRION:  # a dark rim, and stripes of cristae about 70 nm apart
        direction = rng.normal(size=3)
        steps = 2 * np.pi / 70 * direction / np.linalg.norm(direction) * lattice.voxel_size_nm
        z, y, x = np.ix_(*map(np.arange, depth.shape))
        cristae = np.sin(steps[0] * z + steps[1] * y + steps[2] * x + 1.5 * lumps)
        return np.where(depth < 18, DARK_GREY, MITOCHONDRION_GREY + 11 * own + 15 * cristae)
    if value == CANAL:  # a dark membrane; one in five is a vesicle filled with cytoplasm
        lumen = cell_grey + 20 if own > 0.9 else LUMEN_GREY + 8 * own
        return np.where(depth < 20 + 6 * lumps, cell_grey - 40, lumen)
    if value == ALPHA_GRANULE:
        return cell_grey + ALPHA_GREY + 11 * own + 3 * lumps - 10 * (depth < 15)
    return np.where(depth < 28 + 16 * lumps, 66, HALO_GREY + 12 * own + 16 * lumps)


def _take_image(rng: np.random.Generator, scene: _Scene) -> None:
    """Turn noiseless grey levels into what the detector gives, slice by slice."""
    lattice = scene.lattice
    light = 6 * lattice.noise(rng, 1500)
    n_slices = lattice.shape[0]
    brightness, contrast = rng.normal(0, (2.5, 0.025), (n_slices, 2)).T
    jitter = np.clip(rng.normal(0, 0.3, (n_slices, 2)), -0.5, 0.5)
    for z in range(n_slices):
        plane = scene.grey[z].astype(np.float32)
        plane = ndimage.shift(ndimage.gaussian_filter(plane, 1.1), jitter[z], order=1, mode="nearest")
        plane = 128 + (plane - 128) * (1 + contrast[z]) + brightness[z] + lattice.slice(light, z)
        scene.grey[z] = np.clip(plane + shapes.shot_noise(rng, plane), 0, 255)
