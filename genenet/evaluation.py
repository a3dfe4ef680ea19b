"""Score a network, an ensemble or a finished segmentation on labelled data."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from genenet.dataset import Dataset, Part
from genenet.ensemble import Ensemble
from genenet.errors import InputError
from genenet.label_table import UNLABELLED
from genenet.metrics import Scores, contingency, scores
from genenet.network import Network
from genenet.volume import Volume, open_volume


def evaluate(
    what: "Ensemble | Network | str | Path", data: "Dataset | str | Path", *, part: str = "validation"
) -> Scores:
    """Score against labels: adjusted Rand score, IoU and Dice per class, accuracy, confusion.

    Args:
        what: A network or an ensemble, opened or as a folder; or the file of a segmentation of the whole image.
        data: A dataset or its `data.yaml`.
        part: `validation` or `training`.

    Raises:
        InputError: Classes or shapes differ from the data's.
    """
    data = Dataset.open(data)
    parts = getattr(data, part)
    members = open_members(what)
    if members is None:
        segmentation = open_volume(str(what))
        table = np.zeros((data.n_classes, data.n_classes), np.int64)
        for entry in parts:
            table += _score_file(segmentation, entry, data.n_classes)
        return scores(table)
    return members.score(data, part)


def open_members(what: "Ensemble | Network | str | Path") -> Ensemble | None:
    """An ensemble of what was given: itself, one network, or a folder of either; None for anything else."""
    if isinstance(what, Ensemble):
        return what
    if isinstance(what, Network):
        return Ensemble((what,))
    folder = Path(what)
    if (folder / "members.json").exists():
        return Ensemble.open(folder)
    if (folder / "ensemble" / "members.json").exists():
        return Ensemble.open(folder / "ensemble")
    if (folder / "network.json").exists():
        return Ensemble((Network.open(folder),))
    if not folder.exists():
        raise InputError(f"there is no {folder}; give the folder of a network, an ensemble or a study")
    if (folder / "study.yaml").exists():
        raise InputError(f"{folder} is a study that has no ensemble yet; `genenet ensemble {folder}` chooses one")
    if folder.is_dir() and not any(folder.iterdir()):
        raise InputError(f"{folder} is an empty folder; give the folder of a network, an ensemble or a study")
    return None


def _score_file(segmentation: Volume, part: Part, n_classes: int) -> np.ndarray:
    """Count a finished segmentation, of class values, over a part."""
    if segmentation.shape != part.labels.shape:
        raise InputError(
            f"{segmentation.name} has shape {segmentation.shape}, but {part.labels.name} has {part.labels.shape}"
        )
    table = np.zeros((n_classes, n_classes), np.int64)
    as_labels = dataclasses.replace(part, labels=segmentation)
    for z in range(part.shape[0]):
        start, shape = (z, 0, 0), (1, *part.shape[1:])
        labels, prediction = part.read_labels(start, shape), as_labels.read_labels(start, shape)
        labels = np.where(prediction == UNLABELLED, UNLABELLED, labels)
        table += contingency(labels, np.where(prediction == UNLABELLED, 0, prediction), n_classes, ignore=UNLABELLED)
    return table


def as_table(found: Scores, data: Dataset) -> dict[str, Any]:
    """Scores as plain data for JSON: totals, and rows per class."""
    return {
        "adjusted_rand": found.adjusted_rand,
        "accuracy": found.accuracy,
        "mean_iou": found.mean_iou,
        "mean_dice": found.mean_dice,
        "classes": [
            {"name": entry.name, "value": entry.value, "iou": iou, "dice": dice}
            for entry, iou, dice in zip(data.classes, found.iou, found.dice, strict=True)
        ],
        "confusion": np.asarray(found.confusion).tolist(),
    }
