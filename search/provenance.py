"""By which software a study was made, and from which files."""

import hashlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import genenet
from genenet.formats import place
from genenet.formats.remote import is_remote

PACKAGES = ("keras", "tensorflow", "tensorflow-cpu", "jax", "torch", "numpy", "scipy", "optuna", "elasticdeform",
            "scikit-learn", "h5py", "zarr", "tifffile")  # fmt: skip

# Files larger than this are told apart by their size alone.
MOST_HASHED_BYTES = 2**36


def provenance() -> dict[str, str]:
    """Versions of genenet, of Python and of the packages that results depend on; the commit, in a working copy."""
    found = {"genenet": genenet.__version__, "python": platform.python_version(), "system": platform.platform()}
    if (commit := _commit()) is not None:
        found["commit"] = commit
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    """What git calls the code, where it knows it."""
    folder = str(Path(genenet.__file__).parent)

    def git(*arguments: str) -> str:
        command = ["git", "-C", folder, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")
        return git("rev-parse", "HEAD") + (" with changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def checksums(data: dict[str, Any]) -> dict[str, str]:
    """A checksum of every file of this machine that a data file names, by path.

    Args:
        data: Its content, with absolute paths.
    """
    entries = [data]
    for which in ("training", "validation"):
        part = data.get(which) or {}
        entries += part if isinstance(part, list) else [part]
    sources = dict.fromkeys(entry[key] for entry in entries for key in ("image", "labels") if entry.get(key))
    paths = dict.fromkeys(str(place.find(source).path) for source in sources if not is_remote(source))
    return {path: checksum(Path(path)) for path in paths}


def changed(recorded: dict[str, str]) -> list[str]:
    """Which files are not what they were when their checksums were recorded; those that are gone too."""
    return [path for path, known in recorded.items() if not Path(path).exists() or checksum(Path(path)) != known]


def checksum(path: Path) -> str:
    """A checksum of a file, or of a folder with all its files.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     checksum(Path(file.name))
    'blake2b:e4a6a0577479b2b4'
    """
    digest = hashlib.blake2b(digest_size=8)
    files = [path] if path.is_file() else sorted(entry for entry in path.rglob("*") if entry.is_file())
    n_bytes = sum(entry.stat().st_size for entry in files)
    if n_bytes > MOST_HASHED_BYTES:
        return f"bytes:{n_bytes}"
    for entry in files:
        if entry != path:
            digest.update(os.fsencode(entry.relative_to(path)))
        with entry.open("rb") as stream:
            while block := stream.read(2**22):
                digest.update(block)
    return f"blake2b:{digest.hexdigest()}"
