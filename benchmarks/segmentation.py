"""Segmentation: engines, MONAI, what is not network, memory, several workers; all from file to file.

    python -m benchmarks.segmentation [plain] [engines] [monai] [outside] [memory] [workers]

All if none is named. Slices are random voxels. `plain`: `segment` over Keras' `predict` on whole slices that are held
in memory. `engines`: the original U-Net, 800x800 slices, the fastest engine over Keras' `predict` in float32; four
members. `monai`: the same network in PyTorch (the U-Net with padding, so that windows keep their size) by MONAI's
sliding_window_inference, windows of 256 that overlap by a quarter with Gaussian weights; needs `pip install monai
torch`. `outside`: the share of the time that is not the networks'. `memory`: peaks of fresh processes for 25 and for
250 slices of 2000x2000 with four small members and entropy, and for two slices with four original U-Nets. `workers`:
two Dask workers of one core each over one, and what killing one costs. Ends with JSON lines.
"""

import contextlib
import functools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from genenet.device import dtype_policy, find_device, import_keras

import_keras()

import numpy as np  # noqa: E402

from genenet.averaging import MeanPredictor  # noqa: E402
from genenet.blocks import BlockPredictor  # noqa: E402
from genenet.classes import default_classes  # noqa: E402
from genenet.ensemble import Ensemble  # noqa: E402
from genenet.genes import EncoderDecoder, NetworkRoot, UNet  # noqa: E402
from genenet.memory import peak_bytes  # noqa: E402
from genenet.network import Network, save_network  # noqa: E402
from genenet.normalization import Normalization  # noqa: E402
from genenet.segment import Summary, segment_volume  # noqa: E402
from genenet.tiling import fit_core  # noqa: E402
from genenet.volume import Volume, create_volume, open_volume  # noqa: E402

NORMALIZATION = Normalization((128.0,), (50.0,))
CLASSES = default_classes(range(5))
ROUNDS = 3
NETS: dict[str, Callable[[], NetworkRoot]] = {
    "base16": lambda: EncoderDecoder(n_classes=5, n_features=16, n_scales=4),
    "original_unet": lambda: UNet(n_classes=5),
}


def say(**entry: Any) -> None:
    """A JSON line."""
    print(json.dumps({"benchmark": "segmentation", **entry}), flush=True)


def noise(path: Path, shape: tuple[int, int, int]) -> Volume:
    """A volume of random voxels, written slice by slice."""
    rng = np.random.default_rng(0)
    with create_volume(path, shape, np.dtype(np.uint8), chunks=(1, 256, 256), overwrite=True) as writer:
        for z in range(shape[0]):
            box = slice(z, z + 1), slice(0, shape[1]), slice(0, shape[2])
            writer.write(box, rng.integers(0, 255, (1, *shape[1:]), np.uint8))
    return open_volume(path)


def network(folder: Path, net: NetworkRoot, seed: int = 0) -> Network:
    """An untrained network on disk, whose last layer makes clear choices, as a trained one's does."""
    model = net.build(seed=seed)
    kernel = next(v for v in model.trainable_variables if v.path == "head/kernel")
    kernel.assign(50 * np.asarray(kernel))
    return save_network(folder, model, net, NORMALIZATION, CLASSES, {"adjusted_rand": 0.5}, details={})


