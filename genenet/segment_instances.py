"""Segment images into numbered objects: whole slides block by block, folders of images one after the other."""

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from genenet.averaging import MeanPredictor
from genenet.components import write_table
from genenet.ensemble import Ensemble
from genenet.errors import InputError
from genenet.folder import read_json, remove, split_suffix, write_json
from genenet.formats import place
from genenet.formats.slices import natural
from genenet.instance_blocks import merge_volume
from genenet.instance_segmentation import check_branches, merge_slices, predict_maps
from genenet.instances import Merging
from genenet.normalization import with_channels
from genenet.object_table import measure_objects
from genenet.outlines import write_outlines
from genenet.overlay import draw_outlines
from genenet.segment import check_channels
from genenet.views import STRAIGHT, Look
from genenet.volume import Volume, create_volume, open_volume

logger = logging.getLogger("genenet")

# Images of a folder that have more pixels are worked on block by block.
MOST_PIXELS = 2**26

# What a folder of results holds for every image, by what it is: the suffix after the image's name.
SUFFIXES = {"labels": ".tif", "outlines": ".geojson", "overlay": ".png"}
TABLE = "objects.csv"


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
    look: Look = STRAIGHT,
    engine: str = "keras",
    precision: str = "auto",
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Found:
    """Find the objects in an image of any size.

    The networks' maps are written beside the output first, block by block (`genenet.segment`), and merged from there;
    stopped and called again, it goes on with the maps that are missing. They are deleted in the end.

    Args:
        ensemble: Networks that tell foreground from background, and give distances.
        image: `(z, y, x)` or `(z, y, x, channels)`; every slice is an image of its own.
        output: Gets the numbers of objects; `.ome.zarr`, `.tif`, `.h5` or `.npy`.
        merging: How maps become objects.
        table: Also write a row per object, as CSV.
        outlines: Also write outlines as GeoJSON, for QuPath.
        overlay: Also draw the outlines of the first slice over the image, as PNG.
        overwrite: Replace what exists.
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
    for path in filter(None, (output, table, outlines, overlay)):
        _check_free(path, overwrite)
    folder = output.with_name(f"{split_suffix(output.name)[0]}.maps")
    made_by = {
        "networks": ensemble.identity,
        "image": [volume.name, list(volume.shape), str(volume.dtype)],
        "look": dataclasses.asdict(look),
        "engine": [engine, precision],
    }
    if folder.exists() and (not (folder / "made_by.json").exists() or read_json(folder / "made_by.json") != made_by):
        remove(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "made_by.json", made_by)
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
    objects = merge_volume(
        maps["foreground"],
        maps["distances"],
        output,
        merging,
        image=volume,
        overwrite=overwrite,
        progress=progress,
    )
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
    progress: Callable[[int, int], None] | None = None,
) -> Found:
    """Find the objects in many images, which may differ in size; the networks are loaded once.

    Args:
        ensemble: As for `segment_instances`.
        images: Files, one image each.
        output: A folder, which gets `objects.csv`, and for each image its labels (`.tif`), outlines (`.geojson`) and
            an overlay (`.png`); images that have these there are not done again, unless `overwrite`.
        merging: How maps become objects.
        outlines: Whether to write the outlines of each.
        overlay: Whether to draw each.
        overwrite: Do all images again.
        look: As for `Ensemble.segment`.
        engine: As for `Ensemble.segment`.
        precision: As for `Ensemble.segment`.
        progress: Called with images done, and in all.

    Raises:
        InputError: Two images of the same name; as for `segment_instances`.
    """
    started = time.monotonic()
    check_branches(ensemble)
    stems = [path.stem for path in images]
    if twice := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise InputError(f"two images are called {twice[0]}; their labels would have one name, so rename one of them")
    if output.resolve() in {path.parent.resolve() for path in images}:
        raise InputError(f"{output} holds the images; choose another folder for what is found in them")
    output.mkdir(parents=True, exist_ok=True)
    predictor: MeanPredictor | None = None
    tables = []
    for index, path in enumerate(images):
        paths = {name: output / f"{path.stem}{suffix}" for name, suffix in SUFFIXES.items()}
        volume = open_volume(path)
        check_channels(volume, ensemble.members[0].blueprint.n_channels)
        drawn, shown = (
            paths[name] if asked else None for name, asked in (("outlines", outlines), ("overlay", overlay))
        )
        if not overwrite and all(each.exists() for each in (paths["labels"], drawn, shown) if each is not None):
            found = measure_objects(open_volume(paths["labels"]), volume)
        elif volume.shape[0] * volume.shape[1] * volume.shape[2] > MOST_PIXELS:
            found = segment_instances(
                ensemble, volume, paths["labels"], merging=merging, outlines=drawn, overlay=shown, overwrite=True,
                look=look, engine=engine, precision=precision,
            ).objects  # fmt: skip
        else:
            predictor = predictor or _load(ensemble, volume, look, engine, precision)
            found = _do_in_memory(predictor, volume, paths["labels"], merging or Merging())
            _write_more(volume, open_volume(paths["labels"]), found, None, drawn, shown)
        tables.append(found.assign(image=path.name))
        if progress is not None:
            progress(index + 1, len(images))
    objects = pd.concat(tables)
    objects = objects[["image", *(name for name in objects.columns if name != "image")]]
    write_table(objects, output / TABLE)
    return Found(output, objects, len(images), time.monotonic() - started)


def images_in(folder: Path) -> list[Path]:
    """The images in a folder, in natural order.

    Raises:
        InputError: There is none.
    """
    known = (*place.IMAGES, ".tif", ".tiff", ".svs", ".npy")
    found = [path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in known]
    if not found:
        raise InputError(f"there is no image in {folder}; images are {', '.join(known)} files")
    return sorted((path for path in found if not path.name.startswith(".")), key=lambda path: natural(path.name))


def _load(ensemble: Ensemble, volume: Volume, look: Look, engine: str, precision: str) -> MeanPredictor:
    if engine == "auto":
        core = ensemble.geometry(look).choose_core(volume.shape[:3])
        return ensemble.fastest(precision, volume, core, look)
    return ensemble.predictor_by([(engine, precision)] * len(ensemble.members), look)


def _do_in_memory(predictor: MeanPredictor, volume: Volume, output: Path, merging: Merging) -> pd.DataFrame:
    """Find the objects of an image, and write their numbers."""
    foreground, distances = predict_maps(
        predictor, volume.shape[:3], lambda start, shape: with_channels(volume.read_mirrored(start, shape))
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


def _check_free(path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists; choose another name, or ask to overwrite it (--overwrite)")
