"""Make trained networks smaller, train what is left, and say what it bought."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

import pruning
from genenet.averaging import MeanPredictor
from genenet.dataset import Dataset
from genenet.errors import InputError
from genenet.folder import partial_path, read_json, write_json
from genenet.network import DESCRIPTION, Network, save_network
from genenet.prunable_part import PrunablePart, nonzero, zeros_held
from genenet.saving import load_model, save_model
from genenet.settings import TrainingSettings
from genenet.train import Start, train_network
from genenet.validation import validate, worth
from genenet.windows import TrainingWindows
from pruning.magnitude import ratios

METHODS = ("loss", "structured", "magnitude")

# Pruned networks train at this part of the rate that they trained at first.
RATE = 0.1

# What pruning bought; the last file that is written. And what stands beside a training under way.
REPORT, KEPT = "pruning.csv", "pruned.json"


@dataclasses.dataclass(frozen=True)
class PruningSettings:
    """What goes, and how it is chosen.

    Attributes:
        method: `loss`: channels, by the measured training loss (Roels et al. 2017); `structured`: channels, by a
            criterion; `magnitude`: single weights, as zeros that make nothing faster (Han et al. 2015).
        target: How much goes, for channels.
        keep: How many channels stay by layer, for channels, instead of a target.
        compression_ratio: Of single weights, above 1.
        scope: `network` or `layer`: whether layers compete or all lose the same share; for criteria and weights.
        by: The criterion of `structured`, as for `pruning.select_channels`.
        search: How hard `loss` looks, as for `pruning.Search`.
        n_batches: Over how many batches the loss is taken.
        at_once: How many channels go per step of `loss`.
        caution: By how many standard errors of a loss it counts as higher than it is, as for `pruning.Search`.
        learning_rate: Of training afterwards; a tenth of the network's if left out.
        seed: Of batches, and of what is random.

    Raises:
        InputError: Arguments that do not fit together.
    """

    method: str = "loss"
    target: pruning.Target | None = None
    keep: Mapping[str, int] | None = None
    compression_ratio: float | None = None
    scope: str = "network"
    by: str = "l1"
    search: str = "prefilter"
    n_batches: int = 4
    at_once: int = 1
    caution: float = 0.0
    learning_rate: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.scope not in ("layer", "network"):
            raise InputError(f"`scope` must be layer or network, but got {self.scope!r}")
        if self.method not in METHODS:
            raise InputError(f"`method` must be one of {', '.join(METHODS)}, but got {self.method!r}")
        if self.method == "magnitude":
            if self.compression_ratio is None or self.target is not None or self.keep is not None:
                raise InputError("method magnitude needs a `compression_ratio`, and no target or channels to keep")
        elif (self.target is None) == (self.keep is None) or self.compression_ratio is not None:
            raise InputError(f"method {self.method} needs either a `target` or channels to `keep`")

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        content = dataclasses.asdict(self)
        return {**content, "keep": None if self.keep is None else dict(self.keep)}


@dataclasses.dataclass(frozen=True)
class PrunedNetwork:
    """What came out.

    Attributes:
        stages: The network as it was, after every round, and the smaller network.
        report: The same: parameters, work, measured time, validation adjusted Rand score.
    """

    stages: tuple[Network, ...]
    report: pruning.Report

    @property
    def network(self) -> Network:
        """The smaller network."""
        return self.stages[-1]


def prune_network(
    network: Network,
    data: Dataset | str | Path,
    folder: Path | str,
    settings: PruningSettings,
    training: TrainingSettings | None = None,
    *,
    rounds: int = 1,
    watch: Callable[[int, float, Any], bool | None] | None = None,
) -> PrunedNetwork:
    """Prune a network, train it from the weights that it kept, and write its folder.

    The same call again, after a kill say, continues: with the rounds that are missing, and with the training of the
    last one. Single weights (`magnitude`) go in rounds that halve them (Mahbod et al. 2022, algorithm 1).

    Args:
        network: It stays as it is.
        data: What the loss is measured on, and what is trained and validated on.
        folder: Where the smaller network goes; with `pruning.csv`, and `rounds/1`, `rounds/2`, ... where there are
            several.
        settings: What goes.
        training: How to train afterwards; not at all if left out. `magnitude` trains so long after every halving.
        rounds: In how many steps to prune channels, with training after each: the way to see what each costs.
        watch: As for `train_network`.

    Raises:
        InputError: The network does not fit the data, or the folder holds something else.
        PruningError: The target cannot be reached, or a layer does not exist.
        TrainingError: As for `train_network`.
    """
    data = Dataset.open(data)
    n_rounds = sum(1 for _ in prune_rounds(network, data, folder, settings, training, rounds=rounds, watch=watch))
    return compare_rounds(network, data, folder, n_rounds)


def prune_rounds(
    network: Network,
    data: Dataset,
    folder: Path | str,
    settings: PruningSettings,
    training: TrainingSettings | None = None,
    *,
    rounds: int = 1,
    watch: Callable[[int, float, Any], bool | None] | None = None,
) -> Iterator[Network]:
    """What `prune_network` does, round by round; gives the network after each.

    The last is `FOLDER`; all others lie in `FOLDER.rounds`, until `compare_rounds` takes them in.
    """
    folder = Path(folder)
    if training is not None and "distance" in network.gives:  # distances mean what they did
        units = {name: getattr(network.windows, name) for name in ("distance_kind", "distance_cap")}
        training = dataclasses.replace(training, windows=dataclasses.replace(training.windows, **units))
    if rounds < 1 or rounds > 1 and settings.method == "magnitude":
        raise InputError(f"`rounds` must be at least 1, and 1 for magnitude, which halves by itself, but got {rounds}")
    halvings = ratios(settings.compression_ratio or 1.0) if settings.method == "magnitude" else []
    rounds = len(halvings) or rounds
    origin = {"from": str(network.folder), "digest": network.details.get("digest"), "data": data.fingerprint}
    beside = _beside(folder)
    for number in range(1, rounds + 1):
        place = folder if number == rounds else _first_there((folder / "rounds" / str(number), beside / str(number)))
        what = {**origin, "round": [number, rounds], **json.loads(json.dumps(settings.to_dict()))}
        finished = _finished(place, what, training)
        if finished is None:
            part = _part(network, settings, number, rounds)
            if halvings:
                part = dataclasses.replace(settings, compression_ratio=halvings[number - 1])
            finished = _prune_once(network, data, place, part, training, watch, {"pruned": what})
        network = finished
        yield network


def compare_rounds(network: Network, data: Dataset, folder: Path | str, n_rounds: int) -> PrunedNetwork:
    """Hold all rounds of a finished `prune_rounds` against the network that they began with; write `pruning.csv`."""
    folder = Path(folder)
    beside = _beside(folder)
    if beside.exists():
        beside.rename(folder / "rounds")
    between = {f"round {number}": Network.open(folder / "rounds" / str(number)) for number in range(1, n_rounds)}
    stages = {"before": network, **between, "after": Network.open(folder)}
    found = compare(stages, data)
    found.to_csv(folder / REPORT)
    return PrunedNetwork(tuple(stages.values()), found)


def _beside(folder: Path) -> Path:
    """Where the rounds lie until the last is done."""
    return folder.with_name(f"{folder.name}.rounds")


def _first_there(places: Sequence[Path]) -> Path:
    """The first of some folders that exists, or the last."""
    return next((place for place in places if place.exists()), places[-1])


def _finished(folder: Path, what: dict[str, Any], training: TrainingSettings | None) -> Network | None:
    """The network of an earlier call like this one, if there is one.

    Raises:
        InputError: The folder holds something else.
    """
    if not folder.exists():
        return None
    if (folder / DESCRIPTION).exists():
        network = Network.open(folder)
        trained = training is None or training.to_dict() == network.details.get("training")
        if trained and _same(network.details.get("pruned", {}), what):
            return network
    raise InputError(f"{folder} exists; choose another folder, or ask to overwrite it (--overwrite)")


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether a pruning is the same, wherever the network lies."""
    return {**one, "from": ""} == {**other, "from": ""}


