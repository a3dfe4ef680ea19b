"""Databases for tests: started in a folder of their own, gone afterwards."""

import contextlib
import glob
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import filelock
import pytest

# By kind: the user that runs it where tests run as root, the Debian package, and the program looked for.
KINDS = {
    "postgresql": ("postgres", "postgresql", "/usr/lib/postgresql/*/bin/postgres"),
    "mysql": ("mysql", "mariadb-server-core mariadb-client", "/usr/sbin/mariadbd"),
}


def shell(*command, check=True):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, timeout=300)
    assert not check or done.returncode == 0, f"{command}: {done.stdout} {done.stderr}"
    return done


def install(*packages):
    """Install Debian packages, if this process may; one process at a time."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return
    with filelock.FileLock(Path(tempfile.gettempdir()) / "genenet-apt.lock"):
        shell("apt-get", "update", "-qq", check=False)
        options = ("-y", "-qq", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300")
        shell("apt-get", "install", *options, *packages, check=False)


def programs(kind):
    """The folder of a database's programs; installed where tests may, else the test is skipped."""
    user, package, program = KINDS[kind]
    missing = not glob.glob(program) or (kind == "mysql" and not shutil.which("mariadb-install-db"))
    if missing:
        install(*package.split())
    if not glob.glob(program):
        pytest.skip(f"there is no {kind}, and it can be installed by root with apt-get only")
    if os.geteuid() == 0 and shell("id", user, check=False).returncode:
        shell("useradd", "--system", "--no-create-home", user)
    return Path(sorted(glob.glob(program))[-1]).parent


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Database:
    """A server that can be stopped and started.

    Attributes:
        url: As a study's storage.
    """

    def __init__(self, kind, folder):
        self.user = KINDS[kind][0] if os.geteuid() == 0 else None
        self.kind, self.folder, self.port = kind, Path(folder), free_port()
        self.programs, self.process = programs(kind), None
        if self.user:
            shutil.chown(folder, self.user)
        if kind == "postgresql":
            self.run("initdb", "-D", self.folder / "data", "-U", "genenet", "-A", "trust", "--no-sync")
            self.url = f"postgresql://genenet@127.0.0.1:{self.port}/genenet"
        else:
            self.run(
                "mariadb-install-db", f"--datadir={self.folder / 'data'}", "--auth-root-authentication-method=normal"
            )
            self.url = f"mysql://genenet:secret@127.0.0.1:{self.port}/genenet"
        self.start()
        if kind == "postgresql":
            shell(self.programs / "createdb", "-h", "127.0.0.1", "-p", self.port, "-U", "genenet", "genenet")

    def as_user(self, *command):
        prefix = ["setpriv", f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups"] if self.user else []
        return [*prefix, *(str(part) for part in command)]

    def run(self, program, *arguments):
        found = self.programs / program
        shell(*self.as_user(found if found.exists() else shutil.which(program), *arguments))

    def start(self):
        if self.kind == "postgresql":
            options = ("-D", self.folder / "data", "-h", "127.0.0.1", "-p", self.port, "-k", self.folder, "-F")
            command = self.as_user(self.programs / "postgres", *options)
        else:
            first = self.folder / "first.sql"
            first.write_text(
                "CREATE DATABASE IF NOT EXISTS genenet;\n"
                "CREATE OR REPLACE USER genenet@'127.0.0.1' IDENTIFIED BY 'secret';\n"
                "GRANT ALL ON genenet.* TO genenet@'127.0.0.1';\n"
            )
            options = [f"--datadir={self.folder / 'data'}", f"--port={self.port}", "--bind-address=127.0.0.1"]
            options += [f"--socket={self.folder / 'socket'}", f"--init-file={first}", "--skip-name-resolve"]
            command = self.as_user(self.programs / "mariadbd", "--no-defaults", *options)
        with (self.folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while not self.answers():
            assert self.process.poll() is None and time.monotonic() < deadline, (self.folder / "log.txt").read_text()
            time.sleep(0.1)

    def answers(self):
        import sqlalchemy

        from search.storage import check_url

        url = check_url(self.url)
        if self.kind == "postgresql":  # which is there from the beginning
            url = url.rpartition("/")[0] + "/postgres"
        engine = sqlalchemy.create_engine(url)
        try:
            with engine.connect():
                return True
        except sqlalchemy.exc.SQLAlchemyError:
            return False
        finally:
            engine.dispose()

    def stop(self):
        self.process.terminate() if self.kind == "mysql" else self.process.send_signal(2)  # at once
        self.process.wait(timeout=60)


@contextlib.contextmanager
def started(kind):
    """A database of a kind, empty."""
    with tempfile.TemporaryDirectory(prefix=f"genenet-{kind}-", ignore_cleanup_errors=True) as folder:
        database = Database(kind, folder)
        try:
            yield database
        finally:
            database.stop()
