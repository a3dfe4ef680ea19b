"""`genenet instances`: numbered objects, nuclei for instance: train what finds them, merge, score, prune."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genenet.cli.networks import DataFile, Precision, Settings
from genenet.cli.options import AsJson, DryRun, Overwrite
from genenet.cli.output import progress, say, say_json, table
from genenet.cli.pruning import AtOnce, Caution, Criterion, PruningTarget, Rounds, SearchKind, pruning_target
from genenet.wording import plural

if TYPE_CHECKING:
    from genenet.ensemble import Ensemble

app = typer.Typer(
    help="Objects one by one, nuclei for instance: train, tune how maps are merged, score, prune.", no_args_is_help=True
)

Networks = Annotated[Path, typer.Argument(help="The folder that `genenet instances train` wrote, or of a network.")]
Trials = Annotated[int, typer.Option("--trials", min=1, help="How many ways to merge are tried.")]

# What is said of objects, and how.
SHOWN = {"aggregated_jaccard": "AJI", "pq": "PQ", "sq": "SQ", "dq": "DQ", "foreground_dice": "Dice"}


@app.command()
def train(
    output: Annotated[Path, typer.Argument(help="The folder of the networks.")],
    data: DataFile,
    depth: Annotated[str, typer.Option(help="Of the residual encoder: 18, 34 or 50.")] = "34",
    set_values: Annotated[
        list[str] | None, typer.Option("--set", help="Change a value of the blueprint: name=value, path/name=value.")
    ] = None,
    two_heads: Annotated[
        bool, typer.Option("--two-heads", help="One network gives both maps, instead of one network for each.")
    ] = False,
    encoder: Annotated[
        Path | None, typer.Option(help="Pretrained weights of the encoder, in torchvision's layout.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps of each network.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Windows per step.")] = None,
    precision: Precision = "auto",
    settings: Settings = None,
    seed: Annotated[int, typer.Option(help="Of weights, windows and augmentation.")] = 0,
    n_trials: Trials = 60,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Train the networks that tell objects apart, and tune how they are merged; started again, it continues."""
    from genenet.cli.tree import set_all
    from genenet.dataset import Dataset
    from genenet.device import import_keras
    from genenet.folder import read_yaml, remove
    from genenet.settings import TrainingSettings

    opened = Dataset.open(data)
    import_keras()
    from genenet.train import Record
    from genenet.train_branches import blueprints, branch_settings, resnet_unet, start_from_encoder, train_branches

    base = resnet_unet(opened, depth=depth)
    set_all(base, set_values or [])
    asked: dict[str, Any] = {"steps": steps, "precision": None if precision == "auto" else precision}
    asked = {name: value for name, value in asked.items() if value is not None}
    usual = branch_settings(opened.n_channels).to_dict()
    own = (read_yaml(settings) or {}) if settings is not None else {}
    windows = {
        **usual["windows"],
        **(own.pop("windows", None) or {}),
        **({} if batch_size is None else {"batch_size": batch_size}),
    }
    chosen = TrainingSettings.from_dict({**usual, **own, **asked, "windows": windows}, str(settings or "training"))
    nets = blueprints(opened, base=base, two_heads=two_heads)
    if dry_run:
        for name, net in nets.items():
            say(f"would train {plural(net.n_parameters, 'parameter')} into {output / name}")
        say(f"{chosen.steps:,} steps each of {plural(chosen.windows.batch_size, 'window')} {base.window_shape().input}")
        return
    if overwrite:
        remove(output)
    start = None
    if encoder is not None:
        start = start_from_encoder(encoder, seed)
    with progress("training") as shown:

        def watch(name: str, step: int, spent: float, record: Record | None) -> None:
            shown(step, chosen.steps)
            if record is not None:
                say(f"{name}, step {step}: {record.summary}, loss {record.loss:.4f}, {spent:.0f} s")

        members = train_branches(nets, opened, output, chosen, seed=seed, start=start, watch=watch, n_trials=n_trials)
    _say_scores(members, opened, output, "validation", precision)
    say(f"wrote {output}; `genenet segment {output} IMAGE OUTPUT --instances` finds objects in an image")


@app.command()
def combine(
    output: Annotated[Path, typer.Argument(help="The folder of the ensemble.")],
    networks: Annotated[list[Path], typer.Argument(help="Networks of either kind, or with two heads.")],
    data: DataFile,
    max_members: Annotated[int, typer.Option(min=1, help="The most of each kind.")] = 15,
    n_trials: Trials = 60,
    overwrite: Overwrite = False,
) -> None:
    """Choose among several networks those that are best together, and tune how they are merged."""
    from genenet.dataset import Dataset
    from genenet.device import import_keras
    from genenet.errors import InputError
    from genenet.folder import remove
    from genenet.network import Network

    if output.exists() and not overwrite:
        raise InputError(f"{output} exists; choose another folder, or ask to overwrite it (--overwrite)")
    _refuse_to_replace(output, networks)
    opened, candidates = Dataset.open(data), [Network.open(folder) for folder in networks]
    import_keras()
    from genenet.instance_segmentation import select_branches
    from genenet.train_branches import tune as tune_members

    members = select_branches(candidates, opened, max_members=max_members)
    remove(output)
    members.save(output)
    with progress("tuning") as shown:
        tune_members(members, opened, output, n_trials=n_trials, progress=shown)
    _say_scores(members, opened, output, "validation", "auto")
    say(f"wrote {output}: {plural(len(members.members), 'network')} of {len(candidates)}")


