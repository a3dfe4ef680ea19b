"""Train one network; killed at any moment and started again, it continues from its last checkpoint."""

import contextlib
import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from genenet.averaging import MeanPredictor
from genenet.blocks import BlockPredictor
from genenet.dataset import Dataset
from genenet.device import dtype_policy
from genenet.errors import InputError, TrainingError
from genenet.folder import partial_path, read_json, remove, write_json, write_text
from genenet.genes import NetworkRoot
from genenet.interrupts import Stopped, interrupts_between_steps
from genenet.learning_rate import follows_the_clock, learning_rate_schedule
from genenet.losses import LOSSES
from genenet.network import DESCRIPTION, Network, save_network
from genenet.normalization import Normalization
from genenet.saving import copy_of, get_variables, read_arrays, set_variables, trainer_of, with_policy, write_arrays
from genenet.settings import TrainingSettings
from genenet.validation import SCORES, validate, worth
from genenet.windows import Batch, TrainingWindows, prefetch

CHECKPOINT = "checkpoint.json"


@dataclasses.dataclass(frozen=True)
class Record:
    """One line of the history.

    Attributes:
        step: Steps done.
        seconds: Training time so far, without validation.
        loss: Mean training loss since the record before.
        learning_rate: At this step.
        adjusted_rand, mean_iou, accuracy, mean_dice: On the whole validation part; nan for networks that give
            distances only.
        distance_mse: Mean squared error of distances there; nan for networks that give none.
    """

    step: int
    seconds: float
    loss: float
    learning_rate: float
    adjusted_rand: float = math.nan
    mean_iou: float = math.nan
    accuracy: float = math.nan
    mean_dice: float = math.nan
    distance_mse: float = math.nan

    @property
    def summary(self) -> str:
        """What the weights are kept by, for people."""
        if math.isnan(self.adjusted_rand):
            return f"squared error of distances {self.distance_mse:.5f}"
        return f"adjusted Rand score {self.adjusted_rand:.4f}"


@dataclasses.dataclass
class _State:
    """Where a training stands; all of it is in the checkpoint."""

    step: int = 0
    seconds: float = 0.0
    best_step: int = -1
    best: dict[str, float] = dataclasses.field(default_factory=dict)
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    loss_sum: float = 0.0
    loss_steps: int = 0
    stopped: str = ""


# Called after every step with steps and seconds done, and after every validation with a record. Its answer to a record
# may be True: stop here.
Watcher = Callable[[int, float, Record | None], bool | None]


