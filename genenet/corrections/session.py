"""A person at work on a volume: labels to edit, and a ledger of what was done when. Any viewer may stand before it."""

import collections
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import genenet
from genenet.corrections.activity import Stopwatch, work_by_slice
from genenet.corrections.changes import encode
from genenet.corrections.ledger import SYNC_S, Ledger
from genenet.corrections.overlay import MAX_BYTES, Overlay
from genenet.corrections.store import Corrections

# A person who looks without painting is known to be there by moving; that is written so often at most.
ACTIVE_S = 5.0


class Session:
    """One run of a viewer, by one person in one mode.

    Time runs from `start` to `pause`, and stops while the viewer is out of focus; how long a break may be and still
    count is for the analysis to say. Edits before `start` begin it.

    Attributes:
        corrections: The folder.
        person, mode: Who, and whether segmenting by hand from nothing.
        labels: What viewers show and edit.
        slice: The current one, along z.
        is_running: Whether time runs.
    """

    def __init__(
        self,
        corrections: Corrections,
        person: str,
        mode: str = "correct",
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """Open the ledger, and the labels as they were left.

        Args:
            corrections: The folder.
            person: Who works.
            mode: `correct` or `manual`.
            clock: Seconds that never jump.
            wall: Seconds since 1970.
            max_bytes: Labels in memory.

        Raises:
            InputError: This person has the volume open already, or the folder holds times only.
        """
        self.corrections, self.person, self.mode, self._clock = corrections, person, mode, clock
        path = corrections.ledger_path(person, mode)
        if corrections.shape is None:
            corrections.replay([], mode)
        self._ledger = Ledger.append(path, session=secrets.token_hex(6), clock=clock, wall=wall)
        try:
            events = corrections.events(person, mode)
            self._replay = corrections.replay(events, mode)
        except BaseException:
            self._ledger.close()
            raise
        self.labels = Overlay(self._replay, max_bytes=max_bytes)
        self.slice = 0
        self.is_running = False
        self._last = clock()
        self._watch = Stopwatch()
        self._seconds: collections.defaultdict[int, float] = collections.defaultdict(float)
        for work in work_by_slice(person, mode, events):
            self._seconds[work.slice] += work.seconds
        self._is_closed = self._is_partial = False
        self.done: set[int] = set()
        for event in events:
            if event.kind in ("done", "undone") and "slice" in event.fields:
                (self.done.add if event.kind == "done" else self.done.discard)(int(event.fields["slice"]))
        self._write(
            "open",
            person=person,
            mode=mode,
            segmentation=corrections.segmentation if mode == "correct" else None,
            networks=corrections.identity if mode == "correct" else None,
            blueprints=corrections.blueprints or None,
            version=genenet.__version__,
        )

    def seconds_on(self, number: int) -> float:
        """Work on a slice so far, in this session and before, as far as events tell."""
        return self._seconds[number]

    def start(self) -> None:
        """Let time run, on the current slice."""
        if not self.is_running:
            self.is_running = True
            self._write("start", slice=self.slice)

    def pause(self) -> None:
        """Stop the time."""
        self.keep()
        if self.is_running:
            self.is_running = False
            self._write("pause", slice=self.slice)

    def go_to(self, number: int) -> None:
        """Another slice is shown."""
        if number == self.slice:
            return
        self.keep()
        self.slice = int(number)
        if self.is_running:
            self._write("slice", slice=self.slice)

    def moved(self) -> None:
        """The person moves the mouse or the view: is there, though nothing is painted."""
        if self.is_running and self._clock() - self._last >= ACTIVE_S:
            self._write("active", slice=self.slice)

    def focus(self, *, gained: bool) -> None:
        """The viewer's window came to the front, or left it."""
        if self.is_running:
            self.keep()
            self._write("focus" if gained else "focus_lost", slice=self.slice)

    def keep(self, kind: str = "stroke", *, partial: bool = False) -> int:
        """Put what was changed since the last call into the ledger.

        Args:
            kind: `stroke`, `undo` or `redo`.
            partial: The stroke goes on; the next event is of the same one.

        Returns:
            How many voxels have another value now.
        """
        if self.labels.is_changed:
            self.start()
        changes, before, after = self.labels.take_changes()
        if not changes and (partial or not self._is_partial):
            return 0
        self._is_partial = partial
        entries = [encode(change) for change in changes]
        # Undoing may change another slice than the one that is shown.
        on = {int(change.start[0]) for change in changes if change.mask.shape[0] == 1}
        number = on.pop() if len(on) == 1 and kind != "stroke" else self.slice
        self.labels.add(entries)
        self._write(
            kind,
            slice=self.slice,
            of=number if number != self.slice else None,
            part=True if partial else None,
            voxels=len(after),
            before=_counts(before),
            after=_counts(after),
            changes=entries,
        )
        return len(after)

    def mark(self, *, done: bool, box: Sequence[Sequence[int]] | None = None) -> None:
        """The current slice, or a box of it, is as it should be; or not after all.

        Args:
            done: Which.
            box: `((first, end), ...)` for z, y and x; the whole slice if left out.
        """
        self.keep()
        if box is None:
            (self.done.add if done else self.done.discard)(self.slice)
        area = {"slice": self.slice} if box is None else {"box": [[int(a), int(b)] for a, b in box]}
        self._write("done" if done else "undone", **area)

    def sync(self) -> None:
        """Bring what was written to the disk, if that is not there for a second yet."""
        self._ledger.sync(after_s=SYNC_S)

    def note(self, text: str) -> None:
        """Keep what a person wants to say about the current slice."""
        if text.strip():
            self._write("note", slice=self.slice, text=text.strip())

    def close(self) -> None:
        """End the session; what was edited is kept. A second call does nothing."""
        if not self._is_closed:
            self.keep()
            self._is_closed = True
            self._write("close")
            self._ledger.close()

    def _write(self, kind: str, **fields: Any) -> None:
        event = self._ledger.write(kind, **fields)
        self._last = self._clock()
        seconds, number = self._watch.take(event)
        if number is not None:
            self._seconds[number] += seconds


def _counts(values: np.ndarray) -> dict[str, int]:
    """Voxels by value."""
    found, counts = np.unique(values, return_counts=True)
    return {str(value): int(count) for value, count in zip(found.tolist(), counts, strict=True)}