def seconds(function: Callable[[], object]) -> float:
    """Of one call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def in_turn(*functions: Callable[[], object]) -> list[float]:
    """Medians of some rounds of calls in turn, after one that does not count."""
    for function in functions:
        function()
    rounds = [[seconds(function) for function in functions] for _ in range(ROUNDS)]
    return [statistics.median(spent) for spent in zip(*rounds, strict=True)]


def predict_slices(member: BlockPredictor, volume: Volume) -> np.ndarray:
    """The plain way: the volume held, every slice padded in mirror image, predicted alone, the most probable class."""
    image = volume.read(tuple(slice(0, n) for n in volume.shape[:3]))  # type: ignore[arg-type]
    fit = fit_core(member.plan, image.shape[1:])
    pads = [(0, 0)] + [(a, n - a - c) for a, n, c in zip(fit.lead, fit.input, fit.core, strict=True)]
    padded = member.normalization(np.pad(image, pads, mode="reflect")[..., None])
    answer = member.model.predict(padded, batch_size=1, verbose=0)  # type: ignore[union-attr]
    return np.asarray(answer[(slice(None), *fit.keep)].argmax(-1).astype(np.uint8))


def segment(predictor: MeanPredictor, volume: Volume, output: Path) -> Summary:
    """Our way, from file to file."""
    return segment_volume(predictor, CLASSES, volume, output, identity="", overwrite=True)


def labels_of(path: Path) -> np.ndarray:
    """A whole volume."""
    opened = open_volume(path)
    return opened.read(tuple(slice(0, n) for n in opened.shape))  # type: ignore[arg-type]


def plain(folder: Path) -> None:
    """`segment` over plain `predict`, both in the precision that `auto` takes."""
    volume = noise(folder / "8.ome.zarr", (8, 1024, 1024))
    for name, make in NETS.items():
        net = make()
        model = net.build(precision=dtype_policy("auto"))
        member = BlockPredictor(model, net.plan_layers(), NORMALIZATION, net.window_shape())
        output = folder / "a.ome.zarr"
        mine, theirs = in_turn(
            functools.partial(segment, MeanPredictor((member,)), volume, output),
            functools.partial(predict_slices, member, volume),
        )
        same = float((labels_of(output) == predict_slices(member, volume)).mean())
        say(ratio=f"plain_predict_over_segment.{name}", value=round(theirs / mine, 3), target=1.0,
            s_per_slice=round(mine / 8, 3), same_labels=same)  # fmt: skip


def engines(folder: Path) -> None:
    """The fastest engine over Keras' `predict` in float32."""
    volume = noise(folder / "800.ome.zarr", (4, 800, 800))
    members = [network(folder / f"unet{seed}", UNet(n_classes=5), seed) for seed in range(4)]
    one, four = Ensemble(tuple(members[:1])), Ensemble(tuple(members))
    member = members[0].predictor("float32")
    precisions = ["float32", *(["bfloat16"] if find_device().fast_bfloat16 else [])]
    for precision in precisions:
        chosen, output = one.fastest(precision, volume, (1, 800, 800)), folder / "o.ome.zarr"
        theirs, mine, together = in_turn(
            functools.partial(predict_slices, member, volume),
            functools.partial(segment, chosen, volume, output),
            functools.partial(segment, four.fastest(precision, volume, (1, 800, 800)), volume, folder / "4.ome.zarr"),
        )
        same = float((labels_of(output) == predict_slices(member, volume)).mean())
        say(ratio=f"keras_float32_over_auto_{precision}", value=round(theirs / mine, 2),
            target=1.8 if precision == "float32" else 8, engine="/".join(chosen.members[0].engine),
            s_per_slice=round(mine / 4, 3), same_labels=same)  # fmt: skip
        say(ratio=f"four_members_over_one_{precision}", value=round(together / mine, 2), target_s=2.0,
            s_per_slice=round(together / 4, 3))  # fmt: skip


