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
patch's end is the plain one plus what the taps there change. Only maps that the answer depends on are made.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras

# From the end of a patch along one axis: 0 is the last position; None is any position whose value is a plain one.
Place = int | None

# Taps that read one map: the first, how many, which map.
Run = tuple[int, int, Place]

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

    def reads(self, places: set[Place]) -> set[Place]:
        """The maps that some outputs read."""
        return {found for place in places for _, _, found in self.runs(place)}

    def runs(self, place: Place) -> list[Run]:
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


@dataclasses.dataclass
class _Layer:
    """One layer's maps.

    Attributes:
        windows: Along rows and columns; None for a layer that works on each value by itself.
        make: Its maps from those before, given which places are wanted along rows and columns.
    """

    windows: tuple[Window, Window] | None
    make: Callable[[Maps, set[Place], set[Place]], Maps]


class Chain:
    """The maps of one layer after the other; nothing is computed before there is an image.

    Args:
        rows: Of a patch.
        columns: Of a patch.

    Attributes:
        splits: The strides so far, by which the image fell into fragments.
    """

    def __init__(self, rows: Axis, columns: Axis) -> None:
        self.rows = rows
        self.columns = columns
        self.splits: list[tuple[int, int]] = []
        self._patch = rows.size, columns.size
        self._layers: list[_Layer] = []

    def pointwise(self, function: Callable[[Any], Any]) -> None:
        """A function of each value by itself."""
        self._layers.append(_Layer(None, lambda before, *_: lambda row, column: function(before(row, column))))

    def convolve(self, kernel: Any, bias: Any) -> None:
        """A convolution without padding, of stride 1; kernel `(height, width, in, out)`."""
        rows, columns = (
            Window.over(axis, int(taps), 1)
            for axis, taps in ((self.rows, kernel.shape[0]), (self.columns, kernel.shape[1]))
        )

        def make(before: Maps, wanted_rows: set[Place], wanted_columns: set[Place]) -> Maps:
            return _convolved(before, rows, columns, kernel, bias, None in wanted_rows, None in wanted_columns)

        self._layers.append(_Layer((rows, columns), make))
        self.rows, self.columns = rows.after, columns.after

    def pool(self, size: Sequence[int], strides: Sequence[int], *, largest: bool, cut: Sequence[bool]) -> None:
        """Maxima, or means, over windows; the image falls into as many fragments as the stride has pixels."""
        rows, columns = (
            Window.over(axis, *window, cut=ends)
            for axis, *window, ends in zip((self.rows, self.columns), size, strides, cut, strict=True)
        )
        self._layers.append(_Layer((rows, columns), lambda before, *_: _pooled(before, rows, columns, largest)))
        self.rows, self.columns = rows.after, columns.after
        self.splits.append((int(strides[0]), int(strides[1])))

    def run(self, image: Any) -> Any:
        """The answers for every patch of an image, `(batch, H - rows + 1, W - columns + 1, channels)`."""
        sizes = ops.shape(image)[1:3]
        n_answers = [size - patch + 1 for size, patch in zip(sizes, self._patch, strict=True)]
        place = self.rows.place(0), self.columns.place(0)
        x = self._maps(self._fitted(image, n_answers), {place[0]}, {place[1]})(*place)
        for down, right in reversed(self.splits):
            n, height, width, n_channels = ops.shape(x)
            n = n // (down * right)
            x = ops.reshape(x, (down, right, n, height, width, n_channels))
            x = ops.reshape(ops.transpose(x, (2, 3, 0, 4, 1, 5)), (n, height * down, width * right, n_channels))
        return x[:, : n_answers[0], : n_answers[1]]

    def _fitted(self, image: Any, n_answers: Sequence[Any]) -> Any:
        """The image with as many rows and columns as make all fragments alike, by zeros or by less at its end."""
        added, kept = [], []
        for axis, n in enumerate(n_answers):
            span, n_fragments = 1, 1  # what windows reach that go on beyond the patch's end
            for window in (layer.windows[axis] for layer in self._layers if layer.windows is not None):
                span += (window.kernel - 1) * n_fragments
                n_fragments *= window.stride
            rounding = -n % n_fragments
            added.append(rounding + max(span - self._patch[axis], 0))
            kept.append(n + rounding + span - 1)
        return ops.pad(image, ((0, 0), (0, added[0]), (0, added[1]), (0, 0)))[:, : kept[0], : kept[1]]

    def _maps(self, image: Any, rows: set[Place], columns: set[Place]) -> Maps:
        """The last layer's maps over an image, of which these places are wanted."""
        wanted = []
        for layer in reversed(self._layers):
            wanted.append((rows, columns))
            if layer.windows is not None:
                rows, columns = (window.reads(places) for window, places in zip(layer.windows, wanted[-1], strict=True))

        def plain(row: Place, column: Place) -> Any:
            return image

        maps: Maps = plain
        for layer, places in zip(self._layers, reversed(wanted), strict=True):
            maps = functools.cache(layer.make(maps, *places))
        return maps


