"""The panel: whose time runs on which slice, what is painted, and where to look next."""

from pathlib import Path
from typing import Any

import napari
from napari.qt.threading import thread_worker
from qtpy.QtCore import Qt, QTimer
from qtpy.QtGui import QColor, QGuiApplication, QIcon, QPixmap
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from genenet.corrections.regions import Regions
from genenet.corrections.session import Session
from genenet.corrections.store import MODES, Corrections, folder_beside
from genenet.errors import InputError
from genenet.napari.link import Link
from genenet.volume import open_volume

# What was painted goes into the ledger so often at least, in the middle of a stroke too.
KEEP_MS = 500


class CorrectionPanel(QWidget):
    """Correct a segmentation in a napari viewer.

    Attributes:
        link: The session in the viewer, or None before a volume is opened.
    """

    def __init__(self, napari_viewer: "napari.Viewer") -> None:
        super().__init__()
        self._viewer = napari_viewer
        self.link: Link | None = None
        layout = QVBoxLayout(self)
        self._opening = _Opening(self)
        self._working = _Working(self)
        layout.addWidget(self._opening)
        layout.addWidget(self._working)
        layout.addStretch()
        self._working.hide()
        self._timer = QTimer(self)
        self._timer.setInterval(KEEP_MS)
        self._timer.timeout.connect(self._tick)
        application = QGuiApplication.instance()
        application.applicationStateChanged.connect(self._focus)  # type: ignore[union-attr]
        application.aboutToQuit.connect(self.end)  # type: ignore[union-attr]

    def begin(self, corrections: Corrections, person: str, mode: str = "correct") -> None:
        """Open a volume to work on.

        Args:
            corrections: The folder.
            person: Who works.
            mode: `correct` or `manual`.

        Raises:
            InputError: As `Session`.
        """
        self.end()
        session = Session(corrections, person, mode)
        try:
            self.link = Link(self._viewer, session)
        except BaseException:
            session.close()
            raise
        self.link.watchers.append(self._working.show_state)
        self._working.fill()
        self._opening.hide()
        self._working.show()
        self._timer.start()
        if corrections.doubt is not None:
            self._find_regions(corrections.doubt)

    def end(self) -> None:
        """Keep everything and end the session."""
        self._timer.stop()
        if self.link is not None:
            self.link.close()
            self.link = None
        self._working.hide()
        self._opening.show()

    def _find_regions(self, doubt: str) -> None:
        """Rank the regions, in a thread: a large map takes a while to read."""
        link = self.link
        effort = link.session.corrections.effort if link is not None else None

        def take(regions: Regions) -> None:
            if link is not None and link is self.link:  # else another volume was opened meanwhile
                link.take_regions(regions)

        @thread_worker(connect={"returned": take, "errored": self._complain})
        def measure() -> Regions:
            return Regions.measure(open_volume(doubt), effort=effort)

        self._worker = measure()

    def _complain(self, error: BaseException) -> None:
        self._working.status.setText(f"no regions: {error}")

    def _tick(self) -> None:
        if self.link is not None:
            self.link.keep()
            self.link.session.sync()
            self._working.show_time()

    def _focus(self, state: Any) -> None:
        if self.link is not None:
            self.link.session.focus(gained=state == Qt.ApplicationState.ApplicationActive)

    def closeEvent(self, event: Any) -> None:
        """Qt: the panel is closed."""
        self.end()
        super().closeEvent(event)


class _Opening(QGroupBox):
    """Asks for files."""

    def __init__(self, panel: CorrectionPanel) -> None:
        super().__init__("open")
        self._panel = panel
        form = QFormLayout(self)
        self.paths = {name: QLineEdit() for name in ("image", "segmentation", "doubt")}
        self.paths["doubt"].setPlaceholderText("may be left empty")
        for name, line in self.paths.items():
            row = QHBoxLayout()
            row.addWidget(line)
            for text, choose in (("file", self._file), ("folder", self._folder)):
                button = QPushButton(text)
                button.clicked.connect(lambda _=False, line=line, choose=choose: choose(line))
                row.addWidget(button)
            form.addRow(name, row)
        self.person, self.mode, self.message = QLineEdit(), QComboBox(), QLabel()
        self.mode.addItems(MODES)
        self.message.setWordWrap(True)
        form.addRow("who", self.person)
        form.addRow("mode", self.mode)
        self.button = QPushButton("Begin")
        self.button.clicked.connect(self.begin)
        form.addRow(self.button)
        form.addRow(self.message)

    def begin(self) -> None:
        """Open what is asked for, or say why not."""
        said = {name: line.text().strip() or None for name, line in self.paths.items()}
        self.message.clear()
        try:
            if said["segmentation"] is None:
                raise InputError("name a segmentation")
            kept = Corrections.create(folder_beside(said["segmentation"]), **said)  # type: ignore[arg-type]
            self._panel.begin(kept, self.person.text().strip(), self.mode.currentText())
        except InputError as error:
            self.message.setText(str(error))

    def _file(self, line: QLineEdit) -> None:
        line.setText(QFileDialog.getOpenFileName(self)[0] or line.text())

    def _folder(self, line: QLineEdit) -> None:
        line.setText(QFileDialog.getExistingDirectory(self) or line.text())


