"""`genenet search status`, `dashboard`: watch a study."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genenet.cli.options import AsJson, StudyFolder
from genenet.cli.output import say, say_json, table
from genenet.wording import plural

if TYPE_CHECKING:
    from search.launch import JobState
    from search.study import Study

COLUMNS = {
    "trial": "d",
    "state": "",
    "label": "",
    "adjusted_rand": ".4f",
    "mean_iou": ".4f",
    "n_parameters": ",d",
    "lpes": "",
    "lpds": "",
    "steps": "d",
    "seconds": ".0f",
    "place": "",
    "reason": "",
}


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (status, dashboard):
        app.command()(verb)


def status(
    study: StudyFolder,
    as_json: AsJson = False,
    once: Annotated[bool, typer.Option("--once", help="Print it, also on a terminal.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks, on a terminal.")] = 2.0,
) -> None:
    """Show every trial, how it stands, and why it failed; and the jobs that are in a queue.

    On a terminal the table lives until the study is done, or until Ctrl-C.
    """
    import search.launch as launch
    from search.study import Study

    opened = Study.open(study)
    if sys.stdout.isatty() and not (as_json or once):
        from genenet.cli.live import watch

        watch(opened, every)
        return
    found = look(opened, launch.states(opened.folder))
    if as_json:
        say_json(found)
        return
    say(table(found["trials"], COLUMNS))
    if found["jobs"]:
        say("\n" + table(found["jobs"], {"job": "", "state": "", "place": ""}))
    say(f"\n{found['budget']}; {listed(found['counts']) or 'nothing yet'}")


def look(opened: "Study", queued: "Sequence[JobState]") -> dict[str, Any]:
    """How a study stands: its jobs, its trials, how many of these are in which state, and its budget."""
    opened.refresh()
    rows = opened.rows()
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["state"]] = counts.get(row["state"], 0) + 1
    jobs = [job._asdict() for job in queued]
    budget = opened.asked.budget()
    return {"jobs": jobs, "counts": counts, **budget, "budget": spent(opened, rows), "trials": rows}


def spent(opened: "Study", rows: list[dict[str, Any]]) -> str:
    """What was used of the budget, in words."""
    asked, n_drawn = opened.asked, sum(row["counts"] for row in rows)
    said = [f"{n_drawn:,} networks drawn" if asked.n_trials is None else _of_networks(n_drawn, asked.n_trials)]
    hours = sum(row["worked_s"] for row in rows) / 3600
    if asked.trial_hours is not None:
        said.append(f"{hours:.2g} of {asked.trial_hours:g} hours of work")
    if asked.total_hours is not None:
        passed = opened.passed_s() / 3600
        said.append(f"{min(passed, asked.total_hours):.2g} of {asked.total_hours:g} hours since the first began")
    return ", ".join(said)


def _of_networks(n_drawn: int, n_trials: int) -> str:
    return f"{n_drawn} of {plural(n_trials, 'network')} drawn"


def listed(counts: dict[str, int]) -> str:
    """Counts by state, in words."""
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))


def dashboard(
    study: StudyFolder,
    host: Annotated[
        str, typer.Option(help="Who may look: 0.0.0.0 for everybody who reaches this machine.")
    ] = "localhost",
    port: Annotated[int, typer.Option(min=0, help="0 for one that is free.")] = 8080,
) -> None:
    """Show what samplers learn from in a browser, by optuna-dashboard; nobody can change the study there."""
    from search.dashboard import serve
    from search.study import Study

    opened = Study.open(study)
    with serve(opened, host, port) as server:
        say(f"http://{host}:{server.server_port}/dashboard/studies/{opened.optuna_id} shows {study}; Ctrl-C ends it")
        sys.stdout.flush()
        server.serve_forever()
