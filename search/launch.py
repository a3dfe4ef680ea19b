"""Start workers: on this machine, as processes that share its cores."""

import os
import subprocess
import sys
from pathlib import Path

# A launcher starts workers on a study's folder and returns when they ended.


def worker_command(folder: Path) -> list[str]:
    """The command line of one worker."""
    return [sys.executable, "-m", "genenet", "search", "worker", str(folder)]


def worker_environment(threads: int) -> dict[str, str]:
    """The environment of a worker that may use so many threads, for every backend."""
    names = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "MKL_NUM_THREADS")
    return {**os.environ, **{name: str(threads) for name in names}}


def run_workers(folder: Path, n_workers: int) -> None:
    """Run several local workers to the end of the budget.

    Raises:
        RuntimeError: A worker ended badly; the others finished their work.
    """
    threads = max(1, (os.cpu_count() or 1) // n_workers)
    processes = [subprocess.Popen(worker_command(folder), env=worker_environment(threads)) for _ in range(n_workers)]
    try:
        codes = [process.wait() for process in processes]
    except BaseException:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
        raise
    if any(codes):
        raise RuntimeError(f"workers ended with exit codes {codes}; `genenet search status {folder}` says more")
