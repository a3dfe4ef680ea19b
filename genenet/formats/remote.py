"""Volumes behind a URL, through fsspec: Zarr is read chunk by chunk, other files are copied here once."""

import getpass
import hashlib
import json
import logging
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from genenet.errors import InputError
from genenet.folder import writing

logger = logging.getLogger("genenet")

# Where copies of remote files are kept.
CACHE_VARIABLE = "GENENET_CACHE"

# What servers tell of a file that changes with its content.
_TELLING = "size", "ETag", "LastModified", "Last-Modified", "Content-MD5", "mtime"

# Libraries whose errors tell of a connection.
LIBRARIES = ("aiohttp", "fsspec", "s3fs", "botocore", "aiobotocore", "gcsfs")


def is_remote(text: str) -> bool:
    """Whether a source is a URL, also one that went through a path, which makes one slash of two.

    >>> is_remote("https://example.org/cell.ome.zarr"), is_remote("s3:/bucket/cell.tif")
    (True, True)
    >>> is_remote("C:/cell.tif"), is_remote("cells.h5:/raw")
    (False, False)
    """
    return "://" in text or re.match(r"[A-Za-z][A-Za-z0-9+-]+:/", text) is not None


def split_zarr(url: str) -> tuple[str, str] | None:
    """The Zarr container that a URL leads into, and the path inside; None if no part of it ends in `.zarr`.

    >>> split_zarr("s3://bucket/cell.ome.zarr/labels/nuclei")
    ('s3://bucket/cell.ome.zarr', 'labels/nuclei')
    """
    parts = url.rstrip("/").split("/")
    for place, part in enumerate(parts):
        if part.endswith(".zarr"):
            return "/".join(parts[: place + 1]), "/".join(parts[place + 1 :])
    return None


def as_path(url: str) -> Any:
    """A URL that can be used like a path.

    Raises:
        InputError: What reads it is not installed.
    """
    try:
        from upath import UPath

        path = UPath(url)
        _ = path.fs
    except ImportError as error:
        raise InputError(f"{url} needs {error.name or error}: pip install 'genenet[remote]'") from None
    except ValueError as error:
        raise InputError(f"cannot read {url}: {error}") from None
    return path


def copy_here(url: str) -> Path:
    """Copy a remote file into the cache of this machine, unless one of the same size and tag is there already.

    Raises:
        InputError: It cannot be had.
    """
    source = as_path(url)
    try:
        told = source.fs.info(source.path)
        state = [
            url,
            *(str(told.get(key)) for key in ("size", "ETag", "LastModified", "Last-Modified", "Content-MD5", "mtime")),
        ]
        digest = hashlib.blake2b(json.dumps(state).encode(), digest_size=8).hexdigest()
        folder = os.environ.get(CACHE_VARIABLE) or Path(tempfile.gettempdir()) / f"genenet-cache-{_user()}"
        copy = Path(folder) / digest / source.name
        if not copy.exists():
            logger.info("copying %s to %s", url, copy.parent)
            with writing(copy) as beside:
                source.fs.get_file(source.path, str(beside))
    except Exception as error:
        if not isinstance(error, OSError) and not is_about_connection(error):
            raise
        raise InputError(f"cannot read {url}: {_reason(error)}") from error
    return copy


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may not know who it is
        return "nobody"


def is_about_connection(error: BaseException | None) -> bool:
    """Whether a library that fetches files raised it."""
    return type(error).__module__.partition(".")[0] in LIBRARIES


def _reason(error: BaseException) -> str:
    cause = error.__cause__ or error.__context__
    if isinstance(error, FileNotFoundError):
        return " ".join(str(cause).split())[:200] if is_about_connection(cause) else "there is no such file"
    return " ".join(str(error).split())[:200] or type(error).__name__