def torch_unet(model: Any) -> Any:
    """The padded U-Net in PyTorch, with the weights of the Keras model."""
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            widths = [64 * 2**scale for scale in range(5)]

            def stack(before: int, after: int) -> Any:
                return nn.Sequential(
                    nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.Conv2d(after, after, 3, padding=1), nn.ReLU()
                )

            self.down = nn.ModuleList(stack(a, b) for a, b in zip([1, *widths[:-1]], widths, strict=True))
            self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, 2) for w in widths[-2::-1])
            self.join = nn.ModuleList(stack(2 * w, w) for w in widths[-2::-1])
            self.head = nn.Conv2d(64, 5, 1)

        def forward(self, x: Any) -> Any:
            skips = []
            for scale, stack in enumerate(self.down):
                x = stack(nn.functional.max_pool2d(x, 2) if scale else x)
                skips.append(x)
            for up, join, skip in zip(self.up, self.join, skips[-2::-1], strict=True):
                x = join(torch.cat([up(x), skip], 1))
            return self.head(x).softmax(1)

    net, weights = Net().eval(), {v.path: np.asarray(v) for v in model.variables}
    mine = [*(f"encode__stack{s}" for s in range(4)), "decode__stack4"]
    modules = [(net.down[s][2 * i], f"{name}__conv{i}") for s, name in enumerate(mine) for i in range(2)]
    for place, scale in enumerate((3, 2, 1, 0)):
        modules.append((net.up[place], f"decode__stack{scale}__conv0__up"))
        modules += [(net.join[place][2 * i], f"decode__stack{scale}__conv{i}") for i in range(2)]
    modules.append((net.head, "head"))
    with torch.no_grad():
        for module, name in modules:
            kernel = weights[f"{name}/kernel"].transpose(3, 2, 0, 1)
            module.weight.copy_(torch.from_numpy(np.ascontiguousarray(kernel)))
            module.bias.copy_(torch.from_numpy(weights[f"{name}/bias"]))
    return net


def monai(folder: Path) -> None:
    """Over MONAI's sliding window, the same network and weights."""
    try:
        import torch
        from monai.inferers import sliding_window_inference
    except ImportError as error:
        say(skipped="monai", reason=f"{error}: pip install monai torch")
        return
    volume = noise(folder / "800.ome.zarr", (2, 800, 800))
    made = network(folder / "padded", UNet(n_classes=5, padding="same"))
    net = torch_unet(made.load("float32"))
    window = np.random.default_rng(0).normal(size=(1, 128, 128, 1)).astype(np.float32)
    expected = made.load("float32").predict(window, verbose=0)
    with torch.no_grad():
        found = net(torch.from_numpy(window.transpose(0, 3, 1, 2))).numpy().transpose(0, 2, 3, 1)
    assert abs(found - expected).max() < 1e-3, "the networks differ"

    def sliding(dtype: Any) -> np.ndarray:
        labels = []
        automatic = torch.autocast("cpu", dtype) if dtype else contextlib.nullcontext()
        with torch.inference_mode(), automatic:
            for z in range(2):
                image = volume.read((slice(z, z + 1), slice(0, 800), slice(0, 800)))
                images = torch.from_numpy(NORMALIZATION(image[..., None])[..., 0][None])
                answer = sliding_window_inference(images, (256, 256), 4, net, overlap=0.25, mode="gaussian")
                labels.append(answer[0].argmax(0).numpy().astype(np.uint8))  # type: ignore[index,union-attr]
        return np.stack(labels)

    precisions = ["float32", *(["bfloat16"] if find_device().fast_bfloat16 else [])]
    ensemble = Ensemble((made,))
    for precision in precisions:
        chosen, output = ensemble.fastest(precision, volume, (1, 800, 800)), folder / "o.ome.zarr"
        theirs, mine = in_turn(
            functools.partial(sliding, torch.bfloat16 if precision == "bfloat16" else None),
            functools.partial(segment, chosen, volume, output),
        )
        say(ratio=f"monai_over_segment_{precision}", value=round(theirs / mine, 2),
            target=5 if precision == "bfloat16" else 10, monai_s_per_slice=round(theirs / 2, 3),
            s_per_slice=round(mine / 2, 3), engine="/".join(chosen.members[0].engine),
            same_labels=float((labels_of(output) == sliding(None)).mean()))  # fmt: skip


def outside(folder: Path) -> None:
    """What is not the networks', of the whole."""
    volume = noise(folder / "800.ome.zarr", (8, 800, 800))
    for name, make in NETS.items():
        ensemble = Ensemble((network(folder / name, make()),))
        options: dict[str, Any] = {"engine": "auto", "overwrite": True, "extras": {"entropy": folder / "e.ome.zarr"}}
        done = ensemble.segment(volume, folder / "o.ome.zarr", **options)
        say(ratio=f"outside_the_network_over_whole.{name}", value=round(1 - done.network_seconds / done.seconds, 3),
            target=0.1, engine=done.engines, s_per_slice=round(done.seconds / 8, 3))  # fmt: skip


