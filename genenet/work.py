"""Blocks of a segmentation, as work that any process can do: read, run the networks, write."""

import contextlib
import dataclasses
import functools
import itertools
import logging
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from genenet.averaging import MeanPredictor
from genenet.blocks import Answer
from genenet.chunks import keeping, shared_sides
from genenet.maps import Map
from genenet.memory import peak_bytes
from genenet.normalization import with_channels
from genenet.tiling import Box
from genenet.volume import Volume, Writer, reopen_volume

logger = logging.getLogger("genenet")


class Done(NamedTuple):
    """A block that is on the disk.

    Attributes:
        counts: Voxels per class.
        n_bytes_read, n_bytes_written: Before compression.
        network_s: Seconds that the networks took of it.
        peak_bytes: The most memory that the process had up to now.
    """

    counts: list[int]
    n_bytes_read: int
    n_bytes_written: int
    network_s: float
    peak_bytes: int

    def plus(self, other: "Done") -> "Done":
        """Both together."""
        return Done(
            [a + b for a, b in itertools.zip_longest(self.counts, other.counts, fillvalue=0)],
            self.n_bytes_read + other.n_bytes_read,
            self.n_bytes_written + other.n_bytes_written,
            self.network_s + other.network_s,
            max(self.peak_bytes, other.peak_bytes),
        )


@dataclasses.dataclass(frozen=True)
class Work:
    """All that a process needs to do any block; it may be sent to others.

    Attributes:
        load: Gives the networks.
        volume: The image.
        maps: What is written.
        targets: Where, one per map; volumes that exist.
        core: The shape of a block.
    """

    load: Callable[[], MeanPredictor]
    volume: Volume
    maps: tuple[Map, ...]
    targets: tuple[str, ...]
    core: tuple[int, ...]

    @property
    def asks_members(self) -> bool:
        """Whether what each member thinks is needed."""
        return any(entry.name == "disagreement" for entry in self.maps)


class Said:
    """What the networks say about a block, and what is written of it.

    Attributes:
        answer: For the whole block, beyond the volume's edge too.
    """

    def __init__(self, answer: Answer, maps: Sequence[Map]) -> None:
        self.answer, self._maps = answer, maps
        self._made: tuple[tuple[int, ...], np.ndarray, list[np.ndarray]] | None = None

    def blocks(self, shape: tuple[int, ...]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Of its first `shape` voxels, indices of the most probable classes, and the voxels of every map."""
        made = self._made  # another thread may write another one meanwhile
        if made is None or made[0] != shape:
            inside = self.answer.inside(tuple(map(slice, shape)))
            labels = inside.probabilities.argmax(-1)
            made = self._made = shape, labels, [entry.block(inside, labels) for entry in self._maps]
        return made[1:]


class Worker:
    """Work under way in this process: networks loaded, files open."""

    def __init__(self, work: Work, writers: Sequence[Writer] | None = None) -> None:
        self.work = work
        self.predictor = work.load()
        self.reach = self.predictor.reach(work.core)
        self.volume = keeping(work.volume, shared_sides(work.volume, work.core, self.reach.input))
        self.is_warned = False
        self._plain: tuple[bytes, Said] | None = None
        self.writers = list(writers or map(reopen_volume, work.targets))

    def read(self, box: Box) -> np.ndarray:
        """What the networks need for a block, `(z, y, x, channels)`."""
        read = self.volume.read_mirrored
        start = [side.start for side in box]
        images = self.predictor.read(lambda at, shape: with_channels(read(at, shape)), start, self.reach)
        if images.dtype.kind == "f" and not self.is_warned and not np.isfinite(images).all():
            self.is_warned = True
            logger.warning(
                "%s holds NaN or infinity, first seen near voxel %s; they count as the mean of the training images",
                self.work.volume.name,
                tuple(start),
            )
        return images

    def predict(self, images: np.ndarray) -> tuple["Said", float]:
        """What the networks say about a block, and the seconds that they took.

        Of a block that is the same everywhere, as beyond the tissue, they are asked once.
        """
        started, same = time.perf_counter(), _same_everywhere(images)
        if same is not None and self._plain is not None and self._plain[0] == same:
            return self._plain[1], 0.0
        said = Said(self.predictor.predict(images, self.reach, member_entropy=self.work.asks_members), self.work.maps)
        if same is not None:
            self._plain = same, said
        return said, time.perf_counter() - started

    def write(self, box: Box, said: "Said") -> tuple[list[int], int]:
        """Bring a block to the disk; gives voxels per class, and bytes."""
        z, y, x = box
        labels, blocks = said.blocks(tuple(side.stop - side.start for side in box))
        for values, writer in zip(blocks, self.writers, strict=True):
            writer.write((z, y, x), values)
        for writer in self.writers:
            writer.flush()
        n_classes = said.answer.probabilities.shape[-1]
        return np.bincount(labels.ravel(), minlength=n_classes).tolist(), sum(values.nbytes for values in blocks)

    def do(self, box: Box, networks: contextlib.AbstractContextManager[Any] | None = None) -> Done:
        """One block, from the image to the disk; the networks may be shared by threads, by a lock."""
        images = self.read(box)
        with networks or contextlib.nullcontext():
            said, network_s = self.predict(images)
        counts, n_written = self.write(box, said)
        return Done(counts, images.nbytes, n_written, network_s, peak_bytes())

    def do_all(self, boxes: Iterable[tuple[int, Box]]) -> Generator[tuple[int, Done]]:
        """One block after the other: the next is read and the last is written while the networks work on one."""
        with ThreadPoolExecutor(1) as reading, ThreadPoolExecutor(1) as writing:
            submitted = ((index, box, reading.submit(self.read, box)) for index, box in boxes)
            behind: Callable[[], tuple[int, Done]] | None = None
            ahead = next(submitted, None)
            while ahead is not None:
                index, box, read = ahead
                images = read.result()
                ahead = next(submitted, None)
                said, network_s = self.predict(images)
                if behind is not None:
                    yield behind()
                written = writing.submit(self.write, box, said)
                behind = functools.partial(_finished, index, written, images.nbytes, network_s)
            if behind is not None:
                yield behind()

    def close(self) -> None:
        """Let go of the files."""
        for writer in self.writers:
            writer.close()


def _same_everywhere(images: np.ndarray) -> bytes | None:
    """The value that all voxels have, or None; NaN is never the same."""
    first = images[0, 0, 0]
    if not (images[-1, -1, -1] == first).all() or not (images == first).all():
        return None
    return bytes(first.tobytes())


def _finished(index: int, written: "Future[tuple[list[int], int]]", n_read: int, network_s: float) -> tuple[int, Done]:
    counts, n_written = written.result()
    return index, Done(counts, n_read, n_written, network_s, peak_bytes())
