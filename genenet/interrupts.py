"""Ctrl-C at a safe place: between steps or blocks, never inside a backend's native code, which may not survive it."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType

# A second Ctrl-C within this time is the same wish.
IMPATIENCE_S = 2.0


class Stopped(BaseException):
    """This process was told to stop: by its scheduler, say. What it did so far is kept.

    Attributes:
        signal: By which it was told; None if not by a signal.
    """

    def __init__(self, reason: str, number: signal.Signals | None = None) -> None:
        super().__init__(reason)
        self.signal = number


@contextlib.contextmanager
def stops_at_signals(reasons: Mapping[signal.Signals, str]) -> Iterator[Callable[[], None]]:
    """Hold signals back until the function given is called, which raises `Stopped` once one came.

    Args:
        reasons: What each means.

    Example:
        >>> with stops_at_signals({signal.SIGUSR1: "its time is up"}) as check:
        ...     check()
    """
    came: list[signal.Signals] = []
    before = {number: signal.signal(number, lambda got, _: came.append(signal.Signals(got))) for number in reasons}

    def check() -> None:
        if came:
            raise Stopped(reasons[came[0]], came[0])

    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def interrupts_between_steps() -> Iterator[Callable[[], None]]:
    """Hold back Ctrl-C until the function given is called, or the block ends.

    One that comes seconds after the first is not held back. In threads other than the main one, and where Ctrl-C is
    ignored or handled by somebody else, nothing changes.

    Example:
        >>> with interrupts_between_steps() as check:
        ...     for step in range(3):
        ...         check()  # raises KeyboardInterrupt if it was asked for
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        yield lambda: None
        return
    asked_at: float | None = None

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal asked_at
        if asked_at is None:
            asked_at = time.monotonic()
        elif time.monotonic() - asked_at > IMPATIENCE_S:
            raise KeyboardInterrupt

    def check() -> None:
        if asked_at is not None:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, remember)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)
    check()
