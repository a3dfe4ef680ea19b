"""The experiment of Mahbod et al. 2022 on MoNuSeg and TNBC: two branches, pruned by halves, in two ways.

    python -m benchmarks.nuclei [FOLDER] [STEPS] [RETRAIN]

Train on the bladder, breast, colon, liver and prostate images of `monuseg`, validate on kidney and stomach, and score
on the patients 02 to 06 of `tnbc` too. Two ResNet-34 U-Nets of half the width (32 features in the stem), windows of
256x256, four to a step, from scratch. STEPS (2,000) each, then halvings with RETRAIN (80) steps after each, at the
first learning rate: layer-wise to 128, network-wide to 512. Run again, it continues. Writes tables, and pictures over
the compression ratio; figures of a run stand in docs/RESULTS.md.
"""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from genenet.device import import_keras
from genenet.errors import InputError

import_keras()

import genenet as gn  # noqa: E402
from genenet.dataset import Dataset  # noqa: E402
from genenet.instance_segmentation import read_merging  # noqa: E402
from genenet.prune_branches import draw_curves, prune_branches  # noqa: E402
from genenet.segment_instances import segment_folder  # noqa: E402
from genenet.train_branches import blueprints, branch_settings, train_branches  # noqa: E402

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
    monuseg = {
        "classes": CLASSES,
        "training": parts(folder, "monuseg", "B*.jpg", "[CLP]*.jpg"),
        "validation": parts(folder, "monuseg", "[KS]*.jpg"),
    }
    tnbc = {
        "classes": CLASSES,
        "training": parts(folder, "tnbc", "01_*.jpg"),
        "validation": parts(folder, "tnbc", "0[2-6]_*.jpg"),
    }
    return folder, Dataset.open(monuseg), Dataset.open(tnbc)


def main(folder: Path, n_steps: int, n_retrain: int) -> None:
    """Train, prune, score."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    place, monuseg, tnbc = load()

    def watch(name: str, step: int, seconds: float, record: Any) -> None:
        if record is not None:
            logging.info("%s, step %d: %s, loss %.4f, %.0f s", name, step, record.summary, record.loss, seconds)

    settings = branch_settings(steps=n_steps, validate_every=500, checkpoint_every=250)
    nets = blueprints(monuseg, depth=34, n_features=32, window_size=256)
    dense = train_branches(nets, monuseg, folder / "dense", settings, watch=watch)
    merging = read_merging(folder / "dense")
    again = branch_settings(steps=n_retrain, validate_every=n_retrain, checkpoint_every=n_retrain)
    curves = {}
    for scope, most in MOST.items():
        curves[scope] = prune_branches(
            dense,
            monuseg,
            folder / scope,
            compression_ratio=most,
            scope=scope,
            training=again,
            merging=merging,
            learning_rate=RATE,
            others={"TNBC": tnbc},
            progress=lambda done, total: logging.info("scored %d of %d", done, total),
        )
        print(f"\n{scope}\n{curves[scope].round(4).to_string(index=False)}")
        draw_curves(curves, folder / "curves.png")
    images = [place / name for name in SHOWN]
    for name, where in (("dense", "dense"), ("cr8", "layer/cr8"), ("cr64", "layer/cr64")):
        segment_folder(gn.Ensemble.open(folder / where), images, folder / "pictures" / name, merging=merging)
    for scope, curve in curves.items():
        for row in curve[curve["data"] == "validation"].to_dict("records"):
            ratio, speedup = row["compression_ratio"], row["theoretical_speedup"]
            print(json.dumps({"benchmark": "nuclei", "scope": scope, "cr": ratio, "speedup": round(speedup, 2)}))


if __name__ == "__main__":
    main(
        Path(sys.argv[1] if len(sys.argv) > 1 else "runs/nuclei"),
        int(sys.argv[2]) if len(sys.argv) > 2 else 2000,
        int(sys.argv[3]) if len(sys.argv) > 3 else 80,
    )
