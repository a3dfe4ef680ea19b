"""Steps per second of our training, all augmentation on, over the same model's bare `fit` on arrays in memory.

    python -m benchmarks.training

Also bfloat16 over float32 for the original U-Net. Legs of the two are run in turn in one process; the median of the
ratios counts. Ends with JSON lines.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path

from genenet.device import cpu_likes_bfloat16, find_device, import_keras

keras = import_keras()

import numpy as np  # noqa: E402

from genenet.dataset import Dataset  # noqa: E402
from genenet.genes import EncoderDecoder, UNet  # noqa: E402
from genenet.phantom_files import write_phantom  # noqa: E402
from genenet.settings import TrainingSettings, WindowSettings  # noqa: E402
from genenet.train import _Training  # noqa: E402


def training(net: EncoderDecoder, data: Dataset, work: Path, *, batch_size: int, precision: str = "auto") -> _Training:
    """A training that is ready to run legs."""
    settings = TrainingSettings(
        steps=100_000, schedule="constant", precision=precision, windows=WindowSettings(batch_size=batch_size)
    )
    return _Training(net, data, work, settings, seed=0, watch=lambda *_: None)


def leg(run: _Training, n_steps: int) -> float:
    """Seconds of so many steps of our training, after a first one."""
    ends: list[float] = []
    run.next_stop = lambda: run.state.step + n_steps + 1  # type: ignore[method-assign]
    run.watch = lambda *_: ends.append(time.monotonic())
    run.run_leg(lambda: None)
    return ends[-1] - ends[0]


def bare(run: _Training, n_steps: int) -> float:
    """Seconds of so many steps of Keras' fit on one batch's arrays, repeated in memory, after a first one.

    Every call of `fit` takes some seconds before its first step, which training has once.
    """
    ends: list[float] = []
    watch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_, **__: ends.append(time.monotonic()))
    images, targets, weights, _ = run.windows.batch(0)
    arrays = [np.concatenate([array] * (n_steps + 1)) for array in (images, targets, weights)]
    run.trainer.fit(
        arrays[0],
        arrays[1],
        sample_weight=arrays[2],
        batch_size=len(images),
        epochs=1,
        shuffle=False,
        verbose=0,
        callbacks=[watch],
    )
    return ends[-1] - ends[0]


def ours_over_bare(name: str, run: _Training, n_steps: int, rounds: int, target: float) -> None:
    """Alternate the two and print the median ratio of steps per second."""
    leg(run, 2), bare(run, 2)
    pairs = [(leg(run, n_steps), bare(run, n_steps)) for _ in range(rounds)]
    ratio = statistics.median(theirs / mine for mine, theirs in pairs)
    per_step = statistics.median(mine for mine, _ in pairs) / n_steps
    print(json.dumps({
        "benchmark": "training", "ratio": f"ours_over_bare_fit.{name}", "value": round(ratio, 3), "target": target,
        "s_per_step": round(per_step, 4), "spread": [round(theirs / mine, 3) for mine, theirs in pairs],
    }), flush=True)  # fmt: skip


def main() -> None:
    """Run all ratios."""
    print(find_device())
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        data = Dataset.open(write_phantom(work / "phantom", (8, 800, 800)))
        small = EncoderDecoder(n_classes=7, n_features=16, n_scales=4, window_size=192)
        run = training(small, data, work / "small", batch_size=6)
        ours_over_bare("base16", run, n_steps=40, rounds=5, target=0.8)
        original = training(UNet(n_classes=7), data, work / "unet", batch_size=1)
        ours_over_bare("original_unet", original, n_steps=6, rounds=5, target=0.95)
        if not cpu_likes_bfloat16():
            print("this CPU does not multiply in bfloat16; the ratio of precisions is left out")
            return
        plain = training(UNet(n_classes=7), data, work / "float32", batch_size=1, precision="float32")
        leg(plain, 1)
        pairs = [(leg(original, 4), leg(plain, 4)) for _ in range(3)]
        ratio = statistics.median(slow / fast for fast, slow in pairs)
        print(json.dumps({
            "benchmark": "training", "ratio": "bfloat16_over_float32.original_unet", "value": round(ratio, 2),
            "target": 2,
        }), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
