"""The ledger: an append-only file of events, one line of JSON each, by one person in one mode.

A session is one run of a program. Its first event says who, on what and in which mode; every event has the wall time
(`at`, UTC) and the seconds of a clock that never jumps (`clock`), which count within a session.

    {"event": "open", "at": "2026-11-22T09:00:00.000Z", "clock": 812.4, "session": "5f0c...", "person": "anna", ...}
    {"event": "slice", "at": ..., "clock": 813.0, "slice": 12}
    {"event": "stroke", "at": ..., "clock": 815.2, "slice": 12, "voxels": 431, "before": {"1": 431},
     "after": {"2": 431}, "changes": [{"start": [12, 40, 77], "shape": [1, 25, 25], "mask": "...", "values": 2}]}
"""

import dataclasses
import datetime
import errno
import json
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Self

import filelock

from genenet.errors import InputError
from genenet.formats.boxes import Box

# What changes voxels, by which the labels are made again.
EDITS = ("stroke", "undo", "redo")

# The events that a ledger may hold.
EVENTS = (
    "open",
    "start",
    "slice",
    "active",
    *EDITS,
    "pause",
    "focus_lost",
    "focus",
    "done",
    "undone",
    "note",
    "stop",
    "close",
)

# What the first event of a session says for `tool` whose time is logged by hand.
HAND = "hand"

# Events reach the disk after at most so many seconds; the operating system has them at once.
SYNC_S = 1.0


@dataclasses.dataclass(frozen=True)
class Event:
    """A line of a ledger.

    Attributes:
        kind: One of `EVENTS`.
        at: Wall time, seconds since 1970.
        clock: Seconds of a clock that never jumps; two events of one session may be compared.
        session: Which run of a program it is of.
        fields: What else the line says.
    """

    kind: str
    at: float
    clock: float
    session: str
    fields: dict[str, Any]

    def area(self, shape: Sequence[int]) -> Box:
        """What a `done` or `undone` is about: its box, or its whole slice of a volume of that shape."""
        if "box" in self.fields:
            z, y, x = (slice(int(first), int(end)) for first, end in self.fields["box"])
            return z, y, x
        number = int(self.fields["slice"])
        return slice(number, number + 1), slice(0, shape[1]), slice(0, shape[2])


def sessions_by_hand(events: Iterable[Event]) -> set[str]:
    """Sessions whose time a person logged by hand, working in another program."""
    return {event.session for event in events if event.fields.get("tool") == HAND}


class Ledger:
    """A ledger that this process writes; no other may meanwhile.

    Attributes:
        path: The file.
        session: The run of a program that events are written for.
    """

    def __init__(self, path: Path, session: str, *, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self.path, self.session, self._clock, self._wall = path, session, clock, wall
        self._lock = filelock.FileLock(f"{path}.lock")
        self._stream: BinaryIO | None = None
        self._synced, self._is_synced, self._unwritten = clock(), True, b""

    @classmethod
    def append(
        cls,
        path: Path,
        *,
        session: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> Self:
        """Open a ledger to add to it.

        Args:
            path: The file; it is made if there is none.
            session: Go on with a session; a new one if left out.
            clock: Seconds that never jump.
            wall: Seconds since 1970.

        Raises:
            InputError: Another program writes it.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        found = cls(path, session or secrets.token_hex(6), clock=clock, wall=wall)
        try:
            found._lock.acquire(timeout=0)
        except filelock.Timeout:
            raise InputError(f"another program writes {path}; close it, or take another --person") from None
        stream = found._stream = path.open("ab", buffering=0)
        if stream.tell() and _last_byte(path) != b"\n":
            stream.write(b"\n")  # a line that a crash cut off stays by itself
        return found

    def write(self, kind: str, **fields: Any) -> Event:
        """Add an event; what is None is left out."""
        if kind not in EVENTS:
            raise ValueError(f"an event is one of {', '.join(EVENTS)}, but got {kind!r}")
        event = Event(kind, self._wall(), round(self._clock(), 3), self.session, _said(fields))
        stamp = datetime.datetime.fromtimestamp(event.at, datetime.UTC).isoformat(timespec="milliseconds")
        line = {"event": kind, "at": stamp.replace("+00:00", "Z"), "clock": event.clock, "session": self.session}
        text = json.dumps({**line, **event.fields}).encode() + b"\n"
        self._unwritten += text
        self._append()
        self._is_synced = False
        self.sync(after_s=SYNC_S)
        return event

    def _append(self) -> None:
        """Add what is not yet in the file, whole or not at all; what a full disk refuses is tried again."""
        stream = self._opened()
        whole = os.fstat(stream.fileno()).st_size
        try:
            if stream.write(self._unwritten) != len(self._unwritten):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        except OSError:
            os.ftruncate(stream.fileno(), whole)
            raise
        self._unwritten = b""

    def sync(self, after_s: float = 0.0) -> None:
        """Bring everything to the disk, unless that was done less than so many seconds ago."""
        if self._unwritten:
            self._append()
        if not self._is_synced and self._clock() - self._synced >= after_s:
            os.fsync(self._opened().fileno())
            self._is_synced, self._synced = True, self._clock()

    def close(self) -> None:
        """Let others write; a second call does nothing."""
        if self._stream is not None:
            self.sync()
            self._stream.close()
            self._stream = None
            self._lock.release()

    def _opened(self) -> BinaryIO:
        if self._stream is None:
            raise ValueError(f"{self.path} is closed")
        return self._stream

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_ledger(path: Path) -> list[Event]:
    """All events of a ledger, in the order in which they were written.

    A line that a crash cut off is left out.

    Raises:
        InputError: There is no such file, or another line is damaged.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        raise InputError(f"there is no ledger {path}") from None
    return list(_events(path, lines))


def _events(path: Path, lines: list[bytes]) -> Iterator[Event]:
    for number, line in enumerate(lines):
        if not line:
            continue
        try:
            yield _parse(line)
        except (ValueError, KeyError, TypeError):
            if not _was_cut_off(lines, number):
                raise InputError(
                    f"line {number + 1} of {path} is damaged; put the file back from a copy, or remove the line"
                ) from None


def _was_cut_off(lines: list[bytes], number: int) -> bool:
    """Whether a line is the last one, or the last before a program was started again."""
    after = next((line for line in lines[number + 1 :] if line), None)
    return after is None or b'"event": "open"' in after


def _parse(line: bytes) -> Event:
    entry = json.loads(line)
    at = datetime.datetime.fromisoformat(entry.pop("at")).timestamp()
    kind, clock, session = str(entry.pop("event")), float(entry.pop("clock")), str(entry.pop("session"))
    if kind not in EVENTS:
        raise ValueError(kind)
    return Event(kind, at, clock, session, entry)


def _said(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1)
