"""`genenet search worker`, `submit`, `stop`, `extend`, `enqueue`, `copy`: a study at work."""

from pathlib import Path
from typing import Annotated

import typer

from genenet.cli.options import DryRun, StudyFolder, TotalHours, TrialHours
from genenet.cli.output import say
from genenet.wording import plural


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (worker, submit, stop, extend, enqueue, copy):
        app.command()(verb)


def worker(
    study: StudyFolder,
    processes: Annotated[int, typer.Option(min=1, help="Workers that share this one's cores and GPU.")] = 1,
) -> None:
    """Work on a study beside other workers, until its budget is done."""
    from genenet.device import import_keras

    if processes == 1:
        import_keras()
    from genenet.interrupts import Stopped
    from search.study import Study
    from search.worker import run_worker

    try:
        finished = run_worker(Study.open(study), processes=processes)
    except Stopped as stop:
        say(f"this worker stops, {stop}; its trial is free for others")
        return
    if processes == 1:
        say(f"this worker finished {plural(finished, 'trial')} of {study}")


def submit(
    study: StudyFolder,
    launcher: Annotated[str, typer.Option(help="slurm, or local for processes of this machine.")] = "slurm",
    workers: Annotated[int, typer.Option(min=1, help="How many may work at once.")] = 1,
    profile: Annotated[Path | None, typer.Option(help="A YAML file of the site's settings.")] = None,
    partition: Annotated[str | None, typer.Option(help="Where jobs run.")] = None,
    account: Annotated[str | None, typer.Option(help="Who pays.")] = None,
    time: Annotated[str | None, typer.Option(help="How long a job may run: 24h, 90m.")] = None,
    mem: Annotated[str | None, typer.Option(help="Memory of a worker: 32G.")] = None,
    cpus: Annotated[int | None, typer.Option(min=1, help="Cores of a worker.")] = None,
    gpus: Annotated[str | None, typer.Option(help="GPUs of a worker: 1, or a100:1.")] = None,
    share: Annotated[int | None, typer.Option(min=1, help="Workers within each job, which share its GPU.")] = None,
    spare: Annotated[int | None, typer.Option(min=0, help="Jobs that take the places of jobs that end.")] = None,
    dry_run: DryRun = False,
) -> None:
    """Start workers as jobs of a cluster."""
    import search.launch as launch
    from search.study import Study

    opened = Study.open(study)
    needs = launch.read_profile(
        profile,
        partition=partition,
        account=account,
        time=time,
        memory=mem,
        cpus=cpus,
        gpus=gpus,
        share=share,
        spare=spare,
    )
    request = launch.Request(opened.folder, workers, needs)
    if dry_run:
        say(launch.preview(launcher, request).rstrip())
        return
    jobs = launch.submit(launcher, request)
    say(f"submitted {plural(workers, 'worker')}: job {', '.join(jobs)}")
    say(f"`genenet search status {study}` shows how they do, `genenet search stop {study}` ends them")


def stop(study: StudyFolder) -> None:
    """End the jobs of a study; their workers leave checkpoints, from which others continue."""
    import search.launch as launch
    from search.study import Study

    ended = launch.cancel(Study.open(study).folder)
    say(f"ended job {', '.join(ended)}" if ended else f"no job of {study} is in a queue")


def extend(
    study: StudyFolder,
    trials: Annotated[int | None, typer.Option(min=1, help="Networks to draw.")] = None,
    trial_hours: TrialHours = None,
    total_hours: TotalHours = None,
) -> None:
    """Change a study's budget; workers notice before their next trial."""
    from genenet.errors import InputError
    from search.study import Study

    asked = {"n_trials": trials, "trial_hours": trial_hours, "total_hours": total_hours}
    chosen = {name: value for name, value in asked.items() if value is not None}
    if not chosen:
        raise InputError("nothing is to change; give --trials, --trial-hours or --total-hours")
    opened = Study.open(study)
    opened.extend(**chosen)
    say(f"the budget of {study} is {', '.join(f'{value:g} {name}' for name, value in opened.asked.budget().items())}")


def enqueue(
    study: StudyFolder,
    blueprint: Annotated[Path, typer.Argument(help="A blueprint.json, as `genenet tree --output` writes it.")],
    label: Annotated[str, typer.Option(help="What tables call it.")] = "",
) -> None:
    """Have a blueprint of your own tried next."""
    from genenet.cli.tree import open_blueprint
    from search.study import Study

    Study.open(study).enqueue(open_blueprint(blueprint), label)
    say(f"{blueprint} is tried next in {study}")


def copy(
    study: StudyFolder,
    storage: Annotated[str, typer.Argument(help="postgresql://user@host/name, mysql://..., or file.")],
) -> None:
    """Copy what samplers learn from into a database, or back into the study's folder; it is used from now on."""
    from search.study import Study

    copied = Study.open(study).copy_storage(None if storage == "file" else storage)
    say(f"copied {plural(copied, 'trial')}; {study} uses them there from now on")
