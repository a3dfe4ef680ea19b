"""How long a person worked on what, from a ledger: breaks are cut here, and not when they are recorded."""

import collections
import dataclasses
from collections.abc import Iterator, Sequence

from genenet.corrections.ledger import EDITS, HAND, Event

# A pause in the log counts up to so long: by then somebody who is still there has moved the mouse.
IDLE_S = 60.0

# After these, and until one of the others, time does not run.
STARTS, STOPS = ("start", "focus"), ("pause", "focus_lost", "stop", "close")


@dataclasses.dataclass
class SliceWork:
    """What one person did on one slice in one mode.

    Attributes:
        person, mode, slice: Who, how and where.
        seconds: Of work, without breaks.
        is_done: Whether it was marked as done.
        finished_at: When it was last worked on, seconds since 1970.
        n_strokes: Edits, without those undone.
        n_voxels: Voxels that these gave another value, counted as often as that happened.
        class_seconds: Seconds before edits by the class that was painted most; what remains was looking.
    """

    person: str
    mode: str
    slice: int
    seconds: float = 0.0
    is_done: bool = False
    finished_at: float = 0.0
    n_strokes: int = 0
    n_voxels: int = 0
    class_seconds: dict[int, float] = dataclasses.field(default_factory=lambda: collections.defaultdict(float))


def work_by_slice(person: str, mode: str, events: Sequence[Event], idle_s: float = IDLE_S) -> list[SliceWork]:
    """Work on every slice, in the order in which slices were begun.

    Args:
        person: Whose ledger it is.
        mode: Which of that person's.
        events: All of it.
        idle_s: The longest time between two events that counts in full; a longer one counts as this. What a person
            timed by hand, with `genenet correct start` and `stop`, is not cut.
    """
    found: dict[int, SliceWork] = {}

    def at(number: int) -> SliceWork:
        return found.setdefault(number, SliceWork(person, mode, number))

    for event, seconds, number in timed(events, idle_s):
        if number is None:
            continue
        if seconds:
            at(number).seconds += seconds
        if event.kind in EDITS:
            here, sign = at(int(event.fields.get("of", number))), -1 if event.kind == "undo" else 1
            here.n_strokes += 0 if event.fields.get("part") else sign
            here.n_voxels += sign * int(event.fields["voxels"])
            if event.fields["after"]:
                painted = max(event.fields["after"].items(), key=lambda pair: pair[1])[0]
                here.class_seconds[int(painted)] += seconds
        if event.kind in ("done", "undone") and "box" not in event.fields:
            at(number).is_done = event.kind == "done"
        if number in found:
            found[number].finished_at = event.at
    return list(found.values())


class Stopwatch:
    """Counts the work of one session, event by event."""

    def __init__(self, idle_s: float = IDLE_S) -> None:
        self._idle_s = idle_s
        self._before: Event | None = None
        self._runs = self._by_hand = False
        self._slice: int | None = None

    def take(self, event: Event) -> tuple[float, int | None]:
        """The seconds of work that led to the next event, and on which slice; None before any."""
        seconds = 0.0
        if self._before is not None and self._runs:
            if self._by_hand:
                seconds = event.at - self._before.at
            else:
                seconds = min(event.clock - self._before.clock, self._idle_s)
        before = self._slice
        self._slice = int(event.fields["slice"]) if "slice" in event.fields else before
        self._by_hand = self._by_hand or event.fields.get("tool") == HAND
        self._runs = event.kind in STARTS or (self._runs and event.kind not in STOPS)
        self._before = event
        # The time until another slice was shown is the one's before.
        return max(seconds, 0.0), before if event.kind == "slice" else self._slice


def timed(events: Sequence[Event], idle_s: float = IDLE_S) -> Iterator[tuple[Event, float, int | None]]:
    """Every event, session by session, with the seconds of work that led to it and the slice of that work."""
    watches: dict[str, Stopwatch] = {}
    for event in _in_order(events):
        watch = watches.setdefault(event.session, Stopwatch(idle_s))
        yield event, *watch.take(event)


def _in_order(events: Sequence[Event]) -> list[Event]:
    """Sessions one after the other, by first appearance."""
    numbers: dict[str, int] = {}
    for event in events:
        numbers.setdefault(event.session, len(numbers))
    return sorted(events, key=lambda event: numbers[event.session])
