"""Train what an instance segmentation needs, and find how to merge it (Mahbod et al. 2022, section 2.2)."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from genenet.augment import Augmentation
from genenet.dataset import Dataset
from genenet.ensemble import Ensemble
from genenet.errors import InputError
from genenet.genes import NetworkRoot, ResNetUNet, from_dict
from genenet.instance_segmentation import is_tuned, maps_of, tune_merging, write_merging
from genenet.pretrained import IMAGENET, IMAGENET_GREY, load_encoder
from genenet.settings import TrainingSettings, WindowSettings
from genenet.train import Record, Start, train_network

# What the branches are called, and what each gives.
BRANCHES = {"semantic": "classes", "distance": "distance"}

# The weight of the second head's loss where both heads share one network.
DISTANCE_WEIGHT = 1.0


def branch_settings(n_channels: int = 3, **changes: Any) -> TrainingSettings:
    """How branches are trained unless one says otherwise: as in the paper, but for the budget.

    Adam with a cosine from the blueprint's learning rate to 0; all voxels count alike; distances relative to the
    largest in each object; `Augmentation.histology`.

    Args:
        n_channels: Of the images; colours and stains are varied where there are three.
        **changes: Of `TrainingSettings`; `windows` may be some of `WindowSettings` as a dictionary.
    """
    augmentation = Augmentation.histology()
    if n_channels != 3:
        augmentation = dataclasses.replace(augmentation, color=0.0, stain=0.0)
    windows = {
        "batch_size": 4,
        "class_balance": 0.0,
        "distance_kind": "normalized",
        "augmentation": augmentation,
        **changes.pop("windows", {}),
    }
    return TrainingSettings(**{"schedule": "cosine", "windows": WindowSettings(**windows), **changes})


def blueprints(
    data: Dataset, *, base: NetworkRoot | None = None, two_heads: bool = False, **values: Any
) -> dict[str, NetworkRoot]:
    """The networks of an instance segmentation, by name: one per branch, or one with two heads.

    Args:
        data: What they are to learn.
        base: A network of one's own, whose copies they are; `ResNetUNet` with a ResNet-34 if left out.
        two_heads: Whether one network gives both.
        **values: Of `ResNetUNet`: `depth`, `window_size`, ...

    Raises:
        InputError: A network of one's own that cannot give distances alone, or a first class that is not 0.
    """
    if data.classes[0].value != 0:
        raise InputError(f"{data.name}: the first class must be the background, 0, but is {data.classes[0].name!r}")
    if base is None:
        base = resnet_unet(data, **values)
    if two_heads:
        return {"both": _changed(base, distance_weight=DISTANCE_WEIGHT)}
    if "target" not in base.vocabulary:
        raise InputError(f"{base.kind} cannot give distances alone; ask for two heads, or take ResNetUNet")
    return {name: _changed(base, target=target) for name, target in BRANCHES.items()}


def resnet_unet(data: Dataset, **values: Any) -> ResNetUNet:
    """A network for the classes and channels of data: one output where there is one class beside the background.

    Args:
        data: What it is to learn.
        **values: Of `ResNetUNet`: `depth`, `window_size`, ...
    """
    return ResNetUNet(1 if data.n_classes == 2 else data.n_classes, data.n_channels, **values)


def _changed(base: NetworkRoot, **values: Any) -> NetworkRoot:
    net = from_dict(base.to_dict())
    net.set(**values)
    return net


def start_from_encoder(path: Path | str, seed: int = 0) -> Callable[[NetworkRoot], Start]:
    """Where branches begin whose encoder is pretrained: a `Start` for each, and the normalization that it expects.

    Args:
        path: Weights in torchvision's layout, as for `genenet.pretrained.load_encoder`.
        seed: Of the decoder's first weights.

    Raises:
        InputError: When called: the weights do not fit.
    """
    digest = hashlib.blake2b(Path(path).read_bytes(), digest_size=8).hexdigest()

    def start(net: NetworkRoot) -> Start:
        model = net.build(seed=seed)
        load_encoder(model, path)
        normalization = IMAGENET if net.n_channels == 3 else IMAGENET_GREY
        return Start(model, identity=digest, details={"encoder": str(path)}, normalization=normalization)

    return start


# Called with a branch's name, and as by `train_network` with steps, seconds and a record.
BranchWatcher = Callable[[str, int, float, Record | None], bool | None]


def train_branches(
    nets: dict[str, NetworkRoot],
    data: Dataset | str | Path,
    folder: Path | str,
    settings: TrainingSettings | None = None,
    *,
    seed: int = 0,
    start: Callable[[NetworkRoot], Start] | None = None,
    watch: BranchWatcher | None = None,
    n_trials: int = 60,
) -> Ensemble:
    """Train all branches one after the other, and tune how they are merged; the same call again continues.

    Args:
        nets: Of `blueprints`.
        data: What to learn from, and what to validate and tune on.
        folder: Gets a folder per branch, `members.json` and `merging.json`.
        settings: How; `branch_settings` if left out.
        seed: Of first weights, windows and augmentation.
        start: Gives a model to begin with, with a pretrained encoder, say.
        watch: Called after every step and validation.
        n_trials: How many ways to merge are tried.

    Returns:
        The branches as an ensemble.
    """
    folder, data = Path(folder), Dataset.open(data)
    settings = settings or branch_settings(data.n_channels)
    members = []
    for name, net in nets.items():

        def told(step: int, seconds: float, record: Record | None, name: str = name) -> bool | None:
            return None if watch is None else watch(name, step, seconds, record)

        begun = None if start is None else start(net)
        if begun is not None and begun.normalization in (IMAGENET, IMAGENET_GREY):
            _check_eight_bits(data)
        members.append(
            train_network(
                net,
                data,
                folder / name,
                settings,
                seed=seed,
                watch=told,
                start=begun,
            )
        )
    ensemble = Ensemble(tuple(members))
    ensemble.save(folder)
    if not is_tuned(folder, ensemble):
        tune(ensemble, data, folder, n_trials=n_trials, seed=seed)
    return ensemble


def _check_eight_bits(data: Dataset) -> None:
    """Refuse images whose values are not what a pretrained encoder knows.

    Raises:
        InputError: They are not 8-bit.
    """
    for part in data.training:
        if part.image.dtype != np.uint8:
            raise InputError(
                f"{part.image.name} has {part.image.dtype} values, but a pretrained encoder knows 8-bit images; "
                "convert the images, or train without --encoder"
            )


def tune(
    ensemble: Ensemble,
    data: Dataset | str | Path,
    folder: Path | str,
    *,
    n_trials: int = 60,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> float:
    """Find how to merge on the validation part, and write it beside the networks; gives the score."""
    merging, score = tune_merging(maps_of(ensemble, data), n_trials=n_trials, seed=seed, progress=progress)
    write_merging(folder, merging, ensemble)
    return score
