"""A study: a folder in which any number of processes try blueprints, any of which may die at any time.

study.yaml          what was asked, resolved
trials/0007/        one network tried
optuna.journal      what the samplers learn from
leaderboard.csv     finished trials, best first
report.html         for people
effort.json         how long people take for corrections, if somebody measured it
ensemble/           members.json, curve.csv
"""

import dataclasses
import logging
import secrets
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import numpy as np
import optuna
from optuna.study import StudyDirection

from genenet.corrections.effort import Effort
from genenet.dataset import Dataset, resolve_data
from genenet.errors import InputError
from genenet.folder import read_yaml, write_text, write_yaml
from genenet.genes import NetworkRoot, UNet
from genenet.network import Network
from genenet.settings import TrainingSettings
from genenet.wording import plural
from search import goals
from search.early_stopping import make_pruner
from search.goals import CORRECTION
from search.lease import server_time
from search.provenance import checksums, provenance
from search.same_settings import as_yaml, refuse_other_settings
from search.samplers import SeededSampler
from search.settings import SearchSettings, settings_from
from search.space import Space
from search.storage import JOURNAL, mend, open_storage
from search.trial import ERRORS, WRONG, Trial, counts

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


class Study:
    """A search in a folder.

    Args:
        folder: Of a study that exists; `Study.create` makes one.

    Attributes:
        lock: Held by the process that deals out or takes back a trial.

    Raises:
        InputError: There is no study, or its study.yaml is damaged.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        if not (self.folder / "study.yaml").exists():
            raise InputError(f"{self.folder} is not a study: it holds no study.yaml; `genenet search init` makes one")
        self._read()
        self._data: Dataset | None = None
        self._settled_rows: dict[int, dict[str, Any]] = {}
        self.lock = filelock.FileLock(self.folder / "lock")

    def _read(self) -> None:
        path = self.folder / "study.yaml"
        before = getattr(self, "_stored", None)
        self._version = _version(path)
        self.settings = read_yaml(path)
        try:
            self.asked = SearchSettings.from_dict(self.settings)
            self.space = Space.from_dict(self.settings["space"])
            self.training = TrainingSettings.from_dict(self.settings["training"], "study.yaml: training")
        except (KeyError, TypeError) as error:
            raise InputError(f"{path} is damaged: {error!r}") from None
        self._stored = self.asked.storage, self.storage_name
        if before != self._stored:
            self._optuna: optuna.Study | None = None

    def refresh(self) -> None:
        """Notice what others may have changed: the budget, where Optuna's storage is, half a line in it."""
        mend(self.folder)
        if _version(self.folder / "study.yaml") != self._version:
            self._read()

    def change(self, **values: Any) -> None:
        """Change what study.yaml says; for holders of the lock.

        Raises:
            InputError: A value that cannot be.
        """
        content = {**read_yaml(self.folder / "study.yaml"), **as_yaml(values)}
        for name, value in values.items():
            if value is None and name != "n_trials":
                content.pop(name)
        SearchSettings.from_dict(content)
        write_yaml(self.folder / "study.yaml", content)
        self._read()

    @classmethod
    def create(
        cls,
        folder: Path | str,
        space: Space,
        *,
        data: str | Path | dict[str, Any],
        steps: int | None = None,
        training: TrainingSettings | None = None,
        baseline: NetworkRoot | bool = True,
        warm_start: "Sequence[Path | str | Study]" = (),
        **asked: Any,
    ) -> "Study":
        """Make a study's folder; the same call again opens it.

        Args:
            folder: Where.
            space: What may be tried.
            data: A `data.yaml`, or its content.
            steps: Optimizer steps per trial; short for `training`.
            training: How each network is trained.
            baseline: A blueprint to be trained first, under the same budget; True for the original U-Net with same
                padding, so that it learns from windows as large as the space's base.
            warm_start: Earlier studies: samplers know the networks of theirs that lie in this space.
            **asked: Budget, sampler, objectives and more: what `search.settings.SearchSettings` has.

        Raises:
            InputError: The folder holds a study made by other settings, or the data cannot be used.
        """
        settings = settings_from(asked)
        training = training or TrainingSettings()
        if steps is not None:
            training = dataclasses.replace(training, steps=steps)
        training = settings.fitted(training)
        opened = Dataset.open(data)
        base = space.base
        if (max(base.n_classes, 2), base.n_channels) != (opened.n_classes, opened.n_channels):
            raise InputError(
                f"the space is for {base.n_classes} classes and {plural(base.n_channels, 'channel')}, "
                f"but {opened.name} has {opened.n_classes} and {opened.n_channels}"
            )
        kinds = [head.kind for head in base.plan_layers().heads]
        if kinds == ["distance"]:
            raise InputError("a study ranks networks by classes, but those of this space give distances only")
        if set(goals.OF_OBJECTS) & set(settings.objectives) and "distance" not in kinds:
            raise InputError("to search for objects, networks must give distances; set `distance_weight` above 0")
        if baseline is True and set(goals.OF_OBJECTS) & set(settings.objectives):
            raise InputError("the original U-Net finds no objects to compare with; set `baseline=False`, or give one")
        if baseline is True:
            window = base.window_shape().output[-1]
            baseline = UNet(max(base.n_classes, 2), base.n_channels, padding="same", window_size=max(window, 16))
        content = {
            "study": 1,
            "data": resolve_data(data),
            "fingerprint": opened.fingerprint,
            "space": space.to_dict(),
            "training": training.to_dict(),
            **settings.to_dict(),
            "baseline": baseline.to_dict() if isinstance(baseline, NetworkRoot) else None,
            "warm_start": [str(cls.open(earlier).folder.absolute()) for earlier in warm_start],
        }
        folder = Path(folder)
        path = folder / "study.yaml"
        content = as_yaml(content)
        if not path.exists():  # what is refused leaves nothing behind
            from search.warm_start import trials_of

            for earlier in warm_start:
                trials_of(cls.open(earlier), space, settings.objectives, training.windows.batch_size)
            if settings.storage is not None:
                open_storage(settings.storage, folder)
            (folder / "trials").mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / "lock"):  # others may run the same script at this moment
            if path.exists():
                refuse_other_settings(read_yaml(path), content, folder)
            else:
                recorded = {"checksums": checksums(content["data"]), "versions": provenance()}
                write_yaml(path, {**content, "storage_name": _storage_name(folder), **recorded})
        study = cls(folder)
        study.prepare()
        return study

    def prepare(self) -> None:
        """Put in the storage what the study begins with, as far as it is not there: a process may have been killed."""
        from search.warm_start import trials_of

        baseline = self.settings.get("baseline")
        with self.lock:
            known = [trial.user_attrs for trial in self.optuna_study.get_trials(deepcopy=False)]
            if any("study" not in attrs for attrs in known):
                return
            learned = {(attrs["study"], attrs["trial"]) for attrs in known}
            for folder in self.settings.get("warm_start", []):
                batch_size = self.training.windows.batch_size
                found = trials_of(Study(folder), self.space, self.asked.objectives, batch_size)
                new = [trial for trial in found if (folder, trial.user_attrs["trial"]) not in learned]
                self.optuna_study.add_trials(new)
            if baseline is not None:
                self.optuna_study.enqueue_trial({}, user_attrs={"blueprint": baseline, "label": "baseline"})

    @classmethod
    def open(cls, folder: "str | Path | Study") -> "Study":
        """Open a study's folder."""
        return folder if isinstance(folder, Study) else cls(folder)

    @property
    def data(self) -> Dataset:
        """The annotated volumes, opened at first use.

        Raises:
            InputError: They are not what the study was made with.
        """
        if self._data is None:
            with self.lock:  # the first one to open it puts it where all workers share it
                self._data = Dataset.open(self.settings["data"], shared=self.folder / "data")
            if self._data.fingerprint != self.settings["fingerprint"]:
                raise InputError(f"the data of {self.folder} changed since the study was made; start a new study")
        return self._data

    def refuse_other_data(self, data: str | Path | dict[str, Any]) -> None:
        """Refuse data that the study was not made with.

        Raises:
            InputError: They differ.
        """
        if (
            resolve_data(data) != self.settings["data"]
            and Dataset.open(data).fingerprint != self.settings["fingerprint"]
        ):
            raise InputError(
                f"{self.folder} was made with other data than {data}; choose another folder for a new study"
            )

    @property
    def optuna_study(self) -> optuna.Study:
        """What the samplers learn from."""
        if self._optuna is None:
            optuna.logging.set_verbosity(optuna.logging.WARNING)
            asked = self.asked
            with self.lock:
                mend(self.folder)
                storage = open_storage(asked.storage, self.folder)
                known: dict[str, Any] = {
                    "study_name": self.storage_name,
                    "storage": storage,
                    "sampler": SeededSampler(asked.sampler, asked.seed),
                    "pruner": make_pruner(asked.early_stopping),
                }
                try:
                    self._optuna = optuna.load_study(**known)  # which writes nothing, unlike the other
                except KeyError:
                    directions = [StudyDirection[goals.DIRECTIONS[name].upper()] for name in asked.objectives]
                    self._optuna = optuna.create_study(**known, directions=directions)
        return self._optuna

    @property
    def optuna_id(self) -> int:
        """The number of the study in Optuna's storage."""
        return int(self.optuna_study._study_id)

    @property
    def storage_name(self) -> str:
        """By which Optuna's storage knows the study."""
        return str(self.settings.get("storage_name", "genenet"))

    def copy_storage(self, url: str | None) -> int:
        """Copy what Optuna knows into another storage, and use that from now on; workers notice at their next trial.

        Args:
            url: Of a database; None for a file in the study's folder.

        Returns:
            How many trials were copied.

        Raises:
            InputError: It is there already, or the database cannot be used.
        """
        with self.lock:
            self.refresh()
            if url == self.asked.storage:
                raise InputError(f"the storage of {self.folder} is there already")
            target = open_storage(url, self.folder)
            name = _storage_name(self.folder)
            source = self.optuna_study
            optuna.copy_study(
                from_study_name=self.storage_name,
                from_storage=open_storage(self.asked.storage, self.folder),
                to_storage=target,
                to_study_name=name,
            )
            n_trials = len(source.get_trials(deepcopy=False))
            was_file = self.asked.storage is None
            self.change(storage=url, storage_name=name)
            if was_file:
                (self.folder / JOURNAL).rename(self.folder / f"{JOURNAL}.old")
        return n_trials

    def trials(self, without: Container[int] = ()) -> list[Trial]:
        """All trials, by number, except those of some numbers."""
        by_number = {int(path.name): path for path in (self.folder / "trials").glob("[0-9]*")}
        found = [Trial(by_number[number]) for number in sorted(by_number) if number not in without]
        return [trial for trial in found if (trial.folder / "state.json").exists()]

    def enqueue(self, blueprint: NetworkRoot, label: str = "") -> None:
        """Have a blueprint of one's own tried next, on top of `n_trials`; it is never stopped early.

        Raises:
            InputError: It does not fit the data.
        """
        base = self.space.base
        if (blueprint.n_classes, blueprint.n_channels) != (base.n_classes, base.n_channels):
            raise InputError(
                f"the blueprint is for {blueprint.n_classes} classes and {plural(blueprint.n_channels, 'channel')}, "
                f"but {self.folder} is for {base.n_classes} and {base.n_channels}"
            )
        blueprint.window_shape()
        with self.lock:
            self.refresh()
            attrs = {"blueprint": blueprint.to_dict(), "label": label}
            self.optuna_study.enqueue_trial({}, user_attrs=attrs)

    def begun(self) -> float | None:
        """When the first trial began, in seconds since 1970; None where none did."""
        for trial in self.trials():
            for attempt in trial.attempts:
                return float(attempt.worker["time"])
        return None

    def passed_s(self) -> float:
        """Seconds since the first trial began, by the clock of the machine that keeps the folder."""
        begun = self.begun()
        return 0.0 if begun is None else server_time(self.folder) - begun

    def n_drawn(self) -> int:
        """Trials that count towards the budget: drawn from the space and not rejected."""
        return sum(counts(trial.state) for trial in self.trials())

    def run(self, n_trials: int | None = None, *, workers: int = 1) -> None:
        """Work until the budget is done; the same call after a kill continues.

        Args:
            n_trials: A new budget for the study, if larger than the one it has, or if it has none by number.
            workers: Processes on this machine, which share its cores.
        """
        from search.launch import run_workers
        from search.worker import work

        if n_trials is not None and (self.asked.n_trials is None or n_trials > self.asked.n_trials):
            self.extend(n_trials=n_trials)
        if workers == 1:
            work(self)
        else:
            run_workers(self.folder, workers)

    def extend(self, **budget: float | None) -> None:
        """Give the study another budget: `n_trials`, `trial_hours`, `total_hours`; workers notice at their next trial.

        Raises:
            InputError: A budget that cannot be.
        """
        with self.lock:
            self.change(**budget)

    def table(self) -> "pd.DataFrame":
        """All trials with their states, by number."""
        import pandas as pd

        return pd.DataFrame(self.rows())

    def rows(self) -> list[dict[str, Any]]:
        """All trials with their states, by number; those that are settled are read once."""
        found, now = dict(self._settled_rows), server_time(self.folder)
        for trial in self.trials(without=self._settled_rows):
            settled = trial.is_settled  # before it is described: it may be settled in between
            found[trial.number] = trial.describe(self.asked.lease_s, now)
            if settled:
                self._settled_rows[trial.number] = found[trial.number]
        return [found[number] for number in sorted(found)]

    def leaderboard(self) -> "pd.DataFrame":
        """Finished trials, best validation adjusted Rand score first; with the time that correcting would take.

        Where the study is after objects, the best in that score first.
        """
        table = self.table()
        if table.empty:
            return table
        first = self.asked.objectives[0] if self.asked.objectives[0] in goals.OF_OBJECTS else "adjusted_rand"
        done = table[table["state"] == "done"]
        if first in done:  # there is none before the first trial is done
            done = done.sort_values(first, ascending=False, kind="stable")
        if ERRORS in done and CORRECTION not in done:
            minutes = [self.correction_min(row) for row in done.to_dict("records")]
            done.insert(list(done).index("adjusted_rand") + 1, CORRECTION, minutes)
        return done.drop(columns=["state", "reason", "place", "counts", "worked_s"]).reset_index(drop=True)

    @property
    def effort(self) -> Effort:
        """What a person's time for corrections is taken to be: as `genenet correct effort` wrote it, or guesses."""
        return Effort.known_in(self.folder)

    def correction_min(self, row: Mapping[Any, Any]) -> float | None:
        """Minutes that a person would take to correct a million voxels by a trial's network; None if nobody counted."""
        if not row.get(ERRORS, np.nan) >= 0:
            return None
        return round(self.effort.minutes_per_megavoxel(10**6, row[ERRORS], row[WRONG]), 3)

    def pareto_front(self) -> "pd.DataFrame":
        """Finished trials that no other one beats in all of the study's objectives, the best in the first one first."""
        import pandas as pd

        names = self.asked.objectives
        done = [row for row in self.rows() if row["state"] == "done"]
        front = goals.front([[row[name] for name in names] for row in done], names)
        return pd.DataFrame([done[place] for place in front], columns=["trial", *names])

    def write_leaderboard(self) -> None:
        """Write leaderboard.csv."""
        write_text(self.folder / "leaderboard.csv", self.leaderboard().to_csv(index=False))

    def networks(self) -> list[Network]:
        """The trained networks, best validation adjusted Rand score first; those that were deleted are left out."""
        found = []
        for trial in self.trials():
            if trial.state["state"] == "done":
                try:
                    found.append(trial.network())
                except InputError as error:
                    logger.warning("trial %d is left out: %s", trial.number, error)
        return sorted(found, key=lambda network: -network.scores["adjusted_rand"])


def _version(path: Path) -> tuple[int, int, int]:
    """What changes when a file is replaced."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


def _storage_name(folder: Path) -> str:
    """A name that no other study has in a database."""
    return f"{folder.absolute().name}-{secrets.token_hex(4)}"
