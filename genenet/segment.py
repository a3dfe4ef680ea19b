"""Segment a volume of any size, block by block; killed and started again, it does only what is missing."""

import contextlib
import dataclasses
import logging
import math
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genenet.averaging import MAX_CORE_VOXELS, MeanPredictor
from genenet.chunks import group_of, shared_sides
from genenet.classes import SegmentationClass
from genenet.errors import InputError
from genenet.folder import remove
from genenet.formats import ome_zarr, place
from genenet.interrupts import interrupts_between_steps
from genenet.manifest import Manifest
from genenet.maps import Map, class_map, extra_maps
from genenet.memory import available_bytes
from genenet.normalization import Normalization, with_channels
from genenet.pyramid import add_levels
from genenet.tiling import Box, chunk_side, n_blocks, numbered_blocks
from genenet.volume import Volume, Writer, check_new_volume, check_not_read, create_volume, open_volume, reopen_volume
from genenet.wording import plural
from genenet.work import Done, Work, Worker

logger = logging.getLogger("genenet")

# Blocks take at most this share of the memory that is there, and at most so many bytes: larger ones gain nothing.
MEMORY_SHARE = 0.5
MAX_BYTES = 2**31

# The largest chunk of an output, `(z, y, x)`, of thick blocks and of single slices: small ones take longer. With more
# than so many of them, blocks are packed into one file each.
CHUNK, FLAT_CHUNK = (16, 256, 256), (1, 512, 512)
MOST_FILES = 2**14

# Gives networks, and how other processes load them: from what an earlier run had chosen (`engines`, a word such as
# `keras/float32` per member; nothing if there was none) and from the shape of a block.
Prepare = Callable[[dict[str, Any], tuple[int, ...]], tuple[MeanPredictor, Callable[[], MeanPredictor]]]

