"""Start workers somewhere. A worker is only `genenet search worker STUDY`; whoever can run that is a launcher.

A launcher is a module with four functions, and a new one (SGE, LSF, Kubernetes) is one file beside these and one name
in `LAUNCHERS`:

    preview(request)    what would be run, as text
    submit(request)     start the workers; the ids of their jobs
    cancel(jobs)        end those that are not over, and say which; their workers leave a checkpoint behind
    states(jobs)        what became of jobs: lines of id, state, place; none for jobs that are over

Launchers know nothing of trials. When all jobs are over, the study may be done or not: its folder knows.
"""

import importlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from genenet.errors import InputError
from genenet.folder import read_json, write_json
from genenet.wording import known_instead
from search.launch.local import run_workers
from search.launch.request import JobState, Profile, Request, read_profile

__all__ = ["JobState", "Profile", "Request", "cancel", "preview", "read_profile", "run_workers", "states", "submit"]

LAUNCHERS = {"local": "search.launch.local", "slurm": "search.launch.slurm"}


class Launcher(Protocol):
    """What a launcher's module has."""

    def preview(self, request: Request) -> str: ...

    def submit(self, request: Request) -> list[str]: ...

    def cancel(self, jobs: Sequence[str]) -> list[str]: ...

    def states(self, jobs: Sequence[str]) -> list[JobState]: ...


def launcher(name: str) -> Launcher:
    """A launcher by name.

    Raises:
        InputError: An unknown name.
    """
    if name not in LAUNCHERS:
        raise InputError(f"there is no launcher {name!r}; {known_instead(name, LAUNCHERS)}")
    module: Launcher = importlib.import_module(LAUNCHERS[name])
    return module


def preview(name: str, request: Request) -> str:
    """What a launcher would run."""
    return launcher(name).preview(request)


def submit(name: str, request: Request) -> list[str]:
    """Start workers, and note their jobs in the study's folder.

    Raises:
        InputError: The launcher cannot be used here, or refuses what is asked for.
    """
    jobs = launcher(name).submit(request)
    for job in jobs:
        entry = {"launcher": name, "job": job, "workers": request.n_workers, "time": round(time.time(), 1)}
        write_json(request.folder / "jobs" / f"{job}.json", entry)
    return jobs


def _jobs(folder: Path) -> dict[str, list[str]]:
    """Jobs that were submitted, by launcher."""
    found: dict[str, list[str]] = {}
    for path in sorted((folder / "jobs").glob("*.json")):
        entry = read_json(path)
        found.setdefault(str(entry["launcher"]), []).append(str(entry["job"]))
    return found


def cancel(folder: Path) -> list[str]:
    """End all jobs of a study that are not over; their ids."""
    return [job for name, jobs in _jobs(folder).items() for job in launcher(name).cancel(jobs)]


def states(folder: Path) -> list[JobState]:
    """What became of the jobs of a study; those that are over are left out."""
    return [line for name, jobs in _jobs(folder).items() for line in launcher(name).states(jobs)]
