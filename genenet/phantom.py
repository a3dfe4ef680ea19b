"""A synthetic volume of platelets with every class of the real thing, of any size, from a seed."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from genenet.classes import SegmentationClass
from genenet.errors import InputError
from genenet.phantom_shapes import Lattice, bumps, cells, chain, chain_depth, chain_volume_nm3, grain

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
BACKGROUND_GREY = 214
CELL_GREY = 121
CELL_GREY_SPREAD = 14
ALPHA_GREY = -34  # relative to the cell around it
MITOCHONDRION_GREY = 46
LUMEN_GREY = 208
HALO_GREY = 165
CORE_GREY = 28
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
    _Organelle(MITOCHONDRION, 0.00616, (140, 190), (1, 5), 0.3, 0.10),
    _Organelle(DENSE_GRANULE, 0.00235 + 0.000475, (125, 180), (1, 3), 0.3, 0.10),
    _Organelle(ALPHA_GRANULE, 0.0464, (110, 240), (1, 4), 0.3, 0.07),
    _Organelle(CANAL, 0.0312, (60, 110), (2, 12), 0.6, 0.15),
)


@dataclasses.dataclass(frozen=True)
class _Scene:
    """A volume being drawn: labels and noiseless grey levels at full size, the rest on the coarse grid."""

    lattice: Lattice
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
        voxel_size_nm: Edge lengths of a voxel, `(z, y, x)`; objects keep their size in nm.

    Returns:
        Image and labels, uint8, both of the given shape.

    Raises:
        InputError: If the shape or the voxel size cannot be used.

    >>> image, labels = phantom((4, 64, 64), seed=1)
    >>> image.shape, image.dtype, int(labels.max()) < len(CLASSES)
    ((4, 64, 64), dtype('uint8'), True)
    """
    lattice = _lattice(shape, voxel_size_nm)
    cell_rng, place_rng, image_rng = np.random.default_rng(seed).spawn(3)
    scene = _draw_cells(cell_rng, lattice)
    _draw_debris(scene, place_rng)
    for organelle in _ORGANELLES:
        _fill(scene, organelle, place_rng)
    _take_image(image_rng, scene)
    return scene.grey, scene.labels


def _lattice(shape: Sequence[int], voxel_size_nm: Sequence[float]) -> Lattice:
    """The checked arguments."""
    sides, edges = tuple(shape), tuple(voxel_size_nm)
    whole = all(isinstance(side, int | np.integer) for side in sides)
    if len(sides) != 3 or not whole or any(n < least for n, least in zip(sides, (1, 32, 32), strict=True)):
        raise InputError(
            f"`shape` must be three whole numbers (z, y, x), at least (1, 32, 32), but got {sides}; "
            "try (24, 320, 320)"
        )
    if len(edges) != 3 or not all(edge > 0 and math.isfinite(edge) for edge in edges):
        raise InputError(
            f"`voxel_size_nm` must be three positive lengths (z, y, x), but got {edges}; try {VOXEL_SIZE_NM}"
        )
    z, y, x = (int(side) for side in sides)
    return Lattice((z, y, x), (float(edges[0]), float(edges[1]), float(edges[2])))


def _draw_cells(rng: np.random.Generator, lattice: Lattice) -> _Scene:
    """Cells with membranes and the texture of their cytoplasm, as yet without organelles."""
    depth, owner = cells(rng, lattice, CELL_FRACTION)
    n_cells = owner.max() + 1
    crowd = lattice.noise(rng, 300)
    scene = _Scene(
        lattice,
        np.zeros(lattice.shape, np.uint8),
        np.zeros(lattice.shape, np.uint8),
        depth,
        rng.normal(CELL_GREY, CELL_GREY_SPREAD, n_cells)[owner] + 7 * lattice.noise(rng, 180),
        crowd,
    )
    ruffle = 8 + 14 * np.clip(rng.normal(0, 1, n_cells)[owner] + lattice.noise(rng, 500), 0, 2)
    ruffles, clumps, fine = (grain(part, lattice, sigma) for part, sigma in zip(rng.spawn(3), (45, 32, 20), strict=True))
    for z, (bump, clump, speck) in enumerate(zip(ruffles, clumps, fine, strict=True)):
        below = lattice.slice(depth, z) + lattice.slice(ruffle, z) * bump
        inside = lattice.slice(scene.cell_grey, z) + 9 * speck
        # Dark clumps where the cell is crowded, none right under the membrane.
        dark = _soft(clump - 2.5 + 0.9 * np.clip(lattice.slice(crowd, z), -0.5, 1.3), 0.25) * _soft(below - 70, 30)
        inside += (DARK_GREY - inside) * dark
        inside -= 45 * np.exp(-(((below - 16) / 14) ** 2)) * (1 + 0.4 * bump)
        scene.labels[z] = np.where(below > 0, CYTOPLASM, BACKGROUND)
        scene.grey[z] = np.clip(np.where(below > 0, inside, BACKGROUND_GREY), 0, 255)
    return scene


