"""Predicted memory of a training step, and of a forward pass, over the measured rise of peak resident memory.

    python -m benchmarks.memory [training] [inference] [SEED]

Every blueprint makes one step on a tiny window and one on its own in a fresh process; both differences, predicted and
measured, are between the two. Blueprints are drawn from the default spaces of the presets, batch sizes such that more
than 500 MB are predicted. Ends with JSON lines.
"""

import json
import subprocess
import sys

import numpy as np

from genenet.cost import inference_bytes, training_bytes
from genenet.errors import InputError
from genenet.genes import PRESETS, NetworkRoot, PatchNet
from search.defaults import default_space

N_BLUEPRINTS, LEAST_BYTES, MOST_BYTES = 10, 500e6, 4e9

# Peak resident memory in bytes after a tiny step, and after one of full size.
STEPS = """
import json, sys
import numpy as np
from genenet.device import import_keras
keras = import_keras()
from genenet import from_dict
from genenet.build import build_model
from genenet.losses import cross_entropy
from genenet.memory import peak_bytes

blueprint, tiny, window, batch_size, is_training = json.loads(sys.argv[1])
net = from_dict(blueprint)
plan = net.plan_layers()
built = build_model(plan, (*[None] * plan.n_dims, net.n_channels), name="net")
trainer = built.trainer
trainer.compile(keras.optimizers.Adam(), [cross_entropy() for _ in plan.heads])
peaks = []
for size, count in ((tiny, 1), (window, batch_size)):
    out = plan.window_shape(tuple(size)).output
    images = np.zeros((count, *size, net.n_channels), np.float32)
    if not is_training:
        built.model.predict_on_batch(images)
        peaks.append(peak_bytes())
        continue
    labels, weights = np.zeros((count, *out), np.int32), np.ones((count, *out), np.float32)
    trainer.train_on_batch(images, [labels] * len(plan.heads), [weights] * len(plan.heads))
    peaks.append(peak_bytes())
print(json.dumps(peaks))
"""


def tiny_window(net: NetworkRoot) -> tuple[int, ...]:
    """The smallest window that fits."""
    plan = net.plan_layers()
    for size in range(1, 1024):
        try:
            return plan.window_shape((size,) * plan.n_dims).input
        except InputError:
            continue
    raise AssertionError


def predicted_bytes(net: NetworkRoot, window: tuple[int, ...], batch_size: int, *, is_training: bool) -> int:
    """What the model says."""
    plan = net.plan_layers()
    predict = training_bytes if is_training else inference_bytes
    return predict(plan, plan.sizes(window), batch_size)


def draw(rng: np.random.Generator, *, is_training: bool) -> tuple[NetworkRoot, list[tuple[tuple[int, ...], int]], int]:
    """A blueprint; a tiny window alone and a batch of its own windows; and by how much the latter takes more."""
    while True:
        kinds = [kind for kind in PRESETS if kind is not PatchNet]  # which reads patches, not windows
        preset = kinds[int(rng.integers(len(kinds)))].__name__
        net = default_space(5, preset=preset, window_size=int(rng.choice((96, 128, 192)))).sample(rng)
        try:
            tiny, window = tiny_window(net), net.window_shape().input
        except InputError:
            continue
        for batch_size in (1, 2, 4, 8, 16, 32):
            large, small = (
                predicted_bytes(net, *each, is_training=is_training) for each in ((window, batch_size), (tiny, 1))
            )
            if LEAST_BYTES < large - small < MOST_BYTES:
                return net, [(tiny, 1), (window, batch_size)], large - small


def compare(seed: int, *, is_training: bool) -> None:
    """Draw blueprints, measure, compare."""
    rng = np.random.default_rng(seed)
    ratios = []
    for _ in range(N_BLUEPRINTS):
        net, [(tiny, _), (window, batch_size)], predicted = draw(rng, is_training=is_training)
        asked = json.dumps([net.to_dict(), tiny, window, batch_size, is_training])
        done = subprocess.run([sys.executable, "-c", STEPS, asked], capture_output=True, text=True, check=True)
        first, second = json.loads(done.stdout.strip().splitlines()[-1])
        ratios.append(predicted / (second - first))
        said = f"{net.kind} {net.n_parameters:,} {window} x {batch_size}"
        print(
            f"{said}: {predicted / 1e6:.0f} MB, measured {(second - first) / 1e6:.0f} MB, {ratios[-1]:.2f}", flush=True
        )
    within = sum(0.7 <= ratio <= 1.3 for ratio in ratios)
    print(json.dumps({
        "benchmark": "memory", "of": "training" if is_training else "inference", "ratio": "within_30_percent",
        "value": within / len(ratios), "target": 0.8, "ratios": [round(ratio, 2) for ratio in ratios],
    }), flush=True)  # fmt: skip


if __name__ == "__main__":
    seeds = [int(word) for word in sys.argv[1:] if word.isdecimal()]
    for name in [word for word in sys.argv[1:] if not word.isdecimal()] or ("training", "inference"):
        compare(*seeds or [0], is_training=name == "training")
