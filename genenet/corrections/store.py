"""The folder that holds the corrections of one volume: what is corrected, and a ledger for every person and mode."""

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from genenet.classes import SegmentationClass
from genenet.components import classes_of
from genenet.corrections.effort import Effort
from genenet.corrections.ledger import Event, read_ledger
from genenet.corrections.replay import Replay
from genenet.errors import InputError
from genenet.folder import read_json, split_suffix, write_json
from genenet.formats import ome_zarr, place
from genenet.formats.remote import is_remote
from genenet.volume import Volume, open_volume

DESCRIPTION = "corrections.json"

# Correcting what networks made, or segmenting by hand from nothing.
MODES = ("correct", "manual")


@dataclasses.dataclass(frozen=True)
class Corrections:
    """A folder of corrections.

    Attributes:
        folder: Where it is.
        image: Path of the image, or None.
        segmentation: Path of what is corrected, or None where only times are logged. It is never changed.
        doubt: Path of a map, high where networks are unsure, or None.
        identity: Which ensemble made the segmentation, or None.
        blueprints: Hashes of its members' blueprints.
        shape: Of the volume `(z, y, x)`, or None where only times are logged.
        dtype: Of the labels.
        classes: The class table.
    """

    folder: Path
    image: str | None = None
    segmentation: str | None = None
    doubt: str | None = None
    identity: str | None = None
    blueprints: tuple[str, ...] = ()
    shape: tuple[int, int, int] | None = None
    dtype: str = "uint8"
    classes: tuple[SegmentationClass, ...] = ()

    @classmethod
    def create(
        cls,
        folder: Path | str,
        *,
        image: Path | str | None = None,
        segmentation: Path | str | None = None,
        doubt: Path | str | None = None,
        classes: Sequence[SegmentationClass] | None = None,
    ) -> Self:
        """Make the folder, or open it if it is there and belongs to the same files.

        Args:
            folder: Where.
            image: For people to look at.
            segmentation: What is corrected.
            doubt: A map of the networks' entropy or disagreement, 0 to 1 or 0 to 255.
            classes: The class table; the segmentation's own if left out.

        Raises:
            InputError: The folder belongs to other files, or these do not fit each other.
        """
        folder = Path(folder)
        paths = {"image": image, "segmentation": segmentation, "doubt": doubt}
        said = {name: None if path is None else _absolute(path) for name, path in paths.items()}
        if (folder / DESCRIPTION).exists():
            return cls.open(folder)._with(said, classes)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder} is there, but holds no corrections; choose another name")
        shape, dtype, made_by = None, "uint8", {}
        if segmentation is not None or image is not None:
            volume = open_volume(segmentation if segmentation is not None else image)
            shape = volume.shape[0], volume.shape[1], volume.shape[2]
        if segmentation is not None:
            if volume.dtype.kind not in "ui" or len(volume.shape) != 3:
                raise InputError(
                    f"{volume.name} holds {volume.dtype} of shape {volume.shape}, but labels are integers (z, y, x)"
                )
            dtype, made_by = volume.dtype.name, note_of(segmentation)
        found = tuple(classes or ())
        if segmentation is not None and not found:
            found = classes_of(volume, with_background=True)
        made = cls(
            folder,
            **said,
            identity=made_by.get("networks"),
            blueprints=tuple(made_by.get("blueprints", ())),
            shape=shape,
            dtype=dtype,
            classes=found,
        )  # type: ignore[arg-type]
        made._check()
        folder.mkdir(parents=True, exist_ok=True)
        made._save()
        return made

    @classmethod
    def open(cls, folder: Path | str) -> Self:
        """Open a folder that `create` made.

        Raises:
            InputError: It is not one, or it is damaged.
        """
        folder = Path(folder)
        if not (folder / DESCRIPTION).exists():
            raise InputError(f"{folder} holds no corrections; `genenet correct` or `genenet correct start` begins some")
        entry = read_json(folder / DESCRIPTION)
        try:
            classes = tuple(SegmentationClass(**row) for row in entry.pop("classes"))
            shape, blueprints = entry.pop("shape"), tuple(entry.pop("blueprints"))
            entry.pop("corrections")
            shape = None if shape is None else tuple(shape)
            return cls(folder, **entry, shape=shape, blueprints=blueprints, classes=classes)
        except (KeyError, TypeError) as error:
            raise InputError(f"{folder / DESCRIPTION} is damaged: {error!r}") from None

    @property
    def effort(self) -> Effort:
        """What people's time is taken to be: as `genenet correct effort` wrote it, or guesses."""
        return Effort.known_in(self.folder)

    def ledger_path(self, person: str, mode: str = "correct") -> Path:
        """Where a person's ledger stands.

        Raises:
            InputError: A name that is no file name, or an unknown mode.
        """
        if mode not in MODES:
            raise InputError(f"`mode` is {' or '.join(MODES)}, but got {mode!r}")
        if not re.fullmatch(r"[^\W_][\w.-]*", person):
            raise InputError(f"a person's name is made of letters, digits, `.`, `_` and `-`, but got {person!r}")
        return self.folder / f"{person}.{mode}.jsonl"

    def ledgers(self, mode: str | None = None) -> list[tuple[str, str, Path]]:
        """Person, mode and path of every ledger; of one mode, or of all."""
        found = []
        for path in sorted(self.folder.glob("*.jsonl")):
            person, _, of = path.name.removesuffix(".jsonl").rpartition(".")
            if of in MODES and mode in (None, of):
                found.append((person, of, path))
        return found

    def events(self, person: str, mode: str = "correct") -> list[Event]:
        """What a person did; nothing if there is no ledger."""
        path = self.ledger_path(person, mode)
        return read_ledger(path) if path.exists() else []

    def replay(self, events: Sequence[Event], mode: str = "correct") -> Replay:
        """Labels after some events: on top of the segmentation, or for work by hand on top of nothing.

        Raises:
            InputError: Only times are logged here.
        """
        if self.shape is None:
            raise InputError(
                f"{self.folder} holds times only, no labels; begin with `genenet correct IMAGE SEGMENTATION`"
            )
        segmentation = self._open_segmentation()
        made = Replay(None if mode == "manual" else segmentation, self.shape, np.dtype(self.dtype))
        made.add_events(events)
        return made

    def _with(self, said: dict[str, Any], classes: Sequence[SegmentationClass] | None) -> Self:
        """The same folder with paths that were not known, if the known ones are the same."""
        for name, path in said.items():
            known = getattr(self, name)
            if path is not None and known not in (None, path):
                raise InputError(f"{self.folder} holds corrections of another {name}, {known}; choose another folder")
        more = {name: path for name, path in said.items() if path is not None and getattr(self, name) is None}
        if "segmentation" in more:
            raise InputError(f"{self.folder} was begun without a segmentation; choose another folder")
        found = dataclasses.replace(self, **more, classes=tuple(classes or self.classes))
        if found != self:
            found._check()
            found._save()
        return found

    def _open_segmentation(self) -> Volume | None:
        """What is corrected; edits belong to the labels on which they were made."""
        if self.segmentation is None:
            return None
        volume, networks = open_volume(self.segmentation), note_of(self.segmentation).get("networks")
        if (volume.shape, volume.dtype.name) != (self.shape, self.dtype) or networks != self.identity:
            raise InputError(
                f"{self.segmentation} was made anew since {self.folder} was begun, and corrections of it do not fit; "
                "put the old one back, or choose another folder"
            )
        return volume

    def _check(self) -> None:
        for name in ("image", "doubt"):
            path = getattr(self, name)
            if path is not None and self.shape is not None and open_volume(path).shape[:3] != self.shape:
                raise InputError(
                    f"{path} has shape {open_volume(path).shape[:3]}, but {self.segmentation} has {self.shape}"
                )

    def _save(self) -> None:
        content = {"corrections": 1, **dataclasses.asdict(self)}
        content.pop("folder")
        write_json(self.folder / DESCRIPTION, content)


