"""Functions in processes of their own."""

import logging
import multiprocessing
import os
import sys

import pytest

import genenet as gn
from genenet.apart import run_apart


def add(a, b):
    logging.getLogger("genenet").info("adding %d", a)
    sys.stdout.write("not for scripts")
    return a + b, os.getpid()


def refuse():
    raise gn.InputError("not so")


def die():
    os._exit(3)


def test_what_it_gives_and_says(capfd):
    (total, pid), said = run_apart(add, 1, 2)
    assert total == 3 and pid != os.getpid()
    assert said == [(logging.INFO, "adding 1")]
    assert capfd.readouterr().out == ""


def test_what_it_refuses_is_refused_here():
    with pytest.raises(gn.InputError, match="not so"):
        run_apart(refuse)


def test_its_death_is_known():
    with pytest.raises(ChildProcessError, match="the process of die ended with 3"):
        run_apart(die)


def _tell(queue):
    queue.put(run_apart(add, 1, 2).value[0])


def test_a_worker_of_dask_may(tmp_path):
    """These are daemons, which may start no process by `multiprocessing`."""
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=_tell, args=(queue,), daemon=True)
    process.start()
    process.join()
    assert queue.get() == 3
