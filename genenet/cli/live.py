"""A study on a terminal, drawn anew every moment."""

import time
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

import search.launch as launch
from genenet.cli.watching import listed, look
from search.trial import OPEN

if TYPE_CHECKING:
    from search.study import Study

# Rows of a table at the most; the terminal may have fewer.
N_BEST, N_RUNNING = 10, 20

# A scheduler is asked as seldom as this, however often the table is drawn: it serves many.
QUEUE_EVERY_S = 30.0


def watch(study: "Study", every_s: float) -> None:
    """Draw a study until it is done, or until Ctrl-C."""
    console = Console()
    try:
        with Live(console=console, auto_refresh=False) as live:
            jobs, asked_at = launch.states(study.folder), time.monotonic()
            while True:
                if time.monotonic() - asked_at > QUEUE_EVERY_S:
                    jobs, asked_at = launch.states(study.folder), time.monotonic()
                found = look(study, jobs)
                live.update(picture(study, found), refresh=True)
                if is_done(study, found):
                    return
                time.sleep(every_s)
    except KeyboardInterrupt:
        console.print("workers go on; the same command shows them again")


def is_done(study: "Study", found: dict[str, Any]) -> bool:
    """Whether nothing will change any more by itself."""
    if any(found["counts"].get(state) for state in OPEN) or found["jobs"]:
        return False
    n_drawn, worked_s = (sum(row[name] for row in found["trials"]) for name in ("counts", "worked_s"))
    return study.asked.is_spent(n_drawn, worked_s, study.passed_s())


def picture(study: "Study", found: dict[str, Any]) -> Group:
    """What stands on the terminal."""
    rows = found["trials"]
    done = sorted((row for row in rows if row["state"] == "done"), key=lambda row: -row["adjusted_rand"])
    running = [row for row in rows if row["state"] == "running"]
    parts: list[Any] = [Text(f"{study.folder.absolute().name}: {found['budget']}", style="bold"), _bar(study, rows)]
    if running:
        parts += ["", _running(study, running[:N_RUNNING])]
    if done:
        parts += ["", _best(done[:N_BEST])]
    parts += ["", Text(listed(found["counts"]) or "nothing yet")]
    parts += [Text(_jobs(found["jobs"]))] if found["jobs"] else []
    failed = [row for row in rows if row["state"] == "failed"]
    if failed:
        parts.append(
            Text(f"net {failed[-1]['trial']} failed: {failed[-1]['reason']}", style="red", overflow="ellipsis")
        )
    return Group(*parts)


def _bar(study: "Study", rows: list[dict[str, Any]]) -> Any:
    settled = sum(row["counts"] and row["state"] not in OPEN for row in rows)
    total = study.asked.n_trials
    return ProgressBar(total=total, completed=settled, width=60) if total else Text("")


def _running(study: "Study", rows: list[dict[str, Any]]) -> Table:
    drawn = _table("running", "step", "score so far", "parameters", "training", "where")
    steps = "" if study.asked.fair == "time" else f" of {study.training.steps:,}"
    for row in rows:
        step = "begins" if row["steps"] is None else f"{row['steps']:,}{steps}"
        score = "" if row["adjusted_rand"] is None else f"{row['adjusted_rand']:.4f}"
        drawn.add_row(
            f"net {row['trial']}", step, score, f"{row['n_parameters']:,}", _time(row["worked_s"]), row["place"]
        )
    return drawn


def _best(rows: list[dict[str, Any]]) -> Table:
    drawn = _table("best", "score", "mean IoU", "parameters", "LPES", "LPDS")
    for row in rows:
        name = f"net {row['trial']}" + (f" ({row['label']})" if row["label"] else "")
        iou = "" if row["mean_iou"] is None else f"{row['mean_iou']:.4f}"
        drawn.add_row(name, f"{row['adjusted_rand']:.4f}", iou, f"{row['n_parameters']:,}", row["lpes"], row["lpds"])
    return drawn


def _table(*titles: str) -> Table:
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in titles:
        drawn.add_column(title, justify="left" if title in ("running", "best", "where", "LPES", "LPDS") else "right")
    return drawn


def _jobs(jobs: list[dict[str, Any]]) -> str:
    counts: dict[str, int] = {}
    for job in jobs:
        counts[job["state"].lower()] = counts.get(job["state"].lower(), 0) + 1
    return f"jobs: {listed(counts)}"


def _time(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
