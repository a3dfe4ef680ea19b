"""What networks say about labelled voxels of the validation parts: worked out once, and kept for whoever asks again."""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from genenet.averaging import MeanPredictor, predict_part
from genenet.dataset import Dataset
from genenet.folder import writing
from genenet.label_table import UNLABELLED
from genenet.network import Network
from genenet.seeds import derived_seed

# Networks are compared on so many labelled voxels at the most, drawn at random: 80 MB per network and 5 classes.
N_VOXELS = 2**22
MOST_NUMBERS = 2**25  # voxels times classes
CHUNK = 2**16


class Sample(NamedTuple):
    """Labelled voxels of the validation parts.

    Attributes:
        places: Per part their indices `(n, 3)`, in order.
        labels: Of all, part after part, `(n,)`.
    """

    places: tuple[np.ndarray, ...]
    labels: np.ndarray


def draw_sample(data: Dataset, seed: int = 0, n_voxels: int = N_VOXELS) -> Sample:
    """Draw voxels; all that are labelled, if these are no more than asked for. Of many classes, fewer voxels."""
    n_voxels = min(n_voxels, MOST_NUMBERS // data.n_classes)
    rng = np.random.default_rng(derived_seed(seed, "validation sample"))
    share = n_voxels / sum(int(part.count(data.n_classes).sum()) for part in data.validation)
    places, labels = [], []
    for part in data.validation:
        found = []
        for z in range(part.shape[0]):
            plane = part.read_labels((z, 0, 0), (1, *part.shape[1:]))
            chosen = np.argwhere((plane != UNLABELLED) & (rng.random(plane.shape) < share))
            labels.append(plane[tuple(chosen.T)])
            found.append((chosen + (z, 0, 0)).astype(np.int32))
        places.append(np.concatenate(found))
    return Sample(tuple(places), np.concatenate(labels))


def probabilities_at(
    network: Network, data: Dataset, sample: Sample, *, precision: str = "auto", cache: Path | None = None
) -> np.ndarray:
    """What a network says about sampled voxels.

    Args:
        network: Which.
        data: Whose validation parts.
        sample: Of them.
        precision: Of the network's computation.
        cache: A folder where the answer is kept, as compressed Zarr; it is read there if it was asked for before.

    Returns:
        float32 `(n, classes)`.
    """
    import zarr

    path = None if cache is None else cache / f"{_key(network, data, sample, precision)}.zarr"
    if path is not None and path.exists():
        return np.asarray(zarr.open_array(path, mode="r")[:])
    predictor = MeanPredictor((network.predictor(precision),))
    found = np.zeros((len(sample.labels), data.n_classes), np.float32)
    first = 0
    for part, places in zip(data.validation, sample.places, strict=True):
        for box, answer in predict_part(predictor, part):
            start, stop = np.array([side.start for side in box]), np.array([side.stop for side in box])
            low, high = np.searchsorted(places[:, 0], (start[0], stop[0]))  # places are in order of z
            inside = low + np.flatnonzero(((places[low:high] >= start) & (places[low:high] < stop)).all(1))
            found[first + inside] = answer[tuple((places[inside] - start).T)]
        first += len(places)
    if path is not None:
        with writing(path) as beside:
            array = zarr.create_array(
                beside, shape=found.shape, dtype=found.dtype, chunks=(CHUNK, data.n_classes), overwrite=True
            )
            array[:] = found
    return found


def _key(network: Network, data: Dataset, sample: Sample, precision: str) -> str:
    """Tells answers apart: by network, data, voxels and precision."""
    said = [
        str(network.folder.resolve()),
        network.details.get("digest"),
        sorted(network.scores.items()),
        data.fingerprint,
        [len(places) for places in sample.places],
        int(sum(int(places.astype(np.int64).sum()) for places in sample.places)),
        precision,
    ]
    return hashlib.blake2b(json.dumps(said).encode(), digest_size=8).hexdigest()
