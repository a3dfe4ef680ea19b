"""Corrections as training data: what people vouch for as labels, and how much each voxel counts."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genenet.corrections.merge import BLOCK, Merged, cut
from genenet.corrections.store import Corrections, same_file
from genenet.dataset import Dataset, Part, resolve_data
from genenet.errors import InputError
from genenet.folder import read_json, write_json, write_yaml
from genenet.formats.boxes import Box
from genenet.tiling import blocks
from genenet.volume import create_volume

logger = logging.getLogger("genenet")

DATA, COUNTS = "data.yaml", "counts.json"

# What stands for classes that nobody vouches for, where the data have no value for that.
UNKNOWN = 65_535

# Slices around corrections, at least: more than windows of 3-D networks have.
DEPTH = 64


def write_data(
    place: Path, data: str | Path | dict[str, Any], corrections: Sequence[Corrections], error_weight: int
) -> dict[str, int]:
    """Write what people vouch for as label volumes, and a data file with these beside what there was.

    Args:
        place: The folder to write into; what is there already stays.
        data: What there was, a `data.yaml` or its content.
        corrections: What people did. Voxels of the validation part are left out.
        error_weight: How many times a voxel that a person changed counts.

    Returns:
        `n_known` and `n_changed`: voxels that people vouch for, and those of them that they changed.

    Raises:
        InputError: There is nothing to learn from.
    """
    path = place / DATA
    if path.exists():
        return read_json(place / COUNTS)
    content = resolve_data(data)
    unknown = content["ignore"] = UNKNOWN if content.get("ignore") is None else content["ignore"]
    training = content["training"] if isinstance(content["training"], list) else [content["training"]]
    validation = Dataset.open(data).validation
    n_known = n_changed = 0
    for index, entry in enumerate(corrections):
        merged = Merged(entry)
        written = _write_labels(place, index, merged, unknown, _held_out(entry, validation), error_weight)
        if written is None:
            logger.warning(
                "nobody vouches for anything in %s outside the validation part; it is left out", entry.folder
            )
            continue
        part, known, changed = written
        training.append({"image": entry.image, **part})
        n_known, n_changed = n_known + known, n_changed + changed
    if not n_known:
        raise InputError(
            "there is nothing to learn from: nobody edited anything, or marked a slice or region as done, outside the "
            "validation part"
        )
    Dataset.open({**content, "training": training})  # before it is written: what is refused may be mended
    counts = {"n_known": n_known, "n_changed": n_changed}
    write_json(place / COUNTS, counts)
    write_yaml(path, {**content, "training": training})
    return counts


def _write_labels(
    place: Path, index: int, merged: Merged, unknown: int, held_out: Sequence[Box], error_weight: int
) -> tuple[dict[str, Any], int, int] | None:
    """Labels and weights of one volume; what of the data file tells of them, voxels known, and voxels changed."""
    found = []
    for box in blocks(merged.shape, BLOCK):
        known = _known(merged, box, held_out)  # type: ignore[arg-type]
        if known.any():
            found.append(box)
    if not found:
        return None
    paths = [place / f"{name}-{index}.ome.zarr" for name in ("corrections", "weights")]
    low, high = (np.array([[getattr(side, end) for side in box] for box in found]) for end in ("start", "stop"))
    # Whole slices, and a good many, so that every window fits; what nobody vouches for is unknown there.
    first, end = int(low.min(0)[0]), int(high.max(0)[0])
    more = max(DEPTH - (end - first), 0)
    bounds = [(max(first - more, 0), min(end + more, merged.shape[0])), (0, merged.shape[1]), (0, merged.shape[2])]
    dtype = np.promote_types(np.dtype(merged.corrections.dtype), np.min_scalar_type(unknown))
    n_known = n_changed = 0
    chunks = 1, 256, 256
    with (
        create_volume(paths[0], merged.shape, dtype, chunks=chunks, overwrite=True) as labels,
        create_volume(paths[1], merged.shape, np.uint8, chunks=chunks, overwrite=True) as weights,
    ):
        for inner in blocks([b - a for a, b in bounds], BLOCK):
            box = tuple(slice(a + side.start, a + side.stop) for (a, _), side in zip(bounds, inner, strict=True))
            known = _known(merged, box, held_out)  # type: ignore[arg-type]
            changed = merged.changed(box) & known  # type: ignore[arg-type]
            labels.write(box, np.where(known, merged.read(box).astype(dtype), dtype.type(unknown)))  # type: ignore[arg-type]
            weights.write(box, np.where(changed, error_weight, 1).astype(np.uint8))  # type: ignore[arg-type]
            n_known, n_changed = n_known + int(known.sum()), n_changed + int(changed.sum())
    names = dict(zip(("labels", "weights"), (str(path.absolute()) for path in paths), strict=True))
    return {**names, **{axis: list(pair) for axis, pair in zip("zyx", bounds, strict=True)}}, n_known, n_changed


def _known(merged: Merged, box: Box, held_out: Sequence[Box]) -> np.ndarray:
    """Voxels that somebody vouches for, but not those that networks are compared on."""
    known = merged.known(box)
    for area in held_out:
        known[cut(area, box)] = False
    return known


def _held_out(corrections: Corrections, validation: Sequence[Part]) -> list[Box]:
    """Boxes of the validation part that lie in the corrected image."""
    return [part.box for part in validation if same_file(part.image.name, str(corrections.image))]
