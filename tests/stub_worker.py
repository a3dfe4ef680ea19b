"""A worker whose networks cost nothing and have known scores: `python tests/stub_worker.py STUDY [SECONDS]`."""

import contextlib
import os
import shutil
import sys
import time

from genenet.interrupts import Stopped
from search.study import Study
from search.worker import run_worker


def score(study, trial, check=None):
    """As if the score followed from the blueprint alone."""
    net = trial.blueprint
    return {"adjusted_rand": net.n_features / 10 - abs(net.log10_learning_rate + 2.5), "steps": 1, "seconds": 0.0}


def main(folder, seconds=0.2):
    def slow_score(study, trial, check):
        for _ in range(10):
            time.sleep(seconds / 10)
            check()
        if "STUB_NETWORK" in os.environ:  # what came out, for tests that look
            shutil.copytree(os.environ["STUB_NETWORK"], trial.attempts[-1].work / "network", dirs_exist_ok=True)
        return score(study, trial)

    with contextlib.suppress(Stopped):
        run_worker(Study.open(folder), slow_score)


if __name__ == "__main__":
    main(sys.argv[1], *(float(text) for text in sys.argv[2:]))
