"""Correction: which order of work needs least, three rounds of learning, and what the panel costs.

    python -m benchmarks.correction orders FOLDER
    python -m benchmarks.correction rounds FOLDER
    python -m benchmarks.correction panel

On the `vnc` data; two networks (16 features, three scales, 500 steps) learn from slices 0 to 4 and are validated on 12
and 13; a corrector who knows the labels works on slices 5 to 11, which no network has seen. `orders`: the score against
the area looked at and against the time by the default model of a person, doubtful regions first, at random, in order;
FOLDER gets the pictures. `rounds`: in each of three rounds 5 % of the area is corrected and the members are trained
further, for each order. `panel`: a mouse move of a stroke in napari with the panel on a 250x2000x2000 OME-Zarr over the
same in napari alone on an array in memory; needs a display (`xvfb-run python -m benchmarks.correction panel`). Run
again, `orders` and `rounds` continue. Ends with JSON lines.
"""

import dataclasses
import json
import statistics
import sys
import tempfile
import time
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


def panel() -> None:
    """What the panel costs while painting."""
    import napari
    from qtpy.QtCore import QEvent, QPointF, Qt
    from qtpy.QtGui import QMouseEvent
    from qtpy.QtWidgets import QApplication

    from genenet.memory import peak_bytes
    from genenet.napari.panel import CorrectionPanel

    shape = (250, 2000, 2000)

    def strokes(viewer: Any, layer: Any) -> list[float]:
        """Seconds per mouse move."""
        layer.mode, layer.brush_size, layer.selected_label = "paint", 40, 3
        viewer.layers.selection.active = layer
        camera = getattr(viewer, "scene", viewer).camera
        camera.center, camera.zoom = (0, 1000, 1000), 1.0
        for _ in range(50):  # the window needs a while
            QApplication.processEvents()
            time.sleep(0.02)
        canvas = viewer.window._qt_viewer.canvas.native
        spent = []

        def send(kind: Any, x: float, y: float, button: Any, held: Any) -> None:
            at = QPointF(x, y)
            event = QMouseEvent(
                kind, at, canvas.mapToGlobal(at.toPoint()).toPointF(), button, held, Qt.KeyboardModifier.NoModifier
            )
            QApplication.sendEvent(canvas, event)
            QApplication.processEvents()

        left, none = Qt.MouseButton.LeftButton, Qt.MouseButton.NoButton
        for number in range(6):
            y = 100 + 50 * number
            send(QEvent.Type.MouseMove, 100, y, none, none)
            started = time.perf_counter()
            send(QEvent.Type.MouseButtonPress, 100, y, left, left)
            for x in range(100, 400, 6):
                send(QEvent.Type.MouseMove, x, y, none, left)
            send(QEvent.Type.MouseButtonRelease, 400, y, left, none)
            spent.append((time.perf_counter() - started) / 52)
            QApplication.processEvents()
        return spent[1:]

    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        rng = np.random.default_rng(0)
        plane = (rng.random((2000, 2000)) < 0.5).astype(np.uint8) + 1
        for kind, dtype in (("cells", np.uint8), ("image", np.uint8), ("doubt", np.uint8)):
            with gn.create_volume(place / f"{kind}.ome.zarr", shape, dtype) as out:
                for z in range(0, 250, 8):
                    end = min(z + 8, 250)
                    out.write(
                        (slice(z, end), slice(0, 2000), slice(0, 2000)),
                        np.roll(plane, 37 * z, 0)[None].repeat(end - z, 0),
                    )
        kept = Corrections.create(
            place / "c", **{key: place / f"{name}.ome.zarr" for key, name in
                            (("segmentation", "cells"), ("image", "image"), ("doubt", "doubt"))}
        )  # fmt: skip
        before = peak_bytes()
        viewer = napari.Viewer(show=True)
        viewer.window._qt_window.resize(1300, 850)
        side = CorrectionPanel(viewer)
        viewer.window.add_dock_widget(side, area="right")
        side.begin(kept, "anna")
        assert side.link is not None
        while side.link.regions is None:
            QApplication.processEvents()
            time.sleep(0.01)
        for z in range(0, 250, 5):  # look through the volume
            viewer.dims.set_current_step(0, z)
            QApplication.processEvents()
        mine = strokes(viewer, side.link.labels)
        side_slice = side.link.session.slice
        started = time.perf_counter()
        side.link.regions.next()
        choose_s = time.perf_counter() - started
        next_s = []
        for _ in range(5):  # a person looks at each for a while
            started = time.perf_counter()
            side.link.next_region()
            answered = time.perf_counter()
            QApplication.processEvents()
            next_s.append((answered - started, time.perf_counter() - started))
            time.sleep(1)
            side.link.finish_region()
        peak = peak_bytes() - before
        side.end()
        viewer.close()
        alone = napari.Viewer(show=True)
        alone.window._qt_window.resize(1300, 850)
        alone.add_image(np.broadcast_to(plane, shape))
        layer = alone.add_labels(np.repeat(plane[None], shape[0], 0))
        alone.dims.set_current_step(0, side_slice)
        theirs = strokes(alone, layer)
        own_s = []
        for z in (40, 80, 120, 160, 200):
            started = time.perf_counter()
            alone.dims.set_current_step(0, z)
            QApplication.processEvents()
            own_s.append(time.perf_counter() - started)
        changed = [sum(event.fields["voxels"] for event in kept.events("anna") if event.kind == "stroke"),
                   int((np.asarray(layer.data[side_slice]) == 3).sum())]  # fmt: skip
        alone.close()
    ratio = statistics.median(mine) / statistics.median(theirs)
    answered, drawn = ([round(value, 3) for value in times] for times in zip(*next_s, strict=True))
    say(ratio="move_with_panel_over_napari_alone", value=round(ratio, 3), target=1.1, voxels_painted=changed,
        ms=[round(1000 * statistics.median(spent), 2) for spent in (mine, theirs)],
        napari=napari.__version__)  # fmt: skip
    say(figure="next_region", target_s=0.2, choose_s=round(choose_s, 4), answered_s=answered, drawn_s=drawn,
        slice_in_napari_alone_s=[round(value, 3) for value in own_s], more_gib=round(peak / 2**30, 2))  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:] == ["panel"]:
        panel()
    elif len(sys.argv) == 3 and sys.argv[1] in ("orders", "rounds"):
        target = Path(sys.argv[2])
        target.mkdir(parents=True, exist_ok=True)
        {"orders": orders, "rounds": in_rounds}[sys.argv[1]](target)
    else:
        sys.exit(__doc__)
