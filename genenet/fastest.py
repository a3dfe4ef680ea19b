"""Which engine runs a network fastest here: measured on a block, and kept beside the network."""

import dataclasses
import datetime
import functools
import importlib.metadata
import logging
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genenet.blocks import Answer, BlockPredictor
from genenet.device import cpu_name, find_device
from genenet.engines import ENGINES, PACKAGES, PROVIDERS_VARIABLE, missing, n_threads, open_predictor
from genenet.errors import InputError
from genenet.folder import read_json, write_json
from genenet.network import Network

logger = logging.getLogger("genenet")

# The share of voxels that must get the same class as by Keras in float32; of networks that give distances only, a
# distance that differs by no more than this.
AGREEMENT = 0.999
NEAR = 0.02

# How often an engine is timed; but once if it takes so many times what the fastest before it took.
N_ROUNDS, FAR_BEHIND = 3, 1.5

# In the network's folder: what was measured, by machine, block, and versions of the engines.
MEASURED = "engines/measured.json"


@dataclasses.dataclass(frozen=True)
class Trial:
    """How an engine did on a block.

    Attributes:
        engine, precision: Which.
        seconds: For the block, the median of some rounds; of one if it is far behind.
        agreement: The share of voxels that get the same class, or nearly the same distance, as by Keras in float32.
    """

    engine: str
    precision: str
    seconds: float
    agreement: float


def fastest(
    network: Network, precisions: Sequence[str], read: Callable[[], np.ndarray], core: tuple[int, ...]
) -> tuple[BlockPredictor, list[Trial]]:
    """The engine that runs a block in the least time, of those that agree with Keras in float32.

    What was measured is kept in the network's folder, if that may be written to, and taken again on such a machine for
    such a block.

    Args:
        network: Which.
        precisions: That are allowed.
        read: Gives a block as `BlockPredictor.reach(core)` says, unnormalised `(z, y, x, channels)`.
        core: What is wanted of it.

    Returns:
        The network on that engine, and how all did, the fastest first.

    Raises:
        InputError: No engine here computes in any of the precisions.
    """
    path, where = network.folder / MEASURED, _where(precisions, core)
    kept = _kept(path)
    for entry in kept:
        if entry["where"] == where:
            tried = [Trial(**trial) for trial in entry["tried"]]
            best = min(tried, key=_rank)
            _say(network, best, f", as measured on {entry['date']}; to measure again, delete {path}")
            return open_predictor(network, best.engine, best.precision), tried
    images = read()
    predictor, tried = _measure(network, precisions, images, core)
    best, varies = min(tried, key=_rank), bool(images.min() < images.max())
    _say(network, best, "")
    if best.agreement < AGREEMENT:
        logger.warning(
            "%s: no engine gives what Keras gives in float32 on %.1f %% of the voxels; the fastest, %s in %s, is taken",
            network.folder, 100 * AGREEMENT, best.engine, best.precision,
        )  # fmt: skip
    if not varies:
        logger.warning("the block of the volume has one value everywhere, which tells nothing of engines' agreement")
    if varies and os.access(network.folder, os.W_OK):
        date, rows = datetime.date.today().isoformat(), [dataclasses.asdict(trial) for trial in tried]
        write_json(path, [*kept, {"date": date, "where": where, "tried": rows}])
    return predictor, tried


def _measure(
    network: Network, precisions: Sequence[str], images: np.ndarray, core: tuple[int, ...]
) -> tuple[BlockPredictor, list[Trial]]:
    reference = network.predictor("float32")
    batch, reach = network.normalization(images), reference.reach(core)
    expected = reference.predict(batch, reach)
    tried: list[Trial] = []
    best: tuple[Trial, BlockPredictor] | None = None
    for engine in ENGINES[1:]:
        if missing(engine):
            logger.info("the engine %s is not installed: pip install %s", engine, " ".join(PACKAGES[engine]))
            continue
        for precision in precisions:
            try:
                predictor = open_predictor(network, engine, precision)
                answer = predictor.predict(batch, reach)
            except Exception as error:  # noqa: BLE001  (whatever an engine cannot do, another may)
                logger.info("%s in %s is passed over: %s", engine, precision, str(error).strip().partition("\n")[0])
                continue
            limit = math.inf if best is None or best[0].agreement < AGREEMENT else FAR_BEHIND * best[0].seconds
            seconds = _time(functools.partial(predictor.predict, batch, reach), limit)
            trial = Trial(engine, precision, seconds, _agreement(answer, expected))
            tried.append(trial)
            if best is None or _rank(trial) < _rank(best[0]):  # others are let go of: together they take much memory
                best = trial, predictor
    if best is None:
        raise InputError(f"no engine here computes networks in {' or '.join(precisions)}")
    return best[1], sorted(tried, key=lambda trial: trial.seconds)


def _time(function: Callable[[], object], limit: float) -> float:
    """The median of some rounds in seconds; the first round if it takes more than the limit."""
    spent: list[float] = []
    while len(spent) < N_ROUNDS and (not spent or spent[0] <= limit):
        started = time.perf_counter()
        function()
        spent.append(time.perf_counter() - started)
    return float(np.median(spent))


def _agreement(answer: Answer, expected: Answer) -> float:
    if expected.probabilities.shape[-1]:
        return float((answer.probabilities.argmax(-1) == expected.probabilities.argmax(-1)).mean())
    if answer.distances is None or expected.distances is None:
        raise ValueError("a network gives classes or distances")
    return float((abs(answer.distances - expected.distances) <= NEAR).mean())


def _rank(trial: Trial) -> tuple[bool, float]:
    """The least is best: those that agree, then the fastest."""
    return trial.agreement < AGREEMENT, trial.seconds


def _say(network: Network, trial: Trial, more: str) -> None:
    share = 100 * trial.agreement
    said = "%s runs by %s in %s: %.2f s per block; %.2f %% of the voxels get what Keras gives in float32%s"
    logger.info(said, network.folder, trial.engine, trial.precision, trial.seconds, share, more)


def _where(precisions: Sequence[str], core: tuple[int, ...]) -> dict[str, Any]:
    """On what the choice depends."""
    engines = [name for engine in ENGINES[1:] if not missing(engine) for name in PACKAGES.get(engine, ("keras",))]
    device = find_device()
    return {
        "device": device.name,
        "processor": f"{platform.machine()} {cpu_name()}",
        "threads": n_threads(),
        "backend": device.backend,
        "providers": os.environ.get(PROVIDERS_VARIABLE, ""),
        "versions": {name: importlib.metadata.version(name) for name in engines},
        "precisions": list(precisions),
        "core": list(core),
    }


def _kept(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    entries = read_json(path)
    if not all({"where", "tried", "date"} <= set(entry) for entry in entries):
        raise InputError(f"{path} is damaged; delete it, and the engines are measured again")
    return list(entries)
