"""What verbs say: results on standard output, progress and complaints on standard error."""

import contextlib
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

# A log that nobody watches gets a line this often.
LOG_EVERY_S = 30.0


def say(text: str = "") -> None:
    """Write a result."""
    sys.stdout.write(f"{text}\n")


def say_json(value: Any) -> None:
    """Write a result for scripts: one JSON document."""
    sys.stdout.write(json.dumps(value, indent=1, default=str) + "\n")


def complain(text: str) -> None:
    """Write one line about what went wrong."""
    sys.stderr.write(f"genenet: {' '.join(text.split())}\n")


class _Lines(logging.Handler):
    """Plain lines on what is standard error just then: a bar puts something of its own there, and stays below them."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"{self.format(record)}\n")


def log_to_stderr() -> None:
    """Show what the library logs as plain lines."""
    handler = _Lines()
    logger = logging.getLogger("genenet")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False  # some libraries give the root logger a handler of its own
    logging.getLogger("search").handlers = [handler]


class Rate:
    """How many of something are done per second, since the first that were told of.

    Attributes:
        value: The latest; 0 before there are two.
    """

    def __init__(self, unit: str) -> None:
        self.unit, self.value = unit, 0.0
        self._first: tuple[float, int] | None = None

    def said(self, done: int) -> str:
        """In words, as in `3.2 million voxels/s`; nothing without a unit, or before there are two."""
        now = time.monotonic()
        self._first = self._first or (now, done)
        since, before = self._first
        if not self.unit or done <= before or now <= since:
            return ""
        self.value = (done - before) / (now - since)
        amount = f"{self.value / 1e6:.2f} million" if self.value >= 1e4 else f"{self.value:.0f}"
        return f"{amount} {self.unit}s/s"


@contextlib.contextmanager
def progress(title: str, unit: str = "") -> Iterator[Callable[[int, int], None]]:
    """Show `(done, total)` and the time left: a bar on a terminal, a line now and then in a log.

    With a unit also how many of it are done per second.
    """
    rate = Rate(unit)
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
        speed = TextColumn("{task.fields[speed]}")
        with Progress(*columns, speed, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
            task = bar.add_task(title, total=None, speed="")
            yield lambda done, total: bar.update(task, completed=done, total=total, speed=rate.said(done))
        return
    started = last = time.monotonic()
    shown = -1

    def line(done: int, total: int) -> None:
        nonlocal last, shown
        now = time.monotonic()
        if done != shown and (now - last >= LOG_EVERY_S or done >= total):
            last, shown = now, done
            speed = rate.said(done)
            left = f", {(total - done) / rate.value:.0f} s left" if speed and done < total else ""
            sys.stderr.write(f"{title}: {done}/{total}, {now - started:.0f} s{speed and ', '}{speed}{left}\n")
        else:
            rate.said(done)

    yield line


def table(rows: Sequence[Mapping[Any, Any]], columns: dict[str, str]) -> str:
    """Rows as aligned text.

    Args:
        rows: One dictionary per row; missing values and None show as `-`.
        columns: Keys to show with a format for their values, `{"score": ".4f"}`; numbers are set flush right.
    """

    def cell(row: Mapping[Any, Any], key: str) -> str:
        value = row.get(key)
        if value is None or value != value:  # noqa: PLR0124  (NaN)
            return "-"
        return format(value, columns[key])

    cells = [list(columns), *([cell(row, key) for key in columns] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    flush = [bool(form) and form[-1] in "dfge" for form in columns.values()]
    lines = []
    for row in cells:
        lined = [c.rjust(w) if right else c.ljust(w) for c, w, right in zip(row, widths, flush, strict=True)]
        lines.append("  ".join(lined).rstrip())
    return "\n".join(lines)
