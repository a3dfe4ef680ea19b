"""How much memory there is, and how much this process took."""

import re
import sys
from pathlib import Path

# Where Linux says which control groups a process is in, and where the groups of versions 2 and 1 are.
_OWN_GROUPS = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")

# Where Linux says how much memory this process has and had.
_STATUS = Path("/proc/self/status")

_UNITS = {"": 2**30, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def available_bytes() -> int:
    """What this process may still take: of the machine's memory, and of its container's or its job's share."""
    import psutil

    return min([int(psutil.virtual_memory().available), *_left_in_groups()])


def peak_bytes() -> int:
    """The most memory that this process ever had."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    if _STATUS.exists():  # what `getrusage` tells on Linux may be the peak of the process that started this one
        found = re.search(r"^VmHWM:\s*(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
        if found is not None:
            return int(found[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def parse_bytes(text: str) -> int:
    """A size as people write it; a bare number means GiB.

    Raises:
        ValueError: It is none.

    >>> parse_bytes("4"), parse_bytes("1.5G"), parse_bytes("300 MB")
    (4294967296, 1610612736, 314572800)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    if found is None or float(found[1]) == 0:
        raise ValueError(f"a size in memory is a number with K, M, G or T, as in 4G, but got {text!r}")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def _left_in_groups() -> list[int]:
    """What the control groups of Linux leave, from the process's own up to the top; page cache counts as left."""
    try:
        lines = [line.split(":", 2) for line in _OWN_GROUPS.read_text().splitlines()]
    except OSError:
        lines = []
    own = {controllers: path for _, controllers, path in lines}
    new = _folders(_GROUPS, own.get("", "/"))
    old = _folders(_GROUPS / "memory", own.get("memory", "/"))
    found = [_left(folder, "memory.max", "memory.current") for folder in new]
    found += [_left(folder, "memory.limit_in_bytes", "memory.usage_in_bytes") for folder in old]
    return [left for left in found if left is not None]


def _folders(top: Path, path: str) -> list[Path]:
    """A group's folder, and those above it; in a container the path may name what is not to be seen there."""
    group = top / path.lstrip("/")
    return [folder for folder in (group, *group.parents) if folder == top or top in folder.parents]


def _left(folder: Path, limit: str, usage: str) -> int | None:
    try:
        most = (folder / limit).read_text().strip()
        used = int((folder / usage).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    cache = int(stat.get("inactive_file", stat.get("total_inactive_file", 0)))
    return max(int(most) - used + cache, 0) if most.isdecimal() else None
