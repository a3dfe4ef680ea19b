"""Deals a study's trials out to workers, and takes what becomes of them."""

import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState

from genenet.errors import InputError
from genenet.folder import is_full, remove, write_json
from genenet.genes import NetworkRoot, from_dict
from search import goals
from search.lease import Lease, server_time
from search.samplers import suggesting
from search.space import problem
from search.study import Study
from search.trial import SETTLED, Trial, counts, facts_of, known_of

logger = logging.getLogger("genenet")

# So many blueprints in a row may be over the limits before the space is called empty.
MAX_REJECTED_IN_A_ROW = 500

# With less room on its disk nothing is written to a study.
LEAST_FREE_BYTES = 4_000_000


def wait_for_space(folder: Path, poll_s: float = 5.0, n_bytes: int = LEAST_FREE_BYTES) -> None:
    """Wait until a folder's disk has some room."""
    waited = False
    while shutil.disk_usage(folder).free < n_bytes:
        if not waited:
            logger.warning("%s: the disk is full; waiting for some room", folder)
        waited = True
        time.sleep(poll_s)


T = TypeVar("T")


def patiently(study: Study, ask: Callable[[], T], patience_s: float = 900.0, poll_s: float = 5.0) -> T:
    """Ask again what may be asked again: while a disk is full, and while a database gives no answer.

    Args:
        study: Which.
        ask: What to do; it may have been done in part before.
        patience_s: How long a database is waited for.
        poll_s: Seconds between two tries.

    Raises:
        StorageInternalError: It gave none for too long.
    """
    first = time.monotonic()
    while True:
        try:
            return ask()
        except StorageInternalError as error:
            if time.monotonic() - first > patience_s:
                raise
            logger.warning("the storage gives no answer, asking again: %s", error)
            time.sleep(poll_s)
        except OSError as error:
            if not is_full(error):
                raise
            wait_for_space(study.folder, poll_s)
            time.sleep(poll_s)
            study.refresh()


