"""A patch classifier on every pixel at once (Giusti et al. 2013), the edges of patches included.

A classifier reads a patch and says what its first pixel's window shows. Patches of neighbouring pixels share nearly all
their work, so the layers run over the whole image instead. After a pool of stride 2 the image falls into 2x2 fragments,
each with every other pixel; these lie side by side in the batch, so that kernels stay as they are, and are put together
at the end.

One thing differs at a patch's end: where sizes are rounded up, the last window of a pool is cut at the patch's edge,
while over the whole image it would go on. So the last positions of a patch have maps of their own:

    positions of a patch, along one axis         0    1    2   ...   s-2     s-1
    where their values are found               plain maps .........   map for "0 from the end"

and there are such maps along rows, along columns, and along both. A convolution is linear, so a map of its output at a
patch's end is the plain one plus what the taps there change.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras

# From the end of a patch along one axis: 0 is the last position; None is any position whose value is a plain one.
Place = int | None

# Makes the map of a place along rows and of one along columns, `(fragments * batch, height, width, channels)`.
Maps = Callable[[Place, Place], Any]

ops = keras.ops


@dataclasses.dataclass(frozen=True)
class Axis:
    """One axis of a layer's output within a patch.

    Attributes:
        size: Positions per patch.
        n_special: How many positions at the end have maps of their own.
    """

    size: int
    n_special: int = 0

    def place(self, position: int) -> Place:
        """Where a position's value is found."""
        from_end = self.size - 1 - position
        return from_end if from_end < self.n_special else None


@dataclasses.dataclass(frozen=True)
class Window:
    """What a kernel or pool reads along one axis.

    Attributes:
        before: The axis of its input.
        after: The axis of its output.
        kernel: Taps.
        stride: Positions of the input from one output to the next.
    """

    before: Axis
    after: Axis
    kernel: int
    stride: int

    @classmethod
    def over(cls, before: Axis, kernel: int, stride: int, *, cut: bool = False) -> "Window":
        """A window of so many taps; where `cut`, the size is rounded up and the last window ends at the patch's edge.

        >>> Window.over(Axis(26), 3, 2, cut=True).after
        Axis(size=13, n_special=1)
        """
        size = (math.ceil if cut else math.floor)((before.size - kernel) / stride) + 1
        n_special = 0
        for from_end in range(size):
            end = (size - 1 - from_end) * stride + kernel
            if end > before.size or before.place(end - 1) is not None:
                n_special = from_end + 1
        return cls(before, Axis(size, n_special), kernel, stride)

    def runs(self, place: Place) -> list[tuple[int, int, Place]]:
        """The taps of an output as runs that read one map, `(first tap, how many, map)`; none outside the patch."""
        if place is None:
            return [(0, self.kernel, None)]
        start = (self.after.size - 1 - place) * self.stride
        taps = [(tap, self.before.place(start + tap)) for tap in range(min(self.kernel, self.before.size - start))]
        runs = []
        for found, group in itertools.groupby(taps, key=lambda tap: tap[1]):
            members = list(group)
            runs.append((members[0][0], len(members), found))
        return runs


