"""What the jobs of a cluster ask for, in the words of dask-jobqueue: from a site's profile and the command line."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from genenet.clusters import JOB_MEMORY, SCHEDULERS
from genenet.errors import InputError
from genenet.memory import parse_bytes

if TYPE_CHECKING:
    from search.launch import Profile


def jobs_for(cluster: str | None, profile: Path | None, asked: dict[str, Any], output: Path) -> dict[str, Any]:
    """What `genenet.clusters.Cluster` is to ask jobs for; nothing if there are none.

    Args:
        cluster: As on the command line.
        profile: A site's.
        asked: By name as in a profile, before what that says; None for what is not asked.
        output: Logs of jobs are written beside it.

    Raises:
        InputError: Something is asked of jobs, but there are none; or it has no name that is the same at every site.
    """
    from search.launch import read_profile

    if cluster not in SCHEDULERS:
        given = {"profile": profile, **asked}
        if wrong := [name for name, value in given.items() if value is not None]:
            option = {"memory": "mem"}.get(wrong[0], wrong[0])
            raise InputError(f"--{option} is about jobs; ask for them by --cluster {' or '.join(SCHEDULERS)}")
        return {}
    found = read_profile(profile, **asked)
    directives, own = _OWN[cluster](found)
    jobs: dict[str, Any] = {
        "queue": found.partition,
        "memory": found.memory or JOB_MEMORY,
        "cores": 2,  # threads of a worker: one reads or writes while the networks work for the other
        "python": f"{found.container or ''} {found.python}".strip(),
        "job_extra_directives": [*directives, *found.options],
        "job_script_prologue": [*(f"module load {module}" for module in found.modules), *found.lines],
        "log_directory": str(output.absolute().parent / f"{output.name}.jobs"),
        "worker_extra_args": [],
        **own,
    }
    if found.time_s is not None:
        hours, rest = divmod(found.time_s, 3600)
        jobs["walltime"] = f"{hours:02d}:{rest // 60:02d}" + ("" if cluster == "lsf" else f":{rest % 60:02d}")
        # A worker ends before its job does, and another takes its place.
        jobs["worker_extra_args"] = ["--lifetime", f"{max(found.time_s - found.notice_s, 60)}s"]
    return jobs


def _slurm(profile: "Profile") -> tuple[list[str], dict[str, Any]]:
    gres = [] if profile.gpus is None else [f"--gres=gpu:{profile.gpus}"]
    own = {"account": profile.account, "job_cpu": profile.cpus or 1, "job_mem": profile.memory}
    return gres, own


def _pbs(profile: "Profile") -> tuple[list[str], dict[str, Any]]:
    memory = (profile.memory or JOB_MEMORY).removesuffix("iB").removesuffix("B").lower()
    gpus = "" if profile.gpus is None else f":ngpus={_n_gpus(profile)}"
    chunk = f"select=1:ncpus={profile.cpus or 1}:mem={memory}b{gpus}"
    return [], {"account": profile.account, "resource_spec": chunk}


def _lsf(profile: "Profile") -> tuple[list[str], dict[str, Any]]:
    gpus = [] if profile.gpus is None else [f"-gpu num={_n_gpus(profile)}"]
    own = {"ncpus": profile.cpus or 1, "mem": parse_bytes(profile.memory or JOB_MEMORY)}
    return gpus, {"project": profile.account, **own}


def _sge(profile: "Profile") -> tuple[list[str], dict[str, Any]]:
    for name, example in (("cpus", "-pe smp 4"), ("gpus", "-l gpu=1")):
        if getattr(profile, name) is not None:
            raise InputError(
                f"every site of SGE has its own name for `{name}`; write it in a profile, as `options: ['{example}']`"
            )
    return [], {"project": profile.account}


_OWN = {"slurm": _slurm, "pbs": _pbs, "sge": _sge, "lsf": _lsf}


def _n_gpus(profile: "Profile") -> str:
    kind, _, number = str(profile.gpus).rpartition(":")
    if kind:
        raise InputError(f"`gpus` cannot be {profile.gpus} here; give the number, and the kind by the site's `options`")
    return number