@dataclasses.dataclass(frozen=True)
class Start:
    """A model to train further, instead of one made from the blueprint.

    Attributes:
        model: With the blueprint's layers by name, as many channels as it has left; it stays as it is.
        learning_rate: The first one; the blueprint's if left out.
        identity: What tells it from others.
        details: What to record with the network.
        normalization: What its images went through; that of the data if left out.
        hold: Given the model that is trained, a context within which it trains: `pruning.held_at_zero`, say.
    """

    model: keras.Model
    learning_rate: float | None = None
    identity: str = ""
    details: dict[str, Any] = dataclasses.field(default_factory=dict)
    normalization: Normalization | None = None
    hold: Callable[[keras.Model], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext


class _Training:
    """One training under way."""

    def __init__(
        self,
        blueprint: NetworkRoot,
        data: Dataset,
        work: Path,
        settings: TrainingSettings,
        *,
        seed: int,
        watch: Watcher,
        start: Start | None = None,
    ) -> None:
        self.blueprint, self.data, self.work, self.settings, self.watch = blueprint, data, work, settings, watch
        self.normalization = (start and start.normalization) or data.normalization()
        window = blueprint.window_shape()
        policy = dtype_policy(settings.precision)
        plan = blueprint.plan_layers()
        has_distances = any(head.kind == "distance" for head in plan.heads)
        shape = (*[None] * plan.n_dims, blueprint.n_channels)
        self.heads = plan.heads
        if start is None:
            built = blueprint.make(shape, precision=policy, seed=seed)
            self.model, self.trainer = built.model, built.trainer
        else:
            self.model = with_policy(copy_of(start.model), policy)
            self.heads = [head for head in plan.heads if not head.auxiliary]
            self.trainer = trainer_of(self.model, self.heads)
        self.windows = TrainingWindows(
            data, window, self.normalization, settings.windows, seed=seed, distances=has_distances
        )
        self.first_rate = 10.0**blueprint.log10_learning_rate
        if start is not None and start.learning_rate is not None:
            self.first_rate = start.learning_rate
        self.adam = optimizer = keras.optimizers.Adam(learning_rate_schedule(self.first_rate, settings))
        if policy == "mixed_float16":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        self.trainer.compile(
            optimizer=optimizer,
            loss=[LOSSES[head.kind]() for head in self.heads],
            loss_weights=[head.weight for head in self.heads],
        )
        optimizer.build(self.trainer.trainable_variables)
        predictor = BlockPredictor(self.model, plan, self.normalization, window, context=blueprint.context)
        self.predictor = MeanPredictor((predictor,))
        self.state = _State()
        self._is_from_model = start is not None

    @property
    def variables(self) -> list[keras.Variable]:
        return [*self.trainer.variables, *self.trainer.optimizer.variables]

    def save(self, digest: str) -> None:
        """Arrays first, then the JSON file that names them; a kill between leaves the checkpoint before."""
        name = f"checkpoint-{self.state.step:07d}.npz"
        write_arrays(self.work / name, get_variables(self.variables))
        write_json(self.work / CHECKPOINT, {"arrays": name, "digest": digest, **dataclasses.asdict(self.state)})
        keep = {name, self.best_name}
        for path in [*self.work.glob("checkpoint-*.npz"), *self.work.glob("best-*.npz")]:
            if path.name not in keep:
                remove(path)

    def restore(self, digest: str) -> None:
        """Continue from the last checkpoint, if there is one."""
        if not (self.work / CHECKPOINT).exists():
            return
        entry = read_json(self.work / CHECKPOINT)
        if entry.pop("digest") != digest:
            raise InputError(
                f"{self.work} holds an unfinished training with other settings or data; "
                "use the same ones to continue it, or remove the folder"
            )
        set_variables(self.variables, read_arrays(self.work / entry.pop("arrays")))
        self.state = _State(**entry)

    @property
    def best_name(self) -> str:
        return f"best-{self.state.best_step:07d}.npz"

    def next_stop(self) -> int:
        """The step at which something is due."""
        settings, step = self.settings, self.state.step
        stops = [step + every - step % every for every in (settings.validate_every, settings.checkpoint_every)]
        return min(*stops, settings.steps)

    def run_leg(self, check: Callable[[], None]) -> None:
        """Train until something is due, or the time is up; `check` is called between steps.

        One step at a time rather than by `fit`, whose input pipeline cannot always be stopped half-way: it was seen to
        keep a process from ending.
        """
        state, limit_s = self.state, self.settings.seconds
        started = time.monotonic() - state.seconds
        for batch in prefetch(self.windows.batch, range(state.step, self.next_stop())):
            check()
            if limit_s is not None and follows_the_clock(self.settings):
                share = min(state.seconds / limit_s, 1.0)
                self.adam.learning_rate = self.first_rate * 0.5 * (1 + math.cos(math.pi * share))
            loss = self.train_on(batch)
            if not math.isfinite(loss):
                raise TrainingError("nan", f"the loss became {loss} at step {state.step + 1}")
            state.step += 1
            state.loss_sum += loss
            state.loss_steps += 1
            state.seconds = time.monotonic() - started
            self.watch(state.step, state.seconds, None)
            if limit_s is not None and state.seconds >= limit_s:
                break

    def train_on(self, batch: Batch) -> float:
        """One step; gives its loss."""
        by_kind = {"classes": batch.labels, "foreground": batch.labels, "distance": batch.distances}
        targets = [by_kind[head.kind] for head in self.heads]
        weights = [batch.weights] * len(targets)
        return float(
            self.trainer.train_on_batch(batch.images, targets, sample_weight=weights, return_dict=True)["loss"]
        )

    @property
    def is_over(self) -> bool:
        settings, state = self.settings, self.state
        out_of_time = settings.seconds is not None and state.seconds >= settings.seconds
        return bool(state.stopped) or out_of_time or state.step >= settings.steps

    def validate(self) -> None:
        """Score the whole validation part; keep the weights if they are the best so far."""
        state = self.state
        found = validate(self.predictor, self.data.validation, self.data.n_classes, self.settings.windows)
        record = Record(
            step=state.step,
            seconds=round(state.seconds, 3),
            loss=state.loss_sum / max(state.loss_steps, 1),
            learning_rate=float(keras.ops.convert_to_numpy(self.adam.learning_rate)),
            **found,
        )
        state.loss_sum, state.loss_steps = 0.0, 0
        state.history.append(dataclasses.asdict(record))
        if worth(found) > worth(state.best):
            state.best_step, state.best = state.step, found
            write_arrays(self.work / self.best_name, get_variables(self.model.variables))
        write_text(self.work / "history.csv", self.history_csv())
        self._look_for_a_reason_to_stop(record)

    def _look_for_a_reason_to_stop(self, record: Record) -> None:
        settings, state = self.settings, self.state
        if self.watch(state.step, state.seconds, record):
            state.stopped = "asked to stop"
        since_best = sum(entry["step"] > state.best_step for entry in state.history)
        if settings.patience is not None and since_best >= settings.patience:
            state.stopped = f"no better for {since_best} validations"
        if settings.stop_step is not None and settings.stop_below is not None and state.step >= settings.stop_step:
            first = not any(settings.stop_step <= entry["step"] < state.step for entry in state.history)
            if first and state.best.get("adjusted_rand", math.inf) < settings.stop_below:
                state.stopped = f"adjusted Rand score below {settings.stop_below} at step {state.step}"

    def history_csv(self) -> str:
        given = [name for name in SCORES if any(math.isfinite(entry[name]) for entry in self.state.history)]
        names = [field.name for field in dataclasses.fields(Record) if field.name not in SCORES or field.name in given]
        rows = [",".join(f"{entry[name]:.10g}" for name in names) for entry in self.state.history]
        return "\n".join([",".join(names), *rows]) + "\n"

    def run(self, digest: str) -> None:
        self.work.mkdir(parents=True, exist_ok=True)
        self.restore(digest)
        if self._is_from_model and self.state.best_step < 0:
            self.validate()  # what training makes worse is not kept
        with interrupts_between_steps() as check:
            while not self.is_over:
                try:
                    self.run_leg(check)
                except Stopped:
                    self.save(digest)
                    raise
                if self.is_over or self.state.step % self.settings.validate_every == 0:
                    self.validate()
                self.save(digest)
                check()
        if self.state.best_step < 0:
            self.validate()
        set_variables(self.model.variables, read_arrays(self.work / self.best_name))


def _is_out_of_memory(error: BaseException) -> bool:
    """Backends raise their own classes; their names and words are what they share."""
    text = f"{type(error).__name__} {error}".lower()
    return any(word in text for word in ("resourceexhausted", "resource_exhausted", "out of memory", "memoryerror"))


def train_network(
    blueprint: NetworkRoot,
    data: Dataset,
    folder: Path | str,
    settings: TrainingSettings | None = None,
    *,
    seed: int = 0,
    work: Path | None = None,
    watch: Watcher | None = None,
    start: Start | None = None,
) -> Network:
    """Train a network and write its folder; the same call again continues, or returns what is there.

    Adam minimises class-weighted cross-entropy and the blueprint's penalties (Guay et al. 2018, section 2.1); for
    networks with one output, the Dice loss of foreground or the squared error of distances (Mahbod et al. 2022). The
    weights with the best validation adjusted Rand score are kept, of networks that give distances only those with the
    least squared error.

    Args:
        blueprint: What to build.
        data: What to learn from, and what to validate on.
        folder: Where the network goes.
        settings: How; defaults if left out.
        seed: Of first weights, windows, augmentation and dropout.
        work: Where checkpoints and history stand meanwhile; beside the folder if left out.
        watch: Called after every step and every validation; True as answer to a record ends the training. It may raise
            `genenet.interrupts.Stopped` after a step: that is written down, and the same call continues there.
        start: A model to train further; it is validated first, and stays what it is if training makes it worse.

    Returns:
        The network.

    Raises:
        InputError: The blueprint does not fit the data, or the folder holds something else.
        TrainingError: The loss became NaN, or memory ran out.
    """
    folder, settings = Path(folder), settings or TrainingSettings()
    work = partial_path(folder) if work is None else work
    # A network with one output tells foreground from background, or gives distances.
    if (max(blueprint.n_classes, 2), blueprint.n_channels) != (data.n_classes, data.n_channels):
        raise InputError(
            f"the blueprint is for {blueprint.n_classes} classes and {blueprint.n_channels} channels, "
            f"but {data.name} has {data.n_classes} and {data.n_channels}"
        )
    content = [blueprint.to_dict(), settings.to_dict(), data.fingerprint, seed]
    if start is not None:
        content += [start.identity, start.learning_rate]
    digest = hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).hexdigest()
    if (folder / DESCRIPTION).exists():
        network = Network.open(folder)
        if network.details.get("digest") == digest:
            return network
    if folder.exists():
        raise InputError(
            f"{folder} exists and is not this network with these settings; "
            "choose another folder, or ask to overwrite it (--overwrite)"
        )
    try:
        watch = watch or (lambda *_: None)
        training = _Training(blueprint, data, work, settings, seed=seed, watch=watch, start=start)
        with (start.hold if start is not None else contextlib.nullcontext)(training.model):
            training.run(digest)
    except TrainingError:
        raise
    except Exception as error:
        if _is_out_of_memory(error):
            message = "memory ran out: choose a smaller batch_size, window_size or n_features"
            raise TrainingError("memory", message) from error
        raise
    network = _finish(training, folder, seed, digest, {} if start is None else start.details)
    if work == partial_path(folder):
        remove(work)
    else:
        for path in [work / CHECKPOINT, *work.glob("checkpoint-*.npz"), *work.glob("best-*.npz")]:
            remove(path)
    return network


def _finish(training: _Training, folder: Path, seed: int, digest: str, more: dict[str, Any]) -> Network:
    state, data = training.state, training.data
    details = {
        **more,
        "digest": digest,
        "seed": seed,
        "training": training.settings.to_dict(),
        "data": data.name,
        "voxel_size_nm": data.voxel_size_nm,
        "steps": state.step,
        "best_step": state.best_step,
        "seconds": round(state.seconds, 3),
        "stopped": state.stopped,
        "class_counts": [int(count) for count in np.asarray(data.counts)],
    }
    return save_network(
        folder,
        training.model,
        training.blueprint,
        training.normalization,
        data.classes,
        state.best,
        details=details,
        history=training.history_csv(),
    )
