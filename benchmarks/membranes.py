"""The experiment of Roels et al. 2017, table 2, on the ISBI 2012 data: N, and N1 to N7 by four methods, retrained.

    python -m benchmarks.membranes [FOLDER] [SEEDS]

Train on z 0-17, validate on z 18-21: as many membrane patches as others, 32x32. SGD with momentum 0.9, l2 0.01 as Caffe
counts it, the rate falling linearly from 0.001; pruned networks from 0.0001. `loss`: maps by the true training loss,
bottom layer first; `norm`: the maps whose kernel and bias have the least l1 norm; `zeros`: single weights of every
layer, as many as the variant has parameters fewer; `cautious`: as `loss`, but by the loss and two of its standard
errors. N7 is trained again for longer, too. Three seeds; some 80 minutes each on two cores. Run again, it continues.
Prints a table, and JSON lines; figures of a run stand in docs/RESULTS.md.
"""

import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from genenet.device import import_keras
from genenet.errors import InputError

keras = import_keras()

import numpy as np  # noqa: E402

import genenet as gn  # noqa: E402
import pruning  # noqa: E402
from genenet.folder import read_json, write_json  # noqa: E402

VARIANTS = {
    "N1": (90, 75, 40, 150),
    "N2": (65, 75, 40, 150),
    "N3": (90, 60, 40, 150),
    "N4": (90, 75, 30, 150),
    "N5": (90, 75, 40, 110),
    "N6": (65, 60, 30, 110),
    "N7": (30, 20, 10, 10),
}
LAYERS = ("c1", "c2", "c3", "dense")
METHODS = ("loss", "norm", "zeros", "cautious")
CAUTION = {"loss": 0.0, "cautious": 2.0}
BATCH, N_VALIDATED = 64, 20_000
# Greedy search picks the best of a hundred: on 4 batches of 64 patches it was the luckiest instead, and its variants
# lost 0.5 % of accuracy to those by norm.
N_BATCHES = 16
FIRST_STEPS, FIRST_RATE = 8_000, 1e-3
NEXT_STEPS, NEXT_RATE = 1_000, 1e-4
# N7 lacks so much that it needs more to come back: it is trained again as long as N was at first, too.
LONGER = ("N7", FIRST_STEPS)
LOSS = keras.losses.SparseCategoricalCrossentropy()
logger = logging.getLogger("benchmarks")


class Patches(keras.utils.PyDataset):
    """Patches of both classes in equal numbers, turned and reflected at random; the same for the same place and seed.

    The class is that of the pixel at row and column 16 of 0 to 31.
    """

    def __init__(self, image: np.ndarray, labels: np.ndarray, n_batches: int, *, seed: int, turn: bool = True) -> None:
        super().__init__()
        padded = np.pad(image, ((0, 0), (16, 15), (16, 15)), mode="reflect")
        self._windows = np.lib.stride_tricks.sliding_window_view(padded, (32, 32), axis=(1, 2))  # type: ignore[call-overload]
        self._places = [np.argwhere(labels == value) for value in (0, 1)]
        self._n_batches, self._seed, self._turn = n_batches, seed, turn

    def __len__(self) -> int:
        return self._n_batches

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([self._seed, index])
        labels = rng.integers(0, 2, BATCH)
        places = np.array([self._places[label][rng.integers(len(self._places[label]))] for label in labels])
        images = self._windows[tuple(places.T)].astype(np.float32)
        if self._turn:
            images = np.stack([np.rot90(x[:: rng.choice((1, -1))], rng.integers(4)) for x in images])
        return images[..., None], labels[:, None, None]


def load() -> tuple[np.ndarray, np.ndarray]:
    """Normalised slices and their labels."""
    folder = os.environ.get("GENENET_DATA")
    if not folder:
        raise InputError("GENENET_DATA must name the folder that holds isbi2012/image.tif and isbi2012/labels.tif")
    import tifffile

    image, labels = (tifffile.imread(Path(folder) / "isbi2012" / f"{name}.tif") for name in ("image", "labels"))
    training = image[:18].astype(np.float32)
    return ((image - training.mean()) / training.std()).astype(np.float32), labels


def fit(model: Any, data: Patches, n_steps: int, rate: float) -> None:
    """Train in place."""
    schedule = keras.optimizers.schedules.PolynomialDecay(rate, n_steps, 0.0)
    model.compile(keras.optimizers.SGD(schedule, momentum=0.9), LOSS)
    for step in range(n_steps):
        model.train_on_batch(*data[step])


