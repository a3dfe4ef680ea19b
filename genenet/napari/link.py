"""Ties a session to a napari viewer: what is painted, looked at and left goes into the ledger."""

import functools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from napari.layers import Image, Labels, Shapes
from napari.utils.colormaps import DirectLabelColormap
from napari.viewer import Viewer

from genenet.classes import SegmentationClass
from genenet.corrections.overlay import Overlay
from genenet.corrections.regions import Regions
from genenet.corrections.replay import Replay
from genenet.corrections.session import Session
from genenet.formats.boxes import Box
from genenet.volume import Volume, open_volume

# A region takes so much of the window's smaller side.
SHARE = 0.4

# Contrast runs between these percentiles of the middle slice.
PERCENTILES = 0.5, 99.5


class Link:
    """A session in a viewer.

    Attributes:
        viewer, session: What is tied.
        labels: The layer that is edited.
        regions: Where it is doubtful, once known.
        region: The place of the region that is looked at, or None.
        frame: The layer that shows where it is, or None before there is one.
        camera: The viewer's.
        watchers: Called when something is other than before.
    """

    def __init__(self, viewer: Viewer, session: Session) -> None:
        self.viewer, self.session = viewer, session
        self.regions: Regions | None = None
        self.region: tuple[int, int, int] | None = None
        self.frame: Shapes | None = None
        self.watchers: list[Callable[[], None]] = []
        corrections = session.corrections
        scale = None
        if corrections.image is not None:
            scale = self._show_image(open_volume(corrections.image))
        self.labels = Labels(
            session.labels,
            name="by hand" if session.mode == "manual" else "labels",
            scale=scale,
            colormap=colormap(corrections.classes),
            opacity=0.5,
        )
        viewer.add_layer(self.labels)
        viewer.layers.selection.active = self.labels
        if corrections.classes:
            self.labels.selected_label = corrections.classes[-1].value
        # Undoing writes into the labels without an event of its own.
        self._own = self.labels.undo, self.labels.redo
        self.labels.undo = functools.partial(self._undone, self.labels.undo, "undo")  # type: ignore[method-assign]
        self.labels.redo = functools.partial(self._undone, self.labels.redo, "redo")  # type: ignore[method-assign]
        self.labels.events.paint.connect(self._painted)
        self.camera = getattr(viewer, "scene", viewer).camera  # it moved in napari 0.9
        viewer.dims.axis_labels = ("z", "y", "x")
        viewer.dims.set_point(0, self._first_left() * self.labels.scale[0])
        viewer.dims.events.current_step.connect(self._moved_on)
        self.camera.events.connect(self._moved)
        viewer.mouse_move_callbacks.append(self._moved)
        self._moved_on()

    def keep(self) -> None:
        """Put what was painted so far into the ledger, in the middle of a stroke too; to be called often."""
        if self.session.keep(partial=True):
            self.tell()

    def tell(self) -> None:
        """Let those who watch know that something is other than before."""
        for watcher in self.watchers:
            watcher()

    def go_to(self, box: Box) -> None:
        """Show the middle of a box, with what is around it."""
        scale = np.asarray(self.labels.scale)
        middle = [(side.start + side.stop - 1) / 2 for side in box]
        self.viewer.dims.set_point(0, int(middle[0]) * scale[0])
        self.camera.center = tuple(np.array(middle) * scale)
        height, width = (n * s for n, s in zip([side.stop - side.start for side in box[1:]], scale[1:], strict=True))
        canvas = getattr(self.viewer.window, "_qt_viewer", None)
        size = canvas.canvas.size if canvas is not None else (600, 800)
        self.camera.zoom = SHARE * min(size[0] / height, size[1] / width)

    def next_region(self) -> Box | None:
        """Go to the region that is worth most and not done; None if there is none."""
        if self.regions is None:
            return None
        self.region = self.regions.next()
        if self.region is None:
            return None
        box = self.regions.box(self.region)
        self.go_to(box)
        self._frame(box)
        if self.frame is not None:
            self.frame.visible = True
        self.tell()
        self._read_ahead()
        return box

    def finish_region(self) -> None:
        """The region that is looked at is as it should be."""
        if self.regions is None or self.region is None:
            return
        box = self.regions.box(self.region)
        self.regions.finish(box)
        self.session.mark(done=True, box=[(side.start, side.stop) for side in box])
        self.region = None
        self.tell()

    def finish_slice(self, *, done: bool) -> None:
        """The current slice is as it should be, or not after all."""
        self.session.mark(done=done)
        if self.regions is not None:
            z, (_, height, width) = self.session.slice, self.session.labels.shape
            self.regions.finish((slice(z, z + 1), slice(0, height), slice(0, width)), done=done)
        self.tell()

    def take_regions(self, regions: Regions) -> None:
        """Know where it is doubtful; what anybody did before is done."""
        self.regions = regions
        corrections = self.session.corrections
        events = [
            e for person, mode, _ in corrections.ledgers(self.session.mode) for e in corrections.events(person, mode)
        ]
        for event in sorted(events, key=lambda event: event.at):
            if event.kind in ("done", "undone"):
                regions.finish(event.area(regions.shape), done=event.kind == "done")
        self._frame(regions.box((0, 0, 0)))  # the first time takes long
        if self.frame is not None:
            self.frame.visible = False
        self._read_ahead()
        self.tell()

    def close(self) -> None:
        """End the session; the viewer may stay, but its labels are no longer edited: nobody would keep that."""
        self.viewer.dims.events.current_step.disconnect(self._moved_on)
        self.camera.events.disconnect(self._moved)
        self.labels.events.paint.disconnect(self._painted)
        if self._moved in self.viewer.mouse_move_callbacks:
            self.viewer.mouse_move_callbacks.remove(self._moved)
        self.labels.undo, self.labels.redo = self._own  # type: ignore[method-assign]
        self.session.close()
        self.labels.editable = False
        self.labels.name += " (closed)"

    def _show_image(self, volume: Volume) -> tuple[float, ...] | None:
        scale = None if volume.voxel_size_nm is None else tuple(volume.voxel_size_nm)
        for channel in range(volume.n_channels):
            name = "image" if volume.n_channels == 1 else f"image {channel + 1}"
            pixels = lazily(volume, channel)
            middle = pixels[volume.shape[0] // 2]
            low, high = (float(v) for v in np.nan_to_num(np.nanpercentile(middle, PERCENTILES)))
            self.viewer.add_layer(
                Image(pixels, name=name, scale=scale, contrast_limits=(low, max(high, low + 1e-6)), multiscale=False,
                      blending="translucent" if channel == 0 else "additive")
            )  # fmt: skip
        return scale

    def _read_ahead(self) -> None:
        """Read the slice to which `next_region` would go after this one, in a thread."""
        place = None if self.regions is None else self.regions.next(without=self.region)
        if self.regions is None or place is None:
            return
        z, _, _ = self.regions.box(place)
        number = (z.start + z.stop - 1) // 2
        layers = [layer.data for layer in self.viewer.layers if isinstance(layer.data, Overlay)]

        def read() -> None:
            for data in layers:
                _, height, width = data.shape
                data.read((slice(number, number + 1), slice(0, height), slice(0, width)))

        threading.Thread(target=read, daemon=True).start()

    def _frame(self, box: Box) -> None:
        """Draw a line around a region, seen on all slices."""
        (top, bottom), (left, right) = ((side.start - 0.5, side.stop - 0.5) for side in box[1:])
        corners = np.array([[top, left], [top, right], [bottom, right], [bottom, left]])
        if self.frame is None or self.frame not in self.viewer.layers:
            active = self.viewer.layers.selection.active
            self.frame = self.viewer.add_shapes(
                [corners], shape_type="rectangle", name="region", scale=self.labels.scale[1:], edge_color="#f0e442",
                face_color="transparent", edge_width=1,
            )  # fmt: skip
            self.frame.editable = False
            self.viewer.layers.selection.active = active
        self.frame.data = [corners]

    def _first_left(self) -> int:
        """The first slice that is not done."""
        return next((z for z in range(self.session.labels.shape[0]) if z not in self.session.done), 0)

    def _painted(self, _event: Any) -> None:
        if self.session.keep():
            self.tell()

    def _undone(self, function: Callable[[], None], kind: str) -> None:
        self.session.keep()
        function()
        if self.session.keep(kind):
            self.tell()

    def _moved_on(self, _event: Any = None) -> None:
        # Not the slider's step: other layers may have another scale.
        place = self.labels.world_to_data(self.viewer.dims.point)[0]
        number = int(np.clip(round(float(place)), 0, self.session.labels.shape[0] - 1))
        if number != self.session.slice:
            self.session.go_to(number)
            self.tell()

    def _moved(self, *_: Any) -> None:
        self.session.moved()


def lazily(volume: Volume, channel: int) -> Overlay:
    """A channel of an image, read as it is looked at."""
    return Overlay(Replay(_Channel(volume, channel), volume.shape[:3], volume.dtype))  # type: ignore[arg-type]


class _Channel:
    """A channel of a volume, to be read by boxes."""

    def __init__(self, volume: Volume, channel: int) -> None:
        self._volume, self._channel = volume, channel

    def read(self, box: Box) -> np.ndarray:
        found = self._volume.read(box)
        return found[..., self._channel] if found.ndim == 4 else found


def colormap(classes: tuple[SegmentationClass, ...]) -> DirectLabelColormap:
    """Colours of labels as the class table has them; 0 and nothing are clear."""
    colors: dict[int | None, Any] = {None: (0.5, 0.5, 0.5, 1.0), 0: (0.0, 0.0, 0.0, 0.0)}
    for entry in classes:
        if entry.value != 0:
            colors[entry.value] = (*(channel / 255 for channel in entry.rgb), 1.0)
    return DirectLabelColormap(color_dict=colors)
