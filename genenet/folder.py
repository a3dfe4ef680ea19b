"""Files that are whole or absent: written beside, then renamed."""

import contextlib
import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from genenet.errors import InputError

# Compound suffixes that name one format; `Path.suffix` would see the last part only.
COMPOUND_SUFFIXES = (".ome.zarr", ".ome.tiff", ".ome.tif")


def split_suffix(path: Path | str) -> tuple[str, str]:
    """Split a file name from its format.

    >>> split_suffix("runs/cell.2.ome.zarr")
    ('runs/cell.2', '.ome.zarr')
    """
    text = str(path)
    for suffix in COMPOUND_SUFFIXES:
        if text.lower().endswith(suffix):
            return text[: -len(suffix)], text[-len(suffix) :]
    stem, suffix = os.path.splitext(text)
    return stem, suffix


def partial_path(path: Path | str) -> Path:
    """Where an output stands while it is being written; the suffix still names the format.

    >>> partial_path("out/cell.ome.zarr").name
    'cell.part.ome.zarr'
    """
    stem, suffix = split_suffix(path)
    return Path(f"{stem}.part{suffix}")


def remove(path: Path) -> None:
    """Delete a file or a folder; no error when there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def is_full(error: BaseException) -> bool:
    """Whether an error says that a disk, or a person's share of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def put_in_place(beside: Path, path: Path) -> None:
    """Give what was written beside its final name, in place of what stood there."""
    if beside.is_dir() and path.exists():
        old = path.with_name(f".{path.name}.{os.getpid()}.old")
        path.rename(old)
        beside.rename(path)
        remove(old)
    else:
        os.replace(beside, path)


@contextlib.contextmanager
def writing(path: Path | str) -> Iterator[Path]:
    """Give a path to write to; it becomes `path` when the block ends well, and vanishes when it does not.

    Works for files and folders. An existing file is replaced in one step; an existing folder is
    replaced by two renames.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Processes on several machines may bear one number.
    beside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(3)}.part")
    try:
        yield beside
        put_in_place(beside, path)
    except BaseException:
        remove(beside)
        raise


def write_text(path: Path | str, text: str) -> None:
    """Write a text file in one step: readers see the old text or the new, never a half."""
    with writing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON in one step."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Raises:
        InputError: The file is missing or is not JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None


def read_yaml(path: Path | str) -> Any:
    """Read a YAML file with the safe loader.

    Raises:
        InputError: The file is missing or is not YAML.
    """
    import yaml

    path = Path(path)
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        what = f"{getattr(error, 'problem', None) or error}"
        mark = getattr(error, "problem_mark", None)
        line = f" near line {mark.line + 1}" if mark is not None else ""
        raise InputError(
            f'{path} is not valid YAML{line}: {" ".join(what.split())}; a colour must be quoted, as in "#e69f00"'
        ) from None


def write_yaml(path: Path | str, value: Any) -> None:
    """Write `value` as YAML in one step, keys in their own order."""
    import yaml

    write_text(path, yaml.safe_dump(value, sort_keys=False, width=100))
