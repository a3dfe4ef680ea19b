"""Synthetic stained sections: violet nuclei, some touching, in pink tissue; images and numbered nuclei as files."""

from pathlib import Path

import numpy as np
import scipy.ndimage

from genenet.errors import InputError
from genenet.folder import remove, write_yaml, writing

# Optical densities of red, green and blue per unit of stain (Ruifrok & Johnston 2001).
HAEMATOXYLIN = np.array([0.65, 0.70, 0.29])
EOSIN = np.array([0.07, 0.99, 0.11])


def tissue(shape: tuple[int, int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw a stained section.

    >>> image, nuclei = tissue((64, 96))
    >>> image.shape, image.dtype, nuclei.shape, nuclei.dtype
    ((64, 96, 3), dtype('uint8'), (64, 96), dtype('uint16'))

    Args:
        shape: Pixels `(y, x)`.
        seed: The same seed gives the same section.

    Returns:
        The image `(y, x, 3)`, 8-bit RGB, and the nuclei by number, 0 between them.
    """
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape)
    nuclei = np.zeros(shape, np.uint16)
    for number in range(1, max(2, shape[0] * shape[1] // 700) + 1):
        cy, cx, angle = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(0, np.pi)
        long, short = rng.uniform(7, 12), rng.uniform(5, 8)
        dy, dx = y - cy, x - cx
        along = (dx * np.cos(angle) + dy * np.sin(angle)) / long
        across = (dy * np.cos(angle) - dx * np.sin(angle)) / short
        nuclei[(np.hypot(along, across) < 1) & (nuclei == 0)] = number
    nuclei = _without_crumbs(nuclei)
    stains = np.exp(rng.normal(0, 0.15, 2))
    strength = np.concatenate([[0.0], rng.uniform(0.5, 0.9, int(nuclei.max()))])[nuclei]
    texture = 1 + 0.25 * _smooth(rng, shape, 1.5) * (nuclei > 0)
    haematoxylin = scipy.ndimage.gaussian_filter(strength * texture, 0.8) * stains[0]
    eosin = (0.30 + 0.10 * _smooth(rng, shape, 6) - 0.15 * (nuclei > 0)).clip(0) * stains[1]
    density = haematoxylin[..., None] * HAEMATOXYLIN + eosin[..., None] * EOSIN
    image = 250 * np.exp(-density) + rng.normal(0, 4, (*shape, 3))
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), nuclei


def _without_crumbs(nuclei: np.ndarray) -> np.ndarray:
    """Nuclei of one piece and 30 pixels or more."""
    found = np.zeros_like(nuclei)
    for number, box in enumerate(scipy.ndimage.find_objects(nuclei), 1):
        if box is None:
            continue
        pieces, _ = scipy.ndimage.label(nuclei[box] == number)
        sizes = np.bincount(pieces.ravel())
        sizes[0] = 0
        if sizes.max() >= 30:
            found[box][pieces == sizes.argmax()] = number
    return found


def _smooth(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> np.ndarray:
    """Smooth noise of standard deviation 1."""
    noise = scipy.ndimage.gaussian_filter(rng.normal(size=shape), sigma)
    return noise / noise.std()


def write_tissue(
    folder: Path, shape: tuple[int, int] = (256, 256), *, n_images: int = 8, seed: int = 0, overwrite: bool = False
) -> Path:
    """Write `images/*.png`, `labels/*.tif` and `data.yaml`; the last quarter of the images is for validation.

    Returns:
        The path of `data.yaml`.

    Raises:
        InputError: The folder holds a data.yaml and `overwrite` is not asked for, or there are fewer than two images.
    """
    import tifffile
    from PIL import Image

    path = Path(folder) / "data.yaml"
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists; choose another folder, or ask to overwrite it")
    if n_images < 2:
        raise InputError(f"`n_images` must be at least 2, one of them to validate on, but got {n_images}")
    for name in ("images", "labels"):  # those of before would match the patterns too
        remove(path.parent / name)
    n_training = n_images - max(1, n_images // 4)
    for index in range(n_images):
        image, nuclei = tissue(shape, seed=seed + 1000 * index)
        name = f"{'training' if index < n_training else 'validation'}{index}"
        with writing(path.parent / "images" / f"{name}.png") as beside:
            Image.fromarray(image).save(beside, format="png")
        with writing(path.parent / "labels" / f"{name}.tif") as beside:
            tifffile.imwrite(beside, nuclei)
    write_yaml(
        path,
        {
            "classes": [
                {"value": 0, "name": "background", "color": "#ffffff"},
                {"value": 1, "name": "nuclei", "color": "#6a3d9a", "also": "others"},
            ],
            "training": {"image": "images/training*.png", "labels": "labels"},
            "validation": {"image": "images/validation*.png", "labels": "labels"},
        },
    )
    return path
