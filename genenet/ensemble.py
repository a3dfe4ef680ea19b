"""Ensembles: trained networks whose class probabilities are averaged (Guay et al. 2018, section 2.1)."""

import dataclasses
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genenet.blocks import MeanPredictor, as_votes, count_box, predict_part, score_parts
from genenet.classes import SegmentationClass
from genenet.dataset import Dataset
from genenet.errors import InputError
from genenet.folder import read_json, write_json, write_text
from genenet.metrics import Scores, scores
from genenet.network import Network
from genenet.wording import plural

if TYPE_CHECKING:
    from genenet.segment import Summary
    from genenet.volume import Volume

MEMBERS, CURVE = "members.json", "curve.csv"

# The largest ensemble that is tried, unless asked otherwise (Guay et al. 2018 go as far).
MAX_MEMBERS = 15


@dataclasses.dataclass(frozen=True)
class CurvePoint:
    """Validation scores of the ensemble of the `n_members` best networks.

    Attributes:
        n_members: How many.
        added: The folder of the network added last.
        alone: That network's own validation adjusted Rand score.
        adjusted_rand, mean_iou, accuracy: Of the ensemble.
        ambiguity: The mean square of what its members say otherwise than it does, summed over classes (Krogh & Vedelsby
            1995): 0 if they agree. The ensemble's squared error is less than its members' by as much.
    """

    n_members: int
    added: str
    alone: float
    adjusted_rand: float
    mean_iou: float
    accuracy: float
    ambiguity: float = math.nan


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Networks with the same classes, used as one.

    Attributes:
        members: The networks, best first.
        vote: Count the members' most probable classes instead of averaging their probabilities.
        curve: Validation scores of the 1, 2, ... best networks, where members were selected.

    Raises:
        InputError: No members, or members with different classes or channels.
    """

    members: tuple[Network, ...]
    vote: bool = False
    curve: tuple[CurvePoint, ...] = ()

    def __post_init__(self) -> None:
        if not self.members:
            raise InputError("an ensemble needs at least one network")
        first = self.members[0]
        for other in self.members[1:]:
            if [entry.value for entry in other.classes] != [entry.value for entry in first.classes]:
                raise InputError(f"{other.folder} has other classes than {first.folder}; they cannot be averaged")
            if other.blueprint.n_channels != first.blueprint.n_channels:
                raise InputError(f"{other.folder} reads another number of channels than {first.folder}")

    @property
    def classes(self) -> tuple[SegmentationClass, ...]:
        """The class table."""
        return self.members[0].classes

    @property
    def identity(self) -> str:
        """What tells this ensemble from others."""
        rows = [(member.details.get("digest"), sorted(member.scores.items())) for member in self.members]
        return hashlib.blake2b(json.dumps([rows, self.vote]).encode(), digest_size=8).hexdigest()

    def check(self, data: Dataset) -> None:
        """Refuse data with other classes or channels.

        Raises:
            InputError: They differ.
        """
        mine, theirs = [entry.value for entry in self.classes], [entry.value for entry in data.classes]
        if mine != theirs:
            raise InputError(f"the networks know the class values {mine}, but {data.name} has {theirs}")
        n_channels = self.members[0].blueprint.n_channels
        if n_channels != data.n_channels:
            raise InputError(
                f"the networks read {plural(n_channels, 'channel')}, but {data.name} has {data.n_channels}"
            )

    def predictor(self, precision: str = "auto") -> MeanPredictor:
        """Load all members."""
        return MeanPredictor(tuple(member.predictor(precision) for member in self.members), self.vote)

    @classmethod
    def select(
        cls,
        networks: Sequence[Network],
        data: Dataset | str | Path,
        *,
        max_members: int = MAX_MEMBERS,
        vote: bool = False,
        precision: str = "auto",
        progress: Callable[[int, int], None] | None = None,
    ) -> "Ensemble":
        """Choose the n best networks by validation adjusted Rand score, n such that the ensemble's is best.

        Every network predicts the validation part once (Guay et al. 2018, section 2.2).

        Args:
            networks: Candidates.
            data: The dataset whose validation part decides.
            max_members: The largest n that is tried.
            vote: Majority vote instead of mean probabilities.
            precision: Of the members' computation.
            progress: Called with members done and members in all.

        Returns:
            The ensemble, with the whole curve.

        Raises:
            InputError: No networks, or networks that do not fit the data.
        """
        data = Dataset.open(data)
        ranked = _ranked(networks)[:max_members]
        candidates = cls(tuple(ranked), vote)
        candidates.check(data)
        curve = _curve(ranked, data, vote, precision, progress)
        best = max(curve, key=lambda point: point.adjusted_rand)
        return cls(tuple(ranked[: best.n_members]), vote, tuple(curve))

    def summary(self) -> str:
        """How many networks it takes, and what they reach on the validation part, in a line."""
        if not self.curve:
            return f"an ensemble of {plural(len(self.members), 'network')}"
        reached, alone = self.curve[len(self.members) - 1].adjusted_rand, self.curve[0].adjusted_rand
        if len(self.members) == 1:
            more = "; more networks together reach less" if len(self.curve) > 1 else ""
            return f"the best network: validation adjusted Rand score {reached:.4f}{more}"
        best = f"the best {len(self.members)} networks together"
        return f"{best}: validation adjusted Rand score {reached:.4f}; the best alone: {alone:.4f}"

    def is_selected_from(self, networks: Sequence[Network]) -> bool:
        """Whether the curve is of the best of these networks, so that choosing again would change nothing."""
        ranked = _ranked(networks)[: max(len(self.curve), MAX_MEMBERS)]
        known = [(Path(point.added).resolve(), point.alone) for point in self.curve]
        return known == [(network.folder.resolve(), network.scores["adjusted_rand"]) for network in ranked]

    def segment(
        self, image: "Volume | str | Path", output: str | Path, *, precision: str = "auto", **options: Any
    ) -> "Summary":
        """Segment a volume of any size; see `genenet.segment.segment_volume` for the options."""
        from genenet.segment import segment_volume

        predictor = self.predictor(precision)
        return segment_volume(predictor, self.classes, image, output, identity=self.identity, **options)

    def score(self, data: Dataset, part: str = "validation", *, precision: str = "auto") -> Scores:
        """Score on all parts of a kind, counted together."""
        self.check(data)
        return score_parts(self.predictor(precision), getattr(data, part), data.n_classes)

    def save(self, folder: Path | str) -> None:
        """Write members.json and curve.csv, with paths relative to the folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        names = [field.name for field in dataclasses.fields(CurvePoint)]
        kept = [dataclasses.replace(point, added=os.path.relpath(point.added, folder)) for point in self.curve]
        rows = [",".join(str(getattr(point, name)) for name in names) for point in kept]
        write_text(folder / CURVE, "\n".join([",".join(names), *rows]) + "\n")
        members = [
            {"network": os.path.relpath(member.folder, folder), "adjusted_rand": member.scores["adjusted_rand"]}
            for member in self.members
        ]
        write_json(folder / MEMBERS, {"ensemble": 1, "vote": self.vote, "members": members})

    @classmethod
    def open(cls, folder: Path | str) -> "Ensemble":
        """Open what `save` wrote.

        Raises:
            InputError: It is not an ensemble, or a member is gone.
        """
        folder = Path(folder)
        entry = read_json(folder / MEMBERS)
        try:
            members = tuple(Network.open(_joined(folder, row["network"])) for row in entry["members"])
            vote = bool(entry["vote"])
        except (KeyError, TypeError) as error:
            raise InputError(f"{folder / MEMBERS} is damaged: {error!r}") from None
        return cls(members, vote, read_curve(folder / CURVE))


