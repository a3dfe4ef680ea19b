"""Work on a study: take a trial, train it, take the next; any number of processes may do so, anywhere."""

import contextlib
import errno
import logging
import signal
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from genenet.device import import_keras
from genenet.errors import InputError
from genenet.interrupts import Stopped, stops_at_signals
from search.dealer import Dealer
from search.lease import Lease, LeaseLost
from search.study import Study
from search.trial import Trial

logger = logging.getLogger("genenet")

# Trains a trial's blueprint, with `check` called between steps, and gives what state.json records: `adjusted_rand` and
# more.
Check = Callable[[], None]
Objective = Callable[[Study, Trial, Check], dict[str, Any]]

# What schedulers say before they kill.
SIGNALS = {
    signal.SIGTERM: "its scheduler wants the place",
    signal.SIGUSR1: "its time is nearly up",
}


def run_worker(study: Study, objective: Objective | None = None) -> int:
    """`work`, as the process that a scheduler started: it stops at its signals, and goes back into its queue.

    Raises:
        Stopped: As `work`.
    """
    from search.launch.slurm import requeue

    try:
        with stops_at_signals(SIGNALS) as check:
            return work(study, objective, check)
    except Stopped as stop:
        if stop.signal == signal.SIGUSR1:
            requeue()
        raise


def work(study: Study, objective: Objective | None = None, check: Check = lambda: None) -> int:
    """Work until no trial is left to take.

    Args:
        study: Which.
        objective: How a trial is scored; training by default.
        check: Raises `Stopped` where this process is to stop.

    Returns:
        How many trials this process finished.

    Raises:
        Stopped: This process was told to stop; the trial that it was at is free for others.
    """
    score = objective or _training()
    dealer, finished = Dealer(study), 0
    while (taken := dealer.next()) is not None:
        trial, lease = taken
        with lease, _logging_to(trial):
            finished += _run(dealer, trial, lease, score, check)
        check()
    return finished


def _training() -> Objective:
    """Training, which brings Keras."""
    import_keras()
    from search.objective import train_trial

    return train_trial


def _run(dealer: Dealer, trial: Trial, lease: Lease, objective: Objective, check: Check) -> bool:
    """Work on one trial; whether it was settled."""
    again = f", attempt {lease.attempt.number}" if lease.attempt.number > 1 else ""
    logger.info("trial %d begins%s: %s", trial.number, again, trial.blueprint.layers_per_stack())

    def check_both() -> None:
        lease.check()
        check()

    try:
        result = objective(dealer.study, trial, check_both)
    except LeaseLost as lost:
        logger.warning("trial %d: %s", trial.number, lost)
        return False
    except Stopped as stop:
        dealer.end(trial, lease, "stopped", reason=str(stop), step=lease.attempt.step)
        logger.info("trial %d stops: %s", trial.number, stop)
        raise
    except (KeyboardInterrupt, SystemExit):
        dealer.end(trial, lease, "stopped", reason="this worker was ended by hand", step=lease.attempt.step)
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            logger.warning("trial %d stops: the disk is full", trial.number)
            dealer.end(trial, lease, "stopped", reason="the disk was full", step=lease.attempt.step)
            return False
        how, details = _verdict(error)
        logger.warning("trial %d %s: %s", trial.number, how, details["reason"])
        if "cause" not in details:
            with trial.log.open("a", encoding="utf-8") as stream:
                stream.write(traceback.format_exc())
        return dealer.end(trial, lease, how, **details)
    if not dealer.end(trial, lease, "done", **result):
        logger.warning("trial %d was given to another worker meanwhile; this result is dropped", trial.number)
        return False
    logger.info("trial %d is done: adjusted Rand score %.4f", trial.number, result["adjusted_rand"])
    return True


def _verdict(error: Exception) -> tuple[str, dict[str, Any]]:
    """How an attempt that raised an error ends, and why."""
    if isinstance(error, InputError):
        return "failed", {"cause": "input", "reason": str(error)}
    cause = getattr(error, "reason", None) if type(error).__name__ == "TrainingError" else None
    reason = f"{cause or type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if cause is None:
        return "retried", {"reason": reason}
    return "failed" if cause == "nan" else "retried", {"cause": cause, "reason": reason}


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