class Chain:
    """The maps of one layer after the other.

    Args:
        rows: Of a patch.
        columns: Of a patch.
        maps: Over the whole image.

    Attributes:
        splits: The strides so far, by which the image fell into fragments.
    """

    def __init__(self, rows: Axis, columns: Axis, maps: Maps) -> None:
        self.rows = rows
        self.columns = columns
        self.maps = maps
        self.splits: list[tuple[int, int]] = []

    def then(self, rows: Axis, columns: Axis, make: Maps) -> None:
        """Go on to the next layer's maps, each made once."""
        made: dict[tuple[Place, Place], Any] = {}

        def maps(row: Place, column: Place) -> Any:
            if (row, column) not in made:
                made[row, column] = make(row, column)
            return made[row, column]

        self.rows, self.columns, self.maps = rows, columns, maps

    def pointwise(self, function: Callable[[Any], Any]) -> None:
        """A function of each value by itself."""
        before = self.maps
        self.then(self.rows, self.columns, lambda row, column: function(before(row, column)))

    def convolve(self, kernel: Any, bias: Any) -> None:
        """A convolution without padding, of stride 1; kernel `(height, width, in, out)`."""
        before, n_rows, n_columns = self.maps, int(kernel.shape[0]), int(kernel.shape[1])
        rows, columns = (Window.over(axis, taps, 1) for axis, taps in ((self.rows, n_rows), (self.columns, n_columns)))

        def apply(x: Any, taps: Any, row: int, column: int) -> Any:
            """A part of the kernel whose first tap lies so far down and to the right."""
            height, width = int(taps.shape[0]), int(taps.shape[1])
            taps = ops.cast(taps, x.dtype)
            return ops.conv(_shifted(x, row, column, height - 1, width - 1), taps, padding="valid")

        def make(row: Place, column: Place) -> Any:
            if row is None and column is None:
                out = apply(before(None, None), kernel, 0, 0)
                return out if bias is None else out + ops.cast(bias, out.dtype)
            if column is None:
                out = maps(None, None)
                for first, count, place in rows.runs(row):
                    if place is not None:
                        change = before(place, None) - before(None, None)
                        out = out + apply(change, kernel[first : first + count], first, 0)
                return out
            if row is None:
                out = maps(None, None)
                for first, count, place in columns.runs(column):
                    if place is not None:
                        change = before(None, place) - before(None, None)
                        out = out + apply(change, kernel[:, first : first + count], 0, first)
                return out
            out = maps(row, None) + maps(None, column) - maps(None, None)
            for (y, n_y, down), (x, n_x, right) in itertools.product(rows.runs(row), columns.runs(column)):
                if down is not None and right is not None:
                    change = before(down, right) - before(down, None) - before(None, right) + before(None, None)
                    out = out + apply(change, kernel[y : y + n_y, x : x + n_x], y, x)
            return out

        self.then(rows.after, columns.after, make)
        maps = self.maps

    def pool(self, size: Sequence[int], strides: Sequence[int], *, largest: bool, cut: Sequence[bool]) -> None:
        """Maxima, or means, over windows; the image falls into as many fragments as the stride has pixels."""
        before = self.maps
        rows, columns = (
            Window.over(axis, *window, cut=ends)
            for axis, *window, ends in zip((self.rows, self.columns), size, strides, cut, strict=True)
        )
        known: dict[tuple[Place, Place, int, int], Any] = {}

        def spread(row: Place, column: Place, n_y: int, n_x: int) -> Any:
            """Maxima or sums over so many neighbours of a map, at every position; larger maxima are made of smaller."""
            key = row, column, n_y, n_x
            if key in known:
                return known[key]
            # Padding `same` adds the one that is missing at the end, where nothing counts.
            if (n_y, n_x) == (1, 1):
                found = before(row, column)
            elif not largest:
                padded = _shifted(before(row, column), 0, 0, n_y - 1, n_x - 1)
                found = ops.average_pool(padded, (n_y, n_x), 1, padding="valid") * (n_y * n_x)
            elif n_y >= n_x:
                found = ops.max_pool(spread(row, column, n_y - 1, n_x), (2, 1), 1, padding="same")
            else:
                found = ops.max_pool(spread(row, column, n_y, n_x - 1), (1, 2), 1, padding="same")
            known[key] = found
            return found

        def make(row: Place, column: Place) -> Any:
            windows = list(itertools.product(rows.runs(row), columns.runs(column)))
            n_taps = sum(n_y * n_x for (_, n_y, _), (_, n_x, _) in windows)
            joined: Any = None
            for (y, n_y, row_map), (x, n_x, column_map) in windows:
                part = _shifted(spread(row_map, column_map, n_y, n_x), y, x, 0, 0)
                joined = part if joined is None else ops.maximum(joined, part) if largest else joined + part
            return _split(joined if largest else joined / n_taps, *strides)

        self.then(rows.after, columns.after, make)
        self.splits.append((int(strides[0]), int(strides[1])))

    @property
    def stride(self) -> tuple[int, int]:
        """Into how many fragments the image fell, along rows and columns; its sizes must be multiples."""
        return math.prod(down for down, _ in self.splits), math.prod(right for _, right in self.splits)

    def put_together(self) -> Any:
        """The map of the one position that is left, fragments woven into each other."""
        x = self.maps(self.rows.place(0), self.columns.place(0))
        for down, right in reversed(self.splits):
            n, height, width, n_channels = ops.shape(x)
            n = n // (down * right)
            x = ops.reshape(x, (down, right, n, height, width, n_channels))
            x = ops.reshape(ops.transpose(x, (2, 3, 0, 4, 1, 5)), (n, height * down, width * right, n_channels))
        return x


def _split(x: Any, down: int, right: int) -> Any:
    """Fragments of every so manyth row and column, one after the other in the batch."""
    n, height, width, n_channels = ops.shape(x)
    x = ops.reshape(x, (n, height // down, down, width // right, right, n_channels))
    return ops.reshape(ops.transpose(x, (2, 4, 0, 1, 3, 5)), (-1, height // down, width // right, n_channels))


def _shifted(x: Any, row: int, column: int, more_rows: int, more_columns: int) -> Any:
    """As many rows and columns and some more, from further down and to the right; zeros beyond the end."""
    rows, columns = row + more_rows, column + more_columns
    if rows or columns:
        x = ops.pad(x, ((0, 0), (0, rows), (0, columns), (0, 0)))
    return x[:, row:, column:]
