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


def log_to_stderr() -> None:
    """Show what the library logs as plain lines."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("genenet")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logging.getLogger("search").handlers = [handler]


@contextlib.contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """Show `(done, total)`: a bar on a terminal, a line now and then in a log."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
        with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
            task = bar.add_task(title, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    started = last = time.monotonic()
    shown = -1

    def line(done: int, total: int) -> None:
        nonlocal last, shown
        now = time.monotonic()
        if done != shown and (now - last >= LOG_EVERY_S or done >= total):
            last, shown = now, done
            sys.stderr.write(f"{title}: {done}/{total}, {now - started:.0f} s\n")

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
