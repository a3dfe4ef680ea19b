"""Ctrl-C at a safe place: between steps or blocks, never inside a backend's native code, which may not survive it."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def interrupts_between_steps() -> Iterator[Callable[[], None]]:
    """Hold back Ctrl-C until the function given is called, or the block ends; a second Ctrl-C is not held back.

    In threads other than the main one, and where Ctrl-C is ignored or handled by somebody else, nothing changes.

    Example:
        >>> with interrupts_between_steps() as check:
        ...     for step in range(3):
        ...         check()  # raises KeyboardInterrupt if it was asked for
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        yield lambda: None
        return
    asked = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    def check() -> None:
        if asked:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, remember)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)
    check()