def _ranked(networks: Sequence[Network]) -> list[Network]:
    """Best validation adjusted Rand score first."""
    return sorted(networks, key=lambda network: -network.scores["adjusted_rand"])


def _joined(folder: Path, relative: str) -> Path:
    """`ensemble` and `../trials/0001/network` as `trials/0001/network`."""
    return Path(os.path.normpath(folder / relative))


def read_curve(path: Path) -> tuple[CurvePoint, ...]:
    """What a curve.csv says; nothing where there is none.

    Raises:
        KeyError, ValueError: It is damaged.
    """
    if not path.exists():
        return ()
    header, *rows = path.read_text(encoding="utf-8").strip().split("\n")
    points = []
    for row in rows:
        entry = dict(zip(header.split(","), row.split(","), strict=True))
        names = ("alone", "adjusted_rand", "mean_iou", "accuracy", "ambiguity")
        numbers = {name: float(entry[name]) for name in names if name in entry}
        points.append(CurvePoint(int(entry["n_members"]), str(_joined(path.parent, entry["added"])), **numbers))
    return tuple(points)


def _curve(
    ranked: Sequence[Network],
    data: Dataset,
    vote: bool,
    precision: str,
    progress: Callable[[int, int], None] | None,
) -> list[CurvePoint]:
    """Add members one by one to running sums over the validation parts, kept in a temporary file."""
    curve = []
    with tempfile.TemporaryDirectory(prefix="genenet-") as folder:
        sums = [
            np.memmap(Path(folder) / str(i), np.float32, "w+", shape=(*part.shape, data.n_classes))
            for i, part in enumerate(data.validation)
        ]
        square = 0.0  # over members so far: their ambiguity is the mean square less the square of the mean
        n_voxels = sum(math.prod(part.shape) for part in data.validation)
        for n_members, network in enumerate(ranked, 1):
            predictor = MeanPredictor((network.predictor(precision),))
            table = np.zeros((data.n_classes, data.n_classes), np.int64)
            square_of_mean = 0.0
            for part, total in zip(data.validation, sums, strict=True):
                for box, answer in predict_part(predictor, part):
                    said = as_votes(answer) if vote else answer
                    total[box] += said
                    square += _sum_of_squares(said)
                    square_of_mean += _sum_of_squares(total[box]) / n_members**2
                    table += count_box(part, box, total[box])
            found = scores(table)
            alone = network.scores["adjusted_rand"]
            ambiguity = max(square / n_members - square_of_mean, 0.0) / n_voxels
            curve.append(
                CurvePoint(
                    n_members,
                    str(network.folder),
                    alone,
                    found.adjusted_rand,
                    found.mean_iou,
                    found.accuracy,
                    ambiguity,
                )
            )
            if progress is not None:
                progress(n_members, len(ranked))
        del sums
    return curve


def _sum_of_squares(values: np.ndarray) -> float:
    flat = np.ascontiguousarray(values).reshape(-1)
    return float(np.dot(flat, flat))
