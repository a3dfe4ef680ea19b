"""Functions run by a process of their own, of Dask's workers too, which may not start any by `multiprocessing`."""

import logging
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

logger = logging.getLogger("genenet")

# What was logged: levels and messages.
Said = list[tuple[int, str]]


class Found(NamedTuple):
    """What a function gave.

    Attributes:
        value: That.
        said: What it logged meanwhile.
    """

    value: Any
    said: Said


def run_apart(function: Callable[..., Any], *args: Any) -> Found:
    """What a function gives in a process that ends: memory that it took, of a GPU too, is free again.

    Args:
        function: Of an importable module.
        *args: What it is called with.

    Raises:
        ChildProcessError: The process died, for lack of memory perhaps.
        Exception: What the function raises.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked, answer = Path(folder) / "asked", Path(folder) / "answer"
        asked.write_bytes(pickle.dumps((function, args)))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-m", "genenet.apart", str(asked), str(answer)]
        # What libraries print is no output of the program that asks.
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=2, check=False)
        if done.returncode:
            raise ChildProcessError(f"the process of {function.__name__} ended with {done.returncode}")
        found, error = pickle.loads(answer.read_bytes())  # noqa: S301 - written by the process above
    if error is not None:
        raise error
    return Found(*found)


class _Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.said: Said = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append((record.levelno, record.getMessage()))


def _main(asked: str, answer: str) -> None:
    kept = _Kept()
    logger.addHandler(kept)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    function, args = pickle.loads(Path(asked).read_bytes())  # noqa: S301 - written by the process that started this one
    found: tuple[Any, Exception | None]
    try:
        found = (function(*args), kept.said), None
    except Exception as error:
        found = None, error
    Path(answer).write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    _main(*sys.argv[1:])
