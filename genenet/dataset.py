"""A data file: one annotated volume or several, its classes, and what is for training and what for validation."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pydantic

from genenet.classes import PALETTE, SegmentationClass
from genenet.errors import InputError
from genenet.folder import read_yaml
from genenet.formats import place
from genenet.formats.remote import is_remote
from genenet.holding import in_memory, mapped
from genenet.image_sets import expand_parts
from genenet.label_table import UNLABELLED, LabelTable
from genenet.normalization import Normalization, fit_normalization
from genenet.volume import Volume, open_volume
from genenet.wording import known_instead

Range = Annotated[list[int], pydantic.Field(min_length=2, max_length=2)]


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")


class ClassEntry(_Strict):
    """A class as written in a data file.

    Attributes:
        value: What stands for it in labels and in segmentations.
        name: For people.
        color: `"#rrggbb"`; left out, one is chosen.
        also: Further values that mean it in labels, or `others` for all values that nothing else has.
    """

    value: int
    name: str
    color: str | None = None
    also: list[int] | Literal["others"] = []


class PartEntry(_Strict):
    """A slab (`z`), a box (`z`, `y`, `x`), a file of its own (`image`, `labels`), or many (`genenet/image_sets.py`).

    `weights` names a volume of 8-bit whole numbers: a voxel counts so many times in the loss, where it is above 1.
    """

    image: str | None = None
    labels: str | None = None
    weights: str | None = None
    z: Range | None = None
    y: Range | None = None
    x: Range | None = None


class DataFile(_Strict):
    """What `data.yaml` may hold."""

    image: str | None = None
    labels: str | None = None
    voxel_size_nm: Annotated[list[pydantic.PositiveFloat], pydantic.Field(min_length=3, max_length=3)] | None = None
    classes: Annotated[list[ClassEntry], pydantic.Field(min_length=2, max_length=UNLABELLED - 1)]
    ignore: int | None = None
    training: PartEntry | list[PartEntry]
    validation: PartEntry | list[PartEntry]


KNOWN_KEYS = sorted({key for kind in (DataFile, ClassEntry, PartEntry) for key in kind.model_fields})


# What pydantic adds to a place where one of several kinds may stand.
_KINDS = ("PartEntry", "list[PartEntry]", "list[int]", "literal['others']")


def explain(error: pydantic.ValidationError) -> str:
    """The first thing wrong with a settings file, in one line that names the key."""
    # A key that nobody knows explains one that is missing.
    first = min(error.errors(), key=lambda entry: entry["type"] != "extra_forbidden")
    where = ".".join(str(part) for part in first["loc"] if str(part) not in _KINDS)
    if first["type"] == "extra_forbidden":
        return f"unknown key `{where}`; {known_instead(str(first['loc'][-1]), KNOWN_KEYS)}"
    if first["type"] == "missing":
        return f"`{where}` is missing"
    return f"`{where}`: {first['msg'].lower()}, but got {first['input']!r}"


@dataclasses.dataclass(frozen=True)
class Part:
    """A box of an annotated volume.

    Attributes:
        image: The whole image, `(z, y, x)` or `(z, y, x, channels)`.
        labels: The whole label volume, `(z, y, x)`, the file's own values.
        box: What belongs to this part, one slice per axis, in voxels.
        table: Which label value means which class.
        weights: How many times voxels count in the loss, `(z, y, x)` uint8, 0 as 1; all once if None.
    """

    image: Volume
    labels: Volume
    box: tuple[slice, slice, slice]
    table: LabelTable
    weights: Volume | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels per axis of the box."""
        z, y, x = (side.stop - side.start for side in self.box)
        return z, y, x

    @property
    def start(self) -> tuple[int, int, int]:
        """The box's first voxel."""
        return self.box[0].start, self.box[1].start, self.box[2].start

    def read_image(self, start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
        """Read the image, `(*shape, channels)`; `start` counts from the box, and may lie before it.

        Beyond the box comes what the volume has there, beyond the volume its mirror image.
        """
        where = [s + o for s, o in zip(start, self.start, strict=True)]
        image = self.image.read_mirrored(where, shape)
        return image[..., None] if image.ndim == 3 else image

    def read_labels(self, start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
        """Read class indices, `shape`, uint8; voxels outside the box are UNLABELLED."""
        return self._read_box(
            self.labels,
            start,
            shape,
            UNLABELLED,
            np.uint8,
            lambda labels: self.table.to_indices(labels, self.labels.name),
        )

    def read_weights(self, start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
        """Read how many times voxels count, `shape`, uint8, at least 1."""
        if self.weights is None:
            return np.ones(tuple(shape), np.uint8)
        return np.maximum(self._read_box(self.weights, start, shape, 1, np.uint8), 1)

    def _read_box(
        self,
        volume: Volume,
        start: Sequence[int],
        shape: Sequence[int],
        outside: int,
        dtype: type[np.integer],
        convert: Callable[[np.ndarray], np.ndarray] = lambda values: values,
    ) -> np.ndarray:
        first = [max(s, 0) for s in start]
        end = [min(s + n, size) for s, n, size in zip(start, shape, self.shape, strict=True)]
        result = np.full(tuple(shape), outside, dtype)
        if all(a < b for a, b in zip(first, end, strict=True)):
            box = tuple(slice(a + o, b + o) for a, b, o in zip(first, end, self.start, strict=True))
            inside = tuple(slice(a - s, b - s) for a, b, s in zip(first, end, start, strict=True))
            result[inside] = convert(volume.read(box))  # type: ignore[arg-type]
        return result

    def read_objects(self, start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
        """Read the file's own label values, `shape`, int64; -1 for voxels outside the box."""
        return self._read_box(self.labels, start, shape, -1, np.int64)

    def count(self, n_classes: int) -> np.ndarray:
        """Voxels per class, `(n_classes,)`, slice by slice."""
        counts = np.zeros(256, np.int64)
        for z in range(self.shape[0]):
            labels = self.read_labels((z, 0, 0), (1, *self.shape[1:]))
            counts += np.bincount(labels.ravel(), minlength=256)
        return counts[:n_classes]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Annotated volumes, opened and checked.

    Attributes:
        name: Where it came from, for messages.
        classes: The class table, in the order of class indices.
        training: The parts that networks learn from.
        validation: The parts that networks are compared on.
        voxel_size_nm: `(z, y, x)`, or None where nobody said.
        counts: Labelled voxels per class in the training parts.
        n_labelled: Labelled voxels of every training part.
        fingerprint: A checksum of the settings and of the label counts, to notice that a study's data changed.
    """

    name: str
    classes: tuple[SegmentationClass, ...]
    training: tuple[Part, ...]
    validation: tuple[Part, ...]
    voxel_size_nm: tuple[float, float, float] | None
    counts: tuple[int, ...]
    n_labelled: tuple[int, ...]
    fingerprint: str

    @property
    def n_classes(self) -> int:
        """How many classes there are."""
        return len(self.classes)

    @property
    def n_channels(self) -> int:
        """Channels of the images."""
        return self.training[0].image.n_channels

    def normalization(self) -> Normalization:
        """Fit the normalisation to the training parts."""
        return fit_normalization([(part.image, part.box) for part in self.training])

    @classmethod
    def open(cls, source: "str | Path | dict[str, Any] | Dataset", *, shared: Path | None = None) -> "Dataset":
        """Open a data file, and check that it can be learned from.

        Args:
            source: The path of a `data.yaml`, or its content as a dictionary; paths in it are relative to the file,
                or to the working folder.
            shared: A folder in which volumes are put as plain arrays, for all processes that open them there to share;
                if left out, this process reads small ones into its own memory.

        Raises:
            InputError: An unknown key, a missing file, shapes that differ, a label value that no class has, or a
                class without a voxel in the training part.
        """
        if isinstance(source, Dataset):
            return source
        folder, name = (Path(), "the data") if isinstance(source, dict) else (Path(source).parent, str(source))
        content = source if isinstance(source, dict) else read_yaml(source)
        if not isinstance(content, dict):
            raise InputError(f"{name} must hold keys such as image, labels, classes, training, validation")
        try:
            settings = DataFile.model_validate(expand_parts(content, folder, name))
        except pydantic.ValidationError as error:
            raise InputError(f"{name}: {explain(error)}") from None
        return _open(settings, folder, name, in_memory if shared is None else lambda volume: mapped(volume, shared))


def _open(settings: DataFile, folder: Path, name: str, hold: Callable[[Volume], Volume]) -> Dataset:
    classes = tuple(
        SegmentationClass(entry.value, entry.name, entry.color or PALETTE[index % len(PALETTE)])
        for index, entry in enumerate(settings.classes)
    )
    names = [entry.name for entry in classes]
    if len(set(names)) < len(names):
        raise InputError(f"{name}: two classes have the same name; names are {', '.join(names)}")
    table = _label_table(settings, name)
    volumes: dict[str, Volume] = {}
    parts = {}
    for which in ("training", "validation"):
        entry = getattr(settings, which)
        entries = entry if isinstance(entry, list) else [entry]
        parts[which] = tuple(_part(e, settings, folder, f"{name}: {which}", table, volumes, hold) for e in entries)
    _refuse_overlap(parts["training"], parts["validation"], name)
    for image in (part.image for which in parts.values() for part in which):
        if image.n_channels == 4 and Path(image.name).suffix.lower() in place.IMAGES:
            raise InputError(f"{name}: {image.name} has a fourth channel, transparency; save the image as RGB")
    channels = {part.image.n_channels for which in parts.values() for part in which}
    if len(channels) > 1:
        raise InputError(f"{name}: images have {sorted(channels)} channels; all must have the same number")
    by_part = np.array([part.count(len(classes)) for part in parts["training"]])
    counts = by_part.sum(0)
    for entry, count in zip(classes, counts, strict=True):
        if not count:
            raise InputError(
                f"{name}: class {entry.name!r} (value {entry.value}) has no voxel in the training part; "
                "remove it from `classes`, or move the split"
            )
    if not sum(part.count(len(classes)).sum() for part in parts["validation"]):
        raise InputError(f"{name}: no voxel of the validation part is labelled; move the split")
    sizes = settings.voxel_size_nm or parts["training"][0].image.voxel_size_nm
    voxel_size_nm = None if sizes is None else (float(sizes[0]), float(sizes[1]), float(sizes[2]))
    shapes = [list(part.image.shape) for which in parts.values() for part in which]
    said = settings.model_dump(exclude={"image", "labels"})
    for part in (part for which in ("training", "validation") for part in np.atleast_1d(said[which])):
        for path in ("image", "labels", "weights"):  # the same files may be reached by other paths
            part.pop(path)
    digest = json.dumps([said, shapes, [int(n) for n in counts]], sort_keys=True)
    fingerprint = hashlib.blake2b(digest.encode(), digest_size=8).hexdigest()
    return Dataset(
        name,
        classes,
        parts["training"],
        parts["validation"],
        voxel_size_nm,
        tuple(int(n) for n in counts),
        tuple(int(n) for n in by_part.sum(1)),
        fingerprint,
    )


def _label_table(settings: DataFile, name: str) -> LabelTable:
    """Collect the values of all classes and the ignore value; no value may mean two things."""
    indices: dict[int, int] = {}
    others = None
    for index, entry in enumerate(settings.classes):
        if entry.also == "others":
            if others is not None:
                raise InputError(f"{name}: two classes have `also: others`; only one can have all that remain")
            others = index
        for value in [entry.value, *([] if entry.also == "others" else entry.also)]:
            if value in indices:
                first = settings.classes[indices[value]].name
                raise InputError(f"{name}: label value {value} is of class {first!r} and of class {entry.name!r}")
            indices[value] = index
    if settings.ignore is not None:
        if settings.ignore in indices:
            raise InputError(f"{name}: `ignore` is {settings.ignore}, but a class has that value too")
        indices[settings.ignore] = UNLABELLED
    return LabelTable(indices, others)


def _refuse_overlap(training: tuple[Part, ...], validation: tuple[Part, ...], name: str) -> None:
    """Scores on voxels that networks learned from would flatter them."""
    for mine in training:
        for other in validation:
            sides = zip(mine.box, other.box, strict=True)
            if mine.labels is other.labels and all(a.start < b.stop and b.start < a.stop for a, b in sides):
                raise InputError(f"{name}: the training and the validation part share voxels of {mine.labels.name}")


def _resolve(path: str, folder: Path) -> str:
    return path if is_remote(path) or Path(path).is_absolute() else str(folder / path)


def _absolute(path: str, folder: Path) -> str:
    return path if is_remote(path) else str((folder / path).absolute())


def _part(
    entry: PartEntry,
    settings: DataFile,
    folder: Path,
    where: str,
    table: LabelTable,
    volumes: dict[str, Volume],
    hold: Callable[[Volume], Volume],
) -> Part:
    found = []
    for key in ("image", "labels"):
        path = getattr(entry, key) or getattr(settings, key)
        if path is None:
            raise InputError(f"{where}: there is no `{key}`; name it there or at the top")
        path = _resolve(path, folder)
        if path not in volumes:
            volumes[path] = hold(open_volume(path))
        found.append(volumes[path])
    image, labels = found
    if labels.dtype.kind not in "ui" and labels.dtype.kind != "b":
        raise InputError(f"{labels.name} holds {labels.dtype}, but labels must be integers")
    if image.shape[:3] != labels.shape:
        raise InputError(f"{image.name} has shape {image.shape[:3]}, but {labels.name} has {labels.shape}")
    box = []
    for axis, size in zip("zyx", labels.shape, strict=True):
        first, end = getattr(entry, axis) or (0, size)
        if not 0 <= first < end <= size:
            raise InputError(f"{where}: `{axis}: [{first}, {end}]` must lie within [0, {size}] and not be empty")
        box.append(slice(first, end))
    weights = None
    if entry.weights is not None:
        weights = open_volume(_resolve(entry.weights, folder))
        if weights.shape != labels.shape or weights.dtype != np.uint8:
            raise InputError(
                f"{weights.name} holds {weights.dtype} of shape {weights.shape}, but weights of {labels.name} must be "
                f"uint8 of shape {labels.shape}"
            )
    return Part(image, labels, tuple(box), table, weights)  # type: ignore[arg-type]


def resolve_data(source: str | Path | dict[str, Any]) -> dict[str, Any]:
    """The content of a data file with absolute paths, every image by name: it means the same from anywhere."""
    content = source if isinstance(source, dict) else read_yaml(source)
    folder = Path() if isinstance(source, dict) else Path(source).parent
    if isinstance(content, dict):
        content = expand_parts(content, folder, "the data" if isinstance(source, dict) else str(source))

    def absolute(entry: Any) -> Any:
        if isinstance(entry, list):
            return [absolute(part) for part in entry]
        if not isinstance(entry, dict):
            return entry
        return {
            key: _absolute(value, folder) if key in ("image", "labels", "weights") else absolute(value)
            for key, value in entry.items()
        }

    return absolute(content)
