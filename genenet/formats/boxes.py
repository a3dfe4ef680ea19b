"""Boxes of a volume: checked, mirrored at its edges, and turned to the order of a file's axes."""

from collections.abc import Sequence

import numpy as np

from genenet.formats.stored import Key, Stored, Target

Box = tuple[slice, slice, slice]


def volume_shape(shape: Sequence[int], axes: str) -> tuple[int, ...]:
    """Reorder a file's shape to `(z, y, x)` or `(z, y, x, channels)`."""
    sizes = dict(zip(axes, shape, strict=True))
    return (sizes.get("z", 1), sizes["y"], sizes["x"]) + ((sizes["c"],) if "c" in sizes else ())


def file_key(box: Box, stored: Stored | Target) -> Key:
    """Reorder a box to the file's axes, with all of its channels."""
    by_axis = dict(zip("zyx", box, strict=True))
    return tuple(by_axis.get(axis, slice(0, size)) for axis, size in zip(stored.axes, stored.shape, strict=True))


def from_file_order(part: np.ndarray, axes: str, shape: Sequence[int]) -> np.ndarray:
    """Turn what a file gave, its axes in the order of `axes`, to `(z, y, x)` or `(z, y, x, channels)`."""
    blanks = [position for position, axis in enumerate(axes) if axis == "_"]
    return part.transpose([axes.index(axis) for axis in "zyxc" if axis in axes] + blanks).reshape(shape)


def to_file_order(part: np.ndarray, axes: str) -> np.ndarray:
    """Turn `(z, y, x)` or `(z, y, x, channels)` to the order of a file's axes; the reverse of `from_file_order`."""
    given = "zyxc"[: part.ndim]
    kept = [axis for axis in given if axis in axes]
    part = part.squeeze(tuple(position for position, axis in enumerate(given) if axis not in axes))
    part = part.transpose([kept.index(axis) for axis in axes if axis != "_"])
    return np.expand_dims(part, tuple(position for position, axis in enumerate(axes) if axis == "_"))


def checked(box: Box, shape: Sequence[int], name: str) -> Box:
    """Fill in open ends and refuse a box that reaches beyond the volume."""
    filled = [
        slice(0 if axis.start is None else int(axis.start), size if axis.stop is None else int(axis.stop))
        for axis, size in zip(box, shape[:3], strict=True)
    ]
    if any(axis.step not in (None, 1) for axis in box) or not all(
        0 <= axis.start <= axis.stop <= size for axis, size in zip(filled, shape, strict=False)
    ):
        bounds = ", ".join(f"{axis.start}:{axis.stop}" for axis in box)
        raise ValueError(f"a box must lie inside the volume {tuple(shape[:3])} of {name}, but got [{bounds}]")
    z, y, x = filled
    return z, y, x


def mirrored(start: int, n: int, size: int) -> np.ndarray:
    """Give the voxels of `range(start, start + n)`, mirrored into `range(size)`."""
    if size == 1:
        return np.zeros(n, np.intp)
    period = 2 * (size - 1)
    folded = np.arange(start, start + n) % period
    return np.minimum(folded, period - folded)


def cast(array: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
    """Change the type of values when none of them is changed by more than rounding of floats."""
    if np.can_cast(array.dtype, dtype, "safe") or (array.dtype.kind in "iuf" and dtype.kind == "f"):
        return array.astype(dtype, copy=False)
    if array.dtype.kind in "iu" and dtype.kind in "iu" and array.size:
        low, high, limits = int(array.min()), int(array.max()), np.iinfo(dtype)
        if limits.min <= low and high <= limits.max:
            return array.astype(dtype)
        raise ValueError(f"{name} holds {dtype}, but got values from {low} to {high}; create it with a wider type")
    raise ValueError(f"{name} holds {dtype}, but got {array.dtype}; convert the values first")
