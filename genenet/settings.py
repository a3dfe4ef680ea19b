"""How a network is trained: flat nouns, and their reading from YAML."""

import dataclasses
from typing import Any, Literal

import pydantic

from genenet.augment import Augmentation
from genenet.distance_maps import check_distance_kind
from genenet.errors import InputError
from genenet.wording import known_instead

# What may stand for an augmentation where settings are plain data. Not `off`, which YAML reads as false.
_AUGMENTATIONS = {"default": Augmentation, "histology": Augmentation.histology, "none": Augmentation.off}


@dataclasses.dataclass(frozen=True)
class WindowSettings:
    """How windows are drawn and weighted.

    Attributes:
        batch_size: Windows per step.
        spacing: Distance of windows on a grid in voxels `(z, y, x)`, walked through in random order; None draws them
            anywhere.
        rare_class_share: Share of windows that are drawn around a voxel of a class chosen at random, 0 to 1.
        class_balance: 1 weighs classes by inverse frequency, 0 equally.
        weight_floor: The least class weight, relative to the rarest class.
        boundary_weight: The most that a voxel beside a boundary weighs more; 0 is off, the original code has 25.
        distance_cap: Distance maps, where the blueprint asks for them, say how far a voxel lies from the border of its
            object, in units of so many voxels.
        distance_kind: `truncated`, up to 1 at `distance_cap` voxels; `normalized`, as a share of the largest distance
            in the same object; or `voxels`, in units of `distance_cap` without a limit (`genenet.distance_maps`).
        augmentation: Random changes of each window; in YAML also a name, `default`, `histology` or `none`.
    """

    batch_size: int = 4
    spacing: tuple[int, int, int] | None = None
    rare_class_share: float = 0.0
    class_balance: float = 0.25
    weight_floor: float = 0.01
    boundary_weight: float = 0.0
    distance_cap: float = 16.0
    distance_kind: str = "truncated"
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        for name, low, high in (
            ("batch_size", 1, 4096),
            ("rare_class_share", 0, 1),
            ("class_balance", 0, 2),
            ("weight_floor", 0, 1),
            ("boundary_weight", 0, 1000),
            ("distance_cap", 1, 10_000),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(f"`{name}` must lie in [{low}, {high}], but got {value}")
        check_distance_kind(self.distance_kind)
        if self.spacing is not None and (len(self.spacing) != 3 or min(self.spacing) < 1):
            raise InputError(f"`spacing` must be three positive distances (z, y, x), but got {self.spacing}")


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """How one network is trained. The learning rate and the window belong to the blueprint.

    Attributes:
        steps: Optimizer steps at the most.
        seconds: Training time at the most, without validation; None for no limit. With it, results depend on the
            machine's speed.
        validate_every: Steps between validations.
        checkpoint_every: Steps between checkpoints; after a kill, training continues from the last one.
        schedule: How the learning rate falls: `exponential` by `decay_rate` every `decay_steps`, `cosine` to 0 at
            the last step (with `seconds`, when they are over), or `constant`.
        decay_rate: See `schedule`; the original code's 0.75.
        decay_steps: See `schedule`; the original code's 10**3.4.
        patience: Validations without improvement before training stops; None to go on.
        stop_step: The original code's rule: at the first validation at or after this step ...
        stop_below: ... stop when the best validation adjusted Rand score is below this; None to go on.
        precision: `auto`, `float32`, `bfloat16` or `float16`.
        windows: How training windows are drawn, weighted and augmented.
    """

    steps: int = 2000
    seconds: float | None = None
    validate_every: int = 200
    checkpoint_every: int = 200
    schedule: Literal["exponential", "cosine", "constant"] = "cosine"
    decay_rate: float = 0.75
    decay_steps: int = 2512
    patience: int | None = None
    stop_step: int | None = None
    stop_below: float | None = None
    precision: str = "auto"
    windows: WindowSettings = dataclasses.field(default_factory=WindowSettings)

    def __post_init__(self) -> None:
        for name in ("steps", "validate_every", "checkpoint_every", "decay_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"`{name}` must be at least 1, but got {getattr(self, name)}")
        if self.seconds is not None and self.seconds <= 0:
            raise InputError(f"`seconds` must be positive, but got {self.seconds}")

    def to_dict(self) -> dict[str, Any]:
        """As plain data for YAML and JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str = "training") -> "TrainingSettings":
        """From plain data.

        Raises:
            InputError: An unknown key, an unknown name or a wrong type; the message names the key.
        """
        values = _spell_out(values, where)
        _refuse_unknown_keys(cls, values, where)
        try:
            return pydantic.TypeAdapter(cls).validate_python(values)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            if first["type"] == "value_error":
                raise InputError(f"{where}: {first['ctx']['error']}") from None
            key = ".".join(str(part) for part in first["loc"])
            raise InputError(f"{where}: `{key}`: {first['msg']}, but got {first['input']!r}") from None


def _spell_out(values: Any, where: str) -> Any:
    """Put the settings of an augmentation where its name stands."""
    windows = values.get("windows") if isinstance(values, dict) else None
    name = windows.get("augmentation") if isinstance(windows, dict) else None
    if not isinstance(windows, dict) or not isinstance(name, str):
        return values
    if name not in _AUGMENTATIONS:
        instead = known_instead(name, _AUGMENTATIONS)
        raise InputError(f"{where}: `windows.augmentation` cannot be {name!r}; {instead}; or give its settings")
    return {**values, "windows": {**windows, "augmentation": dataclasses.asdict(_AUGMENTATIONS[name]())}}


def _refuse_unknown_keys(kind: Any, values: Any, where: str, above: str = "") -> None:
    """Refuse a key that a dataclass does not have, looking into dataclasses within."""
    if not isinstance(values, dict):
        return
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key, value in values.items():
        if key not in fields:
            raise InputError(f"{where}: unknown key `{above}{key}`; {known_instead(str(key), fields)}")
        inner = fields[key].type
        if dataclasses.is_dataclass(inner):
            _refuse_unknown_keys(inner, value, where, f"{above}{key}.")