def _soft(value: np.ndarray, width: float) -> np.ndarray:
    """A smooth step from 0 to 1 around 0."""
    return np.clip(value / (2 * width) + 0.5, 0, 1)


def _draw_debris(scene: _Scene, rng: np.random.Generator) -> None:
    """Filopodia on the cells and vesicles between them; both are labelled as cytoplasm."""
    volume_um3 = np.prod(scene.lattice.shape) * np.prod(scene.lattice.voxel_size_nm) / 1e9
    for number in range(rng.poisson(0.5 * volume_um3)):
        vesicle = number % 4 == 0
        low, high = (-np.inf, -200.0) if vesicle else (-40.0, 0.0)
        places = np.argwhere((scene.depth > low) & (scene.depth < high))
        if len(places) == 0:
            continue
        start = (rng.choice(places) + rng.uniform(size=3)) * scene.lattice.spacing_nm
        size = rng.uniform(70, 220) if vesicle else rng.uniform(22, 40)
        balls = chain(rng, start, size, *((2, 0.8) if vesicle else (int(rng.integers(8, 40)), 0.4)))
        box, depth = chain_depth(balls, scene.lattice, 0)
        if depth.size == 0:
            continue
        depth += 0.2 * size * bumps(rng, depth.shape)
        hollow = (depth > 45) & vesicle & (number % 8 == 0)
        free = (depth > 0) & (scene.labels[box] == BACKGROUND) & ~hollow
        scene.labels[box][free] = CYTOPLASM
        scene.grey[box][free] = np.where(depth < 30, 70, 115)[free]


