"""Segment a volume of any size, block by block; killed and started again, it does only what is missing."""

import dataclasses
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from genenet import doubt
from genenet.blocks import MAX_CORE_VOXELS, Answer, MeanPredictor
from genenet.classes import SegmentationClass
from genenet.errors import InputError
from genenet.folder import partial_path, remove, split_suffix, write_text
from genenet.formats import place
from genenet.interrupts import interrupts_between_steps
from genenet.normalization import Normalization, with_channels
from genenet.tiling import Box, Fit, blocks
from genenet.volume import Volume, Writer, create_volume, open_volume, reopen_volume
from genenet.wording import known_instead, plural

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a segmentation took.

    Attributes:
        output: The file written.
        seconds: In all, for the blocks of this run.
        n_voxels: Of this run's blocks.
        n_blocks: Done in this run.
        n_kept: Done by an earlier run that was stopped.
        fractions: Share of the volume's voxels per class.
    """

    output: Path
    seconds: float
    n_voxels: int
    n_blocks: int
    n_kept: int
    fractions: tuple[float, ...]

    @property
    def voxels_per_s(self) -> float:
        """Speed of this run."""
        return self.n_voxels / max(self.seconds, 1e-9)


class _Progress:
    """Which blocks are written: a text file beside the output, one line per block after a header.

    A line is the block's index and its voxels per class.
    """

    def __init__(self, path: Path, header: str) -> None:
        self.path = path
        self.done: dict[int, list[int]] = {}
        if path.exists():
            first, *rest = path.read_text(encoding="utf-8").split("\n")
            if first != header:
                raise InputError(
                    f"{path} belongs to an unfinished segmentation with other settings; "
                    "use the same ones to continue it, or remove the .part files"
                )
            # A line without its newline was being written when the process died; nothing may be joined to it.
            if rest[-1:] != [""]:
                write_text(path, "\n".join([first, *rest[:-1], ""]))
            rows = [[int(number) for number in line.split()] for line in rest[:-1]]
            self.done = {index: counts for index, *counts in rows}
        else:
            path.write_text(header + "\n", encoding="utf-8")

    def add(self, index: int, counts: np.ndarray) -> None:
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(" ".join(map(str, [index, *counts])) + "\n")
        self.done[index] = [int(count) for count in counts]


class Map(NamedTuple):
    """One of the volumes that are written.

    Attributes:
        extra: What its shape has beyond `(z, y, x)`.
        dtype: Of its voxels.
        of: Makes a block of it from the networks' answer and the classes' indices; values from 0 to 1, unless they are
            classes.
        classes: The class table to be stored with it, if its voxels are classes.
    """

    extra: tuple[int, ...]
    dtype: np.dtype
    of: Callable[[Answer, np.ndarray], Any]
    classes: Sequence[SegmentationClass] | None = None

    def block(self, answer: Answer, labels: np.ndarray) -> np.ndarray:
        """Its voxels; as whole numbers, 255 stands for 1."""
        values = self.of(answer, labels)
        if self.classes is None and self.dtype == np.uint8:
            values = np.rint(255 * np.clip(values, 0, 1))
        return np.asarray(values).astype(self.dtype, copy=False)


# What may be written beside the classes.
EXTRAS: dict[str, Callable[[Answer, np.ndarray], Any]] = {
    "probabilities": lambda answer, _: answer.probabilities,
    "entropy": lambda answer, _: doubt.entropy(answer.probabilities),
    "disagreement": lambda answer, _: doubt.disagreement(answer.probabilities, answer.member_entropy),
    "margin": lambda answer, _: doubt.margin(answer.probabilities),
    "distances": lambda answer, _: answer.distances,
}
EXTRA_DTYPES = ("float16", "uint8")


def class_map(classes: Sequence[SegmentationClass]) -> Map:
    """The volume of class values."""
    values = np.array([entry.value for entry in classes], class_dtype(classes))
    return Map((), values.dtype, lambda _, labels: values[labels], classes)


def class_dtype(classes: Sequence[SegmentationClass]) -> np.dtype:
    """The smallest unsigned type that holds every class value."""
    return np.min_scalar_type(max(entry.value for entry in classes))


def segment_volume(
    predictor: MeanPredictor,
    classes: Sequence[SegmentationClass],
    image: Volume | str | Path,
    output: str | Path,
    *,
    identity: str,
    extras: Mapping[str, str | Path] | None = None,
    extras_dtype: str = "float16",
    overwrite: bool = False,
    max_voxels: int = MAX_CORE_VOXELS,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Segment a volume and write class values, aligned with the image.

    The image is mirrored at its edges by what the networks need, so blocks give exactly what one window over everything
    would (docs/design.md, section 3). At most two blocks are in memory.

    Args:
        predictor: The networks.
        classes: What their outputs mean.
        image: `(z, y, x)` or `(z, y, x, channels)`.
        output: `.ome.zarr`, `.zarr`, `.tif`, `.h5` or `.npy`, by suffix.
        identity: What tells these networks from others; a stopped run is continued by the same ones only.
        extras: Also write these maps, by name, `(z, y, x)`, all from 0 to 1: `probabilities` `(z, y, x, classes)`;
            `entropy`, how unsure the networks are together; `disagreement`, how unlike they are (mutual information);
            `margin`, how far the most probable class is ahead; `distances`, 0 at the border of an object to 1 at
            `distance_cap` voxels from it, as in training.
        extras_dtype: `float16`, or `uint8` with 255 for 1.
        overwrite: Replace outputs that exist.
        max_voxels: The largest block, in voxels.
        progress: Called with voxels done and voxels in all.

    Returns:
        What it took.

    Raises:
        InputError: An output exists, the image has another number of channels, an unfinished run was made by
            other settings, no network gives distances, or one network alone is to disagree.
    """
    volume = image if isinstance(image, Volume) else open_volume(image)
    wanted = len(predictor.members[0].normalization.mean)
    if volume.n_channels != wanted:
        raise InputError(
            f"{volume.name} has {plural(volume.n_channels, 'channel')}, but the network was trained on {wanted}"
        )
    _warn_of_other_intensities(volume, predictor.members[0].normalization)
    shape = volume.shape[:3]
    core = predictor.choose_core(shape, max_voxels)
    boxes = list(blocks(shape, core))
    extras = dict(extras or {})
    maps = [class_map(classes), *_extra_maps(extras, extras_dtype, predictor, len(classes))]
    targets = [str(target) for target in (output, *extras.values())]
    if len(set(targets)) < len(targets):
        raise InputError(f"every map needs a file of its own, but got {', '.join(targets)}")
    for target in targets:
        place.check_free(target, overwrite=overwrite)
        place.target(target).path.parent.mkdir(parents=True, exist_ok=True)
    header = _digest(identity, volume, core, [*targets, *extras, extras_dtype])
    progress_file = Path(split_suffix(partial_path(place.target(output).path))[0] + ".txt")
    done = _Progress(progress_file, header)
    writers = _open_writers(targets, maps, volume, core, fresh=not done.done)
    todo = [index for index in range(len(boxes)) if index not in done.done]
    n_kept, started = len(done.done), time.monotonic()
    n_total, n_voxels = int(np.prod(shape)), 0
    n_before = n_total - sum(_size(boxes[index]) for index in todo)
    with interrupts_between_steps() as check:
        asked = [(index, boxes[index]) for index in todo]
        for index, answer in _answers(predictor, volume, asked, core, member_entropy="disagreement" in extras):
            labels = answer.probabilities.argmax(-1)
            counts = np.bincount(labels.ravel(), minlength=len(classes))
            z, y, x = boxes[index]
            for writer, kind in zip(writers, maps, strict=True):
                writer.write((z, y, x), kind.block(answer, labels))
            for writer in writers:
                writer.flush()
            done.add(index, counts)
            n_voxels += labels.size
            if progress is not None:
                progress(n_before + n_voxels, n_total)
            check()
    for writer, target in zip(writers, targets, strict=True):
        writer.close()
        place.publish(place.partial_name(target), target)
    remove(progress_file)
    fractions = tuple(float(share) for share in np.sum(list(done.done.values()), 0) / n_total)
    return Summary(Path(output), time.monotonic() - started, n_voxels, len(todo), n_kept, fractions)


