"""`genenet search`: studies."""

from pathlib import Path
from typing import Annotated, Any

import typer

from genenet.cli import search_jobs, watching
from genenet.cli.networks import Settings, training_settings
from genenet.cli.options import StudyFolder, TotalHours, TrialHours
from genenet.cli.output import progress, say, table
from genenet.cli.watching import COLUMNS
from genenet.wording import plural

app = typer.Typer(help="Search architectures: a study is a folder.", no_args_is_help=True)
search_jobs.register(app)
watching.register(app)

# What `run --segment` writes into the study's folder, and what it is made of.
SEGMENTATION, SEGMENTED = "segmentation.ome.zarr", "segmentation.json"

DEFAULT_TRIALS = 20


@app.command()
def init(
    study: StudyFolder,
    data: Annotated[Path, typer.Option("--data", help="The data.yaml.")],
    space: Annotated[Path | None, typer.Option(help="A YAML file of ranges; a default space if left out.")] = None,
    trials: Annotated[
        int | None,
        typer.Option(min=1, help=f"Networks to draw, the baseline on top; {DEFAULT_TRIALS}, or as hours allow."),
    ] = None,
    trial_hours: TrialHours = None,
    total_hours: TotalHours = None,
    fair: Annotated[str | None, typer.Option(help="Give all networks the same: steps, or time.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps per network.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Training time per network.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Windows per step.")] = None,
    settings: Settings = None,
    sampler: Annotated[str, typer.Option(help="random, sobol, tpe or evolution.")] = "random",
    early_stopping: Annotated[
        str | None, typer.Option(help="Stop what does badly: hyperband, successive_halving or median.")
    ] = None,
    warm_start: Annotated[
        list[Path] | None, typer.Option(help="An earlier study that samplers learn from; may be repeated.")
    ] = None,
    storage: Annotated[str | None, typer.Option(help="URL of a database; a file in the study if left out.")] = None,
    seed: Annotated[int, typer.Option(help="Of every draw.")] = 0,
    window: Annotated[int, typer.Option(help="Side of the default space's windows, in voxels.")] = 192,
    max_parameters: Annotated[int | None, typer.Option(help="Draw again beyond this.")] = None,
    max_memory_gb: Annotated[float | None, typer.Option(help="Draw again beyond this estimate.")] = None,
    max_multiply_adds: Annotated[float | None, typer.Option(help="Draw again beyond this, per voxel.")] = None,
    objective: Annotated[
        list[str] | None, typer.Option(help="What the sampler learns from; may be repeated, the first counts most.")
    ] = None,
    preset: Annotated[str, typer.Option(help="Search around this kind of network; docs/vocabulary.md has them.")] = (
        "EncoderDecoder"
    ),
    baseline: Annotated[bool, typer.Option("--baseline/--no-baseline", help="Train the original U-Net too.")] = True,
) -> None:
    """Make a study's folder."""
    from genenet.dataset import Dataset
    from genenet.folder import read_yaml
    from search.defaults import default_space
    from search.space import Limits, Space
    from search.study import Study

    opened = Dataset.open(data)
    chosen = default_space(
        opened.n_classes,
        opened.n_channels,
        window_size=window,
        preset=preset,
        voxel_size_nm=opened.voxel_size_nm,
    )
    if space is not None:
        chosen = Space.from_dict(read_yaml(space), chosen.base)
    made = Study.create(
        study,
        chosen,
        data=data,
        training=training_settings(settings, steps=steps, seconds=seconds, batch_size=batch_size),
        n_trials=trials or (None if trial_hours or total_hours else DEFAULT_TRIALS),
        trial_hours=trial_hours,
        total_hours=total_hours,
        fair=fair,
        sampler=sampler,
        early_stopping=early_stopping,
        warm_start=warm_start or (),
        storage=storage,
        seed=seed,
        limits=Limits(max_parameters, max_memory_gb, max_multiply_adds),
        objectives=tuple(objective or ("adjusted_rand",)),
        baseline=baseline,
    )
    end = "as hours allow" if made.asked.n_trials is None else f"of {plural(made.asked.n_trials, 'network')}"
    say(f"{made.folder} is a study {end}; `genenet search run {study}` works on it")


@app.command()
def run(
    study: StudyFolder,
    trials: Annotated[int | None, typer.Option(help="A larger budget.")] = None,
    workers: Annotated[int, typer.Option(help="Processes on this machine.")] = 1,
    data: Annotated[Path | None, typer.Option("--data", help="Make the study first, with defaults.")] = None,
    steps: Annotated[int | None, typer.Option(help="With --data: optimizer steps per network.")] = None,
    window: Annotated[int | None, typer.Option(help="With --data: side of the windows, in voxels.")] = None,
    baseline: Annotated[
        bool | None, typer.Option("--baseline/--no-baseline", help="With --data: train the original U-Net too.")
    ] = None,
    segment: Annotated[str | None, typer.Option(help="Then segment this volume into the study's folder.")] = None,
) -> None:
    """Work until the budget is done, choose the ensemble, write the report; again after a kill, it continues."""
    from genenet.device import import_keras
    from search.study import Study

    if workers == 1:
        import_keras()
    if segment is not None:
        refuse_other_segmentation(study, segment)
    asked = {"steps": steps, "window": window, "baseline": baseline}
    made: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    exists = (study / "study.yaml").exists()
    if data is not None and not exists:
        init(study, data, trials=trials or DEFAULT_TRIALS, **made)
    elif made:
        refuse_new_settings(study, made, exists=exists)
    opened = Study.open(study)
    if data is not None:
        opened.refuse_other_data(data)
    opened.run(trials, workers=workers)
    say(
        table(
            opened.leaderboard().to_dict("records"), {k: v for k, v in COLUMNS.items() if k not in ("state", "reason")}
        )
    )
    if opened.networks():
        finish(opened, segment)


