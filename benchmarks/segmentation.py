"""`segment` of 8x1024x1024 over a plain Keras `predict` on whole slices, and its memory for 8 and for 64 slices.

    python -m benchmarks.segmentation

The plain way holds the volume, pads every slice in mirror image so that its result is the same, predicts one slice at a
time, and takes the most probable class. Both compute in the same precision, in turn, in one process. Memory is the
peak of a fresh process each. Ends with JSON lines.
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from genenet.device import dtype_policy, import_keras

import_keras()

import numpy as np  # noqa: E402

from genenet.averaging import MeanPredictor  # noqa: E402
from genenet.blocks import BlockPredictor  # noqa: E402
from genenet.classes import default_classes  # noqa: E402
from genenet.genes import EncoderDecoder, UNet  # noqa: E402
from genenet.normalization import Normalization  # noqa: E402
from genenet.segment import segment_volume  # noqa: E402
from genenet.volume import create_volume, open_volume  # noqa: E402

NETS = {
    "base16": lambda: EncoderDecoder(n_classes=5, n_features=16, n_scales=4),
    "original_unet": lambda: UNet(n_classes=5),
}


def predictor(net: EncoderDecoder) -> BlockPredictor:
    """An untrained network in the precision that `auto` takes."""
    model = net.build(precision=dtype_policy("auto"))
    return BlockPredictor(model, net.plan_layers(), Normalization((128.0,), (50.0,)), net.window_shape())


def write_noise(path: Path, n_slices: int) -> None:
    """A volume of random voxels, slice by slice."""
    rng = np.random.default_rng(0)
    with create_volume(path, (n_slices, 1024, 1024), np.dtype(np.uint8), chunks=(1, 256, 256)) as writer:
        for z in range(n_slices):
            box = slice(z, z + 1), slice(0, 1024), slice(0, 1024)
            writer.write(box, rng.integers(0, 255, (1, 1024, 1024), np.uint8))


def ours(member: BlockPredictor, volume: Path, output: Path) -> float:
    """Seconds of our way, from file to file."""
    started = time.monotonic()
    segment_volume(MeanPredictor((member,)), default_classes(range(5)), volume, output, identity="", overwrite=True)
    return time.monotonic() - started


def plain(member: BlockPredictor, volume: Path, output: Path) -> float:
    """Seconds of the plain way, from file to file."""
    started = time.monotonic()
    opened = open_volume(volume)
    image = opened.read(tuple(slice(0, n) for n in opened.shape))
    fit = member.fit((1, *image.shape[1:]))
    pads = [(0, 0)] + [(a, n - a - c) for a, n, c in zip(fit.lead[1:], fit.input[1:], fit.core[1:], strict=True)]
    padded = member.normalization(np.pad(image, pads, mode="reflect")[..., None])
    answer = member.model.predict(padded, batch_size=1, verbose=0)
    np.save(output, answer[(slice(None), *fit.keep[1:])].argmax(-1).astype(np.uint8))
    return time.monotonic() - started


def measure_speed(folder: Path) -> None:
    """Alternate the two ways."""
    write_noise(folder / "8.ome.zarr", 8)
    for name, make in NETS.items():
        member = predictor(make())
        volume, rounds = folder / "8.ome.zarr", 3
        ours(member, volume, folder / "a.ome.zarr"), plain(member, volume, folder / "b.npy")
        pairs = [
            (ours(member, volume, folder / "a.ome.zarr"), plain(member, volume, folder / "b.npy"))
            for _ in range(rounds)
        ]
        box = tuple(slice(0, n) for n in (8, 1024, 1024))
        same = float((open_volume(folder / "a.ome.zarr").read(box) == np.load(folder / "b.npy")).mean())
        print(json.dumps({
            "benchmark": "segmentation", "ratio": f"plain_predict_over_segment.{name}", "target": 1.0,
            "value": round(statistics.median(theirs / mine for mine, theirs in pairs), 3),
            "s_per_slice": round(statistics.median(mine for mine, _ in pairs) / 8, 3), "same_labels": same,
        }), flush=True)  # fmt: skip


def measure_memory(folder: Path) -> None:
    """Peak memory of fresh processes."""
    peaks = []
    for n_slices in (8, 64):
        write_noise(folder / f"{n_slices}.m.zarr", n_slices)
        command = [sys.executable, "-m", "benchmarks.segmentation", "peak", str(folder), str(n_slices)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(float(done.stdout.split()[-1]))
    print(json.dumps({
        "benchmark": "segmentation", "ratio": "peak_memory_64_over_8_slices", "value": round(peaks[1] / peaks[0], 3),
        "target": 1.0, "peak_gb": [round(peak, 2) for peak in peaks],
    }), flush=True)  # fmt: skip


def peak(folder: Path, n_slices: int) -> None:
    """In a process of its own: segment, then print the peak resident memory in GB."""
    ours(predictor(NETS["base16"]()), folder / f"{n_slices}.m.zarr", folder / f"{n_slices}.out.ome.zarr")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


if __name__ == "__main__":
    if sys.argv[1:2] == ["peak"]:
        peak(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        with tempfile.TemporaryDirectory() as place:
            measure_speed(Path(place))
            measure_memory(Path(place))
