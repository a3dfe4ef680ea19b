"""Labels that are edited like an array, and remember what was changed; they are read as they are looked at."""

import collections
import itertools
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from genenet.corrections.changes import Change
from genenet.corrections.replay import Replay
from genenet.formats.boxes import Box

# Pieces in which labels are held in memory; those of OME-Zarr are stored so by default.
PIECE = (8, 256, 256)
MAX_BYTES = 2**28

Place = tuple[int, int, int]


class Overlay:
    """An array of labels, `(z, y, x)`, for viewers: pieces are read when they are looked at, and let go of again.

    Attributes:
        shape: `(z, y, x)`.
        dtype: Of the labels.
        ndim: 3.
    """

    def __init__(self, replay: Replay, *, max_bytes: int = MAX_BYTES) -> None:
        """What `replay` gives may be changed here; it is told only by `take_changes`."""
        self.shape, self.dtype, self.ndim = replay.shape, replay.dtype, 3
        self._replay = replay
        piece_bytes = int(np.prod(PIECE)) * self.dtype.itemsize
        self._max_pieces = max(max_bytes // piece_bytes, 1)
        self._pieces: collections.OrderedDict[Place, np.ndarray] = collections.OrderedDict()
        self._before: dict[Place, np.ndarray] = {}
        self._edited: dict[Place, np.ndarray] = {}
        self._lock = threading.RLock()  # what is looked at next may be read by a thread

    @property
    def size(self) -> int:
        """Voxels."""
        return int(np.prod(self.shape))

    @property
    def nbytes(self) -> int:
        """Bytes, were it all in memory."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        box, within = _split(key, self.shape)
        return np.asarray(self.read(box)[within])

    def __setitem__(self, key: Any, value: Any) -> None:
        box, within = _split(key, self.shape)
        with self._lock:
            part = self._gather(box)
            part[within] = value
            for place, mine, theirs in self._meeting(box):
                piece = self._piece(place)
                if place not in self._before:
                    self._before[place] = piece.copy()
                piece[mine] = part[theirs]
                self._widen(place, mine)
            self._let_go()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All of it; viewers must not ask for that, but small volumes may be compared so."""
        return np.asarray(self.read(tuple(slice(0, n) for n in self.shape)), dtype)  # type: ignore[arg-type]

    def read(self, box: Box) -> np.ndarray:
        """Labels in a box, an array of one's own; any thread may ask."""
        with self._lock:
            found = self._gather(box)
            self._let_go()
        return found

    def add(self, entries: Iterable[dict[str, Any]]) -> None:
        """What was changed is kept from now on: `take_changes`, encoded."""
        with self._lock:
            self._replay.add(entries)

    @property
    def is_changed(self) -> bool:
        """Whether something was written since `take_changes`."""
        return bool(self._before)

    def take_changes(self) -> tuple[list[Change], np.ndarray, np.ndarray]:
        """What was changed since the last call.

        Returns:
            The changes, and the values of these voxels before and after, `(voxels,)` each.
        """
        with self._lock:
            return self._take_changes()

    def _take_changes(self) -> tuple[list[Change], np.ndarray, np.ndarray]:
        changes, before, after = [], [], []
        for place, old in self._before.items():
            low, high = self._edited[place]
            box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
            mine, old = self._pieces[place][box], old[box]
            mask = mine != old
            if not mask.any():
                continue
            inner = _bounding(mask)
            first = [p * side + a + s.start for p, side, a, s in zip(place, PIECE, low, inner, strict=True)]
            changes.append(Change((first[0], first[1], first[2]), mask[inner], mine[mask]))
            before.append(old[mask])
            after.append(mine[mask])
        self._before.clear()
        self._edited.clear()
        empty = np.empty(0, self.dtype)
        return changes, np.concatenate([empty, *before]), np.concatenate([empty, *after])

    def _meeting(self, box: Box) -> Iterator[tuple[Place, Box, Box]]:
        """Pieces that meet a box: where each is, what of it lies in the box, and where that is in the box."""
        if any(side.start >= side.stop for side in box):
            return
        ranges = [range(side.start // n, -(-side.stop // n)) for side, n in zip(box, PIECE, strict=True)]
        for place in itertools.product(*ranges):
            origin = [p * n for p, n in zip(place, PIECE, strict=True)]
            low = [max(o, side.start) for o, side in zip(origin, box, strict=True)]
            high = [min(o + n, side.stop) for o, n, side in zip(origin, PIECE, box, strict=True)]
            mine, theirs = (
                tuple(slice(a - o, b - o) for a, b, o in zip(low, high, start, strict=True))
                for start in (origin, [side.start for side in box])
            )
            yield place, mine, theirs  # type: ignore[misc]

    def _gather(self, box: Box) -> np.ndarray:
        self._load(box)
        found = np.empty(tuple(side.stop - side.start for side in box), self.dtype)
        for place, mine, theirs in self._meeting(box):
            found[theirs] = self._piece(place)[mine]
        return found

    def _load(self, box: Box) -> None:
        """Read the pieces that are missing, neighbours together."""
        absent = [place for place, _, _ in self._meeting(box) if place not in self._pieces]
        if not absent:
            return
        low = np.min(absent, 0) * PIECE
        high = np.minimum((np.max(absent, 0) + 1) * PIECE, self.shape)
        labels = self._replay.read(tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True)))  # type: ignore[arg-type]
        for place in absent:
            start = np.array(place) * PIECE - low
            cut = tuple(slice(int(a), int(a) + n) for a, n in zip(start, PIECE, strict=True))
            self._pieces[place] = labels[cut].copy()

    def _piece(self, place: Place) -> np.ndarray:
        self._pieces.move_to_end(place)
        return self._pieces[place]

    def _let_go(self) -> None:
        """Forget the pieces that were not used for longest; those with changes stay until they are taken."""
        excess = len(self._pieces) - self._max_pieces
        for place in list(itertools.islice((p for p in self._pieces if p not in self._before), max(excess, 0))):
            del self._pieces[place]

    def _widen(self, place: Place, box: Box) -> None:
        low, high = ([getattr(side, end) for side in box] for end in ("start", "stop"))
        known = self._edited.get(place)
        if known is None:
            self._edited[place] = np.array([low, high])
        else:
            np.minimum(known[0], low, out=known[0])
            np.maximum(known[1], high, out=known[1])


def _split(key: Any, shape: Sequence[int]) -> tuple[Box, Any]:
    """The box that holds all that an index of NumPy's kind names, and that index within the box."""
    entries = list(key) if isinstance(key, tuple) else [key]
    if Ellipsis in [e for e in entries if e is Ellipsis]:
        at = next(i for i, e in enumerate(entries) if e is Ellipsis)
        entries[at : at + 1] = [slice(None)] * (len(shape) - len(entries) + 1)
    entries += [slice(None)] * (len(shape) - len(entries))
    if len(entries) != len(shape):
        raise IndexError(f"these labels have {len(shape)} axes, but got an index with {len(entries)}")
    box, within = [], []
    for entry, size in zip(entries, shape, strict=True):
        side, inner = _axis(entry, size)
        box.append(side)
        within.append(inner)
    return tuple(box), tuple(within)  # type: ignore[return-value]


def _axis(entry: Any, size: int) -> tuple[slice, Any]:
    if isinstance(entry, slice):
        chosen = range(size)[entry]
        if not chosen:
            return slice(0, 0), slice(0, 0)
        low, high = min(chosen[0], chosen[-1]), max(chosen[0], chosen[-1]) + 1
        stop = chosen[-1] - low + (1 if chosen.step > 0 else -1)
        return slice(low, high), slice(chosen[0] - low, stop if stop >= 0 else None, chosen.step)
    index = np.asarray(entry)
    if index.dtype == bool:
        raise IndexError("masks are not taken for single axes; give the indices of the voxels")
    if index.size == 0:
        return slice(0, 0), index.astype(np.intp)
    index = np.where(index < 0, index + size, index)
    low, high = int(index.min()), int(index.max())
    if low < 0 or high >= size:
        raise IndexError(f"an index must lie within [0, {size}), but got {low} to {high}")
    within = index - low
    return slice(low, high + 1), int(within) if within.ndim == 0 else within


def _bounding(mask: np.ndarray) -> Box:
    """The smallest box around what is True."""
    sides = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        where = np.flatnonzero(mask.any(others))
        sides.append(slice(int(where[0]), int(where[-1]) + 1))
    return tuple(sides)  # type: ignore[return-value]
