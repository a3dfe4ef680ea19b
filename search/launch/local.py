"""Workers on this machine: in the foreground they share its cores; in the background each may have a GPU."""

import math
import os
import platform
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from genenet.errors import InputError
from search.launch.request import JobState, Profile, Request
from search.lease import started

# -- in the foreground ---


def n_cores() -> int:
    """Cores that this process may use: a scheduler may have given it fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_environment(threads: int, share: int = 1) -> dict[str, str]:
    """The environment of a worker, for every backend.

    Args:
        threads: That it may use.
        share: Workers that share a GPU: none of them takes all of its memory.
    """
    names = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "MKL_NUM_THREADS")
    environment = {**os.environ, **{name: str(threads) for name in names}}
    if share > 1:
        fraction = math.floor(90 / share) / 100
        environment |= {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{fraction:.2f}"}
    return environment


def run_workers(folder: Path, n_workers: int, check: Callable[[], None] = lambda: None) -> None:
    """Run several workers here to the end of the budget; they share this process's cores, and its GPU if it has one.

    Args:
        folder: The study's.
        n_workers: How many.
        check: Called now and then; what it raises ends the workers, which leave their trials to others.

    Raises:
        RuntimeError: A worker ended badly; the others finished their work.
    """
    environment = worker_environment(max(1, n_cores() // n_workers), n_workers)
    command = Request(folder).command
    processes = [subprocess.Popen(command, env=environment) for _ in range(n_workers)]
    try:
        while any(process.poll() is None for process in processes):
            check()
            time.sleep(0.2)
    except BaseException:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
        raise
    codes = [process.returncode for process in processes]
    if any(codes):
        raise RuntimeError(f"workers ended with exit codes {codes}; `genenet search status {folder}` says more")


# -- in the background ---


def preview(request: Request) -> str:
    """The command lines."""
    _refuse_what_needs_a_scheduler(request)
    return "\n".join(
        " ".join([*(f"{name}={value}" for name, value in _gpu(request, place).items()), shlex.join(request.command)])
        for place in range(request.n_workers)
    )


def submit(request: Request) -> list[str]:
    """Start workers that outlive this process; `host-number-start` of each.

    Raises:
        InputError: Something is asked for that only a scheduler can give.
    """
    _refuse_what_needs_a_scheduler(request)
    threads = request.profile.cpus or max(1, n_cores() // request.n_workers)
    n_gpus = _n_gpus(request)
    per_gpu = 1 if not n_gpus else -(-request.n_workers // n_gpus)
    folder = request.folder / "jobs"
    folder.mkdir(exist_ok=True)
    jobs = []
    for place in range(request.n_workers):
        environment = {**worker_environment(threads, per_gpu), **_gpu(request, place)}
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
    there = [state.job for state in states(jobs)]
    for job in there:
        os.kill(int(job.rsplit("-", 2)[1]), signal.SIGTERM)
    return there


def states(jobs: Sequence[str]) -> list[JobState]:
    """Those that run on this machine; what runs on others cannot be seen from here."""
    found = []
    for job in jobs:
        host, pid, begun = job.rsplit("-", 2)
        if host == platform.node() and str(started(int(pid))) == begun:
            found.append(JobState(job, "RUNNING", host))
    return found


def _refuse_what_needs_a_scheduler(request: Request) -> None:
    default = Profile()
    names = ("partition", "account", "time_s", "memory", "options", "modules", "lines", "container", "spare")
    asked = [name for name in names if getattr(request.profile, name) != getattr(default, name)]
    if asked:
        raise InputError(f"workers of this machine have no `{asked[0].removesuffix('_s')}`; leave it out, or use Slurm")


def _n_gpus(request: Request) -> int:
    return 0 if request.profile.gpus is None else int(request.profile.gpus.rpartition(":")[2])


def _gpu(request: Request, place: int) -> dict[str, str]:
    """Which GPU a worker may see: its own as far as there are enough; several workers may have one in turns."""
    n_gpus = _n_gpus(request)
    return {"CUDA_VISIBLE_DEVICES": str(place % n_gpus)} if n_gpus else {}
