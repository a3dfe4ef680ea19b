"""Time that a person logs by hand while working in another program: start, pause, stop."""

import time
from collections.abc import Callable
from pathlib import Path

import genenet
from genenet.corrections.ledger import HAND, Event, Ledger, sessions_by_hand
from genenet.corrections.store import Corrections
from genenet.errors import InputError


def start(folder: Path | str, person: str, mode: str, number: int, *, wall: Callable[[], float] = time.time) -> None:
    """Time begins to run.

    Args:
        folder: Of corrections; made if there is none.
        person: Who works.
        mode: `manual`, segmenting from nothing, or `correct`.
        number: Which slice.
        wall: Seconds since 1970.

    Raises:
        InputError: This person's time runs already.
    """
    corrections = Corrections.create(folder)
    running = _running(corrections, person, mode)
    if running is not None:
        raise InputError(
            f"the time of {person} runs since {_clock(running.at)}, on slice {running.fields['slice']}; "
            "stop or pause it first"
        )
    with Ledger.append(corrections.ledger_path(person, mode), wall=wall) as ledger:
        ledger.write("open", person=person, mode=mode, tool=HAND, version=genenet.__version__)
        ledger.write("start", slice=number)


def pause(
    folder: Path | str,
    person: str,
    mode: str,
    *,
    number: int | None = None,
    wall: Callable[[], float] = time.time,
) -> tuple[int, float]:
    """Time stops; the slice is not done.

    Returns:
        The slice, and seconds since `start`.

    Raises:
        InputError: No time runs, or it runs on another slice than `number`.
    """
    return _end("pause", folder, person, mode, number, wall)


def stop(
    folder: Path | str,
    person: str,
    mode: str,
    *,
    number: int | None = None,
    wall: Callable[[], float] = time.time,
) -> tuple[int, float]:
    """Time stops, and the slice is done.

    Returns:
        The slice, and seconds since the last `start`.

    Raises:
        InputError: No time runs, or it runs on another slice than `number`.
    """
    return _end("stop", folder, person, mode, number, wall)


def _end(
    kind: str, folder: Path | str, person: str, mode: str, number: int | None, wall: Callable[[], float]
) -> tuple[int, float]:
    corrections = Corrections.open(folder)
    running = _running(corrections, person, mode)
    if running is None:
        others = [(p, m) for p, m, _ in corrections.ledgers() if _running(corrections, p, m) is not None]
        known = "; running are " + ", ".join(f"{p} ({m})" for p, m in others) if others else ""
        raise InputError(f"no time of {person} runs in mode {mode!r}{known}; `genenet correct start` begins it")
    on = int(running.fields["slice"])
    if number not in (None, on):
        raise InputError(
            f"the time of {person} runs on slice {on}, not on slice {number}; leave out --slice, or give {on}"
        )
    with Ledger.append(corrections.ledger_path(person, mode), session=running.session, wall=wall) as ledger:
        event = ledger.write(kind, slice=on)
        if kind == "stop":
            ledger.write("done", slice=on)
    return on, event.at - running.at


def _running(corrections: Corrections, person: str, mode: str) -> Event | None:
    """The event by which time that runs was begun by hand."""
    began, events = None, corrections.events(person, mode)
    by_hand = sessions_by_hand(events)
    for event in events:
        if event.session in by_hand:
            began = event if event.kind == "start" else None if event.kind in ("pause", "stop") else began
    return began


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