def folder_beside(segmentation: Path | str) -> Path:
    """Where the corrections of a segmentation stand: `cells.corrections` beside `cells.ome.zarr`.

    Raises:
        InputError: There is no such file, or it is a URL.
    """
    if is_remote(str(segmentation)):
        raise InputError(f"{segmentation} is a URL; say where corrections of it are kept (--folder)")
    where = place.find(segmentation)
    inner = where.inner.strip("/").replace("/", "-")
    return Path(split_suffix(where.path)[0] + (f"-{inner}" if inner else "") + ".corrections")


def note_of(segmentation: Path | str) -> dict[str, Any]:
    """How a segmentation was made, if its file says, as OME-Zarr does."""
    where = place.find(segmentation)
    return ome_zarr.read_note(where.path, where.inner) if where.format == "ome_zarr" else {}


def _absolute(path: Path | str) -> str:
    return str(path) if is_remote(str(path)) else os.path.realpath(path)


def same_file(one: Path | str, other: Path | str) -> bool:
    """Whether two paths name the same volume, however they are written."""
    if is_remote(str(one)) or is_remote(str(other)):
        return str(one) == str(other)
    try:
        first, second = place.find(one), place.find(other)
    except InputError:  # an array in memory, for example
        return False
    inner = [entry.inner.strip("/") for entry in (first, second)]
    return os.path.realpath(first.path) == os.path.realpath(second.path) and inner[0] == inner[1]
