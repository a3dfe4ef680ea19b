"""One label volume of everybody's corrections, and where people disagree."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import scipy.ndimage

from genenet.corrections.ledger import Event, sessions_by_hand
from genenet.corrections.store import Corrections, same_file
from genenet.errors import InputError
from genenet.formats import place
from genenet.formats.boxes import Box
from genenet.manifest import held
from genenet.pyramid import add_levels
from genenet.tiling import blocks
from genenet.volume import create_volume, open_volume

# Voxels that are worked on at a time.
BLOCK = 16, 512, 512


@dataclasses.dataclass(frozen=True)
class Conflict:
    """Connected voxels, within a block, to which two people gave different values.

    Attributes:
        people: Who.
        box: Where.
        n_voxels: How many.
        values: What each of them says for most of these voxels.
    """

    people: tuple[str, str]
    box: Box
    n_voxels: int
    values: tuple[int, int]


class Merged:
    """Everybody's corrections of a segmentation; where people disagree, who edited last is right.

    Attributes:
        people: Whose.
        shape: `(z, y, x)`.
    """

    def __init__(self, corrections: Corrections, *, people: Sequence[str] = (), mode: str = "correct") -> None:
        """Read the ledgers.

        Args:
            corrections: The folder.
            people: Whose ledgers count, the most trusted last; all, in the order of time, if left out.
            mode: `correct`, or `manual` for labels drawn from nothing.

        Raises:
            InputError: Somebody has no ledger, or there is none at all.
        """
        known = [person for person, _, _ in corrections.ledgers(mode)]
        absent = [person for person in people if person not in known]
        if absent or not known:
            had = f"there are those of {', '.join(known)}" if known else "there is none"
            raise InputError(f"{corrections.folder} has no ledger of {absent[0] if absent else mode!r}; {had}")
        self.corrections, self.mode = corrections, mode
        self.people = tuple(people or known)
        self.events: dict[str, list[Event]] = {person: corrections.events(person, mode) for person in self.people}
        self._alone = {person: corrections.replay(events, mode) for person, events in self.events.items()}
        everything = [event for person in self.people for event in self.events[person]]
        self._together = corrections.replay(everything if people else in_time(self.events.values()), mode)
        self._before = corrections.replay([], mode)
        self.shape = self._together.shape
        self._vouched = [area for events in self.events.values() for area in done_areas(events, self.shape)]

    def read(self, box: Box) -> np.ndarray:
        """Labels as people left them, `(dz, dy, dx)`."""
        return self._together.read(box)

    def changed(self, box: Box) -> np.ndarray:
        """Which voxels have another value than in the segmentation: its errors, as people saw them."""
        return self.read(box) != self._before.read(box)

    def known(self, box: Box) -> np.ndarray:
        """Which voxels somebody vouches for: those edited, and those in slices or boxes that are marked as done."""
        found = self._together.touched(box)
        for area in self._vouched:
            found[cut(area, box)] = True
        return found

    def conflicts(self) -> Iterator[Conflict]:
        """Where two people gave different values, block by block."""
        for at, first in enumerate(self.people):
            for second in self.people[at + 1 :]:
                for box in self._meeting(first, second):
                    yield from self._conflicts(first, second, box)

    def _conflicts(self, first: str, second: str, box: Box) -> Iterator[Conflict]:
        mine, theirs = self._alone[first].read(box), self._alone[second].read(box)
        both = self._alone[first].touched(box) & self._alone[second].touched(box)
        labels, _ = scipy.ndimage.label(both & (mine != theirs))
        for number, found in enumerate(scipy.ndimage.find_objects(labels), 1):
            here = labels[found] == number
            values = tuple(_most(part[found][here]) for part in (mine, theirs))
            where = tuple(slice(a.start + b.start, a.start + b.stop) for a, b in zip(box, found, strict=True))
            yield Conflict((first, second), where, int(here.sum()), values)  # type: ignore[arg-type]

    def _meeting(self, first: str, second: str) -> Iterator[Box]:
        """Blocks in which both edited something."""
        for box in blocks(self.shape, BLOCK):
            if all(self._alone[person].touched(box).any() for person in (first, second)):  # type: ignore[arg-type]
                yield box  # type: ignore[misc]


def in_time(ledgers: Iterable[Sequence[Event]]) -> list[Event]:
    """Events of several ledgers in the order of time, each ledger's own order kept, though a clock was set back."""
    found = []
    for events in ledgers:
        latest = float("-inf")
        for event in events:
            latest = max(latest, event.at)
            found.append((latest, event))
    return [event for _, event in sorted(found, key=lambda pair: pair[0])]


def done_areas(events: Sequence[Event], shape: Sequence[int]) -> list[Box]:
    """What a person marked as done and did not take back; what was only timed by hand was done elsewhere."""
    found: list[Box] = []
    by_hand = sessions_by_hand(events)
    for event in events:
        if event.kind not in ("done", "undone") or event.session in by_hand:
            continue
        area = event.area(shape)
        if event.kind == "done":
            found.append(area)
        else:
            found = [other for other in found if not _holds(area, other)]
    return found


def _holds(area: Box, other: Box) -> bool:
    """Whether an area holds all of another."""
    return all(a.start <= b.start and b.stop <= a.stop for a, b in zip(area, other, strict=True))


def cut(area: Box, box: Box) -> Box:
    """Where an area lies in a box, as far as it does."""
    z, y, x = (slice(max(a.start - b.start, 0), max(a.stop - b.start, 0)) for a, b in zip(area, box, strict=True))
    return z, y, x


def _most(values: np.ndarray) -> int:
    """The value that is there most often."""
    found, counts = np.unique(values, return_counts=True)
    return int(found[counts.argmax()])


def write_merged(
    merged: Merged,
    output: str | Path,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write the corrected labels; the segmentation itself stays as it is.

    Args:
        merged: Whose corrections.
        output: `.ome.zarr`, `.zarr`, `.tif`, `.h5` or `.npy`.
        overwrite: Replace what stands there.
        progress: Called with voxels done, and in all.

    Returns:
        Voxels that differ from the segmentation.

    Raises:
        InputError: The output exists, or is the segmentation.
    """
    corrections = merged.corrections
    where = place.target(output)
    for name in ("segmentation", "image", "doubt"):
        source = getattr(corrections, name)
        if source is not None and where.path.exists() and same_file(source, output):
            raise InputError(f"{output} is the {name} that is corrected, which stays as it is; choose another name")
    size = open_volume(corrections.segmentation or corrections.image).voxel_size_nm
    n_changed = n_done = 0
    with held([where.path]):
        place.check_free(output, overwrite=overwrite)
        partial = place.partial_name(output)
        with create_volume(
            partial,
            merged.shape,
            np.dtype(corrections.dtype),
            voxel_size_nm=size,
            classes=corrections.classes,
            overwrite=True,
        ) as writer:
            for box in blocks(merged.shape, BLOCK):
                labels = merged.read(box)  # type: ignore[arg-type]
                n_changed += int(np.count_nonzero(merged.changed(box)))  # type: ignore[arg-type]
                writer.write(box, labels)  # type: ignore[arg-type]
                n_done += labels.size
                if progress is not None:
                    progress(n_done, int(np.prod(merged.shape)))
        if where.format == "ome_zarr":
            add_levels(place.target(partial).path, labels=True)
        place.publish(partial, output)
    return n_changed
