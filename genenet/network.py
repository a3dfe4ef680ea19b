"""A trained network as a folder: the Keras file and all that is needed to use it on an image."""

import dataclasses
import hashlib
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genenet.classes import SegmentationClass
from genenet.errors import InputError
from genenet.folder import read_json, write_json, writing
from genenet.genes import NetworkRoot, from_dict
from genenet.normalization import Normalization
from genenet.settings import TrainingSettings, WindowSettings

if TYPE_CHECKING:
    import keras

    from genenet.blocks import BlockPredictor

MODEL, BLUEPRINT, DESCRIPTION, HISTORY = "model.keras", "blueprint.json", "network.json", "history.csv"


@dataclasses.dataclass(frozen=True)
class Network:
    """A trained network on disk; nothing heavy is loaded before it is asked for.

    Attributes:
        folder: Where it is.
        blueprint: Its gene tree.
        normalization: What is done to images first.
        classes: The class table, in the order of its outputs.
        scores: Validation scores by name: `adjusted_rand` among them if it tells classes apart, `distance_mse` if it
            gives distances.
        n_parameters: Trainable parameters.
        details: What else was recorded: training settings, versions, voxel size.
    """

    folder: Path
    blueprint: NetworkRoot
    normalization: Normalization
    classes: tuple[SegmentationClass, ...]
    scores: dict[str, float]
    n_parameters: int
    details: dict[str, Any]

    @classmethod
    def open(cls, folder: "str | Path | Network") -> "Network":
        """Open a network's folder.

        Raises:
            InputError: It is not one.
        """
        if isinstance(folder, Network):
            return folder
        folder = Path(folder)
        if not (folder / DESCRIPTION).exists():
            raise InputError(f"{folder} is not a network: it holds no {DESCRIPTION}")
        entry = read_json(folder / DESCRIPTION)
        try:
            return cls(
                folder,
                from_dict(read_json(folder / BLUEPRINT)),
                Normalization.from_dict(entry["normalization"]),
                tuple(SegmentationClass(**row) for row in entry["classes"]),
                {name: float(score) for name, score in entry["scores"].items()},
                int(entry["n_parameters"]),
                entry["details"],
            )
        except (KeyError, TypeError) as error:
            raise InputError(f"{folder / DESCRIPTION} is damaged: {error}") from None

    def load(self, precision: str = "auto") -> "keras.Model":
        """Load the Keras model, `(batch, *space, channels)` to class probabilities.

        Args:
            precision: `auto`, `float32`, `bfloat16` or `float16`; the file itself holds float32.

        Raises:
            InputError: The file is damaged.
        """
        from genenet.device import dtype_policy, import_keras

        import_keras()
        from genenet.saving import load_model, with_policy

        return with_policy(load_model(self.folder / MODEL), dtype_policy(precision))

    def predictor(self, precision: str = "auto") -> "BlockPredictor":
        """Load the network to run over volumes block by block."""
        from genenet.device import dtype_policy

        engine = "keras", dtype_policy(precision).removeprefix("mixed_")
        return dataclasses.replace(self.geometry(), model=self.load(precision), engine=engine)

    @property
    def gives(self) -> tuple[str, ...]:
        """What kinds of answers it gives: `classes` or `foreground`, and `distance`."""
        return self.geometry().gives

    @property
    def gives_classes(self) -> bool:
        """Whether it tells classes apart; else it gives distances only."""
        return self.gives != ("distance",)

    @property
    def windows(self) -> WindowSettings:
        """How the windows were drawn that it learned from, and what its distances mean."""
        return TrainingSettings.from_dict(self.details.get("training", {})).windows

    def absolute(self) -> "Network":
        """The same, for a process that works in another folder."""
        return dataclasses.replace(self, folder=self.folder.absolute())

    @property
    def blueprint_hash(self) -> str:
        """What tells its blueprint from others; weights do not count."""
        text = json.dumps(self.blueprint.to_dict(), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def geometry(self) -> "BlockPredictor":
        """What `predictor` gives, without the model: it knows what it would read, and what memory it would take."""
        from genenet.blocks import BlockPredictor

        net = self.blueprint
        return BlockPredictor(None, net.plan_layers(), self.normalization, net.window_shape(), context=net.context)


def save_network(
    folder: Path,
    model: "keras.Model",
    blueprint: NetworkRoot,
    normalization: Normalization,
    classes: Sequence[SegmentationClass],
    scores: dict[str, float],
    *,
    details: dict[str, Any],
    history: str = "",
) -> Network:
    """Write a network's folder in one step; replaces one that is there.

    Args:
        folder: Where.
        model: The trained model.
        blueprint: What it was built from.
        normalization: What was done to its images.
        classes: What its outputs mean.
        scores: Validation scores.
        details: What else to record; versions are added.
        history: The training history as CSV text.
    """
    from genenet.saving import count_parameters, save_model

    n_parameters = count_parameters(model)
    with writing(folder) as beside:
        beside.mkdir()
        save_model(model, beside / MODEL)
        write_json(beside / BLUEPRINT, blueprint.to_dict())
        entry = {
            "network": 1,
            "normalization": normalization.to_dict(),
            "classes": [dataclasses.asdict(entry) for entry in classes],
            "scores": scores,
            "n_parameters": n_parameters,
            "details": {**details, "versions": versions()},
        }
        write_json(beside / DESCRIPTION, entry)
        (beside / HISTORY).write_text(history, encoding="utf-8")
    return Network.open(folder)


def versions() -> dict[str, str]:
    """What made a result: genenet, Keras and its backend, Python."""
    import keras

    import genenet

    return {
        "genenet": genenet.__version__,
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "python": platform.python_version(),
    }
