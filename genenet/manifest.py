"""Which blocks of an output are written: a file beside it, by which a segmentation that was stopped goes on.

A line of JSON with the settings, then one for every block. One process at a time holds it.
"""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import filelock

from genenet.errors import InputError
from genenet.folder import partial_path, remove, write_text


class Manifest:
    """Blocks that are done, with what was counted in each.

    Attributes:
        path: The file.
        settings: By which the blocks were made, and must be made.
        chosen: What was chosen for this machine when it began: the size of blocks, engines. It stays when it goes on.
        done: Numbers of blocks.
        counts: What was counted in all of them together.
        notes: What else is done, as pairs: `levels` or `published`, and the output.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self.settings = path, settings
        self.chosen: dict[str, Any] = {}
        self.done: set[int] = set()
        self.counts: list[int] = []
        self.notes: set[tuple[str, str]] = set()
        self._locks: list[filelock.BaseFileLock] = []

    @classmethod
    def hold(
        cls, output: Path, settings: dict[str, Any], *, others: Iterable[Path] = (), restart: bool = False
    ) -> Self:
        """Take outputs for this process, with what an earlier one did for them.

        Args:
            output: The file that is to be written in the end; beside it stands the manifest.
            settings: Plain data by which its blocks are made.
            others: Further files that are written with it.
            restart: Forget what an earlier one did.

        Raises:
            InputError: Another program writes one of them, or it was begun with other settings.
        """
        found = cls(path_beside(output), json.loads(json.dumps(settings)))
        try:
            for path in (output, *others):
                found._locks.append(_lock(path))
            if restart:
                remove(found.path)
            found._read()
        except BaseException:
            found.release()
            raise
        return found

    def begin(self, chosen: dict[str, Any]) -> None:
        """Write what blocks are made by; a beginning that is there already stays."""
        if self.chosen:
            return
        self.chosen = json.loads(json.dumps(chosen))
        write_text(self.path, json.dumps({"settings": self.settings, "chosen": self.chosen}) + "\n")

    def add(self, block: int, counts: list[int]) -> None:
        """One more block is written, and on the disk."""
        self._append({"block": block, "counts": counts})
        self._count(block, counts)

    def note(self, what: str, output: str) -> None:
        """Something else is done, once all blocks are."""
        self._append({"note": what, "output": output})
        self.notes.add((what, output))

    def end(self) -> None:
        """The output is whole: nothing is left to remember."""
        remove(self.path)
        self.release()

    def release(self) -> None:
        """Let others go on; what is done stays."""
        while self._locks:
            _let_go(self._locks.pop())

    def _append(self, entry: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")

    def _read(self) -> None:
        if not self.path.exists():
            return
        try:
            first, *rest = self.path.read_text(encoding="utf-8").split("\n")
            begun = json.loads(first)
            theirs, self.chosen = begun["settings"], begun["chosen"]
            for line in rest[:-1]:
                self._remember(json.loads(line))
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{self.path} is damaged; --restart begins anew") from None
        if not self.done:  # nothing was made, so nobody is bound
            remove(self.path)
            self.chosen = {}
            return
        ours = self.settings
        differing = sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
        if differing:
            pairs = "; ".join(f"{name} {_said(theirs.get(name))}, now {_said(ours.get(name))}" for name in differing)
            raise InputError(
                f"an unfinished segmentation is there, begun with other settings ({pairs}); "
                "use the same to go on, or --restart to begin anew"
            )
        # A line without its newline was being written when the process died; nothing may be joined to it.
        if rest[-1:] != [""]:
            write_text(self.path, "\n".join([first, *rest[:-1], ""]))

    def _remember(self, entry: dict[str, Any]) -> None:
        if "note" in entry:
            self.notes.add((entry["note"], entry["output"]))
        elif entry["block"] not in self.done:
            self._count(entry["block"], entry["counts"])

    def _count(self, block: int, counts: list[int]) -> None:
        self.done.add(block)
        self.counts = [a + b for a, b in zip(self.counts, counts, strict=True)] if self.counts else list(counts)


@contextlib.contextmanager
def held(outputs: Iterable[Path]) -> Iterator[None]:
    """Keep other programs from writing some outputs meanwhile.

    Raises:
        InputError: One is writing them.
    """
    with contextlib.ExitStack() as stack:
        for output in outputs:
            stack.callback(_let_go, _lock(output))
        yield


def _lock(output: Path) -> filelock.BaseFileLock:
    path = path_beside(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(f"{path}.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise InputError(f"another program is writing {output}; wait for it, or choose another name") from None
    return lock


def _let_go(lock: filelock.BaseFileLock) -> None:
    if os.name == "posix":  # who waits for a file that is gone by then takes another one
        Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def path_beside(output: Path) -> Path:
    """Where the manifest of an output stands.

    >>> path_beside(Path("cells.ome.zarr")).name
    'cells.part.ome.zarr.jsonl'
    """
    return Path(f"{partial_path(output)}.jsonl")


def _said(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else text[:57] + "..."