def memory(folder: Path) -> None:
    """Peaks of fresh processes."""
    small = [network(folder / f"m{s}", EncoderDecoder(n_classes=5, n_features=4, n_scales=2), s) for s in range(4)]
    large = [network(folder / f"l{seed}", UNet(n_classes=5), seed) for seed in range(4)]
    peaks = {}
    for key, members, n_slices in (("25", small, 25), ("250", small, 250), ("original_unets", large, 2)):
        noise(folder / f"{n_slices}.ome.zarr", (n_slices, 2000, 2000))
        command = [sys.executable, "-m", "benchmarks.segmentation", "peak", str(folder / f"{n_slices}.ome.zarr")]
        folders = [str(member.folder) for member in members]
        done = subprocess.run([*command, str(folder), *folders], capture_output=True, text=True, check=True)
        peaks[key] = float(done.stdout.split()[-1])
        print(key, peaks[key], flush=True)
    say(ratio="peak_memory_250_over_25_slices", value=round(peaks["250"] / peaks["25"], 3), target=1.1,
        target_gib=3.0, peak_gib={key: round(value, 2) for key, value in peaks.items()})  # fmt: skip


def peak(volume: Path, folder: Path, members: list[str]) -> None:
    """In a process of its own: segment, then print the peak resident memory in GiB."""
    ensemble = Ensemble(tuple(map(Network.open, members)))
    ensemble.segment(volume, folder / "peak.ome.zarr", extras={"entropy": folder / "pe.ome.zarr"}, overwrite=True)
    print(peak_bytes() / 2**30)


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Only one core for what is started within."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def workers(folder: Path) -> None:
    """Two workers of a core each over one; and one of the two is killed half-way."""
    import psutil

    volume = noise(folder / "w.ome.zarr", (192, 512, 512))
    member = network(folder / "w", EncoderDecoder(n_classes=5, n_features=16, n_scales=3))
    ensemble = Ensemble((member,))

    def run(n: int, kill_at: float | None = None) -> tuple[float, int]:
        """Seconds from the first block that is done to the last, as many for each worker; and blocks that were done."""
        times, killed = [], []

        def watch(done: int, total: int) -> None:
            times.append(time.perf_counter())
            if kill_at is not None and not killed and done / total >= kill_at:
                children = [
                    c for c in psutil.Process().children(recursive=True) if "spawn_main" in " ".join(c.cmdline())
                ]
                killed.append(children[0].pid)
                os.kill(children[0].pid, signal.SIGKILL)

        with one_core() if n == 1 else contextlib.nullcontext():
            ensemble.segment(volume, folder / "w.o.ome.zarr", cluster="local", n_workers=n, overwrite=True,
                             precision="float32", max_voxels=2**17, progress=watch)  # fmt: skip
        return (times[-1] - times[2 * n]) / (len(times) - 2 * n - 1), len(times)

    (one, _), (two, n_blocks) = run(1), run(2)
    say(ratio="one_worker_over_two", value=round(one / two, 3), target=1.7, s_per_block=[round(one, 3), round(two, 3)])
    killed, n_done = run(2, kill_at=0.5)
    say(ratio="killed_over_not", value=round(killed / two, 3), blocks=[n_blocks, n_done],
        note="time per block while one worker starts anew; only its blocks are done again")  # fmt: skip


LEGS = {leg.__name__: leg for leg in (plain, engines, monai, outside, memory, workers)}

if __name__ == "__main__":
    if sys.argv[1:2] == ["peak"]:
        peak(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
    else:
        for leg in sys.argv[1:] or LEGS:
            with tempfile.TemporaryDirectory() as place:
                LEGS[leg](Path(place))
