"""What pruning bought: sizes, work, and measured time, before and after, in one table."""

import csv
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from pruning.errors import PruningError
from pruning.flops import Count, compression_ratio, count, theoretical_speedup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Runs a network on a batch of images; `model.predict_on_batch`, a compiled model of an inference engine.
Predict = Callable[[np.ndarray], Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """One model in a report.

    Attributes:
        name: What it is called.
        count: Parameters, multiply-adds, activations for one input.
        compression_ratio: Parameters of the first model over this one's that are not 0.
        theoretical_speedup: Multiply-adds of the first model over this one's whose weight is not 0.
        activation_bytes: Of all layers together, in float32, for one input.
        file_bytes: Of the model, saved as `.keras`.
        latency_s: The median time of a batch; None where none was measured.
        speedup: The first model's latency over this one's, the median over rounds in turn; None likewise.
        score: Whatever the caller measured; None if nothing.
    """

    name: str
    count: Count
    compression_ratio: float
    theoretical_speedup: float
    activation_bytes: int
    file_bytes: int
    latency_s: float | None = None
    speedup: float | None = None
    score: float | None = None

    @classmethod
    def together(
        cls, name: str, rows: "Sequence[Row]", first: "Row | None" = None, score: float | None = None
    ) -> "Row":
        """Models that run one after the other, as one.

        Args:
            name: What they are called.
            rows: One per model.
            first: What they are held against, themselves if left out.
            score: Of them together.
        """
        total, *others = (row.count for row in rows)
        for other in others:
            total = total.plus(other)
        times = [row.latency_s for row in rows]
        latency = None if None in times else sum(time for time in times if time is not None)
        before, reference = (total, latency) if first is None else (first.count, first.latency_s)
        return cls(
            name,
            total,
            compression_ratio(before, total),
            theoretical_speedup(before, total),
            sum(row.activation_bytes for row in rows),
            sum(row.file_bytes for row in rows),
            latency,
            None if latency is None or reference is None else reference / latency,
            score,
        )


COLUMNS: dict[str, tuple[str, Callable[[Row], Any]]] = {
    "parameters": ("{:,}", lambda row: row.count.n_parameters),
    "nonzero": ("{:,}", lambda row: row.count.n_nonzero),
    "compression ratio": ("{:.2f}", lambda row: row.compression_ratio),
    "multiply-adds": ("{:,}", lambda row: row.count.n_multiply_adds),
    "theoretical speed-up": ("{:.2f}", lambda row: row.theoretical_speedup),
    "activations MB": ("{:.2f}", lambda row: row.activation_bytes / 1e6),
    "file MB": ("{:.2f}", lambda row: row.file_bytes / 1e6),
    "latency ms": ("{:.2f}", lambda row: None if row.latency_s is None else row.latency_s * 1000),
    "measured speed-up": ("{:.2f}", lambda row: row.speedup),
    "score": ("{:.4f}", lambda row: row.score),
}


@dataclasses.dataclass(frozen=True)
class Report:
    """Models side by side; the first one is what the others are held against.

    Attributes:
        rows: One per model.
    """

    rows: tuple[Row, ...]

    def table(self) -> list[list[str]]:
        """A header and a line per model; columns without any value are left out."""
        columns = {
            name: entry for name, entry in COLUMNS.items() if any(entry[1](row) is not None for row in self.rows)
        }
        lines = [["model", *columns]]
        for row in self.rows:
            values = [(form, read(row)) for form, read in columns.values()]
            lines.append([row.name, *("" if value is None else form.format(value) for form, value in values)])
        return lines

    def __str__(self) -> str:
        lines = self.table()
        widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if not place else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )

    def to_csv(self, path: Path | str) -> None:
        """Write the numbers, whole, with one line per model."""
        with Path(path).open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["model", *COLUMNS])
            for row in self.rows:
                values = [read(row) for _, read in COLUMNS.values()]
                writer.writerow([row.name, *("" if value is None else value for value in values)])

    def plot(self, path: Path | str | None = None) -> "Figure":
        """Draw what was bought: the score over the latency where both were measured, speed-ups otherwise."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 3.8), layout="constrained")
        axes = figure.subplots()
        measured = all(row.latency_s is not None for row in self.rows)
        names = [row.name for row in self.rows]
        if measured and all(row.score is not None for row in self.rows):
            times = [1000 * float(row.latency_s or 0) for row in self.rows]
            scores = [float(row.score or 0) for row in self.rows]
            axes.plot(times, scores, color="#0072b2", marker="o")
            for name, time_ms, score in zip(names, times, scores, strict=True):
                axes.annotate(name, (time_ms, score), xytext=(4, 4), textcoords="offset points")
            axes.margins(0.12)
            axes.set_xlabel("latency (ms)")
            axes.set_ylabel("score")
        else:
            gains = [float((row.speedup if measured else row.theoretical_speedup) or 0) for row in self.rows]
            axes.barh(names, gains, color="#0072b2")
            axes.invert_yaxis()
            axes.set_xlabel("measured speed-up" if measured else "theoretical speed-up")
        if path is not None:
            figure.savefig(path, dpi=110)
        return figure


def report(
    models: Mapping[str, keras.Model],
    shape: Sequence[int] | None = None,
    *,
    predict: Mapping[str, Predict] | None = None,
    batch: np.ndarray | None = None,
    scores: Mapping[str, float] | None = None,
    n_rounds: int = 7,
) -> Report:
    """Hold models against the first of them.

    Args:
        models: By name.
        shape: Of one input, where models leave sizes open.
        predict: How to run them, by the same names, for measured time; not measured if left out.
        batch: What they are run on, `(batch, *space, channels)`.
        scores: Of them, by name.
        n_rounds: How often each is run, in turn.

    Raises:
        PruningError: No models; names that differ; no batch to measure on; a graph that cannot be read.

    Example:
        >>> image = keras.Input((8, 8, 1))
        >>> model = keras.Model(image, keras.layers.Conv2D(2, 3)(image))
        >>> report({"before": model, "after": model}).rows[1].theoretical_speedup
        1.0
    """
    if not models:
        raise PruningError("a report needs at least one model")
    for what, given in (("predict", predict), ("scores", scores)):
        if given is not None and given.keys() != models.keys():
            raise PruningError(f"`{what}` must name the same models, {', '.join(models)}, but got {', '.join(given)}")
    counts = {name: count(model, shape) for name, model in models.items()}
    first, *_ = counts.values()
    times: dict[str, list[float]] = {}
    if predict is not None:
        if batch is None:
            raise PruningError("`predict` needs a `batch` to run on")
        times = latencies(predict, batch, n_rounds)
    rows = []
    reference = next(iter(times.values()), [])
    for name, model in models.items():
        mine = times.get(name)
        speedup = None if mine is None else statistics.median(a / b for a, b in zip(reference, mine, strict=True))
        rows.append(
            Row(
                name,
                counts[name],
                compression_ratio(first, counts[name]),
                theoretical_speedup(first, counts[name]),
                4 * counts[name].n_activations,
                file_bytes(model),
                None if mine is None else statistics.median(mine),
                speedup,
                None if scores is None else scores[name],
            )
        )
    return Report(tuple(rows))


def latencies(predict: Mapping[str, Predict], batch: np.ndarray, n_rounds: int = 7) -> dict[str, list[float]]:
    """Seconds of a batch for several ways to run it, which take turns, so that what else runs falls on all.

    Args:
        predict: By name; each is run once before, to warm up.
        batch: `(batch, *space, channels)`.
        n_rounds: How often each is run.
    """
    if n_rounds < 1:
        raise PruningError(f"`n_rounds` must be at least 1, but got {n_rounds}")
    for run in predict.values():
        _finished(run(batch))
    found: dict[str, list[float]] = {name: [] for name in predict}
    for _ in range(n_rounds):
        for name, run in predict.items():
            started = time.perf_counter()
            _finished(run(batch))
            found[name].append(time.perf_counter() - started)
    return found


def _finished(answer: Any) -> None:
    """Wait for accelerators."""
    for part in keras.tree.flatten(answer):
        if not isinstance(part, np.ndarray):
            keras.ops.convert_to_numpy(part)


def file_bytes(model: keras.Model) -> int:
    """The size of the model's file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        return path.stat().st_size
