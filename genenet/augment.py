"""Random changes of training windows, image and labels together, so that a network learns more from few labels."""

import dataclasses
import functools
import math
from types import ModuleType

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from genenet.augment_geometry import draw_projection, nearest_sources, project, projection_reach, sample_linear
from genenet.errors import InputError

# Displacements are cut at random from a larger sheet of them, this many control points longer than a window.
# elasticdeform takes 125 ns per voxel, which for every window anew would cost a small network a quarter of its speed.
_SPARE_POINTS = 8


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What may happen to a training window, each with its own strength; 0 or False is off.

    >>> Augmentation(elastic=2.0).margin((192, 192))
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
        scale: Largest relative change of size: objects become up to `1 + scale` times as large or as small. At most 1.
        shift: Largest shift in y and in x, in voxels; for windows on a grid, which otherwise never lie elsewhere.
        perspective: Largest displacement of each corner in y and in x, as a share of the window's side, below 1/4:
            the window is seen at a slant.
        blur: Largest standard deviation, in voxels, of a Gaussian filter in y and x, applied with probability 1/2.
        color: Largest relative change of saturation, and largest turn of the hue in radians, below 1. For images of
            red, green and blue.
        stain: Largest relative change of the amounts of haematoxylin and of eosin, below 1; with it goes a shift by
            a quarter of that in optical density (Tellez et al. 2018). For images of red, green and blue.
    """

    elastic: float = 4.0
    elastic_spacing: float = 48.0
    reflect: bool = True
    rotate: bool = True
    brightness: float = 0.12
    contrast: float = 0.2
    noise: float = 0.05
    scale: float = 0.0
    shift: float = 0.0
    perspective: float = 0.0
    blur: float = 0.0
    color: float = 0.0
    stain: float = 0.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            name, value = field.name, getattr(self, field.name)
            if not 0 <= value < math.inf:
                raise InputError(f"`{name}` must be a number of at least 0, but got {name}={value}")
        if self.contrast >= 1:
            raise InputError(f"`contrast` must be below 1, or it inverts the image, but got contrast={self.contrast}")
        for name in ("color", "stain"):
            if getattr(self, name) >= 1:
                raise InputError(
                    f"`{name}` must be below 1, or it inverts colours, but got {name}={getattr(self, name)}"
                )
        if self.scale > 1:
            raise InputError(f"`scale` must be at most 1, twice as large or small, but got scale={self.scale}")
        if self.perspective >= 0.25:
            raise InputError(
                f"`perspective` must be below 0.25, or the image folds over itself, but got "
                f"perspective={self.perspective}"
            )
        if self.elastic_spacing < max(1, 4 * self.elastic):
            raise InputError(
                f"`elastic_spacing` must be at least 1 and four times `elastic`, or the image folds over itself, but "
                f"got elastic_spacing={self.elastic_spacing}, elastic={self.elastic}"
            )

    @classmethod
    def off(cls) -> "Augmentation":
        """Give settings that leave windows as they are."""
        return cls(elastic=0.0, reflect=False, rotate=False, brightness=0.0, contrast=0.0, noise=0.0)

    @classmethod
    def histology(cls) -> "Augmentation":
        """Give settings for sections stained with haematoxylin and eosin.

        What Mahbod et al. (2022) name, scaling, shifting, a Gaussian filter, a perspective and flips, in strengths of
        our own, since they give none; and, since laboratories stain differently, colours and stains. Tissue has no up,
        so it is turned and mirrored in every way. Nothing here needs elasticdeform.
        """
        return cls(
            elastic=0.0,
            brightness=0.1,
            contrast=0.1,
            noise=0.03,
            scale=0.2,
            shift=8.0,
            perspective=0.05,
            blur=1.0,
            color=0.1,
            stain=0.2,
        )

    def margin(self, shape: tuple[int, ...]) -> int:
        """Voxels to read beyond a window on each side in y and x: the largest displacement there can be.

        Args:
            shape: Space of the window, `(z, y, x)` or `(y, x)`.
        """
        reach = projection_reach(
            (shape[-2], shape[-1]),
            scale=self.scale,
            shift=self.shift,
            perspective=self.perspective,
            border=math.ceil(_largest_displacement(self.elastic)),
        )
        return math.ceil(reach - 1e-6)  # products of floats, a whole number a little above it


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
    take away half of the noise, and the network would train on smoother images than it will meet. Only where `scale` or
    `perspective` is on is the image read between voxels, or edges would be jagged; labels never are. Colours and stains
    are varied before, in the raw image (`genenet.augment_color.vary_colors`).

    Args:
        image: `(*space, channels)`, normalised, read with `settings.margin(image_shape)` beyond `image_shape` on each
            side in y and x. Space is `(z, y, x)` or `(y, x)`.
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
    if settings.elastic or settings.scale or settings.shift or settings.perspective:
        image, labels = _move(image, labels, settings, rng, image_shape)
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
    margin = settings.margin(image_shape)
    read = (*image_shape[:-2], *(length + 2 * margin for length in image_shape[-2:]))
    if image[:-1] != read or labels != read:
        raise InputError(
            f"a window of {image_shape} must be read as {read}, margin {margin} in y and x, but got an image "
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
    """Change sharpness, contrast, brightness and noise; in place, where the image is not filtered."""
    if settings.blur and rng.random() < 0.5:
        from scipy.ndimage import gaussian_filter

        image = gaussian_filter(image, rng.uniform(0, settings.blur), mode="mirror", truncate=3.0, axes=(-3, -2))
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


def _move(
    image: np.ndarray,
    labels: np.ndarray,
    settings: Augmentation,
    rng: np.random.Generator,
    image_shape: tuple[int, ...],
) -> tuple[np.ndarray, np.ndarray]:
    """Read the window where a random displacement and projection say; what comes back is smaller by the margin."""
    height, width = image_shape[-2:]
    margin, mixes = settings.margin(image_shape), bool(settings.scale or settings.perspective)
    rows, columns = np.arange(height)[:, None], np.arange(width)
    if settings.elastic:
        down, right = _draw_displacement(height, width, settings, rng, smooth=mixes)
        rows, columns = rows + down, columns + right
    if settings.scale or settings.shift or settings.perspective:
        projection = draw_projection(
            (height, width),
            rng,
            scale=settings.scale,
            shift=settings.shift,
            perspective=settings.perspective,
            border=math.ceil(_largest_displacement(settings.elastic)),
        )
        rows, columns = project(projection, rows, columns)
    rows, columns = rows + margin, columns + margin
    *slices, full_height, full_width = labels.shape
    sources = nearest_sources(rows, columns, (full_height, full_width))
    moved = labels.reshape(*slices, -1).take(sources, axis=-1)
    if mixes:
        return sample_linear(image, rows, columns), moved
    return image.reshape(*slices, -1, image.shape[-1]).take(sources, axis=-2), moved


def _draw_displacement(
    height: int, width: int, settings: Augmentation, rng: np.random.Generator, *, smooth: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Cut displacements in y and in x from a sheet of them, each with a random sign."""
    spare = math.ceil(_SPARE_POINTS * settings.elastic_spacing)
    sheet = _displacement_sheet(height + spare, width + spare, settings.elastic, settings.elastic_spacing, smooth)

    def cut(displacement: np.ndarray) -> np.ndarray:
        top, left = rng.integers(spare + 1, size=2)
        sign = 2 * rng.integers(2, dtype=np.int16) - 1
        return displacement[top : top + height, left : left + width] * sign

    return cut(sheet[0]), cut(sheet[1])


@functools.lru_cache(maxsize=4)
def _displacement_sheet(height: int, width: int, elastic: float, spacing: float, smooth: bool = False) -> np.ndarray:
    """Displace a plane at random, in y and in x: `(2, height, width)`, always the same one.

    By whole voxels, int16, as images are read that take the nearest voxel; or, `smooth`, by fractions, float32.
    """
    largest = _largest_displacement(elastic)
    margin = math.ceil(largest)
    coordinates = np.indices((height + 2 * margin, width + 2 * margin), dtype=np.float32 if smooth else np.int32)
    points = [max(2, round((length - 1) / spacing) + 1) for length in coordinates.shape[1:]]
    coefficients = np.random.default_rng(0).uniform(-largest, largest, (2, *points))
    inner = (slice(margin, margin + height), slice(margin, margin + width))
    moved = import_elasticdeform().deform_grid(
        list(coordinates), _values_at_points(coefficients), order=int(smooth), mode="nearest", crop=inner
    )
    displacements = np.stack([there - here[inner] for there, here in zip(moved, coordinates, strict=True)])
    return displacements.astype(np.float32 if smooth else np.int16)


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