class _Working(QWidget):
    """What is seen while working."""

    def __init__(self, panel: CorrectionPanel) -> None:
        super().__init__()
        self._panel = panel
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self.who, self.time, self.status = QLabel(), QLabel(), QLabel()
        for label in (self.who, self.time, self.status):
            label.setWordWrap(True)
        self.run = QPushButton("Start")
        self.run.setCheckable(True)
        self.run.clicked.connect(self._toggle)
        self.done = QCheckBox("this slice is done")
        self.done.clicked.connect(self._finish_slice)
        self.classes = QListWidget()
        self.classes.currentItemChanged.connect(self._choose)
        self.next = QPushButton("Next doubtful region")
        self.next.clicked.connect(self._next)
        self.fine = QPushButton("Region is done, next")
        self.fine.clicked.connect(self._fine)
        self.note = QLineEdit()
        self.note.setPlaceholderText("a note on this slice, then Enter")
        self.note.returnPressed.connect(self._say)
        self.leave = QPushButton("Close")
        self.leave.clicked.connect(panel.end)
        for widget in (self.who, self.run, self.time, self.done, self.classes, self.next, self.fine, self.note,
                       self.status, self.leave):  # fmt: skip
            layout.addWidget(widget)

    def fill(self) -> None:
        """Show another session."""
        link = self._link
        session = link.session
        self.who.setText(f"<b>{session.person}</b> {'by hand' if session.mode == 'manual' else 'corrects'}")
        self.who.setToolTip(f"{session.corrections.segmentation}\nkept in {session.corrections.folder}")
        self.classes.clear()
        for entry in session.corrections.classes:
            pixels = QPixmap(16, 16)
            pixels.fill(QColor(entry.color))
            item = QListWidgetItem(QIcon(pixels), f"{entry.name} ({entry.value})")
            item.setData(Qt.ItemDataRole.UserRole, entry.value)
            self.classes.addItem(item)
            if entry.value == link.labels.selected_label:
                self.classes.setCurrentItem(item)
        self.classes.setMaximumHeight(24 * max(self.classes.count(), 2) + 8)
        link.labels.events.selected_label.connect(self._chosen)
        self.status.setText("" if session.corrections.doubt is None else "looking for doubtful regions")
        self.show_state()

    def show_state(self) -> None:
        """Show what is so now."""
        if self._panel.link is None:
            return
        link = self._link
        session, regions = link.session, link.regions
        self.run.setChecked(session.is_running)
        self.run.setText("Pause" if session.is_running else "Start")
        self.done.setChecked(session.slice in session.done)
        self.next.setEnabled(regions is not None)
        self.fine.setEnabled(regions is not None and link.region is not None)
        if regions is not None:
            left = int((~regions.finished).sum())
            self.status.setText(f"{left:,} of {regions.finished.size:,} regions left")
        self.show_time()

    def show_time(self) -> None:
        """Show the time and the slice."""
        if self._panel.link is None:
            return
        session = self._link.session
        self.time.setText(
            f"slice {session.slice} of {session.labels.shape[0]}: {session.seconds_on(session.slice) / 60:.1f} min"
            f"{'' if session.is_running else ' (time does not run)'}"
        )
        if self.run.isChecked() != session.is_running:
            self.show_state()

    @property
    def _link(self) -> Link:
        if self._panel.link is None:
            raise RuntimeError("nothing is open")
        return self._panel.link

    def _toggle(self) -> None:
        session = self._link.session
        (session.pause if session.is_running else session.start)()
        self.show_state()

    def _finish_slice(self) -> None:
        self._link.finish_slice(done=self.done.isChecked())

    def _choose(self, item: QListWidgetItem | None, _before: Any = None) -> None:
        if item is not None and self._panel.link is not None:
            self._link.labels.selected_label = item.data(Qt.ItemDataRole.UserRole)

    def _chosen(self, _event: Any = None) -> None:
        """Another class was chosen in napari."""
        if self._panel.link is None:
            return
        for row in range(self.classes.count()):
            item = self.classes.item(row)
            if item is not None and item.data(Qt.ItemDataRole.UserRole) == self._link.labels.selected_label:
                self.classes.setCurrentItem(item)

    def _next(self) -> None:
        if self._link.next_region() is None:
            self.status.setText("no region is left")

    def _fine(self) -> None:
        self._link.finish_region()
        self._next()

    def _say(self) -> None:
        self._link.session.note(self.note.text())
        self.note.clear()


def correct(corrections: Corrections, person: str, mode: str = "correct") -> None:
    """Open a window on a volume, and return when it is closed.

    Args:
        corrections: The folder.
        person: Who works.
        mode: `correct` or `manual`.

    Raises:
        InputError: As `Session`.
    """
    viewer = napari.Viewer(title=f"genenet: {Path(corrections.segmentation or '').name}")
    panel = CorrectionPanel(viewer)
    viewer.window.add_dock_widget(panel, name="Correct a segmentation", area="right")
    try:
        panel.begin(corrections, person, mode)
        napari.run()
    finally:
        panel.end()
