"""Half of the original U-Net's channels: what it costs on the vnc data, and what it buys.

    python -m benchmarks.half [FOLDER]

The original U-Net with same padding trains for 400 steps of four 192x192 windows; every layer loses half of its
channels, those whose kernels have the least l1 norm; what is left trains as long again, from the weights that it kept.
So that more training alone does not pass for pruning, the whole U-Net too trains as long again. Train on z 0-10,
validate on z 11-13. Run again, it continues. Ends with JSON lines; figures of a run stand in docs/RESULTS.md.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

from genenet.device import import_keras

import_keras()

import genenet as gn  # noqa: E402
import pruning  # noqa: E402
from benchmarks.vnc import CLASSES, data_settings  # noqa: E402
from genenet.prune_network import compare  # noqa: E402
from genenet.settings import TrainingSettings, WindowSettings  # noqa: E402
from genenet.train import Start, train_network  # noqa: E402

TRAINING = TrainingSettings(steps=400, validate_every=100, checkpoint_every=100, windows=WindowSettings(batch_size=4))
RATE = 10**-3.5  # of training again


def say(**entry: Any) -> None:
    """A JSON line."""
    print(json.dumps({"benchmark": "half", **entry}), flush=True)


def watch(step: int, seconds: float, record: Any) -> None:
    """Say how it goes."""
    if record is not None:
        logging.info("step %d, %.0f s: adjusted Rand score %.4f", step, seconds, record.adjusted_rand)


def main(folder: Path) -> None:
    """Train, prune, train again, compare."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    data = gn.Dataset.open(data_settings())
    net = gn.UNet(n_classes=len(CLASSES), padding="same", window_size=192)
    whole = train_network(net, data, folder / "whole", TRAINING, watch=watch)
    model = whole.load("float32")
    keep = pruning.select_channels(model, pruning.Target(share=0.5), "l1", scope="layer", shape=(192, 192, 1))
    networks = {"whole": whole}
    for name, again in (("half", pruning.shrink(model, keep)), ("longer", model)):
        start = Start(again, RATE, name, {})
        networks[name] = train_network(net, data, folder / name, TRAINING, watch=watch, start=start)
    found = compare(networks, data)
    print(found)
    for row in found.rows[1:]:
        say(ratio=f"score_{row.name}_less_whole", value=round((row.score or 0) - (found.rows[0].score or 0), 4))
    row = found.rows[1]
    value = round((row.speedup or 0) / row.theoretical_speedup, 2)
    say(ratio="measured_over_theoretical_speedup", value=value, target=0.7)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/half"))
