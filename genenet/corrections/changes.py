"""What an edit changed: a box, which voxels of it, and their new values; as a short text for a line of JSON."""

import base64
import dataclasses
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from genenet.errors import InputError
from genenet.formats.boxes import Box

# How values are written, little-endian.
DTYPE = np.dtype("<i8")


@dataclasses.dataclass(frozen=True)
class Change:
    """New values of some voxels.

    Attributes:
        start: The box's first voxel `(z, y, x)`.
        mask: Which voxels of the box changed, `(dz, dy, dx)`, bool.
        values: The new ones, `(mask.sum(),)`, in the order of `mask`'s voxels.
    """

    start: tuple[int, int, int]
    mask: np.ndarray
    values: np.ndarray

    @property
    def box(self) -> Box:
        """One slice per axis."""
        z, y, x = (slice(first, first + n) for first, n in zip(self.start, self.mask.shape, strict=True))
        return z, y, x

    def put(self, array: np.ndarray, start: Sequence[int]) -> None:
        """Write the new values into an array whose first voxel is `start`, as far as it reaches.

        >>> change = Change((0, 1, 1), np.array([[[True, False, True]]]), np.array([5, 6]))
        >>> array = np.zeros((1, 2, 2), int)
        >>> change.put(array, (0, 0, 2))
        >>> array.tolist()
        [[[0, 0], [0, 6]]]
        """
        first = [max(a, b) for a, b in zip(self.start, start, strict=True)]
        ends = zip(self.start, self.mask.shape, start, array.shape, strict=True)
        end = [min(a + n, b + m) for a, n, b, m in ends]
        if any(a >= b for a, b in zip(first, end, strict=True)):
            return
        mine, theirs = (
            tuple(slice(a - o, b - o) for a, b, o in zip(first, end, origin, strict=True))
            for origin in (self.start, start)
        )
        mask = self.mask[mine]
        dense = np.zeros(self.mask.shape, self.values.dtype)
        dense[self.mask] = self.values
        array[theirs][mask] = dense[mine][mask]


def encode(change: Change) -> dict[str, Any]:
    """Plain data; one value for all voxels is written once.

    >>> mask = np.ones((1, 2, 2), bool)
    >>> change = decode(encode(Change((0, 0, 4), mask, np.array([3, 3, 3, 3]))))
    >>> change.start, change.mask.all(), change.values.tolist()
    ((0, 0, 4), np.True_, [3, 3, 3, 3])
    """
    values, uniform = change.values, change.values.size and (change.values == change.values[0]).all()
    return {
        "start": [int(n) for n in change.start],
        "shape": [int(n) for n in change.mask.shape],
        "mask": _pack(np.packbits(change.mask).tobytes()),
        "values": int(values[0]) if uniform else _pack(values.astype(DTYPE).tobytes()),
    }


def decode(entry: dict[str, Any]) -> Change:
    """What `encode` wrote.

    Raises:
        InputError: It is damaged.
    """
    try:
        z, y, x = (int(n) for n in entry["start"])
        shape = tuple(int(n) for n in entry["shape"])
        size = int(np.prod(shape))
        bits = np.frombuffer(_unpack(entry["mask"]), np.uint8)
        mask = np.unpackbits(bits, count=size).astype(bool).reshape(shape)
        said, n = entry["values"], int(mask.sum())
        values = np.full(n, said, DTYPE) if isinstance(said, int) else np.frombuffer(_unpack(said), DTYPE)
        if values.shape != (n,):
            raise ValueError(f"{n} voxels, but {values.size} values")
    except (KeyError, TypeError, ValueError, zlib.error) as error:
        raise InputError(f"an edit is damaged: {error!r}") from None
    return Change((z, y, x), mask, values)


def _pack(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 1)).decode("ascii")


def _unpack(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))
