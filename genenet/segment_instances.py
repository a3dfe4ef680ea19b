"""Segment images into numbered objects: whole slides block by block, folders of images one after the other."""

import dataclasses
import hashlib
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from genenet.averaging import MeanPredictor
from genenet.components import write_table
from genenet.ensemble import Ensemble
from genenet.errors import InputError
from genenet.folder import read_json, remove, write_json
from genenet.formats import place
from genenet.formats.slices import natural
from genenet.instance_blocks import merge_volume
from genenet.instance_segmentation import check_branches, merge_slices, predict_maps
from genenet.instances import Merging
from genenet.normalization import with_channels
from genenet.object_table import measure_objects
from genenet.outlines import write_outlines
from genenet.overlay import draw_outlines
from genenet.segment import check_channels, warn_of_other_intensities
from genenet.views import STRAIGHT, Look
from genenet.volume import Volume, create_volume, open_volume

# Images of a folder that have more pixels are worked on block by block.
MOST_PIXELS = 2**26

# What a folder of results holds for every image, by what it is: the suffix after the image's name.
SUFFIXES = {"labels": ".tif", "outlines": ".geojson", "overlay": ".png"}
TABLE = "objects.csv"

# By which networks, settings and images something was made, and is gone on with.
MADE_BY = "made_by.json"

# Beside the maps, once they are merged: how, and which files were being written; they are this run's own.
MERGED = "merged.json"


@dataclasses.dataclass(frozen=True)
class Found:
    """What was found.

    Attributes:
        output: The file or folder written.
        objects: A row per object, as `genenet.object_table.measure_objects` gives; for a folder with the image's name.
        n_images: How many images.
        seconds: In all.
    """

    output: Path
    objects: pd.DataFrame
    n_images: int
    seconds: float


