"""Work on a study: claim a trial, train it, take the next; any number of processes may do so."""

import contextlib
import logging
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from genenet.device import import_keras
from genenet.errors import InputError
from search.study import Claim, Study
from search.trial import Trial

logger = logging.getLogger("genenet")

# Trains a trial's blueprint and gives what state.json records: `adjusted_rand` at least.
Objective = Callable[[Study, Trial], dict[str, Any]]


def work(study: Study, objective: Objective | None = None) -> int:
    """Work until no trial is left to claim.

    Args:
        study: Which.
        objective: How a trial is scored; training by default.

    Returns:
        How many trials this process finished.
    """
    score = objective or _training()
    finished = 0
    while True:
        with study.claim() as claim:
            if claim is None:
                return finished
            _run(study, claim, score)
            finished += 1


def _training() -> Objective:
    """Training, which brings Keras."""
    import_keras()
    from search.objective import train_trial

    return train_trial


def _run(study: Study, claim: Claim, objective: Objective) -> None:
    trial = claim.trial
    with _logging_to(trial):
        known = {key: value for key, value in trial.state.items() if key in ("enqueued", "label")}
        trial.write_state("running", **known)
        again = f", attempt {claim.attempt}" if claim.attempt > 1 else ""
        logger.info("trial %d begins%s: %s", trial.number, again, trial.blueprint.layers_per_stack())
        try:
            result = objective(study, trial)
        except InputError as error:
            study.finish(trial, "failed", reason=str(error))
            logger.warning("trial %d failed: %s", trial.number, error)
        except Exception as error:
            reason = f"{getattr(error, 'reason', type(error).__name__)}: {' '.join(str(error).split())[:300]}"
            study.finish(trial, "failed", reason=reason)
            logger.warning("trial %d failed: %s", trial.number, reason)
            with trial.log.open("a", encoding="utf-8") as stream:
                stream.write(traceback.format_exc())
        else:
            study.finish(trial, "done", **result)
            logger.info("trial %d is done: adjusted Rand score %.4f", trial.number, result["adjusted_rand"])


@contextlib.contextmanager
def _logging_to(trial: Trial) -> Iterator[None]:
    """Copy what is logged to the trial's log.txt."""
    handler = logging.FileHandler(trial.log, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