def _part(network: Network, settings: PruningSettings, number: int, rounds: int) -> PruningSettings:
    """What a round does to the network that the round before left."""
    left = rounds - number + 1
    if settings.target is not None:
        return dataclasses.replace(settings, target=settings.target.per_round(rounds, left))
    if settings.keep is None or left == 1:
        return settings
    graph = pruning.Graph(PrunablePart.of(network).model)
    now = {name: len(graph.features(name)) for name in settings.keep}
    return dataclasses.replace(
        settings, keep={name: now[name] - round((now[name] - kept) / left) for name, kept in settings.keep.items()}
    )


def _prune_once(
    network: Network,
    data: Dataset,
    folder: Path,
    settings: PruningSettings,
    training: TrainingSettings | None,
    watch: Callable[[int, float, Any], bool | None] | None,
    details: dict[str, Any],
) -> Network:
    work = partial_path(folder)
    kept = read_json(work / KEPT) if (work / KEPT).exists() else None
    if kept is not None and not _same(kept["pruned"], details["pruned"]):
        raise InputError(
            f"{work} holds an unfinished pruning with other settings; use the same ones to continue it, or remove the "
            "folder"
        )
    pruned = _smaller(network, data, settings, training) if kept is None else load_model(work / "pruned.keras")
    gives = network.gives
    rate = _rate(network, settings)
    identity = hashlib.blake2b(digest_size=8)
    for array in pruned.get_weights():
        identity.update(np.ascontiguousarray(array).tobytes())
    if training is None:
        return _save(network, pruned, data, folder, {**network.details, **details, "digest": identity.hexdigest()})
    if kept is None:  # for a call after a kill: the search for channels takes long
        work.mkdir(parents=True, exist_ok=True)
        save_model(pruned, work / "pruned.keras")
        write_json(work / KEPT, details)
    start = Start(pruned, rate, identity.hexdigest(), details, network.normalization)
    if settings.method == "magnitude":
        start = dataclasses.replace(start, hold=lambda model: zeros_held(PrunablePart(model, gives).model))
    return train_network(network.blueprint, data, folder, training, seed=settings.seed, watch=watch, start=start)