def segment_instances(
    ensemble: Ensemble,
    image: Volume | str | Path,
    output: str | Path,
    *,
    merging: Merging | None = None,
    table: Path | None = None,
    outlines: Path | None = None,
    overlay: Path | None = None,
    overwrite: bool = False,
    restart: bool = False,
    look: Look = STRAIGHT,
    engine: str = "keras",
    precision: str = "auto",
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Found:
    """Find the objects in an image of any size.

    The networks' maps are written beside the output first, block by block (`genenet.segment`), and merged from there;
    stopped and called again, it goes on with the maps, or with the files, that are missing. They are deleted in the
    end.

    Args:
        ensemble: Networks that tell foreground from background, and give distances.
        image: `(z, y, x)` or `(z, y, x, channels)`; every slice is an image of its own.
        output: Gets the numbers of objects; `.ome.zarr`, `.tif`, `.h5` or `.npy`.
        merging: How maps become objects.
        table: Also write a row per object, as CSV.
        outlines: Also write outlines as GeoJSON, for QuPath.
        overlay: Also draw the outlines of the first slice over the image, as PNG.
        overwrite: Replace what exists.
        restart: Begin anew where a run was stopped.
        look: As for `Ensemble.segment`.
        engine: As for `Ensemble.segment`.
        precision: As for `Ensemble.segment`.
        progress: Called with pixels done, and in all, of each of the two steps.
        **options: Of `Ensemble.segment`: `cluster`, `n_workers`, `memory_bytes`, ...

    Raises:
        InputError: Networks that cannot be merged; an output that exists; as `genenet.segment.segment_volume`.
    """
    started = time.monotonic()
    check_branches(ensemble)
    volume, output = image if isinstance(image, Volume) else open_volume(image), Path(output)
    target = place.target(str(output)).path
    folder = target.with_name(f"{target.name}.maps")
    outputs = list(filter(None, (output, table, outlines, overlay)))
    merged_by = {"merging": (merging or Merging()).to_dict(), "outputs": [str(path) for path in outputs]}
    is_merged = not restart and (folder / MERGED).exists() and read_json(folder / MERGED) == merged_by
    check_outputs(outputs, overwrite=overwrite or is_merged)
    check_channels(volume, ensemble.members[0].blueprint.n_channels)
    made_by = {
        "networks": ensemble.identity,
        "image": [volume.name, list(volume.shape), str(volume.dtype), *_version(volume)],
        "look": dataclasses.asdict(look),
        "engine": [engine, precision],
    }
    if restart and (folder / MADE_BY).exists():
        remove(folder)
    if folder.exists() and (not (folder / MADE_BY).exists() or read_json(folder / MADE_BY) != made_by):
        raise InputError(
            f"{folder} holds the maps of a stopped run with other networks, settings or another image; go on with "
            "those, or begin anew (--restart), or remove the folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / MADE_BY, made_by)
    maps = {name: folder / f"{name}.ome.zarr" for name in ("classes", "foreground", "distances")}
    if not all(path.exists() for path in maps.values()):
        ensemble.segment(
            volume,
            maps["classes"],
            extras={name: maps[name] for name in ("foreground", "distances")},
            pyramid=False,
            look=look,
            engine=engine,
            precision=precision,
            progress=progress,
            **options,
        )
    if is_merged and output.exists():
        objects = measure_objects(open_volume(output), volume)
    else:
        objects = merge_volume(
            maps["foreground"],
            maps["distances"],
            output,
            merging,
            image=volume,
            overwrite=overwrite,
            progress=progress,
        )
        write_json(folder / MERGED, merged_by)
    _write_more(volume, open_volume(output), objects, table, outlines, overlay)
    remove(folder)
    return Found(output, objects, 1, time.monotonic() - started)


def segment_folder(
    ensemble: Ensemble,
    images: Sequence[Path],
    output: Path,
    *,
    merging: Merging | None = None,
    outlines: bool = True,
    overlay: bool = True,
    overwrite: bool = False,
    look: Look = STRAIGHT,
    engine: str = "keras",
    precision: str = "auto",
    memory_bytes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Found:
    """Find the objects in many images, which may differ in size; the networks are loaded once.

    Args:
        ensemble: As for `segment_instances`.
        images: Files, one image each.
        output: A folder, which gets `objects.csv`, and for each image its labels (`.tif`), outlines (`.geojson`) and
            an overlay (`.png`); images that the same networks did, merged alike, are not done again.
        merging: How maps become objects.
        outlines: Whether to write the outlines of each.
        overlay: Whether to draw each.
        overwrite: Do all images again, and replace files that are there.
        look: As for `Ensemble.segment`.
        engine: As for `Ensemble.segment`.
        precision: As for `Ensemble.segment`.
        memory_bytes: As for `Ensemble.segment`.
        progress: Called with images done, and in all.

    Raises:
        InputError: Two images of the same name, files in the way, an image of other channels; as for
            `segment_instances`.
    """
    started = time.monotonic()
    check_branches(ensemble)
    _check_images(ensemble, images, output)
    made_by = {
        "networks": ensemble.identity,
        "merging": (merging or Merging()).to_dict(),
        "look": dataclasses.asdict(look),
        "engine": [engine, precision],
    }
    done = _begin_folder(output, made_by, [path.stem for path in images], overwrite=overwrite)
    predictor: MeanPredictor | None = None
    tables = []
    for index, path in enumerate(images):
        paths = {name: output / f"{path.stem}{suffix}" for name, suffix in SUFFIXES.items()}
        volume = open_volume(path)
        drawn, shown = paths["outlines"] if outlines else None, paths["overlay"] if overlay else None
        wanted = [each for each in (paths["labels"], drawn, shown) if each is not None]
        version = [path.name, *_version(volume)]
        if done.get(path.stem) == version and all(each.exists() for each in wanted):
            found = measure_objects(open_volume(paths["labels"]), volume)
        elif volume.shape[0] * volume.shape[1] * volume.shape[2] > MOST_PIXELS:
            found = segment_instances(
                ensemble, volume, paths["labels"], merging=merging, outlines=drawn, overlay=shown, overwrite=True,
                look=look, engine=engine, precision=precision, memory_bytes=memory_bytes,
            ).objects  # fmt: skip
        else:
            predictor = predictor or _load(ensemble, volume, look, engine, precision)
            found = _do_in_memory(predictor, volume, paths["labels"], merging or Merging(), memory_bytes)
            _write_more(volume, open_volume(paths["labels"]), found, None, drawn, shown)
        done[path.stem] = version
        write_json(output / MADE_BY, {**made_by, "images": done})
        tables.append(found.assign(image=path.name))
        if progress is not None:
            progress(index + 1, len(images))
    objects = pd.concat(tables)
    objects = objects[["image", *(name for name in objects.columns if name != "image")]]
    write_table(objects, output / TABLE)
    return Found(output, objects, len(images), time.monotonic() - started)


def _check_images(ensemble: Ensemble, images: Sequence[Path], output: Path) -> None:
    """Refuse images that cannot be done, before any is."""
    if not images:
        raise InputError("there are no images to find objects in")
    stems = [path.stem for path in images]
    if twice := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise InputError(f"two images are called {twice[0]}; their labels would have one name, so rename one of them")
    if output.resolve() in {path.parent.resolve() for path in images}:
        raise InputError(f"{output} holds the images; choose another folder for what is found in them")
    for path in images:
        check_channels(open_volume(path), ensemble.members[0].blueprint.n_channels)


def _begin_folder(
    output: Path, made_by: dict[str, Any], stems: Sequence[str], *, overwrite: bool
) -> dict[str, list[Any]]:
    """The images that are done already by the same networks and settings, by name without suffix.

    Raises:
        InputError: The folder holds files that would be replaced, and nobody asked for that.
    """
    output.mkdir(parents=True, exist_ok=True)
    known = read_json(output / MADE_BY) if (output / MADE_BY).exists() else None
    if known is not None and {**known, "images": None} == {**made_by, "images": None} and not overwrite:
        return dict(known["images"])
    there = [path for stem in stems for suffix in SUFFIXES.values() if (path := output / f"{stem}{suffix}").exists()]
    if there and not overwrite:
        by = "was made by other networks or settings" if known is not None else "is not of this program"
        raise InputError(f"{there[0]} {by}; choose another folder, or ask to overwrite it (--overwrite)")
    return {}


def _version(volume: Volume) -> list[Any]:
    """What changes when an image is replaced by another one of the same name: bytes and time, or a checksum."""
    if isinstance(volume.source, (str, os.PathLike)):
        path = place.find(volume.source).path
        if not isinstance(path, Path) or not path.exists():
            return []  # elsewhere
        found = path.stat()
        return [found.st_size, found.st_mtime_ns]
    return [hashlib.blake2b(np.ascontiguousarray(volume.source).tobytes(), digest_size=8).hexdigest()]


def images_in(folder: Path) -> list[Path]:
    """The images in a folder, in natural order.

    Raises:
        InputError: There is none.
    """
    known = (*place.IMAGES, ".tif", ".tiff", ".svs", ".npy")
    found = [path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in known]
    found = [path for path in found if not path.name.startswith(".")]
    if not found:
        raise InputError(f"there is no image in {folder}; images are {', '.join(known)} files")
    return sorted(found, key=lambda path: natural(path.name))


def _load(ensemble: Ensemble, volume: Volume, look: Look, engine: str, precision: str) -> MeanPredictor:
    if precision == "int8":
        ensemble.calibrate(volume)
    if engine == "auto":
        core = ensemble.geometry(look).choose_core(volume.shape[:3])
        return ensemble.fastest(precision, volume, core, look)
    return ensemble.predictor_by([(engine, precision)] * len(ensemble.members), look)


def _do_in_memory(
    predictor: MeanPredictor, volume: Volume, output: Path, merging: Merging, memory_bytes: int | None
) -> pd.DataFrame:
    """Find the objects of an image, and write their numbers."""
    warn_of_other_intensities(volume, predictor.members[0].normalization)
    foreground, distances = predict_maps(
        predictor,
        volume.shape[:3],
        lambda start, shape: with_channels(volume.read_mirrored(start, shape)),
        math.inf if memory_bytes is None else memory_bytes,
    )
    labels = merge_slices(foreground, distances, merging).astype("uint32")
    partial = place.partial_name(str(output))
    writer = create_volume(partial, labels.shape, labels.dtype, voxel_size_nm=volume.voxel_size_nm, overwrite=True)
    writer.write((slice(0, labels.shape[0]), slice(0, labels.shape[1]), slice(0, labels.shape[2])), labels)
    writer.close()
    place.publish(partial, str(output))
    return measure_objects(open_volume(output), volume)


def _write_more(
    volume: Volume,
    labels: Volume,
    objects: pd.DataFrame,
    table: Path | None,
    outlines: Path | None,
    overlay: Path | None,
) -> None:
    if table is not None:
        write_table(objects, table)
    if outlines is not None:
        write_outlines(labels, outlines, objects, overwrite=True)
    if overlay is not None:
        draw_outlines(volume, labels, overlay, overwrite=True)


def check_outputs(paths: Sequence[Path], *, overwrite: bool) -> None:
    """Refuse outputs that exist, and a first one of no known format."""
    place.check_free(str(paths[0]), overwrite=overwrite)
    for path in paths[1:]:
        if path.exists() and not overwrite:
            raise InputError(f"{path} exists; choose another name, or ask to overwrite it (--overwrite)")
