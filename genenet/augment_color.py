"""Random changes of the colours of stained tissue, of the raw image, so that a network meets more than one stainer."""

import numpy as np

from genenet.augment import Augmentation
from genenet.errors import InputError
from genenet.normalization import Normalization
from genenet.volume import Volume

# Tellez et al. shift the amounts of stain by as much as they stretch them, in a unit of their own. Here a shift is
# a quarter of it in optical density: `stain=0.2` takes at most a tenth of the light from bare glass.
_SHIFT_PER_FACTOR = 0.25


def vary_colors(image: np.ndarray, settings: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """Vary the amounts of stain and the colours of a raw image, each where it is on.

    Stain (Tellez et al. 2018): optical densities, `-ln(value / white)`, are split into haematoxylin, eosin and a rest
    (Ruifrok & Johnston 2001, the matrices of scikit-image); the first two are multiplied and shifted at random, each
    for itself. In one step and without the clipping at 0 of `skimage.color.rgb2hed`, so that what the three stains
    do not explain stays. Colour: what differs from grey is stretched, and turned around the axis of greys.

    Args:
        image: `(*space, 3)` red, green, blue: 8 or 16 bits, white being the largest value; or floats of 0 to 255.
        settings: How much; `stain` and `color`.
        rng: Where all randomness comes from. Nothing is drawn where both are off.

    Returns:
        Float32 of the same shape and range; the image itself where both are off.
    """
    if not (settings.stain or settings.color):
        return image
    white = _white(image.dtype)
    if settings.stain:
        values = _vary_stains(_densities(image, white), settings.stain, rng)
    else:
        values = image.astype(np.float32) / white
    if settings.color:
        values = values @ _turn_of_chroma(settings.color, rng)
    return np.clip(values * white, 0, white)


def check_colors(settings: Augmentation, image: Volume, normalization: Normalization) -> None:
    """Refuse to vary the colours of an image that has none.

    Args:
        settings: What is asked.
        image: A training image.
        normalization: Of the training images.

    Raises:
        InputError: `stain` or `color` is on, and the image has not three channels of a known range.
    """
    if not (settings.stain or settings.color):
        return
    cure = "; set `color` and `stain` to 0 in the augmentation"
    if image.n_channels != 3:
        raise InputError(
            f"`color` and `stain` need images of 3 channels (red, green, blue), but {image.name} has "
            f"{image.n_channels}{cure}"
        )
    if image.dtype not in (np.uint8, np.uint16) and image.dtype.kind != "f":
        raise InputError(
            f"`color` and `stain` need images of 8 or 16 bits or of floats of 0 to 255, but {image.name} holds "
            f"{image.dtype}; convert it, or{cure[1:]}"
        )
    if image.dtype.kind == "f" and not 1 < max(normalization.mean) <= 255:
        raise InputError(
            f"`color` and `stain` need floats of 0 to 255, but those of {image.name} have a mean of "
            f"{max(normalization.mean):.3g}; multiply them to that range, or{cure[1:]}"
        )


def _white(dtype: np.dtype) -> np.float32:
    return np.float32(65535 if dtype == np.uint16 else 255)


def _densities(image: np.ndarray, white: np.float32) -> np.ndarray:
    """Optical densities; black counts as half of the smallest value."""
    if image.dtype.kind == "f":
        return -np.log(np.maximum(image, np.float32(0.5), dtype=np.float32) / white)
    values = np.maximum(np.arange(int(white) + 1, dtype=np.float32), 0.5)
    return (-np.log(values / white)).take(image)


def _vary_stains(densities: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """What light is left, as a share of white, after the amounts of haematoxylin and eosin have changed."""
    from skimage.color import hed_from_rgb, rgb_from_hed

    factors = np.append(1 + rng.uniform(-strength, strength, 2), 1)
    shifts = np.append(_SHIFT_PER_FACTOR * rng.uniform(-strength, strength, 2), 0)
    mixing = (hed_from_rgb * factors) @ rgb_from_hed
    varied = densities @ mixing.astype(np.float32)
    varied += (shifts @ rgb_from_hed).astype(np.float32)
    np.negative(varied, out=varied)
    return np.exp(varied, out=varied)


def _turn_of_chroma(strength: float, rng: np.random.Generator) -> np.ndarray:
    """A matrix that keeps the mean of the channels, and stretches and turns what differs from it."""
    stretch, angle = 1 + rng.uniform(-strength, strength), rng.uniform(-strength, strength)
    grey = np.full((3, 3), 1 / 3)
    quarter_turn = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    turn = np.cos(angle) * (np.eye(3) - grey) + np.sin(angle) * quarter_turn
    return (grey + stretch * turn).astype(np.float32)
