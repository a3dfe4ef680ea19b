"""Blocks done by other processes: on this machine, on a cluster's nodes, wherever Dask workers run (dask.distributed).

Blocks are tasks. A worker that dies costs the blocks it was working on, which others do again. Each worker loads the
networks once, and has two threads: while the networks work for one, the other reads the next block or writes the last.
"""

import contextlib
import importlib.util
import itertools
import logging
import math
import os
import shutil
import subprocess
import threading
import uuid
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any

from genenet.errors import InputError
from genenet.tiling import Box
from genenet.work import Done, Work, Worker

logger = logging.getLogger("genenet")

# Tasks that wait for each worker beside those it works on, and the least that are known to the scheduler at a time.
AHEAD_PER_WORKER, LEAST_AHEAD = 4, 16

# A block is given up when so many workers died of it.
MOST_DEATHS = 5


class Blocks:
    """What every worker, present or to come, is given: the work, and a place for what it loads.

    Attributes:
        name: Unlike that of any other run, which may use the same workers.
    """

    def __init__(self, name: str, work: Work) -> None:
        self.name, self.work = name, work

    def setup(self, worker: Any) -> None:
        """Nothing heavy: the worker could not answer its scheduler meanwhile."""
        self.loading, self.networks = threading.Lock(), threading.Lock()
        self.worker: Worker | None = None

    def teardown(self, worker: Any) -> None:
        """Let go of the files."""
        if self.worker is not None:
            self.worker.close()

    def do(self, box: Box) -> Done:
        """One block."""
        with self.loading:
            if self.worker is None:
                self.worker = Worker(self.work)
        return self.worker.do(box, self.networks)


def do_block(name: str, box: Box) -> Done:
    """A task."""
    from distributed import get_worker

    blocks: Any = get_worker().plugins[name]
    return blocks.do(box)  # type: ignore[no-any-return]


def runner(
    where: str, n_workers: int | None = None, jobs: Mapping[str, Any] | None = None
) -> Callable[[Work, Iterable[tuple[int, Box]]], Generator[tuple[int, Done]]]:
    """Something that does blocks on a cluster, which begins with the first of them and ends with the last.

    Args:
        where: `local`, processes on this machine, one GPU each where there are some; `slurm`; or the address of a
            running scheduler, `tcp://host:8786`.
        n_workers: How many processes; on Slurm the most, between one and which the number follows the work. Not for a
            running scheduler.
        jobs: For `slurm`: what `dask_jobqueue.SLURMCluster` takes, `queue`, `account`, `cores`, `memory`, `walltime`.

    Raises:
        InputError: A package is missing, or `where` is none of these. Later, that a scheduler gives no answer.
    """
    if importlib.util.find_spec("distributed") is None:
        raise InputError("a cluster needs Dask: pip install 'genenet[cluster]'")
    if where not in ("local", "slurm") and "://" not in where:
        raise InputError(f"a cluster is local, slurm or the address of a scheduler, but got {where!r}")
    if "://" in where and n_workers is not None:
        raise InputError(f"the scheduler at {where} has its own workers; leave --workers out")
    if where == "slurm" and importlib.util.find_spec("dask_jobqueue") is None:
        raise InputError("a cluster of Slurm jobs needs dask-jobqueue: pip install 'genenet[cluster]'")
    if where == "slurm" and shutil.which("sbatch") is None:
        raise InputError("there is no `sbatch` here; run this on a machine that has Slurm, or use --cluster local")

    def run(work: Work, todo: Iterable[tuple[int, Box]]) -> Generator[tuple[int, Done]]:
        import dask
        from distributed import Client

        with contextlib.ExitStack() as stack:
            stack.enter_context(dask.config.set({"distributed.scheduler.allowed-failures": MOST_DEATHS}))
            address: Any = where
            if where == "local":
                address = stack.enter_context(_local(n_workers or n_devices()))
            elif where == "slurm":
                address = stack.enter_context(_slurm(n_workers or 1, jobs or {}))
            try:
                client = stack.enter_context(Client(address, timeout=20))
            except (OSError, ValueError) as error:
                raise InputError(f"no Dask scheduler answers at {where}: {error}") from None
            logger.info("Dask's dashboard: %s", client.dashboard_link)
            yield from _run(client, work, todo)

    return run


