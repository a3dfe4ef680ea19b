"""Correction: which order of work needs least, and three rounds of learning.

    python -m benchmarks.correction orders FOLDER
    python -m benchmarks.correction rounds FOLDER

On the `vnc` data; two networks (16 features, three scales, 500 steps) learn from slices 0 to 4 and are validated on 12
and 13; a corrector who knows the labels works on slices 5 to 11, which no network has seen. `orders`: the score against
the area looked at and against the time by the default model of a person, doubtful regions first, at random, in order;
FOLDER gets the pictures. `rounds`: in each of three rounds 5 % of the area is corrected and the members are trained
further, for each order. Run again, both continue. Ends with JSON lines.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

import genenet as gn
from benchmarks.vnc import data_settings
from genenet.corrections.learn import learn
from genenet.corrections.planning import ORDERS, compare_orders, plot_orders
from genenet.corrections.regions import Regions
from genenet.corrections.simulate import Corrector
from genenet.corrections.store import Corrections
from genenet.settings import TrainingSettings, WindowSettings
from genenet.volume import Volume, open_volume

UNSEEN, TRAINING, VALIDATION = (5, 12), (0, 5), (12, 14)
SIZES, SMALLEST = (128, 64, 32), 30
SHARE_PER_ROUND, STEPS = 0.05, 120


def say(**entry: Any) -> None:
    """A JSON line."""
    print(json.dumps({"benchmark": "correction", **entry}), flush=True)


def first(folder: Path) -> tuple[gn.Ensemble, dict[str, Any], TrainingSettings]:
    """Two networks, what they learned from, and how."""
    content = {**data_settings(), "training": {"z": [*TRAINING]}, "validation": {"z": [*VALIDATION]}}
    training = TrainingSettings(steps=500, validate_every=250, windows=WindowSettings(batch_size=4))
    net = gn.EncoderDecoder(n_classes=5, n_features=16, n_scales=3, window_size=192)
    data = gn.Dataset.open(content)
    networks = [gn.train_network(net, data, folder / f"net{seed}", training, seed=seed) for seed in (0, 1)]
    return gn.Ensemble(tuple(networks)), content, training


def unseen(folder: Path) -> tuple[Volume, Volume]:
    """The slices that no network has seen, image and class values, as files."""
    content, found = data_settings(), []
    for name in ("image", "labels"):
        volume, path = open_volume(content[name]), folder / f"{name}.ome.zarr"
        if not path.exists():
            pixels = volume.read((slice(*UNSEEN), slice(0, volume.shape[1]), slice(0, volume.shape[2])))
            with gn.create_volume(path, pixels.shape, pixels.dtype, voxel_size_nm=content["voxel_size_nm"]) as out:
                out.write(tuple(slice(0, n) for n in pixels.shape), pixels)  # type: ignore[arg-type]
        found.append(open_volume(path))
    return found[0], found[1]


def needed(points: list[Any], score: float, what: str) -> float:
    """Area or minutes until a score is reached."""
    return next(getattr(point, what) for point in points if point.adjusted_rand >= score)


def orders(folder: Path) -> None:
    """The score against what was spent, in several orders."""
    (image, truth), (ensemble, _, _) = unseen(folder), first(folder)
    cells, entropy, other = (folder / f"{name}.ome.zarr" for name in ("cells", "entropy", "disagreement"))
    if not cells.exists():
        ensemble.segment(image, cells, extras={"entropy": entropy, "disagreement": other})
    ways = [("entropy", entropy, size, 1) for size in SIZES]
    ways += [("disagreement", other, 64, 1), ("entropy", entropy, 64, SMALLEST)]
    for which, doubt, size, smallest in ways:
        name = f"{which}-{size}" + (f"-from-{smallest}-voxels" if smallest > 1 else "")
        found = compare_orders(cells, truth, doubt, size=(1, size, size), smallest=smallest)
        plot_orders(found, folder / f"orders-{name}.png")
        start = found["random"][0].adjusted_rand
        for order, points in found.items():
            at = {f"{100 * area:.0f}%": round(next(p.adjusted_rand for p in points if p.area >= area - 1e-9), 4)
                  for area in (0, 0.05, 0.1, 0.2, 0.3, 0.5, 1)}  # fmt: skip
            say(figure="score_by_area", map=name, order=order, **at, minutes=round(points[-1].minutes, 1))
        for share in (0.25, 0.5, 0.75):
            goal = start + share * (found["random"][-1].adjusted_rand - start)
            spent = {
                order: [needed(points, goal, what) for what in ("area", "minutes")] for order, points in found.items()
            }
            for order in ("random", "sequential"):
                say(ratio=f"{order}_area_over_doubtful_for_{100 * share:.0f}%_of_the_gain.{name}",
                    value=round(spent[order][0] / spent["doubtful"][0], 2), adjusted_rand=round(goal, 3),
                    area=[round(spent[o][0], 3) for o in (order, "doubtful")],
                    minutes_ratio=round(spent[order][1] / spent["doubtful"][1], 2))  # fmt: skip


def in_rounds(folder: Path) -> None:
    """Three rounds of correcting and learning, in each order."""
    (image, truth), (trained, content, training) = unseen(folder), first(folder)
    training, data = dataclasses.replace(training, steps=STEPS, validate_every=STEPS // 2), gn.Dataset.open(content)
    whole = tuple(slice(0, n) for n in truth.shape)
    labels = truth.read(whole)  # type: ignore[arg-type]
    for order in ORDERS:
        ensemble = trained
        for number in range(4):
            place = folder / order
            cells, doubt = place / f"cells{number}.ome.zarr", place / f"doubt{number}.ome.zarr"
            if not cells.exists():
                ensemble.segment(image, cells, extras={"entropy": doubt})
            score = gn.adjusted_rand_score(labels, open_volume(cells).read(whole))  # type: ignore[arg-type]
            valid = ensemble.score(data).adjusted_rand
            say(figure="rounds", order=order, round=number, unseen=round(score, 4), validation=round(valid, 4))
            if number == 3:
                break
            kept = Corrections.create(
                place / f"cells{number}.corrections", image=image.source, segmentation=cells, doubt=doubt
            )
            # Regions of earlier rounds are not looked at again.
            regions = Regions.measure(open_volume(doubt))
            for before in range(number):
                for event in Corrections.open(place / f"cells{before}.corrections").events("simulated"):
                    if event.kind == "done":
                        regions.finish(event.area(regions.shape))
            boxes = [regions.box(spot) for spot in regions.order()]
            if order != "doubtful":
                boxes = sorted(boxes, key=lambda box: [side.start for side in box])
            if order == "random":
                boxes = [boxes[index] for index in np.random.default_rng(number).permutation(len(boxes))]
            if not kept.ledgers():
                corrector = Corrector(kept, truth)
                corrector.work(boxes, max_voxels=SHARE_PER_ROUND * labels.size)
                say(figure="work", order=order, round=number, minutes=round(corrector.seconds / 60, 1))
                corrector.close()
            done = learn(place / "rounds", ensemble, content, [kept], training)
            ensemble = gn.Ensemble.open(done.folder / "ensemble")


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] in ("orders", "rounds"):
        target = Path(sys.argv[2])
        target.mkdir(parents=True, exist_ok=True)
        {"orders": orders, "rounds": in_rounds}[sys.argv[1]](target)
    else:
        sys.exit(__doc__)
