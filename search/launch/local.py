"""Workers on this machine: in the foreground they share its cores; in the background each may have a GPU."""

import os
import platform
import shlex
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from search.launch.request import Request
from search.lease import started

# -- in the foreground ---


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
    processes = [subprocess.Popen(Request(folder).command, env=worker_environment(threads)) for _ in range(n_workers)]
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


# -- in the background ---


def preview(request: Request) -> str:
    """The command lines."""
    return "\n".join(
        " ".join([*(f"{name}={value}" for name, value in _gpu(request, place).items()), shlex.join(request.command)])
        for place in range(request.n_workers)
    )


def submit(request: Request) -> list[str]:
    """Start workers that outlive this process; `host:number` of each."""
    threads = request.profile.cpus or max(1, (os.cpu_count() or 1) // request.n_workers)
    folder = request.folder / "jobs"
    folder.mkdir(exist_ok=True)
    jobs = []
    for place in range(request.n_workers):
        environment = {**worker_environment(threads), **_gpu(request, place)}
        with (folder / "local.log").open("ab") as log:
            process = subprocess.Popen(
                request.command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        jobs.append(f"{platform.node()}-{process.pid}-{started(process.pid)}")
    return jobs


def cancel(jobs: Sequence[str]) -> list[str]:
    """Ask workers of this machine to stop."""
    there = [job for job, _, _ in states(jobs)]
    for job in there:
        os.kill(int(job.rsplit("-", 2)[1]), signal.SIGTERM)
    return there


def states(jobs: Sequence[str]) -> list[tuple[str, str, str]]:
    """Those that run on this machine; what runs on others cannot be seen from here."""
    found = []
    for job in jobs:
        host, pid, begun = job.rsplit("-", 2)
        if host == platform.node() and str(started(int(pid))) == begun:
            found.append((job, "RUNNING", host))
    return found


def _gpu(request: Request, place: int) -> dict[str, str]:
    """Which GPU a worker may see: every worker has its own, as far as there are enough."""
    gpus = request.profile.gpus
    return {} if gpus is None else {"CUDA_VISIBLE_DEVICES": str(place % int(gpus.rpartition(":")[2]))}
