"""What a trial is worth: train its blueprint, score it on the validation part."""

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import keras

from genenet.seeds import derived_seed
from genenet.train import Record, train_network
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

    training = study.training
    if trial.ran_out_of_memory:
        batch_size = max(training.windows.batch_size // 2, 1)
        training = dataclasses.replace(training, windows=dataclasses.replace(training.windows, batch_size=batch_size))
    work = trial.attempts[-1].work
    keras.backend.clear_session()  # what the trial before left behind
    network = train_network(
        trial.blueprint,
        study.data,
        work / "network",
        training,
        seed=derived_seed(study.seed, "training", trial.number),
        work=work,
        watch=watch,
    )
    return {**network.scores, "steps": network.details["steps"], "seconds": network.details["seconds"]}