def _extra_maps(names: Iterable[str], dtype: str, predictor: MeanPredictor, n_classes: int) -> list[Map]:
    """What is written beside the classes.

    Raises:
        InputError: A map that nobody knows, or that these networks cannot give.
    """
    if dtype not in EXTRA_DTYPES:
        raise InputError(f"maps are written as {' or '.join(EXTRA_DTYPES)}, but got {dtype!r}")
    found = []
    for name in names:
        if name not in EXTRAS:
            raise InputError(f"there is no map `{name}`; {known_instead(name, EXTRAS)}")
        if name == "distances" and not predictor.gives_distances:
            raise InputError("none of the networks gives distances; train one with `distance_weight` above 0")
        if name == "disagreement" and len(predictor.members) == 1:
            raise InputError("one network alone does not disagree; ask for `entropy`, or take an ensemble")
        found.append(Map((n_classes,) if name == "probabilities" else (), np.dtype(dtype), EXTRAS[name]))
    return found


def _warn_of_other_intensities(volume: Volume, normalization: Normalization) -> None:
    """Say so when the middle of the volume looks nothing like what the network was trained on."""
    z, y, x = (
        slice(max(0, n // 2 - room), min(n, n // 2 + room))
        for n, room in zip(volume.shape, (1, 512, 512), strict=False)
    )
    sample = with_channels(volume.read((z, y, x))).astype(np.float64)
    mean, std = sample.mean((0, 1, 2)), sample.std((0, 1, 2))
    usual_mean, usual_std = np.array(normalization.mean), np.array(normalization.std)
    if (abs(mean - usual_mean) > 4 * usual_std).any() or (std > 5 * usual_std).any() or (std < usual_std / 5).any():
        logger.warning(
            "%s has intensities of %s, but the network was trained on %s: expect little of the result, "
            "or bring the intensities into the range of the training images",
            volume.name,
            _spread(mean, std),
            _spread(usual_mean, usual_std),
        )


def _spread(mean: np.ndarray, std: np.ndarray) -> str:
    return ", ".join(f"{m:.4g} +- {s:.3g}" for m, s in zip(mean, std, strict=True))


def _size(box: Box) -> int:
    return int(np.prod([side.stop - side.start for side in box]))


def _digest(identity: str, volume: Volume, core: Sequence[int], targets: Sequence[str]) -> str:
    content = [identity, volume.name, list(volume.shape), str(volume.dtype), list(core), list(targets)]
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()


def _open_writers(
    targets: Sequence[str], maps: Sequence[Map], volume: Volume, core: Sequence[int], *, fresh: bool
) -> list[Writer]:
    """Create the outputs beside their places, or open those of a run that was stopped."""
    if not fresh:
        return [reopen_volume(place.partial_name(target)) for target in targets]
    shape = volume.shape[:3]
    chunks = tuple(min(c, n) for c, n in zip(core, shape, strict=True))
    writers = []
    for target, kind in zip(targets, maps, strict=True):
        writers.append(
            create_volume(
                place.partial_name(target),
                (*shape, *kind.extra),
                kind.dtype,
                voxel_size_nm=volume.voxel_size_nm,
                classes=kind.classes,
                chunks=(*chunks, *kind.extra),
                overwrite=True,
            )
        )
    return writers


def _answers(
    predictor: MeanPredictor,
    volume: Volume,
    todo: Sequence[tuple[int, Box]],
    core: Sequence[int],
    *,
    member_entropy: bool,
) -> Iterator[tuple[int, Answer]]:
    """Answers block by block; the next block is read while the networks work on one."""
    fits: list[Fit] = predictor.fits(core)

    def read(box: Box) -> np.ndarray:
        start = [side.start for side in box]
        return predictor.read(lambda s, n: with_channels(volume.read_mirrored(s, n)), start, fits)

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(read, todo[0][1]) if todo else None
        for place, (index, box) in enumerate(todo):
            images = ahead.result()  # type: ignore[union-attr]
            ahead = pool.submit(read, todo[place + 1][1]) if place + 1 < len(todo) else None
            inside = tuple(slice(side.stop - side.start) for side in box)
            yield index, predictor.predict(images, fits, member_entropy=member_entropy).inside(inside)
