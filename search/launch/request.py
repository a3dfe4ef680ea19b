"""What workers need: asked for on the command line, or once and for all in a site's profile."""

import dataclasses
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pydantic

from genenet.errors import InputError
from genenet.folder import read_yaml
from genenet.wording import known_instead

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Profile(pydantic.BaseModel):
    """A site's ways, and the needs of one worker.

    Attributes:
        partition: Where jobs run.
        account: Who pays.
        time_s: How long a job may run, in seconds; in a file `time: 24h`.
        memory: Of a worker, `32G`.
        cpus: Of a worker.
        gpus: Of a worker: a number, or the site's kind and number, `a100:1`.
        options: More options of the scheduler, whole: `--constraint=gpuv100`.
        modules: Loaded before a worker starts.
        lines: Run by the shell before a worker starts.
        container: Put before the worker's command: `apptainer exec --nv genenet.sif`.
        python: By which a worker runs.
        spare: Jobs beyond the workers that may run at once: they take the places of jobs that end.
        share: Workers within each job, which share its cores and its GPU: small networks leave most of it idle.
        notice_s: How long before its end a job is told of it, in seconds.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    partition: str | None = None
    account: str | None = None
    time_s: int | None = pydantic.Field(default=None, gt=0)
    memory: str | None = pydantic.Field(default=None, pattern=r"^\d+[KMGT]B?$")
    cpus: int | None = pydantic.Field(default=None, ge=1)
    gpus: str | None = pydantic.Field(default=None, pattern=r"^([\w-]+:)?\d+$")
    options: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    container: str | None = None
    python: str = sys.executable
    spare: int = pydantic.Field(default=0, ge=0)
    share: int = pydantic.Field(default=1, ge=1)
    notice_s: int = pydantic.Field(default=180, ge=0)


class JobState(NamedTuple):
    """One line of a queue.

    Attributes:
        job: Its id.
        state: In the launcher's words.
        place: Where it runs, or why it does not.
    """

    job: str
    state: str
    place: str


@dataclasses.dataclass(frozen=True)
class Request:
    """Workers to start.

    Attributes:
        folder: The study's.
        n_workers: How many may work at once.
        profile: What each needs.
    """

    folder: Path
    n_workers: int = 1
    profile: Profile = Profile()

    @property
    def command(self) -> list[str]:
        """One worker's, or that of some that share a job."""
        share = [] if self.profile.share == 1 else ["--processes", str(self.profile.share)]
        return [self.profile.python, "-m", "genenet", "search", "worker", str(self.folder.absolute()), *share]


def read_profile(path: Path | None, **asked: Any) -> Profile:
    """A site's profile, and what is asked for beside or instead.

    Args:
        path: A YAML file; none if left out.
        **asked: Values that go before those of the file; None counts as not asked.

    Raises:
        InputError: An unknown name or a value that cannot be used, with the file.
    """
    content = {} if path is None else read_yaml(path) or {}
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold names and values, such as `partition: gpu`")
    content = {**content, **{name: value for name, value in asked.items() if value is not None}}
    where = "the command line" if path is None else str(path)
    if "time" in content:
        content["time_s"] = seconds(str(content.pop("time")), where)
    for name in ("gpus", "memory"):
        if name in content:
            content[name] = str(content[name])
    try:
        return Profile(**content)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            known = [*(field for field in Profile.model_fields if field != "time_s"), "time"]
            raise InputError(f"{where}: there is no setting `{name}`; {known_instead(name, known)}") from None
        raise InputError(f"{where}: `{name}` cannot be {first['input']!r}: {first['msg']}") from None


def seconds(text: str, where: str = "a time") -> int:
    """A time in seconds.

    Raises:
        InputError: It cannot be read.

    Example:
        >>> seconds("24h"), seconds("90m"), seconds("1-12:00:00")
        (86400, 5400, 129600)
    """
    match = re.fullmatch(r"(\d+)([smhd])", text)
    if match:
        return int(match[1]) * UNITS[match[2]]
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", text)
    if match:
        days, *clock = (int(part or 0) for part in match.groups())
        return days * UNITS["d"] + sum(part * 60**place for part, place in zip(clock, (2, 1, 0), strict=True))
    raise InputError(f"{where}: `time` cannot be {text!r}; write 24h, 90m, 2d or 1-12:00:00")
