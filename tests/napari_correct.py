"""Corrects a volume in a real napari window, with a mouse and keys, and says what happened; run by test_napari.py."""

import json
import sys
import time
from pathlib import Path

import napari
import numpy as np
from qtpy.QtCore import QEvent, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from genenet.corrections.store import Corrections
from genenet.napari.panel import CorrectionPanel


class Hand:
    """Moves the mouse over the canvas, in voxels."""

    def __init__(self, viewer):
        self.viewer = viewer
        self.canvas = viewer.window._qt_viewer.canvas.native

    def place(self, y, x):
        """Where a voxel is on the canvas."""
        scale = np.asarray(self.viewer.layers["labels"].scale)[1:]
        camera = getattr(self.viewer, "scene", self.viewer).camera
        offset = (np.array([y, x]) * scale - np.asarray(camera.center)[1:]) * camera.zoom
        return QPointF(self.canvas.width() / 2 + offset[1], self.canvas.height() / 2 + offset[0])

    def send(self, kind, where, button, held):
        """Give Qt a mouse event."""
        at = self.canvas.mapToGlobal(where.toPoint()).toPointF()
        QApplication.sendEvent(self.canvas, QMouseEvent(kind, where, at, button, held, Qt.KeyboardModifier.NoModifier))
        QApplication.processEvents()

    def press(self, y, x):
        """The left button goes down."""
        self.move(y, x, Qt.MouseButton.NoButton)
        self.send(QEvent.Type.MouseButtonPress, self.place(y, x), Qt.MouseButton.LeftButton, Qt.MouseButton.LeftButton)

    def move(self, y, x, held=Qt.MouseButton.LeftButton):
        """The mouse is moved."""
        self.send(QEvent.Type.MouseMove, self.place(y, x), Qt.MouseButton.NoButton, held)

    def release(self, y, x):
        """The left button comes up."""
        self.send(QEvent.Type.MouseButtonRelease, self.place(y, x), Qt.MouseButton.LeftButton, Qt.MouseButton.NoButton)

    def stroke(self, *places):
        """Paint along some places."""
        self.press(*places[0])
        for place in places[1:]:
            self.move(*place)
        self.release(*places[-1])


def wait(seconds):
    """Let Qt work."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.01)


def opened(folder):
    """A window with the panel on a volume."""
    viewer = napari.Viewer(show=True)
    viewer.window._qt_window.resize(1300, 850)
    panel = CorrectionPanel(viewer)
    viewer.window.add_dock_widget(panel, name="Correct a segmentation", area="right")
    panel.begin(Corrections.open(folder), "anna")
    wait(1)
    labels = panel.link.labels
    labels.mode, labels.brush_size, labels.selected_label = "paint", 10, 2
    return viewer, panel, Hand(viewer)


def work(folder, picture):
    """What a person does, and what came of it."""
    viewer, panel, hand = opened(folder)
    link, session, buttons = panel.link, panel.link.session, panel._working
    found = {"napari": napari.__version__, "dtype": str(link.labels.dtype)}
    QTest.mouseClick(buttons.run, Qt.MouseButton.LeftButton)
    hand.stroke((100, 100), (100, 120), (110, 140))
    found["painted"] = int((np.asarray(session.labels[0, 90:120, 90:150]) == 2).sum())
    QTest.keyClick(hand.canvas, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    wait(0.1)
    found["undone"] = int((np.asarray(session.labels[0, 90:120, 90:150]) == 2).sum())
    QTest.keyClick(hand.canvas, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier)
    wait(0.1)
    found["redone"] = int((np.asarray(session.labels[0, 90:120, 90:150]) == 2).sum())
    buttons.classes.setCurrentRow(0)
    found["chosen"] = int(link.labels.selected_label)
    link.labels.selected_label = 3
    found["row"] = buttons.classes.currentItem().text()
    link.labels.mode = "fill"
    hand.stroke((200, 200))
    link.labels.mode = "erase"
    hand.stroke((105, 130), (105, 135))
    link.labels.mode = "paint"
    QTest.keyClicks(buttons.note, "unsure here")
    QTest.keyClick(buttons.note, Qt.Key.Key_Return)
    found["waited"] = time.monotonic()
    while link.regions is None:
        wait(0.05)
    started = time.perf_counter()
    QTest.mouseClick(buttons.next, Qt.MouseButton.LeftButton)
    found["next_s"] = time.perf_counter() - started
    found["slice"], found["region"] = session.slice, link.region
    wait(0.5)
    hand.stroke((60, 300), (62, 305))
    viewer.screenshot(picture, canvas_only=False, flash=False)
    QTest.mouseClick(buttons.fine, Qt.MouseButton.LeftButton)
    found["next"] = link.region
    buttons.done.click()
    found["done"] = sorted(session.done)
    found["said"] = [buttons.time.text(), buttons.status.text()]
    buttons.run.click()
    found["paused"] = not session.is_running
    del found["waited"]
    panel.end()
    viewer.close()
    sys.stdout.write(json.dumps(found) + "\n")


def paint_until_killed(folder):
    """Strokes until somebody ends this; the last one is never released."""
    viewer, panel, hand = opened(folder)
    for row in range(3):
        hand.stroke((50 + 20 * row, 50), (50 + 20 * row, 90))
    hand.press(150, 50)
    x = 50
    while True:
        x = 50 + (x - 48) % 200
        hand.move(150, x)
        wait(0.05)
        sys.stdout.write(json.dumps({"at": time.time(), "x": x}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    which, place, *more = sys.argv[1:]
    if which == "work":
        work(Path(place), more[0])
    else:
        paint_until_killed(Path(place))
