"""Blocks done by other processes: on this machine, on a cluster's nodes, wherever Dask workers run (dask.distributed).

Blocks are tasks. A worker that dies costs the blocks it was working on, which others do again. Each worker loads the
networks once, and has two threads: while the networks work for one, the other reads the next block or writes the last.
"""

import collections
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
from typing import Any, NamedTuple

from genenet.errors import InputError
from genenet.memory import available_bytes, parse_bytes
from genenet.tiling import Box
from genenet.work import Done, Work, Worker

logger = logging.getLogger("genenet")

# Tasks that wait for each worker beside those it works on, and the least that are known to the scheduler at a time.
AHEAD_PER_WORKER, LEAST_AHEAD = 4, 16

# A block is given up when so many workers died of it.
MOST_DEATHS = 5

# Of a job, unless more is asked for.
JOB_MEMORY = "4GiB"


class JobScheduler(NamedTuple):
    """One whose jobs dask-jobqueue starts.

    Attributes:
        cluster: The class that does.
        command: By which jobs are handed in.
        cpus_variable: Where a job sees how many cores it has.
    """

    cluster: str
    command: str
    cpus_variable: str


SCHEDULERS = {
    "slurm": JobScheduler("SLURMCluster", "sbatch", "SLURM_CPUS_PER_TASK"),
    "pbs": JobScheduler("PBSCluster", "qsub", "NCPUS"),
    "sge": JobScheduler("SGECluster", "qsub", "NSLOTS"),
    "lsf": JobScheduler("LSFCluster", "bsub", "LSB_DJOB_NUMPROC"),
}


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


class Cluster(contextlib.AbstractContextManager["Cluster"]):
    """Processes that do blocks; they are started, or called, once they are needed, and end with the context.

    Args:
        where: `local`, processes on this machine, one GPU each where there are some; one of `SCHEDULERS`, for jobs; or
            the address of a running Dask scheduler, `tcp://host:8786`.
        n_workers: How many processes; of jobs the most, between one and which the number follows the work. Not for a
            running scheduler.
        jobs: For jobs: what dask-jobqueue's class takes, `queue`, `account`, `cores`, `memory`, `walltime`.

    Raises:
        InputError: A package or a command is missing, or `where` is none of these.
    """

    def __init__(self, where: str, n_workers: int | None = None, jobs: Mapping[str, Any] | None = None) -> None:
        if importlib.util.find_spec("distributed") is None:
            raise InputError("a cluster needs Dask: pip install 'genenet[cluster]'")
        if where not in ("local", *SCHEDULERS) and "://" not in where:
            known = ", ".join(("local", *SCHEDULERS))
            raise InputError(f"a cluster is {known} or the address of a scheduler, but got {where!r}")
        if "://" in where and n_workers is not None:
            raise InputError(f"the scheduler at {where} has its own workers; leave --workers out")
        if where in SCHEDULERS:
            if importlib.util.find_spec("dask_jobqueue") is None:
                raise InputError(f"a cluster of {where} jobs needs dask-jobqueue: pip install 'genenet[cluster]'")
            if shutil.which(command := SCHEDULERS[where].command) is None:
                raise InputError(
                    f"there is no `{command}` here; run this on a machine that has it, or use --cluster local"
                )
        self.where, self.n_workers, self.jobs = where, n_workers, dict(jobs or {})
        self._stack = contextlib.ExitStack()
        self._client: Any = None

    def __exit__(self, *_: object) -> None:
        self._client = None
        self._stack.close()

    @property
    def client(self) -> Any:
        """Dask's, with at least one worker.

        Raises:
            InputError: No scheduler answers.
        """
        if self._client is None:
            self._client = self._open()
        return self._client

    def _open(self) -> Any:
        import dask
        from distributed import Client

        enter = self._stack.enter_context
        enter(dask.config.set({"distributed.scheduler.allowed-failures": MOST_DEATHS}))
        address: Any = self.where
        if self.where == "local":
            address = enter(_local(self.n_workers or n_devices()))
        elif self.where in SCHEDULERS:
            address = enter(job_cluster(self.where, self.jobs))
            address.adapt(minimum=1, maximum=self.n_workers or 1)
        try:
            client = enter(Client(address, timeout=20))
        except (OSError, ValueError) as error:
            raise InputError(f"no Dask scheduler answers at {self.where}: {error}") from None
        logger.info("Dask's dashboard: %s", client.dashboard_link)
        if self.where != "local" and not _workers(client):
            logs = self.jobs.get("log_directory")
            logger.info("waiting for the first worker%s", f"; what jobs say is in {logs}" if logs else "")
        client.wait_for_workers(1)
        return client

    def ask(self, function: Callable[..., Any], *args: Any) -> Any:
        """What a worker answers, any of them.

        Raises:
            InputError: Workers died of it.
        """
        from distributed import KilledWorker

        try:
            return self.client.submit(function, *args, pure=False).result()
        except KilledWorker:
            raise InputError(
                "workers died again and again before the first block: they may need more memory than they have"
            ) from None

    def free_bytes(self) -> float:
        """The memory that every process may count on."""
        if self.where == "local":
            return available_bytes() / (self.n_workers or n_devices())
        if self.where in SCHEDULERS:
            return parse_bytes(str(self.jobs.get("memory", JOB_MEMORY)))
        free, workers = self.client.run(available_bytes), _workers(self.client)
        n_on = collections.Counter(workers[address]["host"] for address in free)
        limits = {address: workers[address]["memory_limit"] or math.inf for address in free}
        return min(min(each / n_on[workers[address]["host"]], limits[address]) for address, each in free.items())

    def run(self, work: Work, todo: Iterable[tuple[int, Box]]) -> Generator[tuple[int, Done]]:
        """Do blocks, in any order.

        Raises:
            InputError: Workers died again and again at one, or the cluster went away.
        """
        yield from _run(self.client, work, todo)


def _workers(client: Any) -> dict[str, Any]:
    return dict(client.scheduler_info(n_workers=-1)["workers"])


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
            n_workers = len(_workers(client))
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


def job_cluster(scheduler: str, jobs: Mapping[str, Any]) -> Any:
    """Dask-jobqueue's cluster, of jobs with one worker each."""
    import dask_jobqueue

    # Dask's nanny would give every library one thread.
    cpus = SCHEDULERS[scheduler].cpus_variable
    given = [f"export {name}=${{{cpus}:-1}}" for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")]
    prologue = [*given, *jobs.get("job_script_prologue", ())]
    # The scheduler watches the memory; Dask would pause a worker whose networks take most of it.
    extra = [*jobs.get("worker_extra_args", ()), "--memory-limit", "0"]
    asked = {**jobs, "worker_extra_args": extra, "job_script_prologue": prologue}
    make = getattr(dask_jobqueue, SCHEDULERS[scheduler].cluster)
    return make(processes=1, **{"cores": 2, "memory": JOB_MEMORY, **asked})