# Does the blocks that are given, in any order.
Runner = Callable[[Work, Iterable[tuple[int, Box]]], Generator[tuple[int, Done]]]


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
        block: The shape of a block, `(z, y, x)`.
        engines: What ran the networks, and in which precision, a word per member.
        network_seconds: What the networks took of the time, of all processes together.
        peak_bytes: The most memory that a process had.
        n_bytes_read, n_bytes_written: Voxels as they went to the networks and to the files, before compression.
    """

    output: Path
    seconds: float
    n_voxels: int
    n_blocks: int
    n_kept: int
    fractions: tuple[float, ...]
    block: tuple[int, ...]
    engines: tuple[str, ...]
    network_seconds: float
    peak_bytes: int
    n_bytes_read: int
    n_bytes_written: int

    @property
    def voxels_per_s(self) -> float:
        """Speed of this run."""
        return self.n_voxels / max(self.seconds, 1e-9)


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
    restart: bool = False,
    max_voxels: int = MAX_CORE_VOXELS,
    memory_bytes: int | None = None,
    free_bytes: Callable[[], float] = available_bytes,
    block: tuple[int, ...] | None = None,
    ome_version: str = ome_zarr.VERSION,
    pyramid: bool = True,
    progress: Callable[[int, int], None] | None = None,
    settings: Mapping[str, Any] | None = None,
    run: Runner | None = None,
    prepare: Prepare | None = None,
) -> Summary:
    """Segment a volume and write class values, aligned with the image.

    The image is mirrored at its edges by what the networks need, so blocks give exactly what one window over everything
    would (docs/design.md, section 3). Three blocks are in memory at most: one is read and one is written while the
    networks work on a third.

    Args:
        predictor: The networks.
        classes: What their outputs mean.
        image: `(z, y, x)` or `(z, y, x, channels)`.
        output: `.ome.zarr`, `.zarr`, `.tif`, `.h5` or `.npy`, by suffix.
        identity: What tells these networks from others; a stopped run is continued by the same ones only.
        extras: Also write these maps, by name, `(z, y, x)`, all from 0 to 1: `probabilities` `(z, y, x, classes)`;
            `foreground`, of all classes but the first; `entropy`, how unsure the networks are together;
            `disagreement`, how unlike they are (mutual information); `margin`, how far the most probable class is
            ahead; `distances`, 0 at the border of an object to 1, as in training.
        extras_dtype: `float16`, or `uint8` with 255 for 1.
        overwrite: Replace outputs that exist.
        restart: Begin anew where a run was stopped.
        max_voxels: The largest block, in voxels.
        memory_bytes: What a block may take of memory, about; half of what is there, 2 GiB at most, if left out.
        free_bytes: Tells the memory that is there where blocks are done.
        block: The shape of a block `(z, y, x)`; chosen by `choose_block` if left out.
        ome_version: Of an OME-Zarr, 0.5 or 0.4.
        pyramid: Add coarser levels to an OME-Zarr.
        progress: Called with voxels done and voxels in all.
        settings: What else the result depends on; a stopped run is continued with the same only.
        run: Does the blocks; this process does if left out.
        prepare: Gives the networks, and how other processes load them, once everything was checked; `predictor` may
            then know its geometry only.

    Returns:
        What it took.

    Raises:
        InputError: An output exists, or another program is writing it; the image has another number of channels; an
            unfinished run was made by other settings; no network gives distances, or one network alone is to disagree.
    """
    volume = image if isinstance(image, Volume) else open_volume(image)
    extras = extras or {}
    maps = maps_for(predictor, classes, extras, extras_dtype)
    targets = tuple(map(str, (output, *extras.values())))
    check_segmentation(predictor, volume, targets, maps, ome_version, several=run is not None)
    made_by = {
        "networks": identity,
        "image": [volume.name, volume.shape, str(volume.dtype)],
        "outputs": {
            entry.name: os.path.relpath(path, Path(output).parent) for entry, path in zip(maps, targets, strict=True)
        },
        "maps_dtype": extras_dtype,
        "ome_version": ome_version,
        **(settings or {}),
    }
    paths = [place.target(target).path for target in targets]
    manifest = Manifest.hold(paths[0], made_by, others=paths[1:], restart=restart)
    try:
        # Those that an earlier run was about to publish are whole; they may have their names by now, or not yet.
        left = [target for target in targets if ("published", target) not in manifest.notes]
        for target in left:
            place.check_free(target, overwrite=overwrite)
        known = manifest.chosen.get("block") or block
        core = tuple(known or choose_block(predictor, volume, max_voxels, memory_bytes, free_bytes))
        networks, load = prepare(manifest.chosen, core) if prepare else (predictor, lambda: predictor)
        engines = ["/".join(member.engine) for member in networks.members]
        manifest.begin({"block": core, "engines": engines})
        writers = _open_writers(left, maps, volume, core, ome_version, fresh=not manifest.done)
        partial = tuple(map(place.partial_name, targets))
        work = Work(load if run else lambda: networks, volume, maps, partial, core)
        group = group_of(core, shared_sides(volume, core, networks.reach(core).input))
        started, todo, n_kept = time.monotonic(), _missing(volume, core, group, manifest), len(manifest.done)
        total = Done([], 0, 0, 0.0, 0)
        doing = _run_here(work, todo, writers) if run is None else run(work, todo)
        if len(manifest.done) == n_blocks(volume.shape[:3], core):
            doing = _nothing()
        with interrupts_between_steps() as check, contextlib.closing(doing):
            for index, each in doing:
                manifest.add(index, each.counts)
                total = total.plus(each)
                if progress is not None:
                    progress(sum(manifest.counts), math.prod(volume.shape[:3]))
                check()
        for writer in writers:
            writer.close()
        for target, entry in zip(targets, maps, strict=True):
            where = place.target(place.partial_name(target))
            if where.format == "ome_zarr" and where.path.exists():
                ome_zarr.write_note(where.path, made_by)
            if pyramid and where.format == "ome_zarr" and target in left and ("levels", target) not in manifest.notes:
                add_levels(where.path, labels=bool(entry.classes))
                manifest.note("levels", target)
        for target in targets:
            if target in left:
                manifest.note("published", target)
            if place.target(place.partial_name(target)).path.exists():
                place.publish(place.partial_name(target), target)
        manifest.end()
    finally:
        manifest.release()
    n_voxels = sum(manifest.counts)
    return Summary(
        output=Path(output),
        seconds=time.monotonic() - started,
        n_voxels=sum(total.counts),
        n_blocks=len(manifest.done) - n_kept,
        n_kept=n_kept,
        fractions=tuple(count / n_voxels for count in manifest.counts),
        block=core,
        engines=tuple(engines),
        network_seconds=total.network_s,
        peak_bytes=total.peak_bytes,
        n_bytes_read=total.n_bytes_read,
        n_bytes_written=total.n_bytes_written,
    )


def maps_for(
    predictor: MeanPredictor, classes: Sequence[SegmentationClass], extras: Iterable[str], extras_dtype: str
) -> tuple[Map, ...]:
    """What is written: the classes, and further maps by name."""
    return class_map(classes), *extra_maps(extras, extras_dtype, predictor, len(classes))


def choose_block(
    predictor: MeanPredictor,
    volume: Volume,
    max_voxels: int = MAX_CORE_VOXELS,
    memory_bytes: int | None = None,
    free_bytes: Callable[[], float] = available_bytes,
) -> tuple[int, ...]:
    """The blocks in which a volume is segmented, `(z, y, x)`; arguments as for `segment_volume`."""
    limit = min(MEMORY_SHARE * free_bytes(), MAX_BYTES) if memory_bytes is None else memory_bytes
    core = predictor.choose_core(volume.shape[:3], max_voxels, limit)
    needed = predictor.bytes_for(core)
    if needed > limit:
        logger.warning(
            "the smallest blocks of %s take about %.1f GiB, more than the %.1f GiB that they should",
            "x".join(map(str, core)),
            needed / 2**30,
            limit / 2**30,
        )
    return core


def check_segmentation(
    predictor: MeanPredictor,
    volume: Volume,
    targets: Sequence[str],
    maps: Sequence[Map],
    ome_version: str,
    *,
    several: bool,
) -> None:
    """Refuse what cannot be, before anything is written.

    Raises:
        InputError: As for `segment_volume`.
    """
    check_channels(volume, len(predictor.members[0].normalization.mean))
    files = [place.target(target).path for target in targets]
    if len(set(files)) < len(files):
        raise InputError(f"every map needs a file of its own, but got {', '.join(targets)}")
    for target, entry in zip(targets, maps, strict=True):
        check_new_volume(target, entry.dtype, ome_version)
        check_not_read(volume, target)
        if several and place.target(target).format != "ome_zarr":
            raise InputError(f"several processes write one OME-Zarr, but not {target}; choose .ome.zarr")
    warn_of_other_intensities(volume, predictor.members[0].normalization)


def check_channels(volume: Volume, wanted: int) -> None:
    """Refuse an image with other channels than a network was trained on."""
    if volume.n_channels != wanted:
        cure = "; if the fourth is transparency, save the image as RGB" if (volume.n_channels, wanted) == (4, 3) else ""
        raise InputError(
            f"{volume.name} has {plural(volume.n_channels, 'channel')}, but the network was trained on {wanted}{cure}"
        )


def _missing(
    volume: Volume, core: Sequence[int], group: Sequence[int], manifest: Manifest
) -> Iterator[tuple[int, Box]]:
    """Blocks that are yet to be done, by number; those that share chunks of the image one after the other."""
    done = frozenset(manifest.done)
    return ((index, box) for index, box in numbered_blocks(volume.shape[:3], core, group) if index not in done)


def _nothing() -> Generator[tuple[int, Done]]:
    yield from ()


def _run_here(work: Work, todo: Iterable[tuple[int, Box]], writers: Sequence[Writer]) -> Generator[tuple[int, Done]]:
    yield from Worker(work, writers).do_all(todo)


def warn_of_other_intensities(volume: Volume, normalization: Normalization) -> None:
    """Say so when the middle of the volume looks nothing like what the network was trained on."""
    z, y, x = (
        slice(max(0, n // 2 - room), min(n, n // 2 + room))
        for n, room in zip(volume.shape, (1, 512, 512), strict=False)
    )
    sample = with_channels(volume.read((z, y, x))).astype(np.float64)
    sample = np.where(np.isfinite(sample), sample, np.nan)
    if np.isnan(sample).all():
        return
    mean, std = np.nanmean(sample, (0, 1, 2)), np.nanstd(sample, (0, 1, 2))
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


def _open_writers(
    targets: Sequence[str],
    maps: Sequence[Map],
    volume: Volume,
    core: Sequence[int],
    ome_version: str,
    *,
    fresh: bool,
) -> list[Writer]:
    """Create the outputs beside their places, or open those of a run that was stopped.

    Blocks are whole chunks, so that no two share a file; where these would be very many, a block is one file.
    """
    if not fresh:
        try:
            return [reopen_volume(place.partial_name(target)) for target in targets]
        except InputError as error:
            raise InputError(f"{error}; if it cannot be mended, --restart begins anew") from None
    for target in targets:  # what is left of a run that did no block may be damaged
        remove(place.target(place.partial_name(target)).path)
    shape = volume.shape[:3]
    most = FLAT_CHUNK if core[0] == 1 else CHUNK
    chunks = tuple(chunk_side(side, longest) for side, longest in zip(core, most, strict=True))
    writers = []
    for target, kind in zip(targets, maps, strict=True):
        is_large = n_blocks(shape, chunks) * math.prod(kind.extra) > MOST_FILES
        writers.append(
            create_volume(
                place.partial_name(target),
                (*shape, *kind.extra),
                kind.dtype,
                voxel_size_nm=volume.voxel_size_nm,
                classes=kind.classes,
                chunks=chunks,
                shards=core if is_large else None,
                ome_version=ome_version,
                overwrite=True,
            )
        )
    return writers
