"""The demonstration: a small search on synthetic data, from nothing to a segmentation and a report."""

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from genenet.classes import colorize
from genenet.dataset import Dataset
from genenet.folder import write_json
from genenet.volume import open_volume


def run_demo(folder: Path, *, n_trials: int = 5, steps: int = 300, seed: int = 0) -> Iterator[str]:
    """Go through the whole workflow, giving a line for people at every stage; run again, it continues.

    Args:
        folder: Where everything goes: `annotated/`, `unseen/`, `study/`, `segmentation.ome.zarr`, `picture.png`.
        n_trials: Networks to draw; a small baseline comes on top.
        steps: Optimizer steps per network.
        seed: Of everything.
    """
    from genenet.device import import_keras

    import_keras()
    from genenet.ensemble import Ensemble
    from genenet.evaluation import evaluate
    from genenet.genes import EncoderDecoder, UNet
    from genenet.phantom_files import write_phantom
    from genenet.settings import TrainingSettings, WindowSettings
    from search.report import write_report
    from search.space import Choice, Levels, Range, Space
    from search.study import Study

    started = time.monotonic()
    data = folder / "annotated" / "data.yaml"
    unseen = folder / "unseen" / "data.yaml"
    if not data.exists():
        yield "1/5 making a synthetic annotated volume, and one that no network will see"
        write_phantom(data.parent, (24, 320, 320), seed=seed, overwrite=True)
    if not unseen.exists():
        write_phantom(unseen.parent, (8, 320, 320), seed=seed + 1, overwrite=True)
    yield f"2/5 searching: {n_trials} random networks and a U-Net, {steps} steps each"
    space = Space(
        EncoderDecoder(n_classes=7, normalization="batch", window_size=96),
        {
            "n_scales": Range(2, 3),
            "n_features": Levels(Range(8, 14), Range(-2, 2)),
            "n_convs": Levels(Range(1, 2), None, Range(0, 1)),
            "pooling": Choice("max", "strided"),
            "upsampling": Choice("transposed", "resize"),
            "log10_learning_rate": Range(-2.8, -2.2),
        },
    )
    study = Study.create(
        folder / "study",
        space,
        data=data,
        n_trials=n_trials,
        seed=seed,
        baseline=UNet(n_classes=7, n_features=8, n_scales=3, padding="same", window_size=96),
        training=TrainingSettings(
            steps=steps,
            validate_every=max(1, steps // 4),
            checkpoint_every=steps,
            windows=WindowSettings(batch_size=4, class_balance=0.35),
        ),
    )
    study.run()
    yield study.leaderboard()[["trial", "label", "adjusted_rand", "n_parameters", "lpes", "lpds"]].to_string(
        index=False
    )
    yield "3/5 choosing the ensemble"
    ensemble = Ensemble.select(study.networks(), study.data)
    ensemble.save(study.folder / "ensemble")
    yield f"    {ensemble.summary()}"
    yield "4/5 segmenting the unseen volume"
    output = folder / "segmentation.ome.zarr"
    ensemble.segment(unseen.parent / "image.ome.zarr", output, overwrite=True)
    found = evaluate(output, unseen, part="training")
    yield f"    adjusted Rand score {found.adjusted_rand:.3f} on slices that no network has seen"
    yield "5/5 writing the report"
    report = write_report(study)
    draw_picture(unseen, output, folder / "picture.png", best_slice(unseen))
    seconds = time.monotonic() - started
    write_json(
        folder / "summary.json",
        {
            "seconds": seconds,
            "ensemble": max(point.adjusted_rand for point in ensemble.curve),
            "unseen": found.adjusted_rand,
        },
    )
    yield f"done in {seconds:.0f} s. Open {report} in a browser, or look at {folder / 'picture.png'};"
    yield f"the segmentation is {output}"


def best_slice(data: Path) -> int:
    """The slice that shows most classes, the rare ones first."""
    part = Dataset.open(data).training[0]
    shape = (1, *part.shape[1:])
    counts = [np.bincount(part.read_labels((z, 0, 0), shape).ravel(), minlength=8)[:8] for z in range(part.shape[0])]
    return max(range(len(counts)), key=lambda z: [(counts[z] > 0).sum(), counts[z][2:].sum()])


def draw_picture(data: Path, segmentation: Path, output: Path, z: int) -> None:
    """Draw a slice of a data set beside its labels and a segmentation, with the names of the classes."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    opened = Dataset.open(data)
    part = opened.training[0]
    start, shape = (z, 0, 0), (1, *part.shape[1:])
    found = dataclasses.replace(part, labels=open_volume(segmentation))
    panels = {
        "image": part.read_image(start, shape)[0, ..., 0],
        "labels": colorize(part.read_labels(start, shape)[0], opened.classes),
        "ensemble, on a volume it never saw": colorize(found.read_labels(start, shape)[0], opened.classes),
    }
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    for axes, (title, picture) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        axes.imshow(picture, cmap="gray", interpolation="nearest")
        axes.set_title(title, fontsize=11)
        axes.set_axis_off()
    patches = [Patch(color=entry.color, label=entry.name) for entry in opened.classes]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False, fontsize=9)
    figure.savefig(output, dpi=110)
