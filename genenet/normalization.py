"""How an image's intensities become a network's input: fitted on the training part, stored with the network."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from genenet.errors import InputError
from genenet.volume import Volume


@dataclasses.dataclass(frozen=True)
class Normalization:
    """Subtract a mean and divide by a standard deviation, per channel.

    Attributes:
        mean: One per channel, in the image's own units.
        std: The same; positive.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Normalise `(*space, channels)` of any dtype to float32; NaN and infinity become the mean."""
        scale = np.float32(1) / np.asarray(self.std, np.float32)
        shift = -np.asarray(self.mean, np.float32) * scale
        result = np.multiply(image, scale, dtype=np.float32)
        result += shift
        if image.dtype.kind == "f":
            result[~np.isfinite(result)] = 0
        return result

    def to_dict(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Normalization":
        """From plain data."""
        return cls(tuple(map(float, values["mean"])), tuple(map(float, values["std"])))


def with_channels(image: np.ndarray) -> np.ndarray:
    """Give `(z, y, x)` a channel axis; `(z, y, x, channels)` stays."""
    return image[..., None] if image.ndim == 3 else image


def fit_normalization(parts: Sequence[tuple[Volume, tuple[slice, ...]]], max_slices: int = 64) -> Normalization:
    """Fit mean and standard deviation to boxes of volumes, on at most `max_slices` slices spread over z.

    Images of floats are looked through whole, since one NaN would spoil a training.

    Raises:
        InputError: The image holds NaN or infinity, or one value only.
    """
    spread = [(volume, box, z) for volume, box in parts for z in range(box[0].start, box[0].stop)]
    step = max(1, -(-len(spread) // max_slices))
    count, total, square = 0, np.zeros(1), np.zeros(1)
    for number, (volume, box, z) in enumerate(spread):
        fits = number % step == 0
        if not fits and volume.dtype.kind != "f":
            continue
        image = with_channels(volume.read((slice(z, z + 1), box[1], box[2]))).astype(np.float64)
        if not np.isfinite(image).all():
            bad = int(np.count_nonzero(~np.isfinite(image)))
            raise InputError(
                f"{volume.name} holds NaN or infinity: {bad} voxels of slice z={z}; "
                "replace them, or leave the slice out"
            )
        if not fits:
            continue
        values = image.reshape(-1, image.shape[-1])
        count += len(values)
        total = total + values.sum(0)
        square = square + np.square(values).sum(0)
    mean = total / count
    std = np.sqrt(np.maximum(square / count - mean**2, 0))
    if not (std > 1e-6 * np.maximum(1e-6, abs(mean))).all():
        raise InputError(f"{parts[0][0].name} has one value only in the training part; is it the image?")
    return Normalization(tuple(map(float, mean)), tuple(map(float, std)))
