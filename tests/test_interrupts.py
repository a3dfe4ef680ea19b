"""Ctrl-C is held back until a safe place, once."""

import signal
import threading

import pytest
from telling import tell_oneself

from genenet.interrupts import interrupts_between_steps


@pytest.fixture(autouse=True)
def default_handler():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press():
    tell_oneself(signal.SIGINT)


def test_it_waits_for_the_check():
    reached = []
    with pytest.raises(KeyboardInterrupt), interrupts_between_steps() as check:
        press()
        reached.append("after the key")
        check()
        reached.append("after the check")
    assert reached == ["after the key"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_it_waits_for_the_end_where_nobody_checks():
    reached = []
    with pytest.raises(KeyboardInterrupt), interrupts_between_steps():
        press()
        reached.append("the end")
    assert reached == ["the end"]


def test_a_second_one_some_time_later_is_not_held_back(monkeypatch):
    with pytest.raises(KeyboardInterrupt), interrupts_between_steps():
        press()
        press()
        monkeypatch.setattr("genenet.interrupts.IMPATIENCE_S", 0)
        press()
        raise AssertionError("the second one was held back")


def test_other_handlers_and_threads_are_left_alone():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupts_between_steps() as check:
        press()
        check()
    seen = []

    def run():
        with interrupts_between_steps() as check:
            check()
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_IGN]
