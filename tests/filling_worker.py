"""A worker on a small disk: `python tests/filling_worker.py STUDY`; the third trial fills it, and writes on."""

import logging
import os
import sys
import time
from pathlib import Path

from stub_worker import score

from search.study import Study
from search.worker import work


def fill(study, trial, check):
    work_folder = trial.attempts[-1].work
    (work_folder / "network").mkdir(exist_ok=True)
    if trial.number == 2 and len(trial.attempts) == 1:
        with (study.folder.parent / "full").open("wb") as stream:
            try:
                while True:
                    stream.write(os.urandom(2**16))
                    stream.flush()
            except OSError:
                pass
    time.sleep(0.1)
    with (work_folder / "network" / "weights").open("wb") as stream:
        stream.write(bytes(2**16))
    return score(study, trial)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    work(Study.open(Path(sys.argv[1])), fill)