def _run(client: Any, work: Work, todo: Iterable[tuple[int, Box]]) -> Generator[tuple[int, Done]]:
    from distributed import CancelledError, KilledWorker, WorkerPlugin, as_completed

    name = f"genenet-{uuid.uuid4().hex}"
    # Dask asks for its own class; it is imported late, so the two are joined here.
    plugin = type("GenenetBlocks", (Blocks, WorkerPlugin), {})(name, work)
    client.register_plugin(plugin, name=name)
    waiting = iter(todo)
    boxes: dict[str, tuple[int, Box]] = {}

    def submit(n_tasks: int) -> list[Any]:
        futures = []
        for index, box in itertools.islice(waiting, max(n_tasks, 0)):
            future = client.submit(do_block, name, box, key=f"{name}-{index}", pure=False)
            boxes[future.key] = index, box
            futures.append(future)
        return futures

    finished = as_completed(submit(LEAST_AHEAD))
    try:
        for future in finished:
            index, box = boxes.pop(future.key)
            try:
                done = future.result()
            except KilledWorker:
                raise InputError(
                    f"workers died again and again at block {_place(box)}: they may need more memory than they have; "
                    "ask for smaller blocks with --memory"
                ) from None
            except CancelledError:
                raise InputError("the Dask cluster went away; start again to do what is missing") from None
            yield index, done
            n_workers = len(client.scheduler_info(n_workers=-1)["workers"])
            finished.update(submit(max(LEAST_AHEAD, n_workers * AHEAD_PER_WORKER) - len(boxes)))
    finally:
        with contextlib.suppress(Exception):  # the cluster may be gone
            client.cancel(list(finished.futures))
            client.unregister_worker_plugin(name)


def _place(box: Box) -> str:
    return ", ".join(f"{axis} {side.start}-{side.stop - 1}" for axis, side in zip("zyx", box, strict=True))


def n_devices() -> int:
    """GPUs, or 1 where there is none: a CPU is used whole by one process."""
    return len(gpus()) or 1


def gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES names, else what NVIDIA's driver lists."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [each for each in named.split(",") if each and each != "-1"]
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    listed = subprocess.run([tool, "--list-gpus"], capture_output=True, text=True, check=False, timeout=60)
    return [str(number) for number in range(len(listed.stdout.splitlines()))] if listed.returncode == 0 else []


def n_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _local(n_workers: int) -> Any:
    from distributed import Nanny, Scheduler, SpecCluster

    threads = str(math.ceil(n_cores() / n_workers))
    devices = gpus()
    workers = {}
    for number in range(n_workers):
        env = {"OMP_NUM_THREADS": threads, "TF_NUM_INTRAOP_THREADS": threads, "TF_NUM_INTEROP_THREADS": "1"}
        if devices:
            env["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]
        workers[number] = {"cls": Nanny, "options": {"nthreads": 2, "memory_limit": 0, "env": env}}
    scheduler = {"cls": Scheduler, "options": {"dashboard_address": "127.0.0.1:0", "host": "127.0.0.1"}}
    return SpecCluster(scheduler=scheduler, workers=workers, name="genenet", silence_logs=logging.ERROR)


def _slurm(n_workers: int, jobs: Mapping[str, Any]) -> Any:
    from dask_jobqueue import SLURMCluster

    # Dask's nanny would give every library one thread.
    given = [f"export {name}=${{SLURM_CPUS_PER_TASK:-1}}" for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")]
    prologue = [*given, *jobs.get("job_script_prologue", ())]
    # Slurm watches the memory; Dask would pause a worker whose networks take most of it.
    extra = [*jobs.get("worker_extra_args", ()), "--memory-limit", "0"]
    asked = {**jobs, "worker_extra_args": extra, "job_script_prologue": prologue}
    cluster = SLURMCluster(processes=1, **{"cores": 2, "memory": "4GiB", **asked})
    cluster.adapt(minimum=1, maximum=n_workers)
    return cluster
