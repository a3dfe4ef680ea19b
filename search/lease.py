"""Who works on a trial: leases in files, for processes on many machines that share nothing but a folder.

    attempts/0002.json       the attempt and its worker; its time of change is the heartbeat
    attempts/0002.end.json   how it ended
    attempts/0002/           what it writes meanwhile

Both files are made by linking a finished file to its name, which only one process can do, on NFS too. So no two
workers have the same attempt, and an attempt has one end: whoever takes over first ends it as lost, and a worker that
comes back to life afterwards cannot end it as done. Time is the file server's, by which alone heartbeats are compared.
"""

import contextlib
import dataclasses
import errno
import json
import logging
import os
import platform
import secrets
import threading
import time
from pathlib import Path
from typing import Any

from genenet.errors import InputError
from genenet.folder import read_json
from genenet.interrupts import Stopped

logger = logging.getLogger("genenet")


class LeaseLost(Stopped):
    """Another worker has the trial."""


# By which a training is continued, as `genenet.train` writes it; it names its arrays.
CHECKPOINT = "checkpoint.json"

# A heartbeat is due so often, in parts of the lease.
BEATS_PER_LEASE = 8


def create(path: Path, content: dict[str, Any]) -> bool:
    """Make a JSON file that nobody made before; False where somebody did."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    try:
        beside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        os.link(beside, path)
    except FileExistsError:
        # An NFS server may carry out a call whose answer was lost, and refuse its repetition.
        return beside.stat().st_nlink == 2
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS):
            raise
        return _create_without_links(path, beside)
    finally:
        beside.unlink(missing_ok=True)
    return True


def _create_without_links(path: Path, content: Path) -> bool:
    """The same for file systems that know no links: the name is taken first and filled in the next moment."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    os.replace(content, path)
    return True


def _read(path: Path) -> dict[str, Any]:
    """A record; nothing of one whose process was killed before it was filled in, as may be without links."""
    found: dict[str, Any] = read_json(path) if path.stat().st_size else {}
    return found


def server_time(folder: Path) -> float:
    """Seconds by the clock of the machine that keeps a folder; by this one's where nothing may be written there."""
    probe = folder / f".clock.{secrets.token_hex(6)}"
    try:
        probe.touch()
    except PermissionError:
        return time.time()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def this_worker() -> dict[str, Any]:
    """What tells this process from all others, for people and for `is_gone`."""
    job = {
        name: os.environ[variable]
        for name, variable in (
            ("job", "SLURM_ARRAY_JOB_ID"),
            ("task", "SLURM_ARRAY_TASK_ID"),
            ("restart", "SLURM_RESTART_COUNT"),
        )
        if variable in os.environ
    }
    return {"host": platform.node(), "pid": os.getpid(), **_process(os.getpid()), **job}


def started(pid: int) -> int | None:
    """When a process of this machine started, in ticks since the system did; None where there is none, or no /proc."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if stat[0] == "Z" else int(stat[19])


def _process(pid: int) -> dict[str, Any]:
    """On Linux, which process bears a number: numbers are given again, and containers count for themselves."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return {"started": started(pid), "boot": boot, "namespace": str(Path("/proc/self/ns/pid").readlink())}
    except OSError:
        return {}


def is_gone(worker: dict[str, Any]) -> bool:
    """Whether a worker's process is known to have ended; it can be known where it ran beside this one."""
    here = this_worker()
    if any(worker.get(name) != here.get(name) for name in ("host", "boot", "namespace")) or "boot" not in worker:
        return False
    return _process(int(worker["pid"])).get("started") != worker.get("started")


@dataclasses.dataclass(frozen=True)
class Attempt:
    """A turn of a worker at a trial.

    Attributes:
        folder: Of the trial.
        number: From 1.
    """

    folder: Path
    number: int

    @property
    def path(self) -> Path:
        """Its record."""
        return self.folder / "attempts" / f"{self.number:04d}.json"

    @property
    def work(self) -> Path:
        """Where it writes."""
        return self.path.with_suffix("")

    @property
    def end_path(self) -> Path:
        """How it ended."""
        return self.path.with_suffix(".end.json")

    @property
    def worker(self) -> dict[str, Any]:
        """Whose turn it is."""
        return _read(self.path)

    @property
    def ending(self) -> dict[str, Any] | None:
        """`how` it ended and what belongs to it; None while it goes on, or seems to."""
        return {"how": "lost", **_read(self.end_path)} if self.end_path.exists() else None

    @property
    def step(self) -> int | None:
        """How far its training came, by the last checkpoint; None where there is none."""
        try:
            return int(read_json(self.work / CHECKPOINT)["step"])
        except (InputError, KeyError):
            return None

    @property
    def worked_s(self) -> float:
        """Seconds from its beginning to its end, or to its last sign of life; clocks may differ by more than it is."""
        ending = self.ending
        knows = ending is not None and ending["how"] != "lost"  # who ended it as lost did so long afterwards
        with contextlib.suppress(FileNotFoundError):
            last = (self.end_path if knows else self.path).stat().st_mtime
            return max(last - float(self.worker.get("time", last)), 0.0)
        return 0.0

    def end(self, how: str, **details: Any) -> bool:
        """Say how it ended; False where somebody else did before."""
        return create(self.end_path, {"how": how, **details})

    def is_alive(self, lease_s: float, now: float | None = None) -> bool:
        """Whether its worker gave a sign of life not longer ago than a lease lasts; `now` is the server's time."""
        try:
            age = (server_time(self.path.parent) if now is None else now) - self.path.stat().st_mtime
            return age < lease_s and not is_gone(self.worker)
        except FileNotFoundError:
            return False


def attempts(folder: Path) -> list[Attempt]:
    """The attempts at a trial, first to last."""
    try:
        names = os.listdir(folder / "attempts")
    except FileNotFoundError:
        return []
    return [Attempt(folder, int(name[:4])) for name in sorted(names) if name[4:] == ".json" and name[:4].isdigit()]


class Lease:
    """An attempt that this process holds; a thread keeps it alive until the block ends.

    Args:
        attempt: Which.
        lease_s: How long others wait for a sign of life.

    Attributes:
        attempt: Which.
    """

    def __init__(self, attempt: Attempt, lease_s: float) -> None:
        self.attempt = attempt
        self._lease_s = lease_s
        self._is_lost = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"lease of {attempt.folder.name}", daemon=True)

    @classmethod
    def take(cls, folder: Path, number: int, lease_s: float) -> "Lease | None":
        """Take the next attempt at a trial; None where somebody else did."""
        attempt = Attempt(folder, number)
        attempt.work.mkdir(parents=True, exist_ok=True)
        record = {"attempt": number, "time": round(server_time(attempt.path.parent), 1), **this_worker()}
        return cls(attempt, lease_s) if create(attempt.path, record) else None

    def check(self) -> None:
        """Go on only if nobody else has the trial.

        Raises:
            LeaseLost: Somebody has: this process gave no sign of life for too long.
        """
        if self._is_lost:
            raise LeaseLost(f"{self.attempt.folder.name} was given to another worker")

    def _beat(self) -> None:
        while not self._over.wait(self._lease_s / BEATS_PER_LEASE):
            try:
                os.utime(self.attempt.path)
                self._is_lost = self._is_lost or self.attempt.end_path.exists()
            except FileNotFoundError:  # somebody removed the trial
                self._is_lost = True
            except OSError as error:  # a full disk or a server that is away; the lease ends if it lasts
                logger.warning("%s: no heartbeat: %s", self.attempt.path, error)

    def __enter__(self) -> "Lease":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.attempt.end("lost", step=self.attempt.step)  # nothing happens where its end is known