def accuracy(model: Any, data: Patches) -> float:
    """The share of validation patches that get their class."""
    found = [np.mean(model.predict_on_batch(x).argmax(-1) == y) for x, y in (data[i] for i in range(len(data)))]
    return float(np.mean(found))


def maps_of(name: str) -> int:
    """Of a network's bottom layer."""
    return 100 if name == "N" else VARIANTS[name][0]


def prune(
    model: Any, method: str, name: str, training: Patches, seed: int, orders: dict[str, Any], n_steps: int = NEXT_STEPS
) -> Any:
    """A variant of N by a method, retrained; `orders` remembers what serves for all variants."""
    maps, retraining = VARIANTS[name], training
    keep = dict(zip(LAYERS, maps, strict=True))

    def retrain(small: Any) -> None:
        fit(small, retraining, n_steps, NEXT_RATE)

    if method in CAUTION:
        search = pruning.Search("exact", n_batches=N_BATCHES, seed=seed, caution=CAUTION[method])
        # The bottom layer's order is the same for all variants, so it is worked out once.
        if method not in orders:
            target = pruning.Target(n_maps=maps_of("N") - min(map(maps_of, VARIANTS)))
            orders[method] = pruning.loss_ordering(model, training, LOSS, "c1", target=target, search=search)
        below = orders[method].keep(pruning.Graph(model), maps_of("N") - keep.pop("c1"))
        small = pruning.shrink(model, below)
        return pruning.prune_by_loss(small, training, LOSS, keep=keep, search=search, retrain=retrain).model
    if method == "norm":
        small = pruning.shrink(model, pruning.select_channels(model, keep, "l1"))
        retrain(small)
        return small
    left = gn.PatchNet(maps=maps).n_parameters / gn.PatchNet().n_parameters
    return pruning.iterative_magnitude(model, retrain, 1 / left, per_round=np.inf).model


def run(folder: Path, seed: int, image: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracies of one seed, by network and method; what is there is kept."""
    path = folder / f"seed{seed}.json"
    found: dict[str, float] = read_json(path) if path.exists() else {}
    training = Patches(image[:18], labels[:18], FIRST_STEPS, seed=seed)
    validation = Patches(image[18:], labels[18:], N_VALIDATED // BATCH, seed=99, turn=False)
    weights = folder / f"seed{seed}.weights.h5"
    penalty = float(np.log10(0.005))  # Keras' l2 has no factor of one half
    model = gn.PatchNet(log10_l2_kernel=penalty).build((32, 32, 1), seed=seed)
    if not weights.exists():
        started = time.monotonic()
        fit(model, training, FIRST_STEPS, FIRST_RATE)
        model.save_weights(weights)
        logger.info("seed %d: N trained in %.0f s", seed, time.monotonic() - started)
    model.load_weights(weights)
    if "N" not in found:
        found["N"] = accuracy(model, validation)
        write_json(path, found)
        logger.info("seed %d: N %.4f", seed, found["N"])
    orders: dict[str, Any] = {}
    tried = [(f"{name} {method}", name, method, NEXT_STEPS) for name in VARIANTS for method in METHODS]
    name, n_steps = LONGER
    tried += [(f"{name} {method} {n_steps}", name, method, n_steps) for method in ("loss", "norm")]
    for key, name, method, n_steps in tried:
        if key not in found:
            started = time.monotonic()
            found[key] = accuracy(prune(model, method, name, training, seed, orders, n_steps), validation)
            write_json(path, found)
            logger.info("seed %d: %s %.4f, %.0f s", seed, key, found[key], time.monotonic() - started)
    return found


def main(folder: Path, n_seeds: int) -> None:
    """Run all seeds and say what came out."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    folder.mkdir(parents=True, exist_ok=True)
    image, labels = load()
    rows = [run(folder, seed, image, labels) for seed in range(n_seeds)]
    for key in rows[0]:
        values = 100 * np.array([row[key] for row in rows])
        print(f"{key:14} {values.mean():.2f} +- {values.std(ddof=1) if len(rows) > 1 else 0:.2f}  {values.round(2)}")
    for name in VARIANTS:
        means = {method: float(np.mean([row[f"{name} {method}"] for row in rows])) for method in METHODS}
        drop = float(np.mean([row["N"] for row in rows])) - means["loss"]
        apart = means["loss"] - means["norm"]
        print(json.dumps({"benchmark": "membranes", "variant": name, "n_less_loss": round(100 * drop, 2),
                          "loss_less_norm": round(100 * apart, 2)}))  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/membranes"), int(sys.argv[2]) if len(sys.argv) > 2 else 3)
