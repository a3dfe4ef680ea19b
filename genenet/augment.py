"""Random changes of training windows, image and labels together, so that a network learns more from few labels."""

import dataclasses
import functools
import math
from types import ModuleType

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from genenet.errors import InputError

# Displacements are cut at random from a larger sheet of them, this many control points longer than a window.
# elasticdeform takes 125 ns per voxel, which for every window anew would cost a small network a quarter of its speed.
_SPARE_POINTS = 8


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What may happen to a training window, each with its own strength; 0 or False is off.

    >>> Augmentation(elastic=2.0).margin
    8

    Attributes:
        elastic: Standard deviation of the smooth random displacement in y and in x, in voxels. Every slice of a 3-D
            window moves alike, because sections are thick. At most a quarter of `elastic_spacing`.
        elastic_spacing: Distance between the control points of that displacement, in voxels.
        reflect: Mirror each axis with probability 1/2.
        rotate: Turn by a random multiple of 90 degrees in (y, x); needs square windows.
        brightness: Largest shift of all values, in units of the normalised image (its standard deviation is 1).
        contrast: Largest relative change of the distance of all values from their mean, below 1.
        noise: Standard deviation of the Gaussian noise added to every voxel, in units of the normalised image.
    """

    elastic: float = 4.0
    elastic_spacing: float = 48.0
    reflect: bool = True
    rotate: bool = True
    brightness: float = 0.12
    contrast: float = 0.2
    noise: float = 0.05

    def __post_init__(self) -> None:
        for name in ("elastic", "elastic_spacing", "brightness", "contrast", "noise"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise InputError(f"`{name}` must be a number of at least 0, but got {name}={value}")
        if self.contrast >= 1:
            raise InputError(f"`contrast` must be below 1, or it inverts the image, but got contrast={self.contrast}")
        if self.elastic_spacing < max(1, 4 * self.elastic):
            raise InputError(
                f"`elastic_spacing` must be at least 1 and four times `elastic`, or the image folds over itself, but "
                f"got elastic_spacing={self.elastic_spacing}, elastic={self.elastic}"
            )

    @classmethod
    def off(cls) -> "Augmentation":
        """Give settings that leave windows as they are."""
        return cls(elastic=0.0, reflect=False, rotate=False, brightness=0.0, contrast=0.0, noise=0.0)

    @property
    def margin(self) -> int:
        """Voxels to read beyond the window on each side in y and x: the largest displacement there can be."""
        return math.ceil(_largest_displacement(self.elastic))


def augment(
    image: np.ndarray,
    labels: np.ndarray,
    settings: Augmentation,
    rng: np.random.Generator,
    *,
    image_shape: tuple[int, ...],
    labels_shape: tuple[int, ...],
) -> tuple[np.ndarray, np.ndarray]:
    """Change a window at random and cut it to size.

    Voxels move, they are not mixed: the deformed image takes the nearest voxel, as the labels do. Interpolation would
    take away half of the noise, and the network would train on smoother images than it will meet.

    Args:
        image: `(*space, channels)`, normalised, read with `settings.margin` beyond `image_shape` on each side in y and
            x. Space is `(z, y, x)` or `(y, x)`.
        labels: `(*space)` integers, the same space. Their values and type survive.
        settings: What may happen.
        rng: Where all randomness comes from.
        image_shape: Space of the image to return.
        labels_shape: Space of the labels to return, from the centre of the image; of an odd difference the larger part
            lies behind.

    Returns:
        The image, `(*image_shape, channels)` float32, and the labels, `labels_shape`: new, contiguous arrays.

    Raises:
        InputError: The shapes do not fit together, or elasticdeform is needed and cannot be imported.
    """
    _check_shapes(image.shape, labels.shape, settings, tuple(image_shape), tuple(labels_shape))
    if settings.elastic:
        image, labels = _deform(image, labels, settings, rng)
    if settings.reflect:
        flips = tuple(slice(None, None, -1 if flip else 1) for flip in rng.integers(2, size=labels.ndim))
        image, labels = image[flips], labels[flips]
    if settings.rotate:
        turns = int(rng.integers(4))
        image, labels = np.rot90(image, turns, axes=(-3, -2)), np.rot90(labels, turns, axes=(-2, -1))
    labels = _crop_centre(labels, labels_shape)
    return _change_values(np.array(image, np.float32, order="C"), settings, rng), np.array(labels, order="C")


def import_elasticdeform() -> ModuleType:
    """Import elasticdeform, or say how to install it."""
    try:
        import elasticdeform
    except (ImportError, AttributeError, ValueError) as error:  # its wheels, built for NumPy 1, fail in several ways
        reason = " ".join(str(error).split())
        raise InputError(
            f"elastic deformation needs elasticdeform compiled for the installed NumPy, but got an error ({reason}); "
            "run `pip install --no-binary elasticdeform elasticdeform`, with --force-reinstall --no-deps if a broken "
            "one is there; it needs a C compiler; or set elastic=0"
        ) from error
    return elasticdeform


def _check_shapes(
    image: tuple[int, ...],
    labels: tuple[int, ...],
    settings: Augmentation,
    image_shape: tuple[int, ...],
    labels_shape: tuple[int, ...],
) -> None:
    if len(image_shape) not in (2, 3) or len(image_shape) != len(labels_shape):
        raise InputError(f"windows must be (y, x) or (z, y, x), but got {image_shape} and labels of {labels_shape}")
    if any(outer < inner for outer, inner in zip(image_shape, labels_shape, strict=True)):
        raise InputError(f"`labels_shape` must not be larger than `image_shape`, but got {labels_shape}, {image_shape}")
    read = (*image_shape[:-2], *(length + 2 * settings.margin for length in image_shape[-2:]))
    if image[:-1] != read or labels != read:
        raise InputError(
            f"a window of {image_shape} must be read as {read}, margin {settings.margin} in y and x, but got an image "
            f"of {image[:-1]} and labels of {labels}"
        )
    if settings.rotate and (image_shape[-1] != image_shape[-2] or labels_shape[-1] != labels_shape[-2]):
        raise InputError(
            f"`rotate` needs windows that are square in (y, x), but got {image_shape} and labels of {labels_shape}; "
            "choose a square window or set rotate=False"
        )


def _crop_centre(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    starts = ((length - wanted) // 2 for length, wanted in zip(array.shape, shape, strict=True))
    return array[tuple(slice(start, start + wanted) for start, wanted in zip(starts, shape, strict=True))]


def _change_values(image: np.ndarray, settings: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """Change contrast, brightness and noise in place."""
    if settings.contrast:
        mean = image.mean(axis=tuple(range(image.ndim - 1)))
        factor = np.float32(1 + rng.uniform(-settings.contrast, settings.contrast))
        image *= factor
        image += mean * (1 - factor)
    if settings.brightness:
        image += np.float32(rng.uniform(-settings.brightness, settings.brightness))
    if settings.noise:
        noise = rng.standard_normal(image.shape, dtype=np.float32)
        noise *= np.float32(settings.noise)
        image += noise
    return image


def _deform(
    image: np.ndarray, labels: np.ndarray, settings: Augmentation, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Move voxels by a smooth random displacement; what comes back is smaller by the margin."""
    *slices, height, width = labels.shape
    margin, spare = settings.margin, math.ceil(_SPARE_POINTS * settings.elastic_spacing)
    height, width = height - 2 * margin, width - 2 * margin
    sheet = _displacement_sheet(height + spare, width + spare, settings.elastic, settings.elastic_spacing)

    def cut(displacement: np.ndarray) -> np.ndarray:
        top, left = rng.integers(spare + 1, size=2)
        sign = 2 * rng.integers(2, dtype=np.int16) - 1
        return displacement[top : top + height, left : left + width] * sign

    rows = np.arange(margin, margin + height)[:, None] + cut(sheet[0])
    columns = np.arange(margin, margin + width) + cut(sheet[1])
    sources = rows * (width + 2 * margin) + columns
    return (
        image.reshape(*slices, -1, image.shape[-1]).take(sources, axis=-2),
        labels.reshape(*slices, -1).take(sources, axis=-1),
    )


