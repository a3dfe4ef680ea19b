"""`genenet train`, `evaluate`, `ensemble`: networks and what they do."""

from pathlib import Path
from typing import Annotated, Any

import typer

from genenet.cli.options import AsJson, DryRun, Overwrite
from genenet.cli.output import progress, say, say_json, table
from genenet.wording import plural

DataFile = Annotated[Path, typer.Option("--data", help="The data.yaml.")]
Precision = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
Settings = Annotated[Path | None, typer.Option("--settings", help="A YAML file of training settings.")]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (train, evaluate, ensemble):
        app.command()(verb)


def training_settings(path: Path | None, **changes: Any) -> Any:
    """Training settings from a file, with options given on the command line on top."""
    from genenet.folder import read_yaml
    from genenet.settings import TrainingSettings

    content = (read_yaml(path) or {}) if path is not None else {}
    batch_size = changes.pop("batch_size", None)
    content |= {name: value for name, value in changes.items() if value is not None}
    if batch_size is not None:
        content["windows"] = {**content.get("windows", {}), "batch_size": batch_size}
    return TrainingSettings.from_dict(content, str(path or "training"))


def train(
    output: Annotated[Path, typer.Argument(help="The folder of the network.")],
    data: DataFile,
    blueprint: Annotated[Path | None, typer.Option(help="A blueprint.json; a preset if left out.")] = None,
    preset: Annotated[str, typer.Option(help="The kind of network where no blueprint is given.")] = "EncoderDecoder",
    set_values: Annotated[
        list[str] | None, typer.Option("--set", help="Change a value: name=value, or path/name=value.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Stop after this training time.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Windows per step.")] = None,
    precision: Precision = "auto",
    settings: Settings = None,
    seed: Annotated[int, typer.Option(help="Of weights, windows and augmentation.")] = 0,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Train one network; started again after a kill, it continues."""
    from genenet.cli.tree import make_preset, open_blueprint, set_all
    from genenet.dataset import Dataset
    from genenet.device import import_keras
    from genenet.folder import remove

    chosen = training_settings(settings, steps=steps, seconds=seconds, batch_size=batch_size, precision=precision)
    opened = Dataset.open(data)
    net = open_blueprint(blueprint) if blueprint else make_preset(preset, opened.n_classes, opened.n_channels)
    set_all(net, set_values or [])
    if dry_run:
        state = "continued" if not overwrite else "replaced"
        say(
            f"would train {plural(net.n_parameters, 'parameter')} into {output}"
            + (f", which is {state}" if output.exists() else "")
        )
        say(f"{chosen.steps:,} steps of {plural(chosen.windows.batch_size, 'window')} {net.window_shape().input}")
        return
    import_keras()
    from genenet.train import Record, train_network

    if overwrite:
        remove(output)
    with progress("training") as shown:

        def watch(step: int, spent: float, record: Record | None) -> None:
            shown(step, chosen.steps)
            if record is not None:
                say(f"step {step}: {record.summary}, loss {record.loss:.4f}, {spent:.0f} s")

        network = train_network(net, opened, output, chosen, seed=seed, watch=watch)
    say(f"best {Record(0, 0, 0, 0, **network.scores).summary}; wrote {output}")


def evaluate(
    what: Annotated[Path, typer.Argument(help="The folder of a network, an ensemble or a study; or a segmentation.")],
    data: DataFile,
    part: Annotated[str, typer.Option(help="validation or training.")] = "validation",
    effort: Annotated[
        Path | None,
        typer.Option(
            help="Predict how long a person would take to correct it, by the times that `genenet correct effort` kept "
            "in this study or folder of corrections."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score on labelled data: adjusted Rand score, IoU and Dice per class, accuracy, confusion."""
    from genenet.corrections.effort import Effort
    from genenet.corrections.errors import count_network_errors
    from genenet.dataset import Dataset
    from genenet.device import import_keras
    from genenet.errors import InputError
    from genenet.evaluation import as_table, open_members
    from genenet.evaluation import evaluate as score

    import_keras()
    if part not in ("training", "validation"):
        raise InputError(f"--part must be training or validation, but got {part!r}")
    opened = Dataset.open(data)
    times = None if effort is None else Effort.of(effort)
    found = as_table(score(what, opened, part=part), opened)
    if times is not None:
        members = open_members(what)
        if members is None:
            raise InputError("--effort needs a network, an ensemble or a study, but got a segmentation")
        counts = count_network_errors(members.predictor(), getattr(opened, part))
        found["correction_min_per_megavoxel"] = times.minutes_per_megavoxel(*counts)
    if as_json:
        say_json(found)
        return
    for name in ("adjusted_rand", "accuracy", "mean_iou", "mean_dice"):
        say(f"{name:14} {found[name]:.4f}")
    if times is not None:
        say(f"a person would take {found['correction_min_per_megavoxel']:.2f} min to correct a million voxels")
    say()
    say(table(found["classes"], {"value": "d", "name": "", "iou": ".4f", "dice": ".4f"}))
    say("\nconfusion, voxels (row: label, column: prediction)")
    names = [row["name"] for row in found["classes"]]
    rows = [
        {"": name, **dict(zip(names, row, strict=True))} for name, row in zip(names, found["confusion"], strict=True)
    ]
    say(table(rows, {"": "", **dict.fromkeys(names, "d")}))


def ensemble(
    study: Annotated[Path, typer.Argument(help="The study whose networks are candidates.")],
    max_members: Annotated[int, typer.Option(help="The largest ensemble tried.", min=1)] = 15,
    rule: Annotated[
        str, typer.Option(help="Who joins next: best, greedy, greedy_with_replacement, or per_second with --limit.")
    ] = "best",
    limit: Annotated[float | None, typer.Option(help="Seconds per million voxels that the ensemble may take.")] = None,
    calibrate: Annotated[bool, typer.Option("--calibrate", help="Fit one temperature per network first.")] = False,
    vote: Annotated[bool, typer.Option("--vote", help="Majority vote instead of mean probabilities.")] = False,
    as_json: AsJson = False,
) -> None:
    """Choose the members of an ensemble by what they say about the validation part; write them and the curve."""
    from genenet.device import import_keras

    import_keras()
    from genenet.ensemble import Ensemble
    from search import Study

    opened = Study.open(study)
    with progress("selecting") as shown:
        chosen = Ensemble.select(
            opened.networks(),
            opened.data,
            rule=rule,
            max_members=max_members,
            limit_s_per_megavoxel=limit,
            calibrate=calibrate,
            vote=vote,
            cache=opened.folder / "predictions",
            progress=shown,
        )
    chosen.save(opened.folder / "ensemble")
    rows = [
        {
            "n": p.n_members,
            "alone": p.alone,
            "adjusted_rand": p.adjusted_rand,
            "mean_iou": p.mean_iou,
            "ambiguity": p.ambiguity,
        }
        for p in chosen.curve
    ]
    if as_json:
        errors = None if chosen.calibration is None else dict(zip(("before", "after"), chosen.calibration, strict=True))
        say_json({"n_members": len(chosen.members), "curve": rows, "calibration_error": errors})
        return
    say(table(rows, {"n": "d", "alone": ".4f", "adjusted_rand": ".4f", "mean_iou": ".4f", "ambiguity": ".4f"}))
    if chosen.calibration is not None:
        before, after = chosen.calibration
        say(f"expected calibration error: {before:.4f} before, {after:.4f} calibrated")
    say(f"{chosen.summary()}; wrote {opened.folder / 'ensemble'}")
