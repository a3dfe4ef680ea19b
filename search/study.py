"""A study: a folder in which any number of processes try blueprints, any of which may die at any time.

study.yaml          what was asked, resolved
trials/0007/        one network tried
optuna.journal      what the samplers learn from
leaderboard.csv     finished trials, best first
report.html         for people
ensemble/           members.json, curve.csv
"""

import contextlib
import dataclasses
import importlib.metadata
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import TrialState

import genenet
from genenet.dataset import Dataset, resolve_data
from genenet.errors import InputError
from genenet.folder import read_yaml, remove, write_json, write_text, write_yaml
from genenet.genes import NetworkRoot, UNet, from_dict
from genenet.network import Network
from genenet.settings import TrainingSettings
from genenet.wording import plural
from search import goals
from search.same_settings import as_yaml, refuse_other_settings
from search.samplers import SAMPLERS, SeededSampler, suggesting
from search.space import Limits, Space, problem
from search.trial import MAX_ATTEMPTS, Trial

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

# So many blueprints in a row may be over the limits before the space is called empty.
MAX_REJECTED_IN_A_ROW = 500


@dataclasses.dataclass(frozen=True)
class Claim:
    """A trial that this process holds, to train it.

    Attributes:
        trial: Its files.
        attempt: 1, or more after a kill.
    """

    trial: Trial
    attempt: int


