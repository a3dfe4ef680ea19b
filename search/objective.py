"""What a trial is worth: train its blueprint, score it on the validation part."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from genenet.network import Network
from genenet.seeds import derived_seed
from genenet.train import Record, Watcher, train_network
from search.study import Study
from search.trial import Trial

logger = logging.getLogger("genenet")


def train_trial(study: Study, trial: Trial, check: Callable[[], None]) -> dict[str, Any]:
    """Train a trial; it continues where a killed process left it.

    Returns:
        Validation scores of the best weights, steps and training seconds, for state.json.
    """

    def watch(step: int, seconds: float, record: Record | None) -> None:
        if record is None:
            check()
            return
        logger.info(
            "trial %d step %d: adjusted Rand score %.4f, loss %.4f, %.0f s",
            trial.number,
            step,
            record.adjusted_rand,
            record.loss,
            seconds,
        )

    work = trial.attempts[-1].work
    keras.backend.clear_session()  # what the trial before left behind
    network = _train(study, trial, work / "network", work, watch)
    return {**network.scores, "steps": network.details["steps"], "seconds": network.details["seconds"]}


def replay(study: Study, trial: Trial, folder: Path, watch: Watcher | None = None) -> Network:
    """Train a trial's blueprint again with the same settings, seed and data, elsewhere.

    The score is the same as far as the backend's arithmetic is: on a CPU with one thread to the last bit; otherwise
    sums are taken in another order every time.

    Args:
        study: Which.
        trial: One that was not rejected.
        folder: Where the network goes.
        watch: As for `genenet.train.train_network`.
    """
    keras.backend.clear_session()
    return _train(study, trial, folder, None, watch)


def _train(study: Study, trial: Trial, folder: Path, work: Path | None, watch: Watcher | None) -> Network:
    training = study.training
    if trial.ran_out_of_memory:
        batch_size = max(training.windows.batch_size // 2, 1)
        training = dataclasses.replace(training, windows=dataclasses.replace(training.windows, batch_size=batch_size))
    return train_network(
        trial.blueprint,
        study.data,
        folder,
        training,
        seed=derived_seed(study.seed, "training", trial.number),
        work=work,
        watch=watch,
    )
