"""Which blocks of an output are written: a file beside it, by which a segmentation that was stopped goes on.

A line of JSON with the settings, then one for every block. One process at a time holds it.
"""

import contextlib
import json
from pathlib import Path
from typing import Any, Self

import filelock

from genenet.errors import InputError
from genenet.folder import partial_path, remove, split_suffix, write_text
from genenet.formats import place


class Manifest:
    """Blocks that are done, with what was counted in each.

    Attributes:
        path: The file.
        settings: By which the blocks were made, and must be made.
        chosen: What was chosen for this machine when it began: the size of blocks, engines. It stays when it goes on.
        done: Numbers of blocks.
        counts: What was counted in all of them together.
    """

    def __init__(self, path: Path, settings: dict[str, Any], chosen: dict[str, Any]) -> None:
        self.path, self.settings, self.chosen = path, settings, chosen
        self.done: set[int] = set()
        self.counts: list[int] = []
        self._lock = filelock.FileLock(f"{path}.lock")

    @classmethod
    def hold(cls, output: Path, settings: dict[str, Any], *, restart: bool = False) -> Self:
        """Take the output for this process, with what an earlier one did for it.

        Args:
            output: The file that is to be written in the end.
            settings: Plain data by which its blocks are made.
            restart: Forget what an earlier one did.

        Raises:
            InputError: Another program writes it, or it was begun with other settings.
        """
        path = path_beside(output)
        path.parent.mkdir(parents=True, exist_ok=True)
        found = cls(path, json.loads(json.dumps(settings)), {})
        try:
            found._lock.acquire(timeout=0)
        except filelock.Timeout:
            raise InputError(f"another program is writing {output}; wait for it, or choose another name") from None
        try:
            if restart:
                remove(path)
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
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"block": block, "counts": counts}) + "\n")
        self._count(block, counts)

    def end(self) -> None:
        """The output is whole: nothing is left to remember."""
        remove(self.path)
        self.release()

    def release(self) -> None:
        """Let others go on; what is done stays."""
        if self._lock.is_locked:
            remove(Path(self._lock.lock_file))
            self._lock.release()

    def _read(self) -> None:
        if not self.path.exists():
            return
        first, *rest = self.path.read_text(encoding="utf-8").split("\n")
        try:
            begun = json.loads(first)
            theirs, self.chosen = begun["settings"], begun["chosen"]
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{self.path} is damaged; --restart begins anew") from None
        differing = sorted(name for name in theirs.keys() | self.settings.keys() if self._differs(name, theirs))
        if differing:
            pairs = "; ".join(
                f"{name} {_said(theirs.get(name))}, now {_said(self.settings.get(name))}" for name in differing
            )
            raise InputError(
                f"an unfinished segmentation is there, begun with other settings ({pairs}); "
                "use the same to go on, or --restart to begin anew"
            )
        # A line without its newline was being written when the process died; nothing may be joined to it.
        if rest[-1:] != [""]:
            write_text(self.path, "\n".join([first, *rest[:-1], ""]))
        for line in rest[:-1]:
            entry = json.loads(line)
            if entry["block"] not in self.done:
                self._count(entry["block"], entry["counts"])

    def _count(self, block: int, counts: list[int]) -> None:
        self.done.add(block)
        self.counts = [a + b for a, b in zip(self.counts, counts, strict=True)] if self.counts else list(counts)

    def _differs(self, name: str, theirs: dict[str, Any]) -> bool:
        return bool(theirs.get(name) != self.settings.get(name))


def chosen_before(output: str | Path) -> dict[str, Any]:
    """What was chosen when an output was begun; empty if it was not."""
    path = path_beside(place.target(output).path)
    with contextlib.suppress(OSError, ValueError, KeyError), path.open(encoding="utf-8") as stream:
        return dict(json.loads(stream.readline())["chosen"])
    return {}


def path_beside(output: Path) -> Path:
    """Where the manifest of an output stands.

    >>> path_beside(Path("cells.ome.zarr")).name
    'cells.part.jsonl'
    """
    return Path(split_suffix(partial_path(output))[0] + ".jsonl")


def _said(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else text[:57] + "..."