class Study:
    """A search in a folder.

    Args:
        folder: Of a study that exists; `Study.create` makes one.

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
            self.objectives = tuple(self.settings.get("objectives", ["adjusted_rand"]))
            self.space = Space.from_dict(self.settings["space"])
            self.training = TrainingSettings.from_dict(self.settings["training"], "study.yaml: training")
        except (KeyError, TypeError) as error:
            raise InputError(f"{self.folder / 'study.yaml'} is damaged: {error!r}") from None
        self._data: Dataset | None = None
        self._optuna: optuna.Study | None = None
        self._lock = filelock.FileLock(self.folder / "lock")

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

        Raises:
            InputError: The folder holds a study made by other settings, or the data cannot be used.
        """
        training = training or TrainingSettings()
        if steps is not None:
            training = dataclasses.replace(training, steps=steps)
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

    def trials(self) -> list[Trial]:
        """All trials, by number."""
        folders = sorted((self.folder / "trials").glob("[0-9]*"), key=lambda path: int(path.name))
        return [Trial(folder) for folder in folders if (folder / "state.json").exists()]

    def enqueue(self, blueprint: NetworkRoot, label: str = "") -> None:
        """Have a blueprint of one's own tried next, on top of `n_trials`."""
        with self._lock:
            self.optuna_study.enqueue_trial({}, user_attrs={"blueprint": blueprint.to_dict(), "label": label})

    @contextlib.contextmanager
    def claim(self) -> Iterator[Claim | None]:
        """Take a trial to work on: one that was killed, or the next of the budget; None when none is left.

        The trial is held until the block ends. A trial whose process dies is free for the next that claims.
        """
        with self._lock:
            lock, trial = self._next()
        if trial is None or lock is None:
            yield None
            return
        try:
            yield Claim(trial, trial.begin_attempt())
        finally:
            lock.release()

    def _next(self) -> tuple[filelock.BaseFileLock | None, Trial | None]:
        self._adopt_unborn()
        for trial in self.trials():
            if trial.state["state"] in ("running", "waiting"):
                lock = trial.lock()
                with contextlib.suppress(filelock.Timeout):
                    # Not 0: `status` holds a lock for a moment while it looks who works.
                    lock.acquire(timeout=0.05)
                    if trial.attempts < MAX_ATTEMPTS:
                        return lock, trial
                    reason = f"its process was killed {trial.attempts} times; does it take more memory than there is?"
                    self.finish(trial, "failed", reason=reason)
                    lock.release()
        return self._draw()

    def _draw(self) -> tuple[filelock.BaseFileLock | None, Trial | None]:
        """The next trial of the budget; blueprints that need not be trained are counted and drawn again."""
        for _ in range(MAX_REJECTED_IN_A_ROW):
            waiting = self.optuna_study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
            if not waiting and self.n_drawn() >= self.n_trials:
                return None, None
            trial = self._give_birth(self.optuna_study.ask())
            if trial is not None:
                lock = trial.lock()
                lock.acquire(timeout=0)
                return lock, trial
        raise InputError(
            f"{MAX_REJECTED_IN_A_ROW} blueprints in a row could not be built, were over the limits or had been tried; "
            "widen the limits, or narrow the space"
        )

    def n_drawn(self) -> int:
        """Trials that count towards the budget: drawn from the space and not rejected."""
        states = [trial.state for trial in self.trials()]
        return sum(state["state"] != "rejected" and not state.get("enqueued") for state in states)

    def _adopt_unborn(self) -> None:
        """Finish what a process began that was killed between the sampler's answer and the trial's folder."""
        born = {trial.number for trial in self.trials()}
        for entry in self.optuna_study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if entry.number not in born:
                self._give_birth(optuna.trial.Trial(self.optuna_study, entry._trial_id))

    def _give_birth(self, asked: optuna.trial.Trial) -> Trial | None:
        """Write a trial's folder; None where its blueprint is rejected."""
        trial = Trial(self.folder / "trials" / f"{asked.number:04d}")
        given = asked.user_attrs.get("blueprint")
        net = from_dict(given) if given is not None else self.space.sample(suggesting(asked))
        room = min(part.shape for part in self.data.training)
        batch_size = self.training.windows.batch_size
        reason = None if given is not None else problem(net, self.limits, batch_size, room) or self._tried(net)
        remove(trial.folder)
        trial.folder.mkdir(parents=True)
        write_json(trial.folder / "blueprint.json", net.to_dict())
        details: dict[str, Any] = {"enqueued": given is not None}
        if asked.user_attrs.get("label"):
            details["label"] = asked.user_attrs["label"]
        if reason is None:
            trial.write_state("waiting", **details)
            return trial
        self.optuna_study.tell(asked.number, state=TrialState.PRUNED)
        trial.write_state("rejected", reason=reason, **details)
        logger.info("trial %d is rejected: %s", trial.number, reason)
        return None

    def _tried(self, net: NetworkRoot) -> str | None:
        """Why a child of evolution need not be trained: it may be like its parent, or like an earlier child."""
        if self.sampler != "evolution":
            return None
        for trial in self.trials():
            if trial.state["state"] != "rejected" and trial.blueprint == net:
                return f"it is the same as trial {trial.number}"
        return None

    def finish(self, trial: Trial, state: str, **details: Any) -> None:
        """Tell the sampler how a trial ended, then write it down.

        Args:
            trial: Which.
            state: `done` with `adjusted_rand` among the details, or `failed` with a `reason`.
            **details: For state.json.
        """
        known = {key: value for key, value in trial.state.items() if key in ("enqueued", "label")}
        with self._lock:
            if state == "done":
                told = goals.values(self.objectives, details, trial.blueprint, self.training.windows.batch_size)
                self.optuna_study.tell(trial.number, told, skip_if_finished=True)
            else:
                self.optuna_study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            trial.write_state(state, **{**known, **details})
            self._write_leaderboard()

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
        with self._lock:
            self.settings = {**read_yaml(self.folder / "study.yaml"), "n_trials": n_trials}
            write_yaml(self.folder / "study.yaml", self.settings)
            self.n_trials = n_trials

    def table(self) -> "pd.DataFrame":
        """All trials with their states, by number."""
        import pandas as pd

        return pd.DataFrame([trial.describe() for trial in self.trials()])

    def leaderboard(self) -> "pd.DataFrame":
        """Finished trials, best validation adjusted Rand score first."""
        table = self.table()
        if table.empty:
            return table
        done = table[table["state"] == "done"].sort_values("adjusted_rand", ascending=False, kind="stable")
        return done.drop(columns=["state", "reason"]).reset_index(drop=True)

    def _write_leaderboard(self) -> None:
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