@app.command()
def tune(
    networks: Networks,
    data: DataFile,
    n_trials: Trials = 60,
    seed: Annotated[int, typer.Option(help="Of what is tried.")] = 0,
) -> None:
    """Find how to merge the maps, by the aggregated Jaccard index on the validation part; kept in merging.json."""
    from genenet.device import import_keras

    members = _open(networks)
    import_keras()
    from genenet.instance_segmentation import MERGING
    from genenet.train_branches import tune as tune_members

    with progress("tuning") as shown:
        score = tune_members(members, data, networks, n_trials=n_trials, seed=seed, progress=shown)
    say(f"aggregated Jaccard index {score:.4f}; wrote {networks / MERGING}")


@app.command()
def evaluate(
    networks: Networks,
    data: DataFile,
    part: Annotated[str, typer.Option(help="validation or training.")] = "validation",
    precision: Precision = "auto",
    as_json: AsJson = False,
) -> None:
    """Score the objects that are found: aggregated Jaccard index, panoptic quality and others, image by image."""
    from genenet.dataset import Dataset
    from genenet.device import import_keras
    from genenet.errors import InputError

    if part not in ("training", "validation"):
        raise InputError(f"--part must be training or validation, but got {part!r}")
    members = _open(networks)
    import_keras()
    _say_scores(members, Dataset.open(data), networks, part, precision, as_json=as_json)


@app.command()
def prune(
    networks: Networks,
    output: Annotated[Path, typer.Argument(help="The folder of the pruned networks, the table and the picture.")],
    data: DataFile,
    method: Annotated[str, typer.Option(help="magnitude: single weights; loss or structured: channels.")] = "magnitude",
    compression_ratio: Annotated[
        float | None, typer.Option(help="For magnitude: weights over weights left, at the end; 16 if left out.")
    ] = None,
    scope: Annotated[
        str, typer.Option(help="network: weights or channels of all layers compete; layer: all lose the same share.")
    ] = "network",
    target: PruningTarget = None,
    by: Criterion = "l1",
    search: SearchKind = "prefilter",
    at_once: AtOnce = 1,
    caution: Caution = 0.0,
    rounds: Rounds = 1,
    retrain_steps: Annotated[int, typer.Option(min=0, help="Steps of training after every round.")] = 200,
    learning_rate: Annotated[float | None, typer.Option(help="Of these; the networks' own if left out.")] = None,
    other: Annotated[
        list[str] | None, typer.Option(help="Score on further data too: name=data.yaml. Repeat it.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Prune all branches in rounds, single weights by halves or channels, and score the objects after each."""
    from genenet.dataset import Dataset
    from genenet.device import import_keras
    from genenet.errors import InputError
    from genenet.folder import remove

    members = _open(networks)
    import_keras()
    from genenet.instance_segmentation import read_merging
    from genenet.prune_branches import prune_branches
    from genenet.prune_network import PruningSettings
    from genenet.train_branches import branch_settings

    if method == "magnitude" and compression_ratio is None:
        compression_ratio = 16.0
    chosen = PruningSettings(
        method,
        target=pruning_target(target),
        compression_ratio=compression_ratio,
        scope=scope,
        by=by,
        search=search,
        at_once=at_once,
        caution=caution,
        learning_rate=learning_rate,
    )
    others = dict(entry.partition("=")[::2] for entry in other or [])
    if wrong := [name for name, path in others.items() if not path]:
        raise InputError(f"--other takes name=data.yaml, but got {wrong[0]!r}")
    _refuse_to_replace(output, [networks, *(member.folder for member in members.members)])
    opened = Dataset.open(data)
    scored_on = {name: Dataset.open(path) for name, path in others.items()}
    if overwrite:
        remove(output)
    training = None
    if retrain_steps:
        training = branch_settings(steps=retrain_steps, validate_every=retrain_steps)
    with progress("pruning") as shown:
        found = prune_branches(
            members,
            opened,
            output,
            chosen,
            training,
            rounds=rounds,
            merging=read_merging(networks),
            others=scored_on,
            progress=shown,
        )
    rows = found.to_dict("records")
    if as_json:
        say_json(rows)
        return
    first = {"data": "", "compression_ratio": ".3g", "theoretical_speedup": ".2f", "measured_speedup": ".2f"}
    say(table(rows, {**first, **dict.fromkeys(SHOWN, ".4f"), "semantic_dice": ".4f", "distance_mse": ".5f"}))
    say(f"wrote {output}")


def _open(networks: Path) -> "Ensemble":
    from genenet.errors import InputError
    from genenet.evaluation import open_members
    from genenet.instance_segmentation import check_branches

    members = open_members(networks)
    if members is None:
        raise InputError(f"{networks} is not the folder of networks")
    check_branches(members)
    return members


def _refuse_to_replace(output: Path, networks: list[Path]) -> None:
    """Refuse an output that is what is read, or holds it."""
    from genenet.errors import InputError

    for folder in networks:
        if output.resolve() in (folder.resolve(), *folder.resolve().parents):
            raise InputError(f"{output} holds {folder}, which is read; choose another folder")


def _say_scores(
    members: "Ensemble", data: Any, folder: Path, part: str, precision: str, *, as_json: bool = False
) -> None:
    from genenet.instance_segmentation import evaluate_instances, read_merging

    mean, rows = evaluate_instances(members, data, part, merging=read_merging(folder), precision=precision)
    lines = rows.to_dict("records")
    if as_json:
        say_json({"mean": vars(mean), "images": lines})
        return
    shown = [{"image": row["image"], **{SHOWN[name]: row[name] for name in SHOWN}} for row in lines]
    shown.append({"image": "mean", **{SHOWN[name]: getattr(mean, name) for name in SHOWN}})
    say(table(shown, {"image": "", **dict.fromkeys(SHOWN.values(), ".4f")}))
