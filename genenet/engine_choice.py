"""By which engines an ensemble's members run over a volume: named, or measured on a part of it that tells most."""

import dataclasses
import functools
import itertools
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from genenet.apart import Found, run_apart
from genenet.averaging import MeanPredictor
from genenet.blocks import BlockPredictor
from genenet.device import dtype_policy, find_device
from genenet.engines import N_CALIBRATION, calibrate, open_predictor
from genenet.errors import InputError
from genenet.fastest import fastest
from genenet.network import Network
from genenet.normalization import with_channels
from genenet.views import Look
from genenet.volume import Volume

if TYPE_CHECKING:
    from genenet.clusters import Cluster
    from genenet.ensemble import Ensemble
    from genenet.segment import Prepare

logger = logging.getLogger("genenet")

# Engines are compared on blocks of at most so many voxels; where, is chosen among places at these shares of every axis.
TRIAL_VOXELS = 2**18
SHARES = (0.5, 0.25, 0.75)


def preparation(
    ensemble: "Ensemble", volume: Volume, look: Look, *, engine: str, precision: str, cluster: "Cluster | None"
) -> "Prepare":
    """What `segment_volume` asks for networks: by the engines that an earlier run began with, or by those chosen now.

    Args:
        ensemble: The networks.
        volume: What is to be segmented.
        look: How they look at it.
        engine: As for `Ensemble.segment`.
        precision: As for `Ensemble.segment`.
        cluster: Whose workers load the networks, and choose; this process if left out.
    """

    def prepare(chosen: dict[str, Any], core: tuple[int, ...]) -> tuple[MeanPredictor, Callable[[], MeanPredictor]]:
        members = ensemble.members
        absolute = dataclasses.replace(ensemble, members=tuple(member.absolute() for member in members))
        engines = [tuple(word.split("/")) for word in chosen.get("engines", ())]
        if cluster is not None:
            if not engines:
                engines, said = cluster.ask(chosen_engines, absolute.members, engine, precision, volume, core)
                for level, line in said:
                    logger.log(level, "%s", line)
            here = ensemble.geometry(look)
            pairs = zip(here.members, engines, strict=True)
            known = dataclasses.replace(
                here, members=tuple(dataclasses.replace(member, engine=words) for member, words in pairs)
            )
            return known, functools.partial(absolute.predictor_by, engines, look)
        if _takes_whole_numbers(engine, precision):
            ensemble.calibrate(volume)
        if engines:
            found = ensemble.predictor_by(engines, look)
        elif engine == "auto":
            found = ensemble.fastest(precision, volume, core, look)
        else:
            found = ensemble.predictor_by([(engine, precision)] * len(members), look)
        return found, functools.partial(absolute.predictor_by, [member.engine for member in found.members], look)

    return prepare


def _takes_whole_numbers(engine: str, precision: str) -> bool:
    return precision == "int8" and engine in ("auto", "openvino")


def fastest_members(
    members: Sequence[Network], precision: str, volume: Volume, core: tuple[int, ...]
) -> list[BlockPredictor]:
    """Load networks, each to be run by what is fastest here and gives the same classes as Keras in float32.

    Args:
        members: Which.
        precision: `auto` for all that are fast here; or the only one that may be taken.
        volume: Engines are measured on a part of it.
        core: The shape of a block.
    """
    precisions = ["float32", *(["bfloat16"] if find_device().fast_bfloat16 else [])]
    found = []
    for member in members:
        alone = MeanPredictor((member.geometry(),))
        side = alone.choose_core(core, TRIAL_VOXELS)
        pick = functools.partial(_read_most_varied, alone, volume, side)
        found.append(fastest(member, precisions if precision == "auto" else [precision], pick, side)[0])
    return found


def _read_most_varied(predictor: MeanPredictor, volume: Volume, side: Sequence[int]) -> np.ndarray:
    read, start = functools.partial(_read, volume), most_varied(volume, side)
    return predictor.read(read, start, predictor.reach(side))


def _read(volume: Volume, start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    return with_channels(volume.read_mirrored(start, shape))


def chosen_engines(
    members: Sequence[Network], engine: str, precision: str, volume: Volume, core: tuple[int, ...]
) -> Found:
    """The engine and the precision of each network on the machine where this is called, and what is to say of them.

    Networks are loaded by a process that ends, if at all: memory that they took, of a GPU too, is then the caller's.

    Raises:
        InputError: That process died; or as `genenet.engines.open_predictor`.
    """
    if engine == "keras":
        return Found([("keras", dtype_policy(precision).removeprefix("mixed_"))] * len(members), [])
    try:
        return run_apart(_choose, members, engine, precision, volume, core)
    except ChildProcessError:
        raise InputError(
            "the process that looked for engines died, perhaps for memory; take --engine keras, or more memory"
        ) from None


def _choose(
    members: Sequence[Network], engine: str, precision: str, volume: Volume, core: tuple[int, ...]
) -> list[tuple[str, str]]:
    """What other engines read is made meanwhile, once for all workers."""
    if _takes_whole_numbers(engine, precision):
        calibrate_members(members, volume)
    if engine == "auto":
        return [member.engine for member in fastest_members(members, precision, volume, core)]
    return [open_predictor(member, engine, precision).engine for member in members]


def most_varied(volume: Volume, side: Sequence[int]) -> list[int]:
    """Where a box of some places over a volume varies most: beyond the tissue all engines would seem to agree."""
    room = [max(n - width, 0) for n, width in zip(volume.shape[:3], side, strict=True)]
    axes = [
        list(dict.fromkeys(int(share * free) // width * width for share in SHARES))
        for free, width in zip(room, side, strict=True)
    ]

    def spread(start: Iterable[int]) -> float:
        box = [slice(at, at + min(width, n)) for at, width, n in zip(start, side, volume.shape, strict=False)]
        values = np.asarray(volume.read((box[0], box[1], box[2])), np.float64)
        values = values[np.isfinite(values)]
        return float(values.std()) if values.size else 0.0

    # Of equals the first, which is the middle.
    return list(max(itertools.product(*axes), key=spread))


def calibrate_members(members: Sequence[Network], volume: Volume) -> None:
    """Make whole-number networks, by windows spread over a volume (`genenet.engines.calibrate`)."""
    for member in members:
        shape = member.blueprint.window_shape().input
        whole = (1,) * (3 - len(shape)) + shape
        room = [max(n - side, 0) for n, side in zip(volume.shape[:3], whole, strict=True)]
        rng = np.random.default_rng(0)
        starts = rng.integers(0, np.array(room) + 1, (N_CALIBRATION, 3)).tolist()
        windows = [member.normalization(with_channels(volume.read_mirrored(at, whole))) for at in starts]
        calibrate(member, windows if len(shape) == 2 else [window[None] for window in windows])
