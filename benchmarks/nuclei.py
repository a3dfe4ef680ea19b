"""The experiment of Mahbod et al. 2022 on MoNuSeg and TNBC: two branches, pruned in several ways, and two heads.

    python -m benchmarks.nuclei FOLDER [halves] [channels] [heads] [STEPS=2000] [RETRAIN=400] [features=32] [window=256]
        [batch=4] [encoder=FILE]

Train on the bladder, breast, colon, liver and prostate images of `monuseg`, validate on kidney and stomach, and score
on all of `tnbc` too. Two ResNet-34 U-Nets of half the width (32 features in the stem), windows of 256x256, four to a
step, from scratch, STEPS each; the paper's own are `features=64 window=1024 batch=2 encoder=FILE`, with a ResNet-34 in
the file that learned from ImageNet, and 15 STEPS per epoch. `halves`: single weights halved, with RETRAIN steps after
each, at the first learning rate: layer-wise to 128, network-wide to 512. `channels`: half and a quarter of the
multiply-adds left, by loss (to first order, ten channels at once) and by l1 norm, with as much training; with the time
that an image of 1000x1000 takes, for the dense pair and the one of 16 times fewer weights too. `heads`: one network
with two heads, STEPS and twice as many, against the two. All if none is named. Run again, it continues. Writes tables,
and pictures over the compression ratio; figures of a run stand in docs/RESULTS.md.
"""

import json
import logging
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from genenet.device import import_keras
from genenet.errors import InputError

import_keras()

import pandas as pd  # noqa: E402

import genenet as gn  # noqa: E402
import pruning  # noqa: E402
from genenet.dataset import Dataset  # noqa: E402
from genenet.instance_segmentation import predict_maps, read_merging  # noqa: E402
from genenet.prune_branches import draw_curves, prune_branches, score_branches  # noqa: E402
from genenet.prune_network import PruningSettings  # noqa: E402
from genenet.segment_instances import segment_folder  # noqa: E402
from genenet.train_branches import blueprints, branch_settings, start_from_encoder, train_branches  # noqa: E402

CLASSES = [
    {"value": 0, "name": "background", "color": "#ffffff"},
    {"value": 1, "name": "nuclei", "color": "#6a3d9a", "also": "others"},
]
MOST = {"layer": 128, "network": 512}
# As at first: at a tenth of it, 80 steps did not bring back a branch with a sixteenth of its weights.
RATE = 1e-3
# Drawn with their outlines.
SHOWN = ("monuseg/images/Kidney_TCGA-B0-5711-01Z-00-DX1.jpg", "tnbc/images/03_1.jpg")


def parts(folder: Path, name: str, *patterns: str) -> list[dict[str, str]]:
    """Images by pattern."""
    where = folder / name
    return [{"image": str(where / "images" / pattern), "labels": str(where / "labels")} for pattern in patterns]


def load() -> tuple[Path, Dataset, Dataset]:
    """The data's folder; MoNuSeg and TNBC."""
    place = os.environ.get("GENENET_DATA")
    if not place:
        raise InputError("GENENET_DATA must name the folder that holds monuseg/ and tnbc/")
    folder = Path(place)
    common = {"classes": CLASSES, "training": parts(folder, "monuseg", "B*.jpg", "[CLP]*.jpg")}
    monuseg = {**common, "validation": parts(folder, "monuseg", "[KS]*.jpg")}
    tnbc = {**common, "validation": parts(folder, "tnbc", "*.jpg")}
    return folder, Dataset.open(monuseg), Dataset.open(tnbc)


