"""Training windows: where they lie, what they hold, and in which order; each batch follows from (seed, step)."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from genenet.augment import augment
from genenet.augment_color import check_colors, vary_colors
from genenet.dataset import Dataset, Part
from genenet.distance_maps import distance_map
from genenet.errors import InputError
from genenet.label_table import UNLABELLED
from genenet.normalization import Normalization
from genenet.plan import WindowShape
from genenet.settings import WindowSettings
from genenet.weights import boundary_weights, class_weights

# Batches prepared ahead of the step that trains.
N_AHEAD = 4

# Voxels remembered per class to draw windows around; plenty for any class, small in memory.
POSITIONS_PER_CLASS = 20_000


class Batch(NamedTuple):
    """What one training step reads.

    Attributes:
        images: float32 `(batch, *space, channels)`.
        labels: int32 `(batch, *core)`, class indices.
        weights: float32 `(batch, *core)`, 0 where nobody labelled.
        distances: float32 `(batch, *core, 1)`, how far inside its object a voxel lies, in the unit that `distance_kind`
            says; 0 in the background, and where nobody labelled. Or None.
    """

    images: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    distances: np.ndarray | None = None


class TrainingWindows:
    """Batches of windows, step by step, the same whoever asks and whenever.

    Args:
        data: Where windows are cut from.
        window: What a network call reads and writes.
        normalization: Of the images.
        settings: How they are drawn.
        seed: With the step, decides everything.
        distances: Whether batches hold distance maps.

    Raises:
        InputError: A part is smaller than the window's output, or colours are to be varied where there are none.
    """

    def __init__(
        self,
        data: Dataset,
        window: WindowShape,
        normalization: Normalization,
        settings: WindowSettings,
        *,
        seed: int,
        distances: bool = False,
    ) -> None:
        self.data = data
        self.distances = distances
        self.normalization = normalization
        self.settings = settings
        self.seed = seed
        self.n_dims = len(window.input)
        flat = (1,) * (3 - self.n_dims)
        self.input_shape = flat + window.input
        self.core = flat + window.output
        for part in data.training:
            if any(c > n for c, n in zip(self.core, part.shape, strict=True)):
                raise InputError(
                    f"a window that writes {_times(self.core)} voxels is larger than the training part "
                    f"{_times(part.shape)} of {part.labels.name}; choose a smaller window_size"
                )
            check_colors(settings.augmentation, part.image, normalization)
        self.weights = class_weights(data.counts, balance=settings.class_balance, floor=settings.weight_floor)
        self._is_weighted = any(part.weights is not None for part in data.training)
        self._room = [_room(part.shape, self.core) for part in data.training]
        self._chances = np.array([np.prod(room, dtype=np.float64) for room in self._room])
        self._chances /= self._chances.sum()
        self._grid = self._grid_starts() if settings.spacing else None
        parts = zip(data.n_labelled, data.training, strict=True)
        self._sparse = any(n < 0.5 * np.prod(part.shape, dtype=np.float64) for n, part in parts)
        self._positions = self._find_positions() if settings.rare_class_share or self._sparse else None
        # Where little is labelled, windows lie around labelled voxels. Were all classes as likely there, networks would
        # learn of a tissue full of what is rare: after corrections they scored 0.01 lower on tissue as it is.
        self._frequencies = np.array(data.counts) / max(sum(data.counts), 1)

    def batch(self, step: int) -> Batch:
        """The batch of one step."""
        pairs = [self._window(step, index) for index in range(self.settings.batch_size)]
        images = np.stack([image for image, _ in pairs])
        packed = np.stack([label for _, label in pairs])
        labels = (packed & 255).astype(np.uint8)
        weights = self.weights[labels]
        if self._is_weighted:
            weights *= packed >> 8 & 255
        if self.settings.boundary_weight:
            weights *= np.stack([1 + self._boundaries(label) for label in labels])
        known = labels != UNLABELLED
        weights *= labels.size / max(int(np.count_nonzero(known)), 1)
        distances = None
        if self.distances:
            distances = np.stack(
                [self._distances(*pair) for pair in zip(packed >> 16, known & (labels > 0), strict=True)]
            )
        return Batch(images, np.where(known, labels, 0).astype(np.int32), weights, distances)

    def _boundaries(self, labels: np.ndarray) -> np.ndarray:
        slices = labels if labels.ndim == 3 else labels[None]
        found = np.stack([boundary_weights(entry, maximum=self.settings.boundary_weight) for entry in slices])
        return found.reshape(labels.shape)

    def _distances(self, objects: np.ndarray, inside: np.ndarray) -> np.ndarray:
        settings = self.settings
        found = distance_map(objects, inside, kind=settings.distance_kind, cap=settings.distance_cap)
        return found[..., None].astype(np.float32)

    def _window(self, step: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([self.seed, step, index])
        part, core_start = self._draw(rng, step * self.settings.batch_size + index)
        augmentation = self.settings.augmentation
        margin = augmentation.margin(self.input_shape)
        around = (0, margin, margin)
        start = [
            s - (i - c) // 2 - m for s, i, c, m in zip(core_start, self.input_shape, self.core, around, strict=True)
        ]
        shape = [i + 2 * m for i, m in zip(self.input_shape, around, strict=True)]
        image = self.normalization(vary_colors(part.read_image(start, shape), augmentation, rng))
        labels = part.read_labels(start, shape)
        # All that belongs to a voxel must be moved together: its weight and its object's number stand above the class.
        if self._is_weighted:
            labels = part.read_weights(start, shape).astype(np.int64) << 8 | labels
        if self.distances:
            labels = part.read_objects(start, shape) << 16 | labels
        if self.n_dims == 2:
            image, labels = image[0], labels[0]
        return augment(
            image,
            labels,
            augmentation,
            rng,
            image_shape=self.input_shape[-self.n_dims :],
            labels_shape=self.core[-self.n_dims :],
        )

    def _draw(self, rng: np.random.Generator, number: int) -> tuple[Part, list[int]]:
        """The part and first core voxel of window `number`."""
        if self._grid is not None:
            lap, place = divmod(number, len(self._grid))
            order = np.random.default_rng([self.seed, 2**31, lap]).permutation(len(self._grid))
            which, *start = self._grid[order[place]]
            return self.data.training[which], start
        is_rare = bool(self.settings.rare_class_share) and rng.random() < self.settings.rare_class_share
        if self._positions is not None and (self._sparse or is_rare):
            return self._draw_around(rng, None if is_rare else self._frequencies)
        which = int(rng.choice(len(self._chances), p=self._chances))
        return self.data.training[which], [int(rng.integers(n)) for n in self._room[which]]

    def _draw_around(self, rng: np.random.Generator, chances: np.ndarray | None) -> tuple[Part, list[int]]:
        """A window that holds a voxel of a class drawn by these chances, or all alike, anywhere in its core."""
        positions = self._positions or []
        kind = int(rng.integers(len(positions))) if chances is None else int(rng.choice(len(positions), p=chances))
        which, *voxel = positions[kind][int(rng.integers(POSITIONS_PER_CLASS))]
        start = []
        for place, core, room in zip(voxel, self.core, self._room[which], strict=True):
            start.append(int(np.clip(place - rng.integers(core), 0, room - 1)))
        return self.data.training[which], start

    def _grid_starts(self) -> list[tuple[int, ...]]:
        spacing = self.settings.spacing or (1, 1, 1)
        starts: list[tuple[int, ...]] = []
        for which, room in enumerate(self._room):
            axes = [range(0, n, step) for n, step in zip(room, spacing, strict=True)]
            starts += [(which, z, y, x) for z in axes[0] for y in axes[1] for x in axes[2]]
        return starts

    def _find_positions(self) -> list[np.ndarray]:
        """`(POSITIONS_PER_CLASS, 4)` per class: part, z, y, x of voxels drawn with replacement."""
        rng = np.random.default_rng([self.seed, 2**31 + 1])
        found: list[list[np.ndarray]] = [[] for _ in self.data.classes]
        for which, part in enumerate(self.data.training):
            for z in range(part.shape[0]):
                labels = part.read_labels((z, 0, 0), (1, *part.shape[1:]))[0]
                for index, places in enumerate(found):
                    y, x = np.nonzero(labels == index)
                    if len(y) > POSITIONS_PER_CLASS:
                        some = rng.integers(len(y), size=POSITIONS_PER_CLASS)
                        y, x = y[some], x[some]
                    places.append(np.stack([np.full(len(y), which), np.full(len(y), z), y, x], 1))
        pooled = [np.concatenate(places) for places in found]
        return [places[rng.integers(len(places), size=POSITIONS_PER_CLASS)] for places in pooled]


def prefetch(make: Callable[[int], Batch], steps: range, n_ahead: int = N_AHEAD) -> Iterator[Batch]:
    """Make batches in a thread, in order, at most `n_ahead` before they are asked for.

    Args:
        make: Gives the batch of a step.
        steps: Which.
        n_ahead: How many to hold ready.
    """
    with ThreadPoolExecutor(1) as pool:
        ahead = deque(pool.submit(make, step) for step in steps[:n_ahead])
        try:
            for step in range(len(steps)):
                batch = ahead.popleft().result()
                if step + n_ahead < len(steps):
                    ahead.append(pool.submit(make, steps[step + n_ahead]))
                yield batch
        finally:
            for future in ahead:
                future.cancel()


def _room(shape: Sequence[int], core: Sequence[int]) -> tuple[int, ...]:
    """In how many places a core fits, per axis."""
    return tuple(n - c + 1 for n, c in zip(shape, core, strict=True))


def _times(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