def _rate(network: Network, settings: PruningSettings) -> float:
    """The first learning rate of training afterwards."""
    rate = settings.learning_rate
    return RATE * 10.0**network.blueprint.log10_learning_rate if rate is None else rate


def _smaller(
    network: Network, data: Dataset, settings: PruningSettings, training: TrainingSettings | None
) -> keras.Model:
    """The pruned model, not yet trained again."""
    steps, core = training or TrainingSettings(), PrunablePart.of(network)
    windows = TrainingWindows(
        data,
        network.blueprint.window_shape(),
        network.normalization,
        steps.windows,
        seed=settings.seed,
        distances="distance" in network.gives,
    )
    return core.put_back(_PRUNERS[settings.method](core, _batches(windows, core.gives), settings))


def _save(network: Network, model: keras.Model, data: Dataset, folder: Path, details: dict[str, Any]) -> Network:
    """Score a pruned model and write its folder."""
    predictor = MeanPredictor((dataclasses.replace(network.geometry(), model=model),))
    scores = validate(predictor, data.validation, data.n_classes, network.windows)
    return save_network(
        folder, model, network.blueprint, network.normalization, network.classes, scores, details=details
    )


def _batches(windows: TrainingWindows, gives: Sequence[str]) -> Iterator[tuple[Any, Any, Any]]:
    """Batches as training draws them, without end."""
    step = 0
    while True:
        batch = windows.batch(step)
        target = batch.distances if gives[0] == "distance" else batch.labels
        yield batch.images, target, batch.weights.astype(np.float32)
        step += 1


def _by_loss(core: PrunablePart, batches: Any, settings: PruningSettings) -> keras.Model:
    search = pruning.Search(
        settings.search,
        n_batches=settings.n_batches,
        at_once=settings.at_once,
        caution=settings.caution,
        seed=settings.seed,
    )
    return pruning.prune_by_loss(
        core.model, batches, core.loss, keep=settings.keep, target=settings.target, search=search
    ).model


def _structured(core: PrunablePart, batches: Any, settings: PruningSettings) -> keras.Model:
    images, _, _ = next(batches)
    shape = None if None not in core.model.inputs[0].shape[1:] else images.shape[1:]
    keep = pruning.select_channels(
        core.model,
        settings.target or settings.keep or {},
        settings.by,
        scope=settings.scope,
        data=batches,
        loss=core.loss if settings.by == "first_order" else None,
        shape=shape,
        n_batches=settings.n_batches,
        seed=settings.seed,
    )
    return pruning.shrink(core.model, keep)


def _magnitude(core: PrunablePart, batches: Any, settings: PruningSettings) -> keras.Model:
    """Zeros for the smallest weights, those that are there already among them."""
    model = pruning.masked(core.model, {})
    kept = 1 / (settings.compression_ratio or 1.0)
    pruning.apply_masks(model, pruning.magnitude_masks(model, kept, scope=settings.scope, before=nonzero(model)))
    return model


_PRUNERS = {"loss": _by_loss, "structured": _structured, "magnitude": _magnitude}


def compare(networks: Mapping[str, Network], data: Dataset) -> pruning.Report:
    """Networks side by side: sizes, work and time of one training window, validation scores.

    Args:
        networks: The one before, and what was made of it on these data.
        data: What they are compared on.
    """
    first, *_ = networks.values()
    shape = (*first.blueprint.window_shape().input, first.blueprint.n_channels)
    models = {name: network.load("float32") for name, network in networks.items()}
    batch = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    return pruning.report(
        {name: PrunablePart(model, networks[name].gives).model for name, model in models.items()},
        shape,
        predict={name: model.predict_on_batch for name, model in models.items()},
        batch=batch,
        # The others were validated here when they were pruned.
        scores={
            name: _worth(network, data) if network is first else worth(network.scores)
            for name, network in networks.items()
        },
    )


def _worth(network: Network, data: Dataset) -> float:
    """The validation adjusted Rand score; of a network that gives distances only, less their squared error."""
    predictor = MeanPredictor((network.predictor(),))
    return worth(validate(predictor, data.validation, data.n_classes, network.windows))