def _convolved(
    before: Maps, rows: Window, columns: Window, kernel: Any, bias: Any, plain_rows: bool, plain_columns: bool
) -> Maps:
    """A convolution's maps.

    Along an axis whose plain maps are wanted too, a special map is the plain one plus what the taps there change.
    """

    def apply(x: Any, row_run: Run, column_run: Run) -> Any:
        """The part of the kernel in two runs."""
        (y, n_y, _), (x0, n_x, _) = row_run, column_run
        taps = ops.cast(kernel[y : y + n_y, x0 : x0 + n_x], x.dtype)
        return ops.conv(_without(x, (y, rows.kernel - y - n_y), (x0, columns.kernel - x0 - n_x)), taps, padding="valid")

    @functools.cache
    def down(row: Place, column: Place) -> Any:
        """What differs from the plain map along rows."""
        return before(row, column) - before(None, column)

    @functools.cache
    def right(row: Place, column: Place) -> Any:
        """What differs from the plain map along columns."""
        return before(row, column) - before(row, None)

    def corner(row: Place, column: Place) -> Any:
        """What differs from what the two differ by."""
        return right(row, column) - right(None, column)

    @functools.cache
    def maps(row: Place, column: Place) -> Any:
        by_row, by_column = plain_rows and row is not None, plain_columns and column is not None
        out: Any = None
        read = before
        if by_row and by_column:
            out, read = maps(row, None) + maps(None, column) - maps(None, None), corner
        elif by_row:
            out, read = maps(None, column), down
        elif by_column:
            out, read = maps(row, None), right
        for y, x in itertools.product(rows.runs(row), columns.runs(column)):
            if not (by_row and y[2] is None) and not (by_column and x[2] is None):
                part = apply(read(y[2], x[2]), y, x)
                out = part if out is None else out + part
        return out if by_row or by_column or bias is None else out + ops.cast(bias, out.dtype)

    return maps


def _pooled(before: Maps, rows: Window, columns: Window, largest: bool) -> Maps:
    """Maps of maxima or means, split into fragments."""

    @functools.cache
    def spread(row: Place, column: Place, n_y: int, n_x: int) -> Any:
        """Maxima or sums over so many neighbours of a map, at every position; larger maxima are made of smaller."""
        if (n_y, n_x) == (1, 1):
            return before(row, column)
        if not largest:
            return ops.average_pool(before(row, column), (n_y, n_x), 1, padding="valid") * (n_y * n_x)
        down, right = (int(n == max(n_y, n_x)) for n in (n_y, n_x))
        return ops.max_pool(spread(row, column, n_y - down, n_x - right), (1 + down, 1 + right), 1, padding="valid")

    def maps(row: Place, column: Place) -> Any:
        windows = list(itertools.product(rows.runs(row), columns.runs(column)))
        n_taps = sum(n_y * n_x for (_, n_y, _), (_, n_x, _) in windows)
        joined: Any = None
        for (y, n_y, row_map), (x, n_x, column_map) in windows:
            part = spread(row_map, column_map, n_y, n_x)
            part = _without(part, (y, rows.kernel - y - n_y), (x, columns.kernel - x - n_x))
            joined = part if joined is None else ops.maximum(joined, part) if largest else joined + part
        return _split(joined if largest else joined / n_taps, rows.stride, columns.stride)

    return maps


def _split(x: Any, down: int, right: int) -> Any:
    """Fragments of every so manyth row and column, one after the other in the batch."""
    n, height, width, n_channels = ops.shape(x)
    x = ops.reshape(x, (n, height // down, down, width // right, right, n_channels))
    return ops.reshape(ops.transpose(x, (2, 4, 0, 1, 3, 5)), (-1, height // down, width // right, n_channels))


def _without(x: Any, rows: tuple[int, int], columns: tuple[int, int]) -> Any:
    """All but so many rows and columns at either side."""
    (top, bottom), (left, right) = rows, columns
    return x[:, top : -bottom or None, left : -right or None] if top + bottom + left + right else x
