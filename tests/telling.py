"""Signals as a test's own process gets them; real ones go to programs of their own (`test_cli.py`, `test_slurm.py`).

Sent for real in the midst of all tests, SIGUSR1 once ended the process of pytest, and with it all tests to come,
though a handler was there. Alone, or after the files that had run before it, it never did: why is not known.
"""

import signal


def tell_oneself(number: signal.Signals) -> None:
    """Do what Python does when a signal comes, by the handler that is there."""
    handler = signal.getsignal(number)
    assert handler is not signal.SIG_DFL, f"nobody listens to {number.name}"
    if callable(handler):
        handler(number, None)
