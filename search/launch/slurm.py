"""Workers as a job array of Slurm.

By plain `sbatch`, not submitit (1.5): without slurmdbd, which many sites lack, its jobs that die without a result never
end for it, and with slurmdbd it takes NODE_FAIL for the end of a job that Slurm has already put back into the queue. A
worker needs none of what submitit brings (functions sent by pickle, results awaited): a study is a folder.

Slurm is asked with patience: its commands hang while the controller is away, and one that gave no answer may have done
what was asked. So jobs have names that no other job has, and a submission without an answer is looked up by its name.
"""

import logging
import os
import secrets
import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence

from genenet.errors import InputError
from genenet.folder import write_text
from search.launch.request import JobState, Request

logger = logging.getLogger("genenet")

PATIENCE_S = 60.0  # for one answer
N_TRIES = 5


def preview(request: Request, name: str = "genenet") -> str:
    """The script that `sbatch` would be given."""
    profile, folder = request.profile, request.folder.absolute()
    n_jobs = request.n_workers + profile.spare
    gpus = None if profile.gpus is None else f"gpu:{profile.gpus}"
    given = {
        "job-name": name,
        "array": f"0-{n_jobs - 1}%{request.n_workers}",
        "partition": profile.partition,
        "account": profile.account,
        "time": None if profile.time_s is None else -(-profile.time_s // 60),
        "mem": profile.memory,
        "cpus-per-task": profile.cpus,
        "gres": gpus,
        "output": folder / "jobs" / "%A_%a.log",
        "open-mode": "append",
        # To the shell, which the worker replaces: it may come a minute early.
        "signal": f"B:USR1@{profile.notice_s}",
    }
    options = [f"--{option}={value}" for option, value in given.items() if value is not None]
    command = shlex.join(request.command)
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH {option}" for option in [*options, "--requeue", *profile.options]),
        "set -e",
        *(f"module load {module}" for module in profile.modules),
        *profile.lines,
        f"exec {profile.container} {command}" if profile.container else f"exec {command}",
    ]
    return "\n".join(lines) + "\n"


def submit(request: Request) -> list[str]:
    """Submit one job array.

    Raises:
        InputError: Slurm is not here, refuses, or gives no answer.
    """
    if shutil.which("sbatch") is None:
        raise InputError("there is no `sbatch` here; submit from a machine that has Slurm, or use --launcher local")
    name = f"genenet-{request.folder.name}-{secrets.token_hex(4)}"
    path = request.folder / "jobs" / f"{name}.sh"
    write_text(path, preview(request, name))
    for attempt in range(N_TRIES):
        done = _ask("sbatch", "--parsable", str(path))
        if done is not None and done.returncode == 0:
            return [done.stdout.strip().partition(";")[0]]
        if done is not None and not _is_away(done.stderr):
            path.unlink()
            raise InputError(f"Slurm refuses: {' '.join(done.stderr.split())}")
        logger.warning("Slurm gives no answer; asking again")
        time.sleep(2.0**attempt)
        found = _ask("squeue", "--noheader", "--me", f"--name={name}", "--format=%F")
        if found is not None and found.stdout.split():
            return [found.stdout.split()[0]]
        if done is None and (found is None or found.returncode):
            break  # it may have been done all the same, and must not be done twice
    raise InputError(f"Slurm gives no answer; see `squeue --me --name={name}`, and submit again if it shows no job")


def cancel(jobs: Sequence[str]) -> list[str]:
    """Cancel jobs; their workers are told, and have the site's `KillWait` to write a checkpoint."""
    found = states(jobs)
    in_queue = {job.partition("_")[0] for job, *_ in found}
    there = [job for job in jobs if job in in_queue]
    if any(state.state == "UNKNOWN" for state in found):
        raise InputError("Slurm gives no answer; try again later")
    if there:
        done = _ask("scancel", *there)
        if done is None or done.returncode:
            raise InputError(f"Slurm did not end job {', '.join(there)}: {'' if done is None else done.stderr.strip()}")
    return there


def states(jobs: Sequence[str]) -> list[JobState]:
    """What `squeue` says, by element of an array; jobs that it does not name are over."""
    if not jobs or shutil.which("squeue") is None:
        return []
    # `--me`, not the ids: one that Slurm has forgotten would be an error for all.
    done = _ask("squeue", "--noheader", "--me", "--states=all", "--format=%i|%T|%R")
    if done is None or done.returncode:
        return [JobState(job, "UNKNOWN", "Slurm gives no answer") for job in jobs]
    lines = [JobState(*line.split("|", 2)) for line in done.stdout.splitlines() if line.count("|") >= 2]
    over = ("CANCELLED", "COMPLETED", "FAILED", "TIMEOUT", "BOOT_FAIL", "DEADLINE", "OUT_OF_MEMORY")
    return [line for line in lines if line.job.partition("_")[0] in jobs and line.state not in over]


def requeue() -> None:
    """Put the element of the array that this process is back into the queue; nothing outside of Slurm."""
    job, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    if job and task:
        _ask("scontrol", "requeue", f"{job}_{task}")


def _ask(*command: str) -> subprocess.CompletedProcess[str] | None:
    """Run a command of Slurm; None where it gives no answer."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    except subprocess.TimeoutExpired:
        return None


def _is_away(message: str) -> bool:
    """Whether Slurm itself cannot be reached."""
    said = message.lower()
    return any(words in said for words in ("unable to contact", "timed out", "connection refused", "try again"))