class Dealer:
    """Deals out the trials of one study.

    Any number of processes may, each with a dealer of its own. They take turns by a lock; should the file system's
    locks fail, leases still keep two workers from one trial, and the budget may be passed by a trial or two.

    Args:
        study: Which.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self._settled: dict[int, tuple[bool, float]] = {}  # by number, whether it counts, and the seconds it took

    def next(self) -> tuple[Trial, Lease] | None:
        """Take a trial to work on: one that was stopped or lost, or the next of the budget; None when none is left.

        Raises:
            InputError: The space has no networks within the limits.
        """
        wait_for_space(self.study.folder)
        with self.study.lock:
            self.study.refresh()
            found = patiently(self.study, self._next)
        if found is not None:
            trial, lease = found
            patiently(self.study, lambda: trial.carry_over(lease.attempt))
        return found

    def end(self, trial: Trial, lease: Lease, how: str, **details: object) -> bool:
        """Say what became of a trial.

        Args:
            trial: Which.
            lease: By which it was worked on.
            how: `done` with `adjusted_rand` among the details, `failed`, `retried`, or `stopped` with a `reason`.
            **details: For the record.

        Returns:
            Whether it counts: False where the lease was lost and another worker has the trial.
        """
        wait_for_space(self.study.folder)
        if not patiently(self.study, lambda: lease.attempt.end(how, **details)):
            return False
        if how in SETTLED:
            with self.study.lock:
                self.study.refresh()
                patiently(self.study, lambda: self.settle(trial))
        return True

    def settle(self, trial: Trial) -> None:
        """Write down what a trial's last attempt ended with: for the sampler, then for all; once or more than once."""
        attempt = trial.attempts[-1]
        ending = dict(attempt.ending or {})
        how = str(ending.pop("how"))
        study, known = self.study, known_of(trial.state)
        worked_s = trial.worked_s()
        trial.keep(attempt)
        if how == "done":
            names = study.asked.objectives
            values = goals.values(names, ending, trial.blueprint, study.training.windows.batch_size)
            ending |= dict(zip(names, values, strict=True))
            study.optuna_study.tell(trial.number, values, skip_if_finished=True)
        else:
            # Samplers pass over failures, and take what was pruned for bad; a loss that became NaN is the latter.
            told = TrialState.PRUNED if how == "pruned" or ending.get("cause") == "nan" else TrialState.FAIL
            study.optuna_study.tell(trial.number, state=told, skip_if_finished=True)
        trial.write_state(how, **known, **{"worked_s": worked_s, **ending})
        study.write_leaderboard()

    def _next(self) -> tuple[Trial, Lease] | None:
        unsettled = self._survey()
        if self._adopt_unborn({*self._settled, *(trial.number for trial in unsettled)}):
            unsettled = self._survey()
        now = server_time(self.study.folder)
        for trial in unsettled:
            lease = self._take_over(trial, now)
            if lease is not None:
                trial.write_state("running", **known_of(trial.state))
                return trial, lease
        return self._draw()

    def _survey(self) -> list[Trial]:
        """Trials that are not settled. Those that are stay so, and are looked at once."""
        found = []
        for trial in self.study.trials(without=self._settled):
            state = trial.state
            if state["state"] in SETTLED:
                worked_s = state["worked_s"] if "worked_s" in state else trial.worked_s()
                self._settled[trial.number] = counts(state), worked_s
            else:
                found.append(trial)
        return found

    def _take_over(self, trial: Trial, now: float) -> Lease | None:
        """Lease a trial that nobody works on."""
        tried = trial.attempts
        if tried:
            last = tried[-1]
            if last.ending is None:
                if last.is_alive(self.study.asked.lease_s, now):
                    return None
                last.end("lost", step=last.step)
            if (last.ending or {}).get("how") in SETTLED:  # by a worker that was killed before it wrote that down
                self.settle(trial)
                return None
            reason = trial.reason_to_give_up()
            if reason is not None:
                self.study.optuna_study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
                trial.keep(last)
                trial.write_state("failed", **known_of(trial.state), reason=reason, worked_s=trial.worked_s())
                return None
        return Lease.take(trial.folder, len(tried) + 1, self.study.asked.lease_s)

    def _draw(self) -> tuple[Trial, Lease] | None:
        """The next trial of the budget; blueprints that need not be trained are counted and drawn again."""
        study = self.study
        is_spent = self._is_spent()
        for _ in range(MAX_REJECTED_IN_A_ROW):
            waiting = study.optuna_study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
            if not waiting and is_spent:
                return None
            trial = self._give_birth(study.optuna_study.ask())
            lease = None if trial is None else Lease.take(trial.folder, 1, study.asked.lease_s)
            if trial is not None and lease is not None:
                trial.write_state("running", **known_of(trial.state))
                return trial, lease
        raise InputError(
            f"{MAX_REJECTED_IN_A_ROW} blueprints in a row could not be built, were over the limits or had been tried; "
            "widen the limits, or narrow the space"
        )

    def _is_spent(self) -> bool:
        """Whether nothing more is to be drawn."""
        asked, unsettled = self.study.asked, self._survey()
        n_drawn = sum(counts(trial.state) for trial in unsettled) + sum(each for each, _ in self._settled.values())
        worked_s = sum(each for _, each in self._settled.values())
        worked_s += sum(trial.worked_s() for trial in unsettled) if asked.trial_hours is not None else 0.0
        return asked.is_spent(n_drawn, worked_s, self.study.passed_s() if asked.total_hours is not None else 0.0)

    def _adopt_unborn(self, born: set[int]) -> bool:
        """Finish what a process began that was killed before the trial's folder was whole; whether any had."""
        study = self.study.optuna_study
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        unborn = [entry for entry in running if entry.number not in born]
        for entry in unborn:
            self._give_birth(optuna.trial.Trial(study, entry._trial_id))
        return bool(unborn)

    def _give_birth(self, asked: optuna.trial.Trial) -> Trial | None:
        """Write a trial's folder; None where its blueprint is rejected."""
        study = self.study
        trial = Trial(study.folder / "trials" / f"{asked.number:04d}")
        if (trial.folder / "state.json").exists():
            return None  # somebody else brought it about, where locks do not hold
        given = asked.user_attrs.get("blueprint")
        net = from_dict(given) if given is not None else study.space.sample(suggesting(asked))
        room = min(part.shape for part in study.data.training)
        batch_size = study.training.windows.batch_size
        reason = None if given is not None else problem(net, study.asked.limits, batch_size, room) or self._tried(net)
        remove(trial.folder)
        trial.folder.mkdir(parents=True)
        write_json(trial.folder / "blueprint.json", net.to_dict())
        details: dict[str, object] = {"enqueued": given is not None}
        if asked.user_attrs.get("label"):
            details["label"] = asked.user_attrs["label"]
        if reason is None:
            trial.write_state("waiting", **details, **facts_of(net))
            return trial
        study.optuna_study.tell(asked.number, state=TrialState.PRUNED)
        trial.write_state("rejected", reason=reason, worked_s=0.0, **details)
        logger.info("trial %d is rejected: %s", trial.number, reason)
        return None

    def _tried(self, net: NetworkRoot) -> str | None:
        """Why a child of evolution need not be trained: it may be like its parent, or like an earlier child."""
        if self.study.asked.sampler != "evolution":
            return None
        for trial in self.study.trials():
            if trial.state["state"] != "rejected" and trial.blueprint == net:
                return f"it is the same as trial {trial.number}"
        return None
