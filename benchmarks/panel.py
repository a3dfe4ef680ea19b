"""What the panel of corrections costs while painting: strokes in napari with it over strokes in napari alone.

    xvfb-run -s "-screen 0 1400x900x24" python -m benchmarks.panel

Mouse moves on a 250x2000x2000 OME-Zarr with the panel, over the same on an array in memory without it; seconds from
`next` to the next doubtful region. Needs a display. Keras stays out: with TensorFlow in the process Mesa's software
renderer ends in a segmentation fault when the window opens. Ends with JSON lines.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import genenet as gn
from genenet.corrections.store import Corrections


def say(**entry: Any) -> None:
    """A JSON line."""
    print(json.dumps({"benchmark": "panel", **entry}), flush=True)


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
    panel()
