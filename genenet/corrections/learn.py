"""Networks learn from corrections: a round trains members further, chooses the ensemble again, and says how it went.

rounds/01/asked.json       which corrections, and what they were at the time
          corrections-0.ome.zarr, weights-0.ome.zarr      known classes, and how much they count
          data.yaml        the data as before, and these
          networks/0/      members, trained further
          ensemble/        chosen again
          round.json       how it went; with it, the round is over
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from genenet.corrections.activity import IDLE_S
from genenet.corrections.effort import Effort
from genenet.corrections.errors import corrected_slices, count_network_errors, fit_effort
from genenet.corrections.store import Corrections
from genenet.corrections.summary import collect
from genenet.corrections.training_data import DATA, write_data
from genenet.dataset import Dataset
from genenet.ensemble import Ensemble
from genenet.errors import InputError
from genenet.folder import read_json, write_json
from genenet.network import Network
from genenet.settings import TrainingSettings

logger = logging.getLogger("genenet")

ROUND, ASKED = "round.json", "asked.json"

# Training goes on at this share of the blueprint's learning rate.
RATE = 0.1

# A voxel that a person changed counts so many times one that was right.
ERROR_WEIGHT = 4


@dataclasses.dataclass(frozen=True)
class Round:
    """How a round went.

    Attributes:
        number: From 1 on.
        folder: Of the round; its ensemble stands in `ensemble`.
        n_known: Voxels that people vouch for in all corrections so far.
        n_changed: Of them, those that they changed.
        n_training: Labelled voxels of the training parts, these included.
        before, after: The ensemble's adjusted Rand score on the fixed validation part.
        n_members: Of the new ensemble.
        predicted_before, predicted_after: Minutes per million voxels that a person would take to correct the validation
            part, before and after.
        worked_min: Minutes that people worked on these corrections.
        worked_min_per_megavoxel: Of it, for the slices they did whole; None if there is none.
        seconds: That the round took.
    """

    number: int
    folder: Path
    n_known: int
    n_changed: int
    n_training: int
    before: float
    after: float
    n_members: int
    predicted_before: float
    predicted_after: float
    worked_min: float
    worked_min_per_megavoxel: float | None
    seconds: float


def rounds(folder: Path | str) -> list[Round]:
    """The rounds that are over, in order."""
    found = []
    for path in sorted(Path(folder).glob(f"[0-9][0-9]/{ROUND}")):
        try:
            found.append(Round(folder=path.parent, **read_json(path)))
        except TypeError as error:
            raise InputError(f"{path} is damaged: {error}") from None
    return found


def learn(
    folder: Path | str,
    ensemble: Ensemble,
    data: str | Path | dict[str, Any],
    corrections: Sequence[Corrections],
    training: TrainingSettings,
    *,
    error_weight: int = ERROR_WEIGHT,
    learning_rate: float | None = None,
    max_members: int = 15,
    idle_s: float = IDLE_S,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Round:
    """Do one round; after a kill, the same call goes on with it.

    Members are trained further from their weights on the data as before and on what people vouch for: voxels that they
    edited, and slices and regions that they marked as done. All other voxels of the corrected volumes stay unlabelled,
    and so do those of the validation part. Members as they were stay candidates, so that the ensemble does not become
    worse on the validation part.

    Args:
        folder: Where rounds stand.
        ensemble: That of the first round; later rounds begin with that of the round before.
        data: What the ensemble learned from, a `data.yaml` or its content; its validation part stays what it is.
        corrections: What people did; that of earlier rounds comes on its own.
        training: For how long, and how.
        error_weight: How many times a voxel that a person changed counts, 1 to 255.
        learning_rate: Of further training; a tenth of each blueprint's if left out.
        max_members: The largest ensemble tried.
        idle_s: The longest break that counts as work.
        seed: Of further training.
        progress: Called with members done, and in all.

    Raises:
        InputError: Nobody vouches for anything, labels do not fit the data's classes, or the corrections do not say of
            which image they are.
    """
    if not 1 <= error_weight <= 255:
        raise InputError(f"the weight of errors is 1 to 255, but got {error_weight}")
    if alone := [member for member in ensemble.members if not member.gives_classes]:
        raise InputError(f"{alone[0].folder} gives distances only, which corrections of classes do not teach")
    started, folder = time.monotonic(), Path(folder)
    over = rounds(folder)
    place = folder / f"{len(over) + 1:02d}"
    if over:
        ensemble = Ensemble.open(over[-1].folder / "ensemble")
    asked = _ask(place, over, corrections)
    everything = [Corrections.open(path) for path in asked["corrections"]]
    content = write_data(place, data, everything, error_weight)
    opened = Dataset.open(place / DATA)
    members = []
    for index, member in enumerate(ensemble.members):
        members.append(_train_further(member, opened, place / "networks" / str(index), training, learning_rate, seed))
        if progress is not None:
            progress(index + 1, len(ensemble.members))
    # Those that training did not make better are what they were.
    candidates = [*(member for member in members if member.details["best_step"]), *ensemble.members]
    chosen = Ensemble.select(candidates, opened, max_members=max_members, vote=ensemble.vote)
    before, after = (which.score(opened).adjusted_rand for which in (ensemble, chosen))
    if after < before:
        chosen, after = ensemble, before
    chosen.save(place / "ensemble")
    effort = _effort(asked["corrections"], idle_s)
    counts = [count_network_errors(which.predictor(), opened.validation) for which in (ensemble, chosen)]
    predicted = [effort.minutes_per_megavoxel(*count) for count in counts]
    worked = sum(entry.seconds for entry in collect(asked["corrections"], idle_s) if entry.mode == "correct")
    done = Round(
        number=len(over) + 1,
        folder=place,
        n_known=content["n_known"],
        n_changed=content["n_changed"],
        n_training=sum(opened.counts),
        before=before,
        after=after,
        n_members=len(chosen.members),
        predicted_before=predicted[0],
        predicted_after=predicted[1],
        worked_min=worked / 60,
        worked_min_per_megavoxel=_pace(everything, idle_s),
        seconds=round(time.monotonic() - started, 1),
    )
    entry = dataclasses.asdict(done)
    entry.pop("folder")
    write_json(place / ROUND, entry)
    return done


def _ask(place: Path, over: Sequence[Round], corrections: Sequence[Corrections]) -> dict[str, Any]:
    """The folders of all corrections, of the rounds before and of now; what a killed call asked for stays."""
    if (place / ASKED).exists():
        asked = read_json(place / ASKED)
        given = {str(entry.folder.absolute()) for entry in corrections}
        if not given <= set(asked["corrections"]):
            raise InputError(
                f"{place} is an unfinished round with other corrections; finish it with these, or remove it"
            )
        return asked
    before = read_json(over[-1].folder / ASKED)["corrections"] if over else []
    folders = list(dict.fromkeys([*before, *(str(entry.folder.absolute()) for entry in corrections)]))
    if not folders:
        raise InputError("name folders of corrections to learn from")
    for entry in map(Corrections.open, folders):
        if entry.image is None or entry.segmentation is None:
            raise InputError(
                f"{entry.folder} does not say which image was corrected; begin with `genenet correct IMAGE SEG`"
            )
    write_json(place / ASKED, {"corrections": folders})
    return {"corrections": folders}


def _train_further(
    member: Network, data: Dataset, folder: Path, training: TrainingSettings, learning_rate: float | None, seed: int
) -> Network:
    from genenet.train import Start, train_network

    rate = RATE * 10.0**member.blueprint.log10_learning_rate if learning_rate is None else learning_rate
    model = member.load("float32")
    identity = str(member.details.get("digest", member.folder))
    kept = {key: value for key, value in member.details.items() if key not in ("digest", "training", "data")}
    start = Start(model, rate, identity, {**kept, "learned_from": str(member.folder)}, member.normalization)
    return train_network(member.blueprint, data, folder, training, seed=seed, start=start)


def _effort(folders: Sequence[str], idle_s: float) -> Effort:
    try:
        return fit_effort(folders, idle_s)
    except InputError as error:
        logger.info("correction times are predicted by guesses: %s", error)
        return Effort()


def _pace(corrections: Sequence[Corrections], idle_s: float) -> float | None:
    """Minutes per million voxels that people took for whole slices."""
    rows = [row for entry in corrections for row, _, _ in corrected_slices(entry, idle_s)]
    if not rows:
        return None
    return sum(row[3] for row in rows) / 60 / (sum(row[0] for row in rows) / 1e6)
