"""A phantom as files: image, labels, and the data.yaml that makes a data set of them."""

import dataclasses
from pathlib import Path

from genenet.errors import InputError
from genenet.folder import write_yaml
from genenet.formats import place
from genenet.phantom import CLASSES, VOXEL_SIZE_NM, phantom
from genenet.volume import create_volume


def write_phantom(folder: Path, shape: tuple[int, int, int], *, seed: int = 0, overwrite: bool = False) -> Path:
    """Write `image.ome.zarr`, `labels.ome.zarr` and `data.yaml`; the last quarter of the slices is for validation.

    Returns:
        The path of `data.yaml`.

    Raises:
        InputError: The folder holds a data.yaml and `overwrite` is not asked for.
    """
    folder = Path(folder)
    path = folder / "data.yaml"
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists; choose another folder, or ask to overwrite it")
    image, labels = phantom(shape, seed=seed)
    box = tuple(slice(0, n) for n in shape)
    for name, volume, classes in (("image.ome.zarr", image, None), ("labels.ome.zarr", labels, CLASSES)):
        folder.mkdir(parents=True, exist_ok=True)
        beside = place.partial_name(folder / name)
        with create_volume(
            beside, volume.shape, volume.dtype, voxel_size_nm=VOXEL_SIZE_NM, classes=classes, overwrite=True
        ) as writer:
            writer.write(box, volume)  # type: ignore[arg-type]
        place.publish(beside, folder / name)
    n_training = max(1, shape[0] - max(1, shape[0] // 4))
    write_yaml(
        path,
        {
            "image": "image.ome.zarr",
            "labels": "labels.ome.zarr",
            "classes": [dataclasses.asdict(entry) for entry in CLASSES],
            "training": {"z": [0, n_training]},
            "validation": {"z": [min(n_training, shape[0] - 1), shape[0]]},
        },
    )
    return path
