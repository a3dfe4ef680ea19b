"""Where Optuna keeps what samplers learn from: a file in the study's folder, or a database.

The file is Optuna's journal: lines are appended under a lock by links, which holds on NFS as long as `link` is atomic
there, as versions 3 and 4 have it; a file that was written is seen by others once it is closed, which NFS promises too.
A database is for sites whose shared folders keep neither promise, and for studies of many thousand trials.
"""

import os
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from genenet.errors import InputError

JOURNAL = "optuna.journal"

# By the first word of a URL: the driver that is asked for, and how to get it.
DRIVERS = {"postgresql": ("psycopg2", "psycopg2-binary"), "mysql": ("pymysql", "pymysql")}


def check_url(url: str) -> str:
    """A database's URL with the driver that genenet installs, where it names none.

    >>> check_url("mysql://anna@db.lab/searches")
    'mysql+pymysql://anna@db.lab/searches'

    Raises:
        InputError: It is none, or of a database that several machines cannot use.
    """
    kind, mark, rest = url.partition("://")
    name, _, driver = kind.partition("+")
    if not mark or name not in DRIVERS:
        raise InputError(
            f"`storage` must be the URL of a database, postgresql://user@host/name or mysql://..., but got {url!r}; "
            "left out, it is a file in the study's folder"
        )
    return f"{name}+{driver or DRIVERS[name][0]}://{rest}"


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """Optuna's storage of a study.

    Args:
        url: Of a database; None for the file.
        folder: The study's.

    Raises:
        InputError: The database cannot be reached, or its driver is missing.
    """
    if url is None:
        # Its lock is a link to the path as it is given: a relative one would lead nowhere, and be waited for forever.
        return JournalStorage(JournalFileBackend(str((folder / JOURNAL).absolute())))
    import sqlalchemy

    url = check_url(url)
    shown = sqlalchemy.make_url(url).render_as_string(hide_password=True)
    try:
        return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    except ImportError as error:
        package = DRIVERS[url.partition("+")[0]][1]
        raise InputError(f"{shown} needs a driver: pip install {package} ({' '.join(str(error).split())})") from None
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        cause = str(error.__cause__ or error).strip().splitlines()[0]
        raise InputError(f"{shown} cannot be used: {cause}") from None


def mend(folder: Path) -> None:
    """Cut off half a line that a process left at the journal's end, on a full disk or killed while it wrote.

    Optuna passes over half a line at the end, but the next one would be joined to it, and nothing could be read again.
    """
    path = (folder / JOURNAL).absolute()
    if not _ends_in_half_a_line(path):
        return
    lock = JournalFileSymlinkLock(str(path))
    lock.acquire()
    try:
        if _ends_in_half_a_line(path):
            with path.open("r+b") as stream:
                stream.truncate(path.read_bytes().rfind(b"\n") + 1)
    finally:
        lock.release()


def _ends_in_half_a_line(path: Path) -> bool:
    if not path.exists() or not path.stat().st_size:
        return False
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read() != b"\n"