def refuse_new_settings(study: Path, asked: dict[str, Any], *, exists: bool) -> None:
    """What a study is made of cannot be changed by a later run; the same again is fine."""
    from genenet.errors import InputError
    from search.study import Study

    names = ", ".join(f"--{name if value is not False else f'no-{name}'}" for name, value in asked.items())
    if not exists:
        raise InputError(f"{names} makes a new study, which needs --data")
    opened = Study.open(study)
    there = {
        "steps": opened.training.steps,
        "window": opened.space.base.window_size,
        "baseline": opened.settings.get("baseline") is not None,
    }
    if any(there[name] != value for name, value in asked.items()):
        has = f"{there['steps']} steps, windows of {there['window']}, {'a' if there['baseline'] else 'no'} baseline"
        raise InputError(f"{study} was made with {has}; leave out {names}, or choose another folder for a new study")


def refuse_other_segmentation(study: Path, image: str) -> None:
    """Look before hours of search whether the image can be read, and whether its segmentation has a place."""
    from genenet.errors import InputError
    from genenet.folder import read_json
    from genenet.volume import open_volume

    open_volume(image)
    output, note = study / SEGMENTATION, study / SEGMENTED
    if output.exists() and (not note.exists() or read_json(note)["image"] != str(Path(image).absolute())):
        raise InputError(f"{output} exists and is of another volume; move it away, or use `genenet segment`")


def finish(opened: Any, image: str | None) -> None:
    """Choose the ensemble, segment a volume with it, write the report."""
    from genenet.ensemble import MEMBERS, Ensemble
    from genenet.folder import read_json, write_json
    from search.report import write_report

    networks, folder = opened.networks(), opened.folder / "ensemble"
    chosen = Ensemble.open(folder) if (folder / MEMBERS).exists() else None
    if chosen is None or not chosen.is_selected_from(networks):
        with progress("selecting members") as shown:
            how: dict[str, Any] = {} if chosen is None else {**chosen.chosen_by, "vote": chosen.vote}
            chosen = Ensemble.select(networks, opened.data, cache=opened.folder / "predictions", progress=shown, **how)
        chosen.save(folder)
    say(chosen.summary())
    if image is not None:
        output, note = opened.folder / SEGMENTATION, opened.folder / SEGMENTED
        made_of = {"image": str(Path(image).absolute()), "ensemble": chosen.identity}
        if not (output.exists() and note.exists() and read_json(note) == made_of):
            with progress("segmenting") as shown:
                chosen.segment(image, output, overwrite=True, progress=shown)
            write_json(note, made_of)
        say(f"wrote {output}")
    say(f"wrote {write_report(opened)}")


@app.command()
def report(study: StudyFolder) -> None:
    """Write report.html, at any time."""
    from search.report import write_report
    from search.study import Study

    say(f"wrote {write_report(Study.open(study))}")


@app.command()
def replay(
    study: StudyFolder,
    trial: Annotated[int, typer.Argument(help="Its number.")],
    output: Annotated[Path, typer.Argument(help="The folder of the network.")],
) -> None:
    """Train a trial again, with the same blueprint, settings, seed and data, and compare the scores."""
    from genenet.device import import_keras
    from genenet.errors import InputError
    from genenet.network import versions
    from search.provenance import changed
    from search.study import Study

    opened = Study.open(study)
    found = {entry.number: entry for entry in opened.trials()}
    if trial not in found or found[trial].state["state"] == "rejected":
        raise InputError(f"{study} has no trial {trial} that was trained; `genenet search status {study}` lists them")
    other = changed(opened.settings.get("checksums", {}))
    if other:
        raise InputError(f"{', '.join(other)} changed since {study} was made; a replay would not be the same")
    import_keras()
    from search.objective import replay as train_again

    with progress("training") as shown:
        network = train_again(opened, found[trial], output, lambda step, *_: shown(step, opened.training.steps))
    state = found[trial].state
    score = network.scores["adjusted_rand"]
    if state["state"] == "done":
        then, now = found[trial].network().details["versions"], versions()
        other = [f"{name} {then.get(name)} then, {now[name]} now" for name in now if then.get(name) != now[name]]
        if other:
            say(f"made by other software: {'; '.join(other)}")
        change = score - state["adjusted_rand"]
        say(f"adjusted Rand score {score:.6f}, {state['adjusted_rand']:.6f} then: {change:+.1e}; wrote {output}")
    else:
        say(f"adjusted Rand score {score:.6f}, trial {trial} is {state['state']}; wrote {output}")
