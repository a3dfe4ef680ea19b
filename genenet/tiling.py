"""How blocks cover a volume, and which window of a network covers a block. Geometry only.

        |<------- input ------->|     what the network reads, in the image mirrored at its edges
        | lead |<- core ->|     |     what is kept of its answer
               | write |              the part of it that lies in the volume

Cores begin at multiples of the network's total stride. There the pooling grid falls on the same voxels for every block,
so blocks give exactly what one window over everything would give.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from genenet.errors import InputError
from genenet.plan import Plan

Box = tuple[slice, ...]


@dataclasses.dataclass(frozen=True)
class Fit:
    """The window with which a network covers cores of one shape, voxels per axis.

    Attributes:
        core: What is wanted.
        lead: Voxels read before the core.
        input: Voxels read in all.
        skip: Voxels of the network's answer that lie before the core.
    """

    core: tuple[int, ...]
    lead: tuple[int, ...]
    input: tuple[int, ...]
    skip: tuple[int, ...]

    @property
    def keep(self) -> Box:
        """Where the core lies in the network's answer."""
        return tuple(slice(s, s + n) for s, n in zip(self.skip, self.core, strict=True))


class Reach(NamedTuple):
    """What is read for a core, voxels per axis.

    Attributes:
        core: What is wanted.
        lead: Voxels read before the core.
        input: Voxels read in all.
    """

    core: tuple[int, ...]
    lead: tuple[int, ...]
    input: tuple[int, ...]

    @property
    def tail(self) -> tuple[int, ...]:
        """Voxels read beyond the beginning of the core."""
        return tuple(whole - before for whole, before in zip(self.input, self.lead, strict=True))

    def within(self, other: "Reach") -> Box:
        """Where it lies in what another reads for the same core."""
        return tuple(
            slice(before - mine, before - mine + n)
            for before, mine, n in zip(other.lead, self.lead, self.input, strict=True)
        )


def union(reaches: Sequence[Reach]) -> Reach:
    """What has to be read so that each of several reaches lies within."""
    lead = tuple(map(max, *(each.lead for each in reaches), reaches[0].lead))
    tail = tuple(map(max, *(each.tail for each in reaches), reaches[0].tail))
    return Reach(reaches[0].core, lead, tuple(a + b for a, b in zip(lead, tail, strict=True)))


def fit_core(plan: Plan, core: Sequence[int], context: int | None = None) -> Fit:
    """Find the smallest window that gives a core exactly.

    Args:
        plan: The network's layers.
        core: Voxels per spatial axis of the network.
        context: Read no more than about so many voxels on each side, where the network can do with less than it sees:
            the core is then not exact, but nearly.
    """
    lead, sizes, skip = [], [], []
    for axis, wanted in enumerate(core):
        before, after = plan.halo()[axis]
        start = int(plan.output.grid[axis][1])
        if context is not None:
            before, after = max(min(before, context), start), max(min(after, context), start)
        stride = plan.total_stride[axis]
        first = before + (start - before) % stride
        size = next(
            (n for n in range(first + wanted + after, first + wanted + after + 2 * stride) if plan.fits(n, axis)), 0
        )
        if not size:
            raise InputError(f"no window of this network gives a core of {wanted} voxels")
        lead.append(first)
        sizes.append(size)
        skip.append(first - start)
    return Fit(tuple(core), tuple(lead), tuple(sizes), tuple(skip))


def choose_core(
    shape: Sequence[int], stride: Sequence[int], max_voxels: int, *, free: Sequence[bool] | None = None
) -> tuple[int, ...]:
    """Choose blocks that are equal, large, and aligned: the volume's shape cut in as few pieces as allowed.

    Args:
        shape: The volume's, voxels per axis.
        stride: What cores must be multiples of, per axis.
        max_voxels: How large a core may be.
        free: Axes along which a network needs no context, so that cutting costs nothing; they are cut first.

    Returns:
        Voxels per axis; the last block of an axis may reach beyond the volume.

    >>> choose_core((1000, 700), (16, 16), 2**18)
    (512, 352)
    """
    pieces = [1] * len(shape)
    free = [False] * len(shape) if free is None else free

    def core() -> tuple[int, ...]:
        return tuple(
            math.ceil(math.ceil(size / n) / step) * step for size, n, step in zip(shape, pieces, stride, strict=True)
        )

    while math.prod(core()) > max_voxels:
        can_cut = [size > step for size, step in zip(core(), stride, strict=True)]
        if not any(can_cut):
            break
        worth = [(can, no_context, size) for can, no_context, size in zip(can_cut, free, core(), strict=True)]
        pieces[worth.index(max(worth))] += 1
    return core()


def chunk_side(side: int, most: int) -> int:
    """Into which equal chunks a block's side is cut: the largest up to a bound; itself if only slivers would do.

    >>> chunk_side(1008, 256), chunk_side(976, 256), chunk_side(1021, 256), chunk_side(31, 16)
    (252, 244, 1021, 31)
    """
    found = next(divisor for divisor in range(min(side, most), 0, -1) if side % divisor == 0)
    return found if 4 * found >= min(side, most) else side


def n_blocks(shape: Sequence[int], core: Sequence[int]) -> int:
    """How many boxes `blocks` gives."""
    return math.prod(math.ceil(size / step) for size, step in zip(shape, core, strict=True))


def blocks(shape: Sequence[int], core: Sequence[int]) -> Iterator[Box]:
    """Cut a volume into boxes of at most `core` voxels; every voxel lies in exactly one.

    >>> [(box[0].start, box[0].stop) for box in blocks((10,), (4,))]
    [(0, 4), (4, 8), (8, 10)]
    """
    return (box for _, box in numbered_blocks(shape, core, (1,) * len(core)))


def numbered_blocks(shape: Sequence[int], core: Sequence[int], group: Sequence[int]) -> Iterator[tuple[int, Box]]:
    """The same with their numbers, but those of a group, so many blocks per axis, come one after the other.

    >>> [number for number, _ in numbered_blocks((3, 4), (1, 2), (2, 1))]
    [0, 2, 1, 3, 4, 5]
    """
    counts = [math.ceil(size / step) for size, step in zip(shape, core, strict=True)]
    corners = itertools.product(*(range(0, n, step) for n, step in zip(counts, group, strict=True)))
    for corner in corners:
        ends = [min(first + step, n) for first, step, n in zip(corner, group, counts, strict=True)]
        for place in itertools.product(*map(range, corner, ends)):
            number = 0
            for index, n in zip(place, counts, strict=True):
                number = number * n + index
            box = (slice(i * step, min((i + 1) * step, n)) for i, step, n in zip(place, core, shape, strict=True))
            yield number, tuple(box)