class Experiment:
    """The data, and the two branches that all parts begin with.

    Args:
        folder: Of everything.
        n_steps: Of the first training.
        n_retrain: After every round of pruning.
        features: Of the stem.
        window: Its side.
        batch: Windows per step.
        encoder: Its weights, if any.
    """

    def __init__(
        self,
        folder: Path,
        n_steps: int,
        n_retrain: int,
        *,
        features: str = "32",
        window: str = "256",
        batch: str = "4",
        encoder: str | None = None,
    ) -> None:
        self.folder, self.n_steps, self.n_features, self.window_size = folder, n_steps, int(features), int(window)
        self.windows = {"batch_size": int(batch)}
        self.start = None if encoder is None else start_from_encoder(encoder)
        self.place, self.monuseg, self.tnbc = load()
        self.again = branch_settings(
            steps=n_retrain, validate_every=n_retrain, checkpoint_every=n_retrain, windows=self.windows
        )
        self.dense = self.train("dense", n_steps)
        self.merging = read_merging(folder / "dense")

    def train(self, name: str, n_steps: int, *, two_heads: bool = False) -> gn.Ensemble:
        """Train branches or a network with two heads into a folder."""

        def watch(branch: str, step: int, seconds: float, record: Any) -> None:
            if record is not None:
                logging.info("%s, step %d: %s, %.0f s", branch, step, record.summary, seconds)

        nets = blueprints(
            self.monuseg, depth=34, n_features=self.n_features, window_size=self.window_size, two_heads=two_heads
        )
        settings = branch_settings(steps=n_steps, validate_every=500, checkpoint_every=250, windows=self.windows)
        return train_branches(nets, self.monuseg, self.folder / name, settings, start=self.start, watch=watch)

    def prune(self, name: str, settings: PruningSettings, **options: Any) -> pd.DataFrame:
        """Prune the dense branches into a folder."""
        found = prune_branches(
            self.dense,
            self.monuseg,
            self.folder / name,
            settings,
            self.again,
            merging=self.merging,
            others={"TNBC": self.tnbc},
            progress=lambda done, total: logging.info("%s: network %d of %d", name, done, total),
            **options,
        )
        print(f"\n{name}\n{found.round(4).to_string(index=False)}", flush=True)
        return found

    def halves(self) -> None:
        """Figures 2 and 3, and table 1."""
        curves = {}
        for scope, most in MOST.items():
            settings = PruningSettings("magnitude", compression_ratio=most, scope=scope, learning_rate=RATE)
            curves[scope] = self.prune(scope, settings)
            draw_curves(curves, self.folder / "curves.png")
        images = [self.place / name for name in SHOWN]
        for name, where in (("dense", "dense"), ("cr8", "layer/cr8"), ("cr64", "layer/cr64")):
            members = gn.Ensemble.open(self.folder / where)
            segment_folder(members, images, self.folder / "pictures" / name, merging=self.merging)
        for scope, curve in curves.items():
            for row in curve[curve["data"] == "validation"].to_dict("records"):
                say(scope=scope, cr=row["compression_ratio"], speedup=round(row["theoretical_speedup"], 2),
                    measured=round(row["measured_speedup"], 2))  # fmt: skip

    def channels(self) -> None:
        """What gets really faster."""
        target = pruning.Target(multiply_adds=0.25)
        pairs = {"dense": self.dense}
        for name, settings in {
            "loss": PruningSettings("loss", target, search="first_order", at_once=10, learning_rate=RATE),
            "norm": PruningSettings("structured", target, learning_rate=RATE),
        }.items():
            self.prune(name, settings, rounds=2)
            pairs.update({f"{name}{n}": gn.Ensemble.open(self.folder / name / f"round{n}") for n in (1, 2)})
        zeros = self.folder / "layer" / "cr16"
        if zeros.exists():
            pairs["zeros"] = gn.Ensemble.open(zeros)
        volume = gn.open_volume(self.place / SHOWN[0])
        for engine in ("keras", "openvino"):
            for precision in ("float32", "bfloat16"):
                ways = {name: pair.predictor_by([(engine, precision)] * 2) for name, pair in pairs.items()}
                spent: dict[str, list[float]] = {name: [] for name in ways}
                for _ in range(5):
                    for name, way in ways.items():
                        started = time.perf_counter()
                        predict_maps(way, volume.shape[:3], volume.read_mirrored)
                        spent[name].append(time.perf_counter() - started)
                for name, times in spent.items():
                    ratio = statistics.median(a / b for a, b in zip(spent["dense"][1:], times[1:], strict=True))
                    say(ratio=f"dense_over_{name}.{engine}.{precision}", value=round(ratio, 2),
                        s_per_image=round(statistics.median(times[1:]), 3))  # fmt: skip

    def heads(self) -> None:
        """One network with two heads, against two networks."""
        ways = {"dense": self.dense}
        for times in (1, 2):
            ways[f"heads{times}"] = self.train(f"heads{times}", times * self.n_steps, two_heads=True)
        for name, members in ways.items():
            merging = read_merging(self.folder / name)
            for where, data in {"validation": self.monuseg, "TNBC": self.tnbc}.items():
                found = score_branches(members, data, merging)
                say(way=name, data=where, **{key: round(value, 4) for key, value in found.items()})


def say(**entry: Any) -> None:
    """A JSON line."""
    print(json.dumps({"benchmark": "nuclei", **entry}), flush=True)


PARTS = ("halves", "channels", "heads")
OPTIONS = {"features", "window", "batch", "encoder"}


def main(words: list[str]) -> None:
    """Do the parts that are named."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    counts = [int(word) for word in words if word.isdigit()]
    options = dict(word.split("=", 1) for word in words if "=" in word)
    folders = [word for word in words if not word.isdigit() and word not in PARTS and "=" not in word]
    if len(folders) != 1 or len(counts) > 2 or set(options) - OPTIONS:
        sys.exit(__doc__)
    experiment = Experiment(Path(folders[0]), *counts, *(2000, 400)[len(counts) :], **options)
    for part in [word for word in words if word in PARTS] or PARTS:
        getattr(experiment, part)()


if __name__ == "__main__":
    main(sys.argv[1:])
