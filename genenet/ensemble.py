"""Ensembles: trained networks whose class probabilities are averaged (Guay et al. 2018, section 2.1)."""

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genenet.averaging import MAX_CORE_VOXELS, MeanPredictor, score_parts
from genenet.blocks import BlockPredictor
from genenet.classes import SegmentationClass
from genenet.dataset import Dataset
from genenet.errors import InputError
from genenet.folder import read_json, write_json
from genenet.metrics import Scores
from genenet.network import Network
from genenet.selection import (
    MAX_MEMBERS,
    CurvePoint,
    beside,
    n_candidates,
    ranked_by_score,
    read_curve,
    select_members,
    write_curve,
)
from genenet.views import STRAIGHT, Look, views
from genenet.wording import plural

if TYPE_CHECKING:
    from genenet.segment import Summary
    from genenet.volume import Volume

MEMBERS = "members.json"


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Networks with the same classes, used as one.

    Some may give distances only, the others' class probabilities are averaged then: two branches of an instance
    segmentation (Mahbod et al. 2022), say.

    Attributes:
        members: The networks, in the order in which they joined.
        vote: Count the members' most probable classes instead of averaging their probabilities.
        curve: Validation scores as networks joined, where members were selected.
        weights: How much each member counts; all the same if left out.
        temperatures: By which each member's probabilities are calibrated (Guo et al. 2017); 1 if left out.
        candidates: Folders and scores of the networks among which members were selected, best first.
        calibration: The ensemble's expected calibration error before and after calibration, where it was calibrated.
        axes: Across which axes a 2-D member's slices lie, a word for each member: `z`, or `zyx` for the mean over all
            three; `z` if left out.
        chosen_by: How members were selected: some of `select`'s `rule`, `max_members`, `limit_s_per_megavoxel` and
            `calibrate`.

    Raises:
        InputError: No members, members with different classes or channels, or weights that are not positive.
    """

    members: tuple[Network, ...]
    vote: bool = False
    curve: tuple[CurvePoint, ...] = ()
    weights: tuple[float, ...] = ()
    temperatures: tuple[float, ...] = ()
    candidates: tuple[tuple[str, float], ...] = ()
    calibration: tuple[float, float] | None = None
    axes: tuple[str, ...] = ()
    chosen_by: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.members:
            raise InputError("an ensemble needs at least one network")
        for name in ("weights", "temperatures"):
            values = getattr(self, name)
            if values and (len(values) != len(self.members) or not min(values) > 0):
                raise InputError(f"`{name}` must be {plural(len(self.members), 'positive number')}, but got {values}")
        if self.axes and len(self.axes) != len(self.members):
            raise InputError(f"`axes` must be {plural(len(self.members), 'word')}, but got {self.axes}")
        for across in self.axes:
            views(2, across)  # refuses what it does not know
        first = self.members[0]
        for other in self.members[1:]:
            theirs, ours = ([(entry.value, entry.name) for entry in each.classes] for each in (other, first))
            if theirs != ours:
                raise InputError(
                    f"{other.folder} has other classes than {first.folder}, {_named(theirs)} and {_named(ours)}; they "
                    "cannot be averaged"
                )
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
        content = [rows, self.vote, *([self.weights, self.temperatures] if self.weights or self.temperatures else [])]
        content += [self.axes] if self.axes else []
        return hashlib.blake2b(json.dumps(content).encode(), digest_size=8).hexdigest()

    def check_classes(self) -> None:
        """Refuse networks of which none tells classes apart.

        Raises:
            InputError: All of them give distances only.
        """
        if not any(member.gives_classes for member in self.members):
            first = self.members[0].folder
            raise InputError(f"{first} gives distances only; put a network beside it that tells classes apart")

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

    def predictor(self, precision: str = "auto", look: Look = STRAIGHT) -> MeanPredictor:
        """Load all members, as Keras runs them."""
        return self._combine((member.predictor(precision) for member in self.members), look)

    def geometry(self, look: Look = STRAIGHT) -> MeanPredictor:
        """What `predictor` gives, without the models: it knows what it would read, and what memory it would take."""
        return self._combine((member.geometry() for member in self.members), look)

    def predictor_by(self, engines: Sequence[Sequence[str]], look: Look = STRAIGHT) -> MeanPredictor:
        """Load all members, each to be run by an engine in a precision (`genenet.engines.open_predictor`)."""
        from genenet.engines import open_predictor

        pairs = zip(self.members, engines, strict=True)
        return self._combine((open_predictor(member, *engine) for member, engine in pairs), look)

    def fastest(self, precision: str, volume: "Volume", core: tuple[int, ...], look: Look = STRAIGHT) -> MeanPredictor:
        """Load all members, each to be run by what is fastest here and gives the same classes as Keras in float32.

        Args:
            precision: `auto` for all that are fast here; or the only one that may be taken.
            volume: On a block of which engines are measured.
            core: The block's shape.
            look: How members look at the volume.
        """
        from genenet.engine_choice import fastest_members

        return self._combine(fastest_members(self.members, precision, volume, core), look)

    def calibrate(self, volume: "Volume") -> None:
        """Make whole-number networks of all members, by windows spread over a volume (`genenet.engines.calibrate`)."""
        from genenet.engine_choice import calibrate_members

        calibrate_members(self.members, volume)

    def _combine(self, members: Iterable[BlockPredictor], look: Look) -> MeanPredictor:
        axes = self.axes or ("z",) * len(self.members)
        seeing = (
            dataclasses.replace(
                member, views=views(member.plan.n_dims, across, look.augmentation), overlap=look.overlap
            )
            for member, across in zip(members, axes, strict=True)
        )
        return MeanPredictor(tuple(seeing), self.vote, self.weights, self.temperatures)

    @classmethod
    def select(
        cls,
        networks: Sequence[Network],
        data: Dataset | str | Path,
        *,
        rule: str = "best",
        max_members: int = MAX_MEMBERS,
        limit_s_per_megavoxel: float | None = None,
        calibrate: bool = False,
        vote: bool = False,
        precision: str = "auto",
        cache: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> "Ensemble":
        """Choose networks by what they say about the validation part; of the 1, 2, ... that a rule lets join, the best.

        Args:
            networks: Candidates.
            data: The dataset whose validation part decides.
            rule: `best`, the best networks alone first (Guay et al. 2018, section 2.2); `greedy`, always the one that
                helps most, or `greedy_with_replacement` (Caruana et al. 2004); `per_second`, the one that helps most
                for the time it takes.
            max_members: The largest number that is tried.
            limit_s_per_megavoxel: With `per_second`: how long the ensemble may take on this machine.
            calibrate: Fit one temperature per network first.
            vote: Majority vote instead of mean probabilities.
            precision: Of the members' computation.
            cache: A folder in which what networks say is kept for the next time.
            progress: Called with networks done and networks in all.

        Returns:
            The ensemble, with the whole curve.

        Raises:
            InputError: No networks, networks that do not fit the data, an unknown rule, or a limit that none keeps.
        """
        data = Dataset.open(data)
        if not networks:
            raise InputError("an ensemble needs at least one network")
        if strange := [network for network in networks if not network.gives_classes]:
            raise InputError(
                f"{strange[0].folder} gives distances only and cannot be ranked by classes; select among the others, "
                "and put it beside them"
            )
        ranked = ranked_by_score(networks)
        cls(tuple(ranked), vote).check(data)
        found = select_members(
            ranked,
            data,
            rule=rule,
            max_members=max_members,
            limit_s_per_megavoxel=limit_s_per_megavoxel,
            calibrate=calibrate,
            vote=vote,
            precision=precision,
            cache=cache,
            progress=progress,
        )
        chosen_by = {"rule": rule, "max_members": max_members, "calibrate": calibrate}
        if limit_s_per_megavoxel is not None:
            chosen_by["limit_s_per_megavoxel"] = limit_s_per_megavoxel
        return cls(vote=vote, chosen_by=chosen_by, **found._asdict())

    def summary(self) -> str:
        """How many networks it takes, and what they reach on the validation part, in a line."""
        if not self.curve:
            return f"an ensemble of {plural(len(self.members), 'network')}"
        n, n_joined = len(self.members), round(sum(self.weights)) if self.weights else len(self.members)
        reached, alone = self.curve[n_joined - 1].adjusted_rand, self.curve[0].adjusted_rand
        if n == 1:
            more = "; more networks together reach less" if len(self.curve) > 1 else ""
            return f"the best network: validation adjusted Rand score {reached:.4f}{more}"
        is_best = [member.folder for member in self.members] == [Path(folder) for folder, _ in self.candidates[:n]]
        best = f"the best {n} networks together" if is_best or not self.candidates else f"{n} networks together"
        best_alone = max(score for _, score in self.candidates) if self.candidates else alone
        return f"{best}: validation adjusted Rand score {reached:.4f}; the best alone: {best_alone:.4f}"

    def is_selected_from(self, networks: Sequence[Network]) -> bool:
        """Whether members were selected among the best of these networks: doing so again would change nothing."""
        rule, most = self.chosen_by.get("rule", "best"), self.chosen_by.get("max_members", MAX_MEMBERS)
        ranked = ranked_by_score(networks)[: n_candidates(rule, most)]
        known = [(Path(folder).resolve(), score) for folder, score in self.candidates]
        return known == [(network.folder.resolve(), network.scores["adjusted_rand"]) for network in ranked]

    def segment(
        self,
        image: "Volume | str | Path",
        output: str | Path,
        *,
        precision: str = "auto",
        engine: str = "keras",
        look: Look = STRAIGHT,
        cluster: str | None = None,
        n_workers: int | None = None,
        jobs: Mapping[str, Any] | None = None,
        max_voxels: int = MAX_CORE_VOXELS,
        memory_bytes: int | None = None,
        **options: Any,
    ) -> "Summary":
        """Segment a volume of any size; `segment_volume` says what the other options are.

        Args:
            image: The volume.
            output: Where class values are written.
            precision: `auto`, `float32`, `bfloat16` or `float16`; for OpenVINO also `int8`, fitted to windows of the
                first volume that is segmented so.
            engine: `keras`, `openvino`, `onnx`; or `auto` for the fastest of these on a block of the volume, for each
                member, that gives the same classes as Keras in float32 does.
            look: Test-time augmentation, and windows that overlap.
            cluster: Do the blocks elsewhere: `local`, `slurm`, ..., or an address (`genenet.clusters.Cluster`).
            n_workers: How many processes.
            jobs: What jobs ask for.
            max_voxels: The largest block.
            memory_bytes: What a block may take of memory.
            **options: Of `segment_volume`.

        Raises:
            InputError: As `genenet.segment.segment_volume`; an engine or a cluster that is not there; an output that
                several processes cannot write.
        """
        from genenet.clusters import Cluster
        from genenet.engine_choice import preparation
        from genenet.memory import available_bytes
        from genenet.segment import segment_volume
        from genenet.volume import open_volume

        self.check_classes()
        volume = open_volume(image)
        here, there = self.geometry(look), None
        with contextlib.ExitStack() as stack:
            if cluster is not None:
                there = stack.enter_context(Cluster(cluster, n_workers, jobs))
                volume, output = volume.absolute(), Path(output).absolute()
                extras = options.get("extras") or {}
                options["extras"] = {name: Path(path).absolute() for name, path in extras.items()}
            return segment_volume(
                here,
                self.classes,
                volume,
                output,
                identity=self.identity,
                run=there.run if there else None,
                prepare=preparation(self, volume, look, engine=engine, precision=precision, cluster=there),
                max_voxels=max_voxels,
                memory_bytes=memory_bytes,
                free_bytes=there.free_bytes if there else available_bytes,
                settings={
                    "engine": engine,
                    "precision": precision,
                    "blueprints": [member.blueprint_hash for member in self.members],
                    **dataclasses.asdict(look),
                },
                **options,
            )

    def score(self, data: Dataset, part: str = "validation", *, precision: str = "auto") -> Scores:
        """Score on all parts of a kind, counted together."""
        self.check(data)
        self.check_classes()
        return score_parts(self.predictor(precision), getattr(data, part), data.n_classes)

    def save(self, folder: Path | str) -> None:
        """Write members.json and curve.csv, with paths relative to the folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_curve(folder, self.curve)
        ones = (1.0,) * len(self.members)
        members = [
            {
                "network": os.path.relpath(member.folder, folder),
                "adjusted_rand": member.scores.get("adjusted_rand"),
                "weight": weight,
                "temperature": temperature,
                "axes": across,
            }
            for member, weight, temperature, across in zip(
                self.members,
                self.weights or ones,
                self.temperatures or ones,
                self.axes or ("z",) * len(self.members),
                strict=True,
            )
        ]
        candidates = [
            {"network": os.path.relpath(path, folder), "adjusted_rand": score} for path, score in self.candidates
        ]
        content = {"ensemble": 1, "vote": self.vote, "members": members, "candidates": candidates}
        if self.chosen_by:
            content["chosen_by"] = dict(self.chosen_by)
        if self.calibration is not None:
            content["calibration_error"] = dict(zip(("before", "after"), self.calibration, strict=True))
        write_json(folder / MEMBERS, content)

    @classmethod
    def open(cls, folder: Path | str) -> "Ensemble":
        """Open what `save` wrote.

        Raises:
            InputError: It is not an ensemble, or a member is gone.
        """
        folder = Path(folder)
        entry = read_json(folder / MEMBERS)
        try:
            members = tuple(Network.open(beside(folder, row["network"])) for row in entry["members"])
            vote = bool(entry["vote"])
            weights, temperatures = (
                tuple(float(row.get(name, 1.0)) for row in entry["members"]) for name in ("weight", "temperature")
            )
            candidates = tuple(
                (str(beside(folder, row["network"])), float(row["adjusted_rand"]))
                for row in entry.get("candidates", [])
            )
            axes = tuple(str(row.get("axes", "z")) for row in entry["members"])
            errors = entry.get("calibration_error")
            calibration = None if errors is None else (float(errors["before"]), float(errors["after"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{folder / MEMBERS} is damaged: {error!r}") from None
        return cls(
            members,
            vote,
            read_curve(folder),
            weights if set(weights) != {1.0} else (),
            temperatures if set(temperatures) != {1.0} else (),
            candidates,
            calibration,
            axes if set(axes) != {"z"} else (),
            entry.get("chosen_by", {}),
        )


def _named(classes: Sequence[tuple[int, str]]) -> str:
    return ", ".join(f"{value} {name}" for value, name in classes)
