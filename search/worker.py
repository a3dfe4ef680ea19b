"""Work on a study: take a trial, train it, take the next; any number of processes may do so, anywhere."""

import contextlib
import logging
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from genenet.device import import_keras
from genenet.errors import InputError, TrainingError
from genenet.folder import is_full
from genenet.interrupts import Stopped, stops_at_signals
from search.dealer import LEAST_FREE_BYTES, Dealer, wait_for_space
from search.early_stopping import StoppedEarly
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


def run_worker(study: Study, objective: Objective | None = None, *, processes: int = 1) -> int:
    """`work`, as the process that a scheduler started: it stops at its signals, and goes back into its queue.

    Args:
        study: Which.
        objective: As for `work`.
        processes: Workers to run in the place of this one; they share its cores and its GPU.

    Returns:
        How many trials this process finished itself.

    Raises:
        Stopped: As `work`.
    """
    from search.launch.local import run_workers
    from search.launch.slurm import requeue

    try:
        with stops_at_signals(SIGNALS) as check:
            if processes == 1:
                return work(study, objective, check)
            run_workers(study.folder, processes, check)
            return 0
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
    study.prepare()
    study.data  # noqa: B018  (a machine that does not see it should take no trial)
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
    except StoppedEarly as early:
        logger.info("trial %d is %s", trial.number, early)
        return dealer.end(trial, lease, "pruned", reason=str(early), **early.details)
    except (KeyboardInterrupt, SystemExit):
        dealer.end(trial, lease, "stopped", reason="this worker was ended by hand", step=lease.attempt.step)
        raise
    except Exception as error:
        if is_full(error):
            logger.warning("trial %d stops: the disk is full", trial.number)
            dealer.end(trial, lease, "stopped", reason="the disk was full", step=lease.attempt.step)
            wait_for_space(dealer.study.folder, n_bytes=LEAST_FREE_BYTES + 2 * _size(lease.attempt.work))
            return False
        how, details = _verdict(error)
        logger.warning("trial %d %s: %s", trial.number, how, details["reason"])
        if "cause" not in details:
            with contextlib.suppress(OSError), trial.log.open("a", encoding="utf-8") as stream:
                stream.write(traceback.format_exc())
        return dealer.end(trial, lease, how, **details)
    if not dealer.end(trial, lease, "done", **result):
        logger.warning("trial %d was given to another worker meanwhile; this result is dropped", trial.number)
        return False
    logger.info("trial %d is done: adjusted Rand score %.4f", trial.number, result["adjusted_rand"])
    return True


def _size(folder: Path) -> int:
    """Bytes of what an attempt has written: the next checkpoint is as large."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _verdict(error: Exception) -> tuple[str, dict[str, Any]]:
    """How an attempt that raised an error ends, and why."""
    if isinstance(error, InputError):
        return "failed", {"cause": "input", "reason": str(error)}
    cause = error.reason if isinstance(error, TrainingError) else None
    reason = f"{cause or type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if cause is None:
        return "retried", {"reason": reason}
    return "failed" if cause == "nan" else "retried", {"cause": cause, "reason": reason}


class _Log(logging.FileHandler):
    """A log that is given up while its disk is full: what happens counts more than what is said of it."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Nothing is said of an error of the disk."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


@contextlib.contextmanager
def _logging_to(trial: Trial) -> Iterator[None]:
    """Copy what is logged to the trial's log.txt."""
    handler = _Log(trial.log, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        with contextlib.suppress(OSError):
            handler.close()