def _fill(scene: _Scene, organelle: _Organelle, rng: np.random.Generator) -> None:
    """Place objects of one class until it fills its fraction of the volume."""
    voxel_nm3 = float(np.prod(scene.lattice.voxel_size_nm))
    quota = organelle.fraction * scene.labels.size
    placed, n_placed, n_tries = 0, 0, 0
    while placed < 0.97 * quota and n_tries < 60 * (n_placed + 5):
        n_tries += 1
        radius = rng.uniform(*organelle.radius_nm)
        if organelle.value == CANAL and rng.random() < 0.04:
            radius *= 2.2  # a lacuna
        balls = chain(rng, np.zeros(3), radius, int(rng.integers(*organelle.n_balls)), organelle.bend)
        # At least two objects per class, so that both ends of the volume get one.
        room = max(min(quota / 2, 1.2 * (quota - placed)), 8) * voxel_nm3
        balls *= min(1.0, np.cbrt(room / chain_volume_nm3(balls)))
        balls[:, :3] += _seat(scene, organelle, rng, balls[:, 3].max(), _level(n_placed + n_tries // 30))
        n_voxels = _add(scene, organelle, rng, balls)
        placed += n_voxels
        n_placed += n_voxels > 0


def _level(number: int) -> float:
    """Where along z, from 0 to 1, the next object goes: the last third, the first two, then everywhere evenly."""
    return (0.83, 0.3)[number] if number < 2 else (0.5 + number * 0.618034) % 1


def _seat(scene: _Scene, organelle: _Organelle, rng: np.random.Generator, radius: float, level: float) -> np.ndarray:
    """A point in nm about `level` of the way down that lies deep enough in a cell."""
    z = min(int((level + rng.normal(0, 0.03)) % 1 * len(scene.depth)), len(scene.depth) - 1)
    mouth = organelle.value == CANAL and rng.random() < 0.1
    depth = scene.depth[z].ravel()
    places = np.flatnonzero((depth > -20) & (depth < 40) if mouth else depth > radius + 50)
    if len(places) == 0:
        places = np.array([depth.argmax()])
    some = rng.choice(places, 2 if organelle.value == CANAL else 1)
    place = some[np.argmax(scene.crowd[z].ravel()[some])]
    where = np.array([z, *np.unravel_index(place, scene.depth[z].shape)])
    return (where + rng.uniform(size=3)) * scene.lattice.spacing_nm


def _add(scene: _Scene, organelle: _Organelle, rng: np.random.Generator, balls: np.ndarray) -> int:
    """Draw one object if it fits, and count its voxels."""
    box, depth = chain_depth(balls, scene.lattice, 40)
    if depth.size == 0:
        return 0
    lumps = bumps(rng, depth.shape)
    depth += organelle.roughness * balls[:, 3].mean() * lumps
    labels, grey = scene.labels[box], scene.grey[box]
    around = labels[depth > -25]
    allowed = around <= CYTOPLASM if organelle.value == CANAL else around == CYTOPLASM
    inside = (depth > 0) & (labels == CYTOPLASM)
    if not allowed.all() or 2 * np.count_nonzero(inside) < np.count_nonzero(depth > 0):
        return 0
    middle = tuple(int(n) for n in balls[:, :3].mean(0) / scene.lattice.spacing_nm)
    cell_grey = scene.cell_grey[tuple(np.clip(middle, 0, np.array(scene.depth.shape) - 1))]
    labels[inside] = organelle.value
    grey[inside] = np.clip(_shade(organelle, rng, depth, lumps, float(cell_grey), scene.lattice), 0, 255)[inside]
    if organelle.value == DENSE_GRANULE:
        _add_core(rng, labels, grey, inside, scene.lattice)
    if organelle.value in (MITOCHONDRION, ALPHA_GRANULE):
        # Glycogen sticks to granules.
        stuck = (np.abs(depth) < 18) & (lumps > 0.9) & (labels == CYTOPLASM)
        grey[stuck] = DARK_GREY + 10
    return int(np.count_nonzero(inside))


def _shade(
    organelle: _Organelle,
    rng: np.random.Generator,
    depth: np.ndarray,
    lumps: np.ndarray,
    cell_grey: float,
    lattice: Lattice,
) -> np.ndarray:
    """Grey levels of one object."""
    own = rng.normal()
    if organelle.value == ALPHA_GRANULE:
        return cell_grey + ALPHA_GREY + 8 * own + 3 * lumps - 10 * (depth < 15)
    if organelle.value == MITOCHONDRION:
        direction = rng.normal(size=3) * lattice.voxel_size_nm
        z, y, x = np.ogrid[tuple(slice(n) for n in depth.shape)]
        phase = (z * direction[0] + y * direction[1] + x * direction[2]) / 12
        cristae = 12 * np.sin(phase + 2 * lumps)
        return np.where(depth < 18, DARK_GREY, MITOCHONDRION_GREY + 6 * own + cristae)
    if organelle.value == CANAL:
        return np.where(depth < 22, cell_grey - 35, LUMEN_GREY - 8 * abs(own))
    return np.where(depth < 28, 55.0, HALO_GREY + 10 * own)


def _add_core(
    rng: np.random.Generator, labels: np.ndarray, grey: np.ndarray, granule: np.ndarray, lattice: Lattice
) -> None:
    """Blacken the middle of a dense granule, never its outermost voxels."""
    kernel = ndimage.binary_erosion(granule, np.ones((3, 3, 3)), border_value=1)
    places = np.argwhere(kernel)
    n_voxels = min(round(CORE_FRACTION * np.count_nonzero(granule)), len(places))
    if n_voxels == 0:
        return
    nm = places * np.asarray(lattice.voxel_size_nm)
    centre = nm.mean(0) + rng.normal(0, 15, 3)
    core = tuple(places[np.argsort(np.sum((nm - centre) ** 2, axis=1), kind="stable")[:n_voxels]].T)
    labels[core] = CORE
    grey[core] = CORE_GREY


def _take_image(rng: np.random.Generator, scene: _Scene) -> None:
    """Turn noiseless grey levels into what the detector gives, slice by slice."""
    lattice = scene.lattice
    light = 5 * lattice.noise(rng, 1500)
    n_slices = lattice.shape[0]
    brightness, contrast = rng.normal(0, (2.5, 0.025), (n_slices, 2)).T
    jitter = np.clip(rng.normal(0, 0.3, (n_slices, 2)), -0.5, 0.5)
    for z in range(n_slices):
        plane = scene.grey[z].astype(np.float32)
        plane = ndimage.shift(ndimage.gaussian_filter(plane, 0.9), jitter[z], order=1, mode="nearest")
        plane = 128 + (plane - 128) * (1 + contrast[z]) + brightness[z] + lattice.slice(light, z)
        # The detector counts electrons from heavy metal and the picture is inverted: dark tissue is noisier. Variance
        # and correlation (0.65 and 0.15 along the fast scan axis, 0.37 across it) as measured on train_z00.
        noise = rng.standard_normal(plane.shape, dtype=np.float32)
        noise = ndimage.convolve1d(noise, np.array([0.5, 1, 0.5]) / np.sqrt(1.5), axis=1)
        noise = ndimage.convolve1d(noise, np.array([0.2, 1, 0.2]) / np.sqrt(1.08), axis=0)
        scene.grey[z] = np.clip(plane + noise * np.sqrt(190 + 1.14 * np.clip(255 - plane, 0, 255)), 0, 255)
