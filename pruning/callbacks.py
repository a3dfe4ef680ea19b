"""Callbacks that prune wrapped layers while they train, and that write down how far it went."""

import csv
import importlib.util
from pathlib import Path
from typing import Any

import keras

from pruning.errors import PruningError
from pruning.wrapping import PruneLowMagnitude, sparsity_of, threshold_of, wrappers


class UpdatePruningStep(keras.callbacks.Callback):
    """Works masks out when the schedules say so, and keeps masked weights at 0 after every step.

    Args:
        may_be_late: Whether training may end before any schedule has begun, to go on in a later call of `fit`.

    Raises:
        PruningError: At the start, the model has no wrapped layers; at the end, nothing was pruned.
    """

    def __init__(self, may_be_late: bool = False) -> None:
        super().__init__()
        self.may_be_late = may_be_late
        self._own_step = 0
        self._last = -1
        self._wrappers: list[PruneLowMagnitude] = []

    def on_train_begin(self, logs: Any = None) -> None:
        """Find the wrapped layers."""
        self._wrappers = list(wrappers(self.model))
        if not self._wrappers:
            raise PruningError("the model has no layers that `prune_low_magnitude` wrapped")
        self._last = self._step() - 1

    def on_train_batch_begin(self, batch: Any, logs: Any = None) -> None:
        """Prune where it is due; steps that run together count one by one."""
        step = self._step()
        model = self.model  # on JAX this brings the variables up to date
        for wrapper in list(wrappers(model)):
            due = [passed for passed in range(self._last + 1, step + 1) if wrapper.pruning_schedule(passed)[0]]
            if due:
                wrapper.update(due[-1], wrapper.pruning_schedule(due[-1])[1])
        self._last = step

    def on_train_batch_end(self, batch: Any, logs: Any = None) -> None:
        """What is masked stays 0, whatever momentum or weight decay did."""
        self._own_step += 1
        for wrapper in wrappers(self.model):
            wrapper.write_zeros()

    def on_epoch_end(self, epoch: Any = None, logs: Any = None, **_: Any) -> None:
        """The same, for training loops of one's own that call this alone."""
        for wrapper in wrappers(self.model):
            wrapper.write_zeros()

    def on_train_end(self, logs: Any = None) -> None:
        """Refuse to end without having pruned anything."""
        if self.may_be_late or any(int(wrapper.pruning_step) >= 0 for wrapper in self._wrappers):
            return
        first = min(wrapper.pruning_schedule.begin_step for wrapper in self._wrappers)
        raise PruningError(
            f"nothing was pruned: training ended after step {self._step()}, but schedules begin at step {first}; let "
            "them begin earlier, train longer, or pass UpdatePruningStep(may_be_late=True) if training goes on later"
        )

    def _step(self) -> int:
        optimizer = getattr(self.model, "optimizer", None)
        return self._own_step if optimizer is None else int(optimizer.iterations)


class PruningSummaries(keras.callbacks.Callback):
    """Writes sparsity and threshold of every wrapped layer to `pruning.csv`.

    On the TensorFlow backend, where `tensorboard` is installed (`pip install tensorboard`), for TensorBoard too.

    Args:
        log_dir: A folder; made if it is not there.
        update_freq: `epoch`, or after how many steps.
    """

    def __init__(self, log_dir: Path | str, update_freq: str | int = "epoch") -> None:
        super().__init__()
        if update_freq != "epoch" and (not isinstance(update_freq, int) or update_freq < 1):
            raise PruningError(f"`update_freq` must be epoch or a number of steps, but got {update_freq!r}")
        self.log_dir = Path(log_dir)
        self.update_freq = update_freq
        self._n_steps = 0
        self._writer: Any = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Open the files."""
        self.log_dir.mkdir(parents=True, exist_ok=True)
        if keras.backend.backend() == "tensorflow" and importlib.util.find_spec("tensorboard") is not None:
            import tensorflow as tf

            self._writer = tf.summary.create_file_writer(str(self.log_dir))

    def on_train_batch_end(self, batch: Any, logs: Any = None) -> None:
        """Write, if steps are counted."""
        self._n_steps += 1
        if isinstance(self.update_freq, int) and self._n_steps % self.update_freq == 0:
            self._write()

    def on_epoch_end(self, epoch: Any, logs: Any = None) -> None:
        """Write, if epochs are counted."""
        if self.update_freq == "epoch":
            self._write()

    def _write(self) -> None:
        path = self.log_dir / "pruning.csv"
        is_new = not path.exists()
        rows = [(wrapper.layer.name, sparsity_of(wrapper), threshold_of(wrapper)) for wrapper in wrappers(self.model)]
        with path.open("a", newline="") as stream:
            writer = csv.writer(stream)
            if is_new:
                writer.writerow(["step", "layer", "sparsity", "threshold"])
            writer.writerows([self._n_steps, name, f"{share:.6f}", f"{least:.6g}"] for name, share, least in rows)
        if self._writer is not None:
            import tensorflow as tf

            with self._writer.as_default(step=self._n_steps):
                for name, share, least in rows:
                    tf.summary.scalar(f"{name}/sparsity", share)
                    tf.summary.scalar(f"{name}/threshold", least)
            self._writer.flush()
