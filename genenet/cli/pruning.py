"""`genenet prune`: smaller networks, and what it bought."""

from pathlib import Path
from typing import Annotated, Any

import typer

from genenet.cli.networks import DataFile, Settings, training_settings
from genenet.cli.options import AsJson, DryRun, Overwrite
from genenet.cli.output import progress, say, say_json
from genenet.errors import InputError

# What `--export` takes, and the suffix of what it writes.
EXPORTS = {"onnx": ".onnx", "openvino": ".xml"}

PruningTarget = Annotated[
    list[str] | None,
    typer.Option(
        "--target", help="What is left: multiply_adds=0.25 or parameters=0.25; or what goes: share=0.5, n_maps=100."
    ),
]
Criterion = Annotated[str, typer.Option(help="The criterion of structured: l1, l2, first_order, ...")]
SearchKind = Annotated[str, typer.Option(help="How loss looks: exact, prefilter, first_order, lazy.")]
AtOnce = Annotated[int, typer.Option(help="Channels per step of loss, for speed.", min=1)]
Caution = Annotated[float, typer.Option(help="Count losses higher by so many of their standard errors.", min=0)]
Rounds = Annotated[int, typer.Option(help="In how many steps channels go, with training after each.", min=1)]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(prune)


def prune(
    what: Annotated[Path, typer.Argument(help="The folder of a network, an ensemble or a study.")],
    output: Annotated[Path, typer.Argument(help="The folder of the smaller network, or of the ensemble of these.")],
    data: DataFile,
    method: Annotated[str, typer.Option(help="loss, structured or magnitude.")] = "loss",
    target: PruningTarget = None,
    keep: Annotated[list[str] | None, typer.Option(help="Channels that stay in a layer: c1=65. Repeat it.")] = None,
    compression_ratio: Annotated[float | None, typer.Option(help="For magnitude: weights over weights left.")] = None,
    scope: Annotated[str, typer.Option(help="network or layer, for structured and magnitude.")] = "network",
    by: Criterion = "l1",
    search: SearchKind = "prefilter",
    at_once: AtOnce = 1,
    caution: Caution = 0.0,
    retrain_steps: Annotated[int, typer.Option(help="Steps of training afterwards.", min=0)] = 200,
    learning_rate: Annotated[float | None, typer.Option(help="Of these; a tenth of the network's if left out.")] = None,
    export: Annotated[str | None, typer.Option(help="Also write what comes out as onnx or openvino.")] = None,
    rounds: Rounds = 1,
    settings: Settings = None,
    seed: Annotated[int, typer.Option(help="Of batches, and of what is random.")] = 0,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Make networks smaller, train what is left, and say what it bought; of an ensemble, every member."""
    from genenet.dataset import Dataset
    from genenet.device import import_keras
    from genenet.evaluation import open_members
    from genenet.folder import remove

    if export is not None and export not in EXPORTS:
        raise InputError(f"--export takes {' or '.join(EXPORTS)}, but got {export!r}")
    members = open_members(what)
    if members is None:
        raise InputError(f"{what} is not the folder of a network, an ensemble or a study")
    opened = Dataset.open(data)
    members.check(opened)
    if (output / "pruning.csv").exists() and not overwrite:
        raise InputError(f"{output} exists; choose another folder, or replace it (--overwrite)")
    import_keras()
    from genenet.prune_ensemble import prune_ensemble
    from genenet.prune_network import PruningSettings, prune_network

    chosen = PruningSettings(
        method=method,
        target=pruning_target(target),
        keep=_numbers(keep, "--keep") if keep else None,
        compression_ratio=compression_ratio,
        scope=scope,
        by=by,
        search=search,
        at_once=at_once,
        caution=caution,
        learning_rate=learning_rate,
        seed=seed,
    )
    training = training_settings(settings, steps=retrain_steps) if retrain_steps else None
    if dry_run:
        names = ", ".join(str(member.folder) for member in members.members)
        say(f"would prune {names} by {method} into {output}, and train {retrain_steps:,} steps")
        return
    place = output.with_name(f"{output.name}.new") if overwrite and output.exists() else output
    if (what / "network.json").exists():
        with progress("training") as shown:
            done = prune_network(
                members.members[0],
                opened,
                place,
                chosen,
                training,
                rounds=rounds,
                watch=lambda step, *_: shown(step, retrain_steps),
            )
        found, said = done.report, f"wrote {output}"
        found.plot(place / "trade-off.png")
    else:
        with progress("pruning") as shown:
            together = prune_ensemble(members, opened, place, chosen, training, rounds=rounds, progress=shown)
        found, said = together.report, f"{together.together}\n{together.summary()}; wrote {output}"
        together.together.plot(place / "trade-off.png")
    if place != output:
        remove(output)
        place.rename(output)
    exported = _export(export, output)
    if as_json:
        say_json([_row(row) for row in found.rows])
        return
    say(str(found))
    say(said)
    for member in exported:
        say(f"wrote {member}")


def _export(format_name: str | None, output: Path) -> list[Path]:
    """Write every network of an output for programs without Keras."""
    if format_name is None:
        return []
    from genenet.evaluation import open_members
    from genenet.export import export_network

    members = open_members(output)
    return [
        export_network(member, member.folder / f"model{EXPORTS[format_name]}").path
        for member in (members.members if members is not None else ())
    ]


def pruning_target(entries: list[str] | None) -> Any:
    """A `pruning.Target` of `--target name=number`, several of them.

    Raises:
        InputError: An unknown name, or a value that cannot be.
    """
    from pruning import PruningError, Target

    if not entries:
        return None
    numbers = _numbers(entries, "--target")
    unknown = numbers.keys() - Target.__dataclass_fields__.keys()
    if unknown:
        known = ", ".join(Target.__dataclass_fields__)
        raise InputError(f"--target takes {known}, but got {sorted(unknown)[0]}")
    try:
        return Target(**numbers)  # type: ignore[arg-type]
    except PruningError as error:
        raise InputError(str(error)) from None


def _numbers(entries: list[str], option: str) -> dict[str, Any]:
    """`name=number` by name."""
    found: dict[str, Any] = {}
    for entry in entries:
        name, _, text = entry.partition("=")
        try:
            found[name] = int(text) if text.lstrip("-").isdigit() else float(text)
        except ValueError:
            raise InputError(f"{option} takes name=number, but got {entry!r}") from None
    return found


def _row(row: Any) -> dict[str, Any]:
    return {**vars(row), "count": row.count._asdict()}
