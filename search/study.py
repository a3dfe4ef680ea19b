"""A study: a folder in which any number of processes try blueprints, any of which may die at any time.

study.yaml          what was asked, resolved
trials/0007/        one network tried
optuna.journal      what the samplers learn from
leaderboard.csv     finished trials, best first
report.html         for people
ensemble/           members.json, curve.csv
"""

import dataclasses
import importlib.metadata
import logging
from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection

import genenet
from genenet.dataset import Dataset, resolve_data
from genenet.errors import InputError
from genenet.folder import read_yaml, write_text, write_yaml
from genenet.genes import NetworkRoot, UNet
from genenet.network import Network
from genenet.settings import TrainingSettings
from genenet.wording import plural
from search import goals
from search.same_settings import as_yaml, refuse_other_settings
from search.samplers import SAMPLERS, SeededSampler
from search.space import Limits, Space
from search.trial import Trial, counts

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

# A worker on another machine is taken for dead after so many seconds without a sign of life.
LEASE_S = 180.0


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
        self.settings = read_yaml(self.folder / "study.yaml")
        try:
            self.seed = int(self.settings["seed"])
            self.n_trials = int(self.settings["n_trials"])
            self.sampler = str(self.settings["sampler"])
            self.limits = Limits(**self.settings["limits"])
            self.lease_s = float(self.settings.get("lease_s", LEASE_S))
            self.objectives = tuple(self.settings.get("objectives", ["adjusted_rand"]))
            self.space = Space.from_dict(self.settings["space"])
            self.training = TrainingSettings.from_dict(self.settings["training"], "study.yaml: training")
        except (KeyError, TypeError) as error:
            raise InputError(f"{self.folder / 'study.yaml'} is damaged: {error!r}") from None
        self._data: Dataset | None = None
        self._optuna: optuna.Study | None = None
        self._settled_rows: dict[int, dict[str, Any]] = {}
        self.lock = filelock.FileLock(self.folder / "lock")

    @classmethod
    def create(
        cls,
        folder: Path | str,
        space: Space,
        *,
        data: str | Path | dict[str, Any],
        steps: int | None = None,
        training: TrainingSettings | None = None,
        n_trials: int = 20,
        sampler: str = "random",
        seed: int = 0,
        limits: Limits | None = None,
        objectives: Sequence[str] = ("adjusted_rand",),
        baseline: NetworkRoot | bool = True,
        lease_s: float = LEASE_S,
    ) -> "Study":
        """Make a study's folder; the same call again opens it.

        Args:
            folder: Where.
            space: What may be tried.
            data: A `data.yaml`, or its content.
            steps: Optimizer steps per trial; short for `training`.
            training: How each network is trained.
            n_trials: Networks to draw from the space; the baseline comes on top.
            sampler: `random`, `tpe` or `evolution`.
            seed: Of every draw, weight and window.
            limits: What a network may cost.
            objectives: What the sampler learns from, the most important first: `adjusted_rand`, `mean_iou`, `accuracy`,
                and, the less the better, `n_parameters`, `n_multiply_adds_per_voxel`, `training_bytes`.
            baseline: A blueprint to be trained first, under the same budget; True for the original U-Net with same
                padding, so that it learns from windows as large as the space's base.
            lease_s: A worker on another machine that gives no sign of life for so many seconds is taken for dead.

        Raises:
            InputError: The folder holds a study made by other settings, or the data cannot be used.
        """
        training = training or TrainingSettings()
        if steps is not None:
            training = dataclasses.replace(training, steps=steps)
        if not lease_s > 0:
            raise InputError(f"`lease_s` must be positive, but got {lease_s}")
        if n_trials < 0:
            raise InputError(f"`n_trials` must be at least 0, but got {n_trials}")
        goals.check(tuple(objectives))
        if sampler not in SAMPLERS:
            raise InputError(f"`sampler` must be one of {', '.join(SAMPLERS)}, but got {sampler!r}")
        opened = Dataset.open(data)
        base = space.base
        if (base.n_classes, base.n_channels) != (opened.n_classes, opened.n_channels):
            raise InputError(
                f"the space is for {base.n_classes} classes and {plural(base.n_channels, 'channel')}, "
                f"but {opened.name} has {opened.n_classes} and {opened.n_channels}"
            )
        if baseline is True:
            window = base.window_shape().output[-1]
            baseline = UNet(base.n_classes, base.n_channels, padding="same", window_size=max(window, 16))
        settings = {
            "study": 1,
            "data": resolve_data(data),
            "fingerprint": opened.fingerprint,
            "space": space.to_dict(),
            "training": training.to_dict(),
            "n_trials": n_trials,
            "sampler": sampler,
            "seed": seed,
            "limits": dataclasses.asdict(limits or Limits()),
            "objectives": list(objectives),
            "lease_s": float(lease_s),
            "baseline": baseline.to_dict() if isinstance(baseline, NetworkRoot) else None,
            "versions": {
                "genenet": genenet.__version__,
                **{name: importlib.metadata.version(name) for name in ("keras", "optuna", "numpy")},
            },
        }
        folder = Path(folder)
        path = folder / "study.yaml"
        settings = as_yaml(settings)
        if path.exists():
            refuse_other_settings(read_yaml(path), settings, folder)
            return cls(folder)
        (folder / "trials").mkdir(parents=True, exist_ok=True)
        write_yaml(path, settings)
        study = cls(folder)
        if isinstance(baseline, NetworkRoot):
            study.enqueue(baseline, label="baseline")
        return study

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
            self._data = Dataset.open(self.settings["data"])
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
            storage = JournalStorage(JournalFileBackend(str(self.folder / "optuna.journal")))
            sampler = SeededSampler(self.sampler, self.seed)
            self._optuna = optuna.create_study(
                storage=storage,
                study_name="genenet",
                sampler=sampler,
                directions=[StudyDirection[goals.DIRECTIONS[name].upper()] for name in self.objectives],
                load_if_exists=True,
            )
        return self._optuna

    def trials(self, without: Container[int] = ()) -> list[Trial]:
        """All trials, by number, except those of some numbers."""
        by_number = {int(path.name): path for path in (self.folder / "trials").glob("[0-9]*")}
        found = [Trial(by_number[number]) for number in sorted(by_number) if number not in without]
        return [trial for trial in found if (trial.folder / "state.json").exists()]

    def enqueue(self, blueprint: NetworkRoot, label: str = "") -> None:
        """Have a blueprint of one's own tried next, on top of `n_trials`."""
        with self.lock:
            self.optuna_study.enqueue_trial({}, user_attrs={"blueprint": blueprint.to_dict(), "label": label})

    def n_drawn(self) -> int:
        """Trials that count towards the budget: drawn from the space and not rejected."""
        return sum(counts(trial.state) for trial in self.trials())

    def run(self, n_trials: int | None = None, *, workers: int = 1) -> None:
        """Work until the budget is done; the same call after a kill continues.

        Args:
            n_trials: A new budget for the study, if larger than the one it has.
            workers: Processes on this machine, which share its cores.
        """
        from search.launch import run_workers
        from search.worker import work

        if n_trials is not None and n_trials > self.n_trials:
            self.extend(n_trials)
        if workers == 1:
            work(self)
        else:
            run_workers(self.folder, workers)

    def extend(self, n_trials: int) -> None:
        """Give the study a larger budget."""
        with self.lock:
            self.settings = {**read_yaml(self.folder / "study.yaml"), "n_trials": n_trials}
            write_yaml(self.folder / "study.yaml", self.settings)
            self.n_trials = n_trials

    def table(self) -> "pd.DataFrame":
        """All trials with their states, by number."""
        import pandas as pd

        return pd.DataFrame(self.rows())

    def rows(self) -> list[dict[str, Any]]:
        """All trials with their states, by number; those that are settled are read once."""
        found = dict(self._settled_rows)
        for trial in self.trials(without=self._settled_rows):
            settled = trial.is_settled  # before it is described: it may be settled in between
            found[trial.number] = trial.describe(self.lease_s)
            if settled:
                self._settled_rows[trial.number] = found[trial.number]
        return [found[number] for number in sorted(found)]

    def leaderboard(self) -> "pd.DataFrame":
        """Finished trials, best validation adjusted Rand score first."""
        table = self.table()
        if table.empty:
            return table
        done = table[table["state"] == "done"].sort_values("adjusted_rand", ascending=False, kind="stable")
        return done.drop(columns=["state", "reason"]).reset_index(drop=True)

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