@functools.lru_cache(maxsize=4)
def _displacement_sheet(height: int, width: int, elastic: float, spacing: float) -> np.ndarray:
    """Displace a plane at random by whole voxels, in y and in x: `(2, height, width)` int16, always the same one."""
    largest = _largest_displacement(elastic)
    margin = math.ceil(largest)
    coordinates = np.indices((height + 2 * margin, width + 2 * margin), dtype=np.int32)
    points = [max(2, round((length - 1) / spacing) + 1) for length in coordinates.shape[1:]]
    coefficients = np.random.default_rng(0).uniform(-largest, largest, (2, *points))
    inner = (slice(margin, margin + height), slice(margin, margin + width))
    moved = import_elasticdeform().deform_grid(
        list(coordinates), _values_at_points(coefficients), order=0, mode="nearest", crop=inner
    )
    return np.stack([there - here[inner] for there, here in zip(moved, coordinates, strict=True)]).astype(np.int16)


def _largest_displacement(elastic: float) -> float:
    """Bound the displacement, in voxels.

    A cubic B-spline is a weighted mean of its coefficients. If those are uniform within +-a, it stays within +-a, and
    its standard deviation is a / sqrt(3) times, for each of the two axes, the root of 151 / 315, the integral of the
    squared basis function.
    """
    return math.sqrt(3) * 315 / 151 * elastic


def _values_at_points(coefficients: np.ndarray) -> np.ndarray:
    """Evaluate cubic B-splines, mirrored at the ends, at their control points: elasticdeform wants those values."""
    values = coefficients
    for axis in (1, 2):
        ends = [(int(axis == other),) * 2 for other in range(3)]
        before, here, after = np.moveaxis(sliding_window_view(np.pad(values, ends, "reflect"), 3, axis), -1, 0)
        values = (before + 4 * here + after) / 6
    return values
