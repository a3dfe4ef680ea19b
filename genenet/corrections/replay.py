"""Corrected labels: a segmentation, and the edits of a ledger on top, read box by box."""

import collections
from collections.abc import Iterable, Sequence

import numpy as np

from genenet.corrections.changes import Change, decode
from genenet.corrections.ledger import EDITS, Event
from genenet.formats.boxes import Box
from genenet.volume import Volume

# Edits that were used last stay decoded, up to so many voxels.
DECODED_VOXELS = 2**26


class Replay:
    """Labels as they are after some edits; more may be added.

    Attributes:
        shape: `(z, y, x)`.
        dtype: Of the labels.
    """

    def __init__(self, base: Volume | None, shape: Sequence[int], dtype: np.dtype) -> None:
        """Edits come on top of `base`, or of zeros where it is None."""
        self.shape: tuple[int, int, int] = (shape[0], shape[1], shape[2])
        self.dtype = dtype
        self._base = base
        self._entries: list[dict] = []
        self._bounds = np.empty((64, 2, 3), np.int64)
        self._n_decoded = 0
        self._decoded: collections.OrderedDict[int, Change] = collections.OrderedDict()

    def add(self, entries: Iterable[dict]) -> None:
        """Take edits, as `changes.encode` gives them, in their order."""
        for entry in entries:
            n = len(self._entries)
            if n == len(self._bounds):
                self._bounds = np.concatenate([self._bounds, np.empty_like(self._bounds)])
            self._bounds[n, 0] = entry["start"]
            self._bounds[n, 1] = self._bounds[n, 0] + entry["shape"]
            self._entries.append(entry)

    def add_events(self, events: Iterable[Event]) -> None:
        """Take the edits among some events."""
        for event in events:
            if event.kind in EDITS:
                self.add(event.fields["changes"])

    def read(self, box: Box) -> np.ndarray:
        """Labels in a box of the volume, `(dz, dy, dx)`, an array of one's own."""
        shape = tuple(side.stop - side.start for side in box)
        found = np.zeros(shape, self.dtype) if self._base is None else np.array(self._base.read(box), self.dtype)
        start = [side.start for side in box]
        for number in self._within(box):
            self._change(number).put(found, start)
        return found

    def touched(self, box: Box) -> np.ndarray:
        """Which voxels of a box were ever edited, `(dz, dy, dx)`, bool."""
        found = np.zeros(tuple(side.stop - side.start for side in box), bool)
        start = [side.start for side in box]
        for number in self._within(box):
            change = self._change(number)
            Change(change.start, change.mask, np.ones(len(change.values), bool)).put(found, start)
        return found

    def bounds(self) -> np.ndarray:
        """First voxel and end of every edit's box, `(edits, 2, 3)`."""
        return self._bounds[: len(self._entries)]

    def _within(self, box: Box) -> list[int]:
        """Numbers of the edits whose boxes meet a box, in their order."""
        bounds = self.bounds()
        starts, stops = (np.array([getattr(side, end) for side in box]) for end in ("start", "stop"))
        return np.flatnonzero(((bounds[:, 0] < stops) & (bounds[:, 1] > starts)).all(-1)).tolist()

    def _change(self, number: int) -> Change:
        if number not in self._decoded:
            self._decoded[number] = decode(self._entries[number])
            self._n_decoded += self._decoded[number].mask.size
            while len(self._decoded) > 1 and self._n_decoded > DECODED_VOXELS:
                self._n_decoded -= self._decoded.popitem(last=False)[1].mask.size
        self._decoded.move_to_end(number)
        return self._decoded[number]
