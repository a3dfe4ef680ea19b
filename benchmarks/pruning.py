"""Pruning: finding channels by the true loss, dense evaluation of patch classifiers, and what zeros buy.

    python -m benchmarks.pruning [ordering] [unet] [dense] [slices] [masks]

All if none is named. `ordering`: the exact order of the maps of N (Roels et al. 2017) over the naive procedure, a
full forward pass per candidate, whose time is measured on a sample and multiplied. `unet`: the same for a U-Net of an
eighth of the width, trained on the vnc data; exact search and the first-order sieve, both run in full. `dense`: N on
every pixel at once over patch by patch, on the same engine. `slices`: a slice of 3069x2301, strip by strip, by N over
N1 to N7, by OpenVINO too where that is installed. `masks`: the original U-Net with 94 % zeros over without. Ends with
JSON lines.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from genenet.device import import_keras

keras = import_keras()

import numpy as np  # noqa: E402

import genenet as gn  # noqa: E402
import pruning  # noqa: E402
from benchmarks.membranes import VARIANTS  # noqa: E402
from benchmarks.vnc import CLASSES, data_settings  # noqa: E402
from genenet.settings import TrainingSettings, WindowSettings  # noqa: E402
from genenet.windows import TrainingWindows  # noqa: E402
from pruning.loss_based import Remover, free_units  # noqa: E402

LOSS = keras.losses.SparseCategoricalCrossentropy()
SLICE = (3069, 2301)  # pixels of the paper's slice
STRIP = 256  # rows of it that are written at once
SIDE = 512  # pixels of the square on which dense evaluation is compared


def say(**entry: Any) -> None:
    """A JSON line."""
    print(json.dumps({"benchmark": "pruning", **entry}), flush=True)


def seconds(work: Callable[[], object], n_rounds: int = 5) -> float:
    """The median time, after one run to warm up."""
    work()
    found = []
    for _ in range(n_rounds):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return statistics.median(found)


def n_naive(n_maps: int, n_removed: int) -> int:
    """Candidates that exact search looks at, all that are left at every step."""
    return sum(n_maps - gone for gone in range(n_removed))


# -- ordering ---


def naive_loss(model: Any, batch: tuple[Any, Any]) -> float:
    """The loss by a full forward pass."""
    return float(LOSS(batch[1], model.predict_on_batch(batch[0])))


def check_order(model: Any, batch: tuple[Any, Any], layer: str, ordering: pruning.Ordering, every: int) -> float:
    """How far losses are from naive ones at every `every`-th removal, relative: the largest difference there.

    Counted too is by how much one of three rivals, drawn at random, would have been better than what went.
    """
    rng = np.random.default_rng(0)
    remover = Remover(pruning.Graph(pruning.masked(model, {})))
    units = free_units(remover.graph, [layer])
    worst = 0.0
    for step, removal in enumerate(ordering.removals):
        (chosen,) = remover.graph.units_of(remover.graph.features(layer)[list(removal.channels)])
        if step % every == 0:
            rivals = [unit for unit in remover.may_go(units) if unit != chosen]
            losses = []
            for unit in [int(chosen), *rng.choice(rivals, min(3, len(rivals)), replace=False).tolist()]:
                trial = Remover(pruning.Graph(pruning.masked(remover.graph.model, {})))
                trial.remove(unit)
                losses.append(naive_loss(trial.graph.model, batch))
            worst = max(worst, abs(losses[0] / removal.loss - 1), (losses[0] - min(losses)) / losses[0])
        remover.remove(int(chosen))
    return worst


def ordering() -> None:
    """All four layers of N, exactly."""
    model = gn.PatchNet().build((32, 32, 1), seed=0)
    rng = np.random.default_rng(0)
    batch = rng.normal(size=(128, 32, 32, 1)).astype("float32"), rng.integers(0, 2, (128, 1, 1))
    naive = ours = 0.0
    worst = 0.0
    for layer in ("c1", "c2", "c3", "dense"):
        forward = seconds(lambda: model.predict_on_batch(batch[0]))
        started = time.perf_counter()
        found = pruning.loss_ordering(model, [batch], LOSS, layer, search=pruning.Search("exact", n_batches=1))
        spent = time.perf_counter() - started
        n_evaluations = n_naive(len(found) + 1, len(found))
        naive, ours = naive + n_evaluations * forward, ours + spent
        worst = max(worst, check_order(model, batch, layer, found, every=max(1, len(found) // 8)))
        print(f"{layer}: {spent:.1f} s, naive {n_evaluations} x {forward * 1000:.1f} ms", flush=True)
    say(ratio="naive_over_exact_ordering_of_n", value=round(naive / ours, 1), target=20, loss_apart=worst)


# -- U-Net ---


def trained_unet(folder: Path) -> tuple[Any, list[Any]]:
    """A U-Net of an eighth of the width, trained on the vnc data for 300 steps, and batches to order it on."""
    data = gn.Dataset.open(data_settings())
    net = gn.UNet(n_classes=len(CLASSES), n_features=8, padding="same", window_size=96)
    windows = WindowSettings(batch_size=4)
    settings = TrainingSettings(steps=300, validate_every=300, checkpoint_every=300, windows=windows)
    network = gn.train_network(net, data, folder / "unet", settings)
    drawn = TrainingWindows(data, net.window_shape(), network.normalization, windows, seed=1)
    batches = []
    for index in range(4):
        images, labels, weights, _ = drawn.batch(index)
        batches.append((images, labels, weights.astype("float32")))
    return network.load("float32"), batches


def unet() -> None:
    """Every layer of a small U-Net down to half of its maps."""
    with tempfile.TemporaryDirectory() as folder:
        model, batches = trained_unet(Path(folder))
    graph = pruning.Graph(model)
    totals = {"naive": 0.0, "exact": 0.0, "prefilter": 0.0}
    by_layer, apart = {}, []
    for layer in graph.prunable():
        n_maps = len(graph.features(layer))
        target = pruning.Target(n_maps=n_maps // 2)
        spent, found = {}, {}
        for kind in ("exact", "prefilter"):
            started = time.perf_counter()
            search = pruning.Search(kind, n_batches=len(batches))
            found[kind] = pruning.loss_ordering(model, batches, LOSS, layer, target=target, search=search)
            spent[kind] = time.perf_counter() - started
        # Beside what it is held against: the machine's speed drifts.
        forward = seconds(lambda: [model.predict_on_batch(batch[0]) for batch in batches])
        spent["naive"] = n_naive(n_maps, n_maps // 2) * forward
        totals = {name: total + spent[name] for name, total in totals.items()}
        by_layer[layer] = round(spent["naive"] / spent["exact"], 2)
        apart.append(float(found["prefilter"].losses[-1] / found["exact"].losses[-1] - 1))
        print(f"{layer}: {n_maps} maps, exact {spent['exact']:.1f} s, prefilter {spent['prefilter']:.1f} s, naive "
              f"{spent['naive']:.1f} s; loss {found['exact'].losses[0]:.4f}, {found['exact'].losses[-1]:.4f}, "
              f"{found['prefilter'].losses[-1]:.4f}", flush=True)  # fmt: skip
    say(ratio="naive_over_exact_unet", value=round(totals["naive"] / totals["exact"], 2), by_layer=by_layer)
    prefilter = round(totals["naive"] / totals["prefilter"], 1)
    say(ratio="naive_over_prefilter_unet", value=prefilter, target=10, loss_over_exact_less_1=max(apart))


# -- dense evaluation ---


def dense() -> None:
    """N on every pixel at once, over patch by patch."""
    rng = np.random.default_rng(0)
    classifier = gn.PatchNet().build((32, 32, 1), seed=0)
    whole = gn.dense(classifier)
    image = rng.normal(size=(1, SIDE + 31, SIDE + 31, 1)).astype("float32")
    patches = np.lib.stride_tricks.sliding_window_view(image[0, :, :, 0], (32, 32))[:16].reshape(-1, 32, 32, 1)
    patches = np.ascontiguousarray(patches)
    ratios = []
    for _ in range(7):  # one after the other: the machine's speed drifts
        by_patch = seconds(lambda: classifier.predict_on_batch(patches), 1) / len(patches)
        at_once = seconds(lambda: whole.predict_on_batch(image), 1) / SIDE**2
        ratios.append(by_patch / at_once)
    found = whole.predict_on_batch(image)[0, :16].reshape(-1, 2)
    apart = float(np.abs(found - classifier.predict_on_batch(patches).reshape(-1, 2)).max())
    rounds = [round(ratio, 1) for ratio in sorted(ratios)]
    value = round(statistics.median(ratios), 1)
    say(ratio="patch_by_patch_over_dense", value=value, rounds=rounds, target=40, apart=apart)


def slices() -> None:
    """A strip by N and by N1 to N7, in turn with N, on every engine that is installed; a slice is so many strips.

    Two networks are open at a time: all eight on an engine take more than 20 GB.
    """
    strip = np.random.default_rng(0).normal(size=(1, STRIP + 31, SLICE[1] + 31, 1)).astype("float32")
    n_strips = -(-SLICE[0] // STRIP)
    for engine in engines():
        whole = open_on(engine, gn.dense(gn.PatchNet().build((32, 32, 1), seed=0)), strip.shape)
        for name, maps in VARIANTS.items():
            part = open_on(engine, gn.dense(gn.PatchNet(maps=maps).build((32, 32, 1), seed=0)), strip.shape)
            spent: list[list[float]] = [[], []]
            for _ in range(5):
                for run, found in zip((whole, part), spent, strict=True):
                    started = time.perf_counter()
                    run(strip)
                    found.append(time.perf_counter() - started)
            before, now = (times[1:] for times in spent)  # the first round warms up
            ratio = statistics.median(a / b for a, b in zip(before, now, strict=True))
            say(ratio=f"N_over_{name}.{engine}", value=round(ratio, 2), target=3.5 if name == "N7" else None,
                s_per_slice=[round(n_strips * statistics.median(times), 1) for times in (before, now)])  # fmt: skip


def engines() -> list[str]:
    """What runs models here, by name and precision."""
    try:
        import openvino
    except ImportError:
        print("no OpenVINO: pip install openvino")
        return ["keras.float32"]
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        print("this CPU has no bfloat16")
        return ["keras.float32", "openvino.f32"]
    return ["keras.float32", "openvino.f32", "openvino.bf16"]


def open_on(engine: str, model: Any, shape: tuple[int, ...]) -> Callable[[np.ndarray], Any]:
    """A model for images of a shape, run by an engine of `engines`."""
    name, _, precision = engine.partition(".")
    if name == "keras":
        return model.predict_on_batch  # type: ignore[no-any-return]
    import openvino

    image = keras.Input(batch_shape=shape)
    fixed = keras.Model(image, model(image))
    with tempfile.TemporaryDirectory() as folder:
        fixed.export(folder, format="tf_saved_model", verbose=False)
        converted = openvino.convert_model(folder, input=[shape])
    compiled = openvino.Core().compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": precision})
    return lambda strip: compiled(strip)[0]


# -- masks ---


def masks() -> None:
    """The original U-Net with zeros, by Keras; and with half of its channels."""
    model = gn.UNet(n_classes=2, padding="same").build(seed=0)
    thinned = pruning.iterative_magnitude(model, lambda _: None, 16, per_round=np.inf).model
    keep = pruning.select_channels(model, pruning.Target(share=0.5), scope="layer", shape=(256, 256, 1))
    models = {"whole": model, "94 % zeros": thinned, "half the channels": pruning.shrink(model, keep)}
    batch = np.random.default_rng(0).normal(size=(1, 256, 256, 1)).astype("float32")
    run = {name: each.predict_on_batch for name, each in models.items()}
    found = pruning.report(models, (256, 256, 1), predict=run, batch=batch, n_rounds=11)
    print(found)
    _, zeros, half = found.rows
    say(ratio="latency_whole_over_zeros", value=round(zeros.speedup or 0, 2), sparsity=1 - 1 / 16)
    measured = (half.speedup or 0) / half.theoretical_speedup
    say(ratio="measured_over_theoretical_speedup_half", value=round(measured, 2), target=0.7, engine="keras")


PARTS = {"ordering": ordering, "unet": unet, "dense": dense, "slices": slices, "masks": masks}


def main(names: Sequence[str]) -> None:
    """Run what is named, or all."""
    for name in names or PARTS:
        PARTS[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
