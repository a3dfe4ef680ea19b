"""Ensembles of a study on real data: rules of selection, calibration, seconds per slice, and a picture.

    python -m benchmarks.ensembles STUDY FOLDER

STUDY is a study on the `vnc` data (`python -m benchmarks.vnc`). For every rule the adjusted Rand score of the first
1, 2, ... networks; what calibration changes; the time per 1024x1024 slice of the best ensemble with the fastest engine;
and FOLDER/vnc-ensemble.png: image, labels, segmentation, entropy and errors of a validation slice. Ends with JSON
lines.
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

import genenet as gn
from genenet.classes import colorize
from genenet.label_table import UNLABELLED
from genenet.latency import seconds_per_megavoxel
from genenet.volume import open_volume
from search import Study

MOST = 12


def say(**entry: Any) -> None:
    """A JSON line."""
    print(json.dumps({"benchmark": "ensembles", **entry}), flush=True)


def curves(study: Study) -> dict[str, gn.Ensemble]:
    """The ensemble that every rule selects."""
    networks, cache = study.networks(), study.folder / "predictions"
    slowest = max(seconds_per_megavoxel(network, study.data) for network in networks)
    rules = {
        "best": {},
        "greedy": {},
        "greedy_with_replacement": {},
        "per_second": {"limit_s_per_megavoxel": 3 * slowest},
    }
    found = {}
    for rule, options in rules.items():
        chosen = gn.Ensemble.select(networks, study.data, rule=rule, max_members=MOST, cache=cache, **options)
        found[rule] = chosen
        best = max(point.adjusted_rand for point in chosen.curve)
        say(figure="curve", rule=rule, adjusted_rand=[round(point.adjusted_rand, 4) for point in chosen.curve],
            ambiguity=[round(point.ambiguity, 4) for point in chosen.curve], best=round(best, 4),
            n_members=len(chosen.members), **options)  # fmt: skip
    first = found["best"].curve[0].adjusted_rand
    for rule, chosen in found.items():
        say(ratio=f"{rule}_over_best_network", value=round(max(p.adjusted_rand for p in chosen.curve) / first, 4))
    return found


def calibration(study: Study) -> None:
    """The expected calibration error before and after one temperature per network."""
    chosen = gn.Ensemble.select(
        study.networks(), study.data, rule="best", max_members=MOST, calibrate=True, cache=study.folder / "predictions"
    )
    before, after = chosen.calibration or (float("nan"), float("nan"))
    say(ratio="calibration_error_after_over_before", value=round(after / before, 3), before=round(before, 4),
        after=round(after, 4), temperatures=[round(value, 3) for value in chosen.temperatures],
        adjusted_rand=round(max(point.adjusted_rand for point in chosen.curve), 4))  # fmt: skip


def picture(study: Study, ensemble: gn.Ensemble, folder: Path) -> None:
    """Segment the volume, time it, and draw a validation slice."""
    part = study.data.validation[0]
    image = part.image
    done = ensemble.segment(
        image, folder / "vnc.ome.zarr", engine="auto", extras={"entropy": folder / "vnc-entropy.ome.zarr"},
        overwrite=True,
    )  # fmt: skip
    keras = ensemble.segment(image, folder / "vnc-keras.ome.zarr", overwrite=True)
    say(ratio="keras_over_auto", value=round(keras.seconds / done.seconds, 3), engines=done.engines,
        s_per_slice=round(done.seconds / image.shape[0], 3), n_members=len(ensemble.members))  # fmt: skip
    z = part.box[0].start
    box = slice(z, z + 1), slice(0, image.shape[1]), slice(0, image.shape[2])
    values = open_volume(folder / "vnc.ome.zarr").read(box)[0]
    entropy = open_volume(folder / "vnc-entropy.ome.zarr").read(box)[0].astype(np.float32)
    indices = np.searchsorted([entry.value for entry in ensemble.classes], values)
    labels = part.read_labels((0, 0, 0), (1, *image.shape[1:3]))[0]
    known = labels != UNLABELLED
    wrong = (indices != labels) & known
    grey = np.repeat(image.read(box)[0][..., None], 3, -1)
    errors = np.where(wrong[..., None], (213, 94, 0), grey // 2 + 60).astype(np.uint8)
    panels = {
        "image": grey,
        "labels": colorize(np.where(known, labels, 0), ensemble.classes),
        f"{len(ensemble.members)} networks": colorize(indices, ensemble.classes),
        "entropy": entropy,
        "errors": errors,
    }
    figure, axes = plt.subplots(1, 5, figsize=(20, 4.4), layout="constrained")
    for axis, (title, panel) in zip(axes, panels.items(), strict=True):
        axis.imshow(panel, cmap="magma", vmin=0, vmax=1 if title == "entropy" else None)
        axis.set_title(title)
        axis.set_axis_off()
    figure.savefig(folder / "vnc-ensemble.png", dpi=80)
    sure = entropy[known] < np.median(entropy[known])
    say(figure="errors", share=round(float(wrong.sum() / known.sum()), 4),
        in_the_surer_half=round(float(wrong[known][sure].sum() / wrong.sum()), 4), slice=z)  # fmt: skip


def main(study: Path, folder: Path) -> None:
    """All of it."""
    folder.mkdir(parents=True, exist_ok=True)
    opened = Study.open(study)
    found = curves(opened)
    calibration(opened)
    best = max(found.values(), key=lambda chosen: max(point.adjusted_rand for point in chosen.curve))
    picture(opened, best, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
