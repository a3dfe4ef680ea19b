"""What a trial is worth: train its blueprint, score it on the validation part."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from genenet.averaging import MeanPredictor
from genenet.corrections.errors import count_network_errors
from genenet.dataset import Dataset
from genenet.ensemble import Ensemble
from genenet.instance_segmentation import evaluate_instances
from genenet.latency import seconds_per_megavoxel
from genenet.network import Network
from genenet.seeds import derived_seed
from genenet.train import Record, Watcher, train_network
from search.contribution import contribution
from search.dealer import patiently
from search.early_stopping import Comparison
from search.goals import CORRECTION, ENSEMBLE_AWARE, LATENCY, OF_OBJECTS
from search.study import Study
from search.trial import ERRORS, WRONG, Trial

logger = logging.getLogger("genenet")


def train_trial(study: Study, trial: Trial, check: Callable[[], None]) -> dict[str, Any]:
    """Train a trial; it continues where a killed process left it.

    Returns:
        Validation scores of the best weights, steps and training seconds, and what else the study's objectives need.

    Raises:
        StoppedEarly: Others were better after as much training.
    """
    comparison = None
    if study.asked.early_stopping is not None:
        drawn = not trial.state.get("enqueued")
        comparison = Comparison(trial.number, study.training, may_stop=drawn)

    def watch(step: int, seconds: float, record: Record | None) -> None:
        if record is None:
            check()
            return
        logger.info(
            "trial %d step %d: %s, loss %.4f, %.0f s",
            trial.number,
            step,
            record.summary,
            record.loss,
            seconds,
        )
        if comparison is not None:
            with study.lock:  # as everything that writes to the storage
                study.refresh()
                patiently(
                    study, lambda: comparison.report(study.optuna_study, step, seconds, record.adjusted_rand)
                )  # fmt: skip

    work = trial.attempts[-1].work
    keras.backend.clear_session()  # what the trial before left behind
    network = _train(study, trial, work / "network", work, watch)
    found = {**network.scores, "steps": network.details["steps"], "seconds": network.details["seconds"]}
    if LATENCY in study.asked.objectives:
        found[LATENCY] = seconds_per_megavoxel(network, study.data)
    found |= errors_of(network, study.data)
    if CORRECTION in study.asked.objectives:
        found[CORRECTION] = study.effort.minutes_per_megavoxel(10**6, found[ERRORS], found[WRONG])
    if set(OF_OBJECTS) & set(study.asked.objectives):
        found |= scores_of_objects(network, study.data)
    if ENSEMBLE_AWARE in study.asked.objectives:
        found |= contribution(study, trial, network, work)
    if trial.ran_out_of_memory:
        found["reason"] = "trained with half the batch, since memory ran out"
    return found


def errors_of(network: Network, data: Dataset) -> dict[str, float]:
    """What a person would find to correct in a million voxels of the validation part."""
    known, errors, wrong = count_network_errors(MeanPredictor((network.predictor(),)), data.validation)
    return {ERRORS: 1e6 * errors / known, WRONG: 1e6 * wrong / known}


def scores_of_objects(network: Network, data: Dataset) -> dict[str, float]:
    """How well a network tells the objects of the validation part apart, merged as is recommended.

    Raises:
        InputError: It gives no distances.
    """
    found, _ = evaluate_instances(Ensemble((network,)), data)
    return {name: getattr(found, name) for name in OF_OBJECTS}


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
        seed=derived_seed(study.asked.seed, "training", trial.number),
        work=work,
        watch=watch,
    )
