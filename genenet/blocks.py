"""Run a network over a volume block by block; the pieces of its answer fit without seams."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from genenet.blending import Tiles
from genenet.cost import inference_bytes
from genenet.normalization import Normalization
from genenet.operations import Convolution, SqueezeExcitation
from genenet.operations import Normalization as NormalizationLayer
from genenet.plan import Plan, WindowShape
from genenet.tiling import Fit, Reach, fit_core, union
from genenet.views import PLAIN, View

if TYPE_CHECKING:
    import keras


@dataclasses.dataclass(frozen=True)
class Answer:
    """What networks say about a box.

    Attributes:
        probabilities: float32 `(z, y, x, classes)`; no classes where networks give distances only.
        distances: float32 `(z, y, x)`, 0 at the border of an object to 1 where it is as far away as was told apart in
            training (`WindowSettings.distance_kind`); None where no network gives distances.
        member_entropy: The mean of the networks' own entropies, `(z, y, x)`, 0 to 1; None where it was not asked for.
    """

    probabilities: np.ndarray
    distances: np.ndarray | None = None
    member_entropy: np.ndarray | None = None

    def inside(self, box: tuple[slice, ...]) -> "Answer":
        """What lies within slices `(z, y, x)`."""
        maps = self.distances, self.member_entropy
        return Answer(self.probabilities[box], *(None if each is None else each[box] for each in maps))


class Slab(NamedTuple):
    """Windows of a fixed depth along z.

        | margin | keep | margin |
                        | margin | keep | margin |

    Attributes:
        depth: Slices that a window reads.
        margin: Slices on either side whose answer is dropped.
        keep: Slices between.
    """

    depth: int
    margin: int
    keep: int

    def count(self, n_slices: int) -> int:
        """Windows for so many slices."""
        return -(-n_slices // self.keep)

    def cut(self, images: np.ndarray) -> np.ndarray:
        """Windows `(window, z, y, x, channels)` of `(z, y, x, channels)`."""
        starts = range(0, len(images) - 2 * self.margin, self.keep)
        return np.stack([images[first : first + self.depth] for first in starts])

    def join(self, answers: np.ndarray) -> np.ndarray:
        """What is kept of `(window, z, y, x, channels)`, one after the other."""
        kept = answers[:, self.margin : self.margin + self.keep]
        return kept.reshape(-1, *kept.shape[2:])


class Mean:
    """A running mean; the first array is not copied, if it counts as one.

    Attributes:
        weight: Of all that was added.
    """

    def __init__(self) -> None:
        self.weight, self._total = 0.0, np.empty(0)

    def add(self, values: np.ndarray, weight: float = 1.0) -> None:
        """One more."""
        values = values if weight == 1 else values * np.float32(weight)
        self._total = values if not self.weight else self._total + values
        self.weight += weight

    def value(self) -> np.ndarray:
        """Of what was added; of nothing, an error."""
        if not self.weight:
            raise ValueError("there is nothing to average")
        return self._total if self.weight == 1 else self._total / np.float32(self.weight)


@dataclasses.dataclass(frozen=True)
class BlockPredictor:
    """A network that gives class probabilities for any box of a volume.

    Shapes are those of the volume, `(z, y, x)`, unless a method's name begins with an underscore: these see the volume
    as the network does.

    Attributes:
        model: From normalised images to probabilities; None where only the geometry is asked for.
        plan: Its layers, for the geometry of its windows.
        normalization: Of the images.
        window: The training window. Networks with group normalization or squeeze and excitation see windows of this
            size only, since their answer depends on it; 3-D networks whose context is deeper than that see windows of
            its depth (`slab`); the others see whatever is fast.
        run: Gives the answers, one array per output, for a batch of normalised windows; Keras does it if left out.
        views: How the network looks at the volume; its answers are averaged.
        overlap: The share by which windows of the training size overlap and are blended; if left out, every voxel is
            seen once, with its whole context.
        engine: The program that runs it, and in which precision, for people.
        context: About how many voxels around a core are read at the most; all that the network sees if left out.
    """

    model: "keras.Model | None"
    plan: Plan
    normalization: Normalization
    window: WindowShape
    run: Callable[[np.ndarray], Sequence[np.ndarray]] | None = None
    views: tuple[View, ...] = (PLAIN,)
    overlap: float | None = None
    engine: tuple[str, str] = ("keras", "float32")
    context: int | None = None
    _by_shape: "dict[tuple[int, ...], keras.Model]" = dataclasses.field(default_factory=dict, repr=False, compare=False)
    _fits: dict[tuple[int, ...], Fit] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    @functools.cached_property
    def slab(self) -> Slab | None:
        """The slabs in which a 3-D network sees a volume whose training windows were shallower than its context.

        In training most of its context along z was the zeros of padding; with real slices there it does worse.
        """
        if self.plan.n_dims == 2 or self.tiles is not None:
            return None
        depth = self.window.input[0]
        if fit_core(self.plan, self.plan.total_stride, self.context).input[0] <= depth:
            return None
        margin = depth // 4
        return Slab(depth, margin, depth - 2 * margin)

    @functools.cached_property
    def tiles(self) -> Tiles | None:
        """The windows that overlap, where they are to."""
        if self.overlap is None:
            return None
        start = [int(offset) for _, offset in self.plan.output.grid]
        return Tiles.overlapping(self.window, start, self.overlap)

    @property
    def stride(self) -> tuple[int, ...]:
        """What cores must be multiples of."""
        flat = (1,) * (3 - self.plan.n_dims)
        if self.tiles is not None:
            stride = flat + self.tiles.step
        elif self.slab is not None:
            stride = self.slab.keep, *self.plan.total_stride[1:]
        else:
            stride = flat + self.plan.total_stride
        turned = [view.turn_sides_back(stride) for view in self.views]
        return tuple(math.lcm(*sides) for sides in zip(*turned, strict=True))

    @property
    def gives(self) -> tuple[str, ...]:
        """What kinds of answers it gives, as the plan names them: `classes`, `foreground`, `distance`."""
        return tuple(head.kind for head in self.plan.heads if not head.auxiliary)

    @property
    def free_axes(self) -> tuple[bool, ...]:
        """Along which axes it needs no context."""
        free = (True,) * (3 - self.plan.n_dims) + (False,) * self.plan.n_dims
        turned = [view.turn_sides_back(free) for view in self.views]
        return tuple(all(sides) for sides in zip(*turned, strict=True))

    @property
    def depends_on_window(self) -> bool:
        """Whether statistics of the whole window enter the answer."""
        operations = [layer.operation for layer in self.plan.layers.values()]
        return any(
            isinstance(o, SqueezeExcitation) or isinstance(o, NormalizationLayer) and o.kind == "group"
            for o in operations
        )

    def largest_core(self) -> tuple[int, ...] | None:
        """The core of a training window where no other window may be used; else None."""
        if not self.depends_on_window or self.tiles is not None:
            return None
        smallest = fit_core(self.plan, self.plan.total_stride, self.context)
        room = [w - n for w, n in zip(self.window.input, smallest.input, strict=True)]
        core = [s + max(r, 0) // s * s for r, s in zip(room, self.plan.total_stride, strict=True)]
        if self.slab is not None:
            core[0] = self.slab.keep
        core = [1] * (3 - self.plan.n_dims) + core
        turned = [view.turn_sides_back(core) for view in self.views]
        return tuple(min(sides) for sides in zip(*turned, strict=True))

    def reach(self, core: Sequence[int]) -> Reach:
        """What is read for a core."""
        return union([self._reach_of(view, core) for view in self.views])

    def _reach_of(self, view: View, core: Sequence[int]) -> Reach:
        """What a view reads, as the volume lies."""
        reach = self._reach(view.turn_sides(core))
        ends = [(lead, n - side) for lead, n, side in zip(reach.lead, reach.tail, reach.core, strict=True)]
        ends = [pair[::-1] if back else pair for pair, back in zip(ends, view.mirrored, strict=True)]
        lead = view.turn_sides_back([before for before, _ in ends])
        return Reach(tuple(core), lead, view.turn_sides_back(reach.input))

    def _reach(self, core: Sequence[int]) -> Reach:
        if self.tiles is not None:
            return self.tiles.reach(core)
        fit = self._fit(core)
        return Reach(fit.core, fit.lead, fit.input)

    def _fit(self, core: Sequence[int]) -> Fit:
        """The window for a core; a 2-D network reads its slices as a batch, one of slabs these."""
        flat = 3 - self.plan.n_dims
        first, inner = tuple(core[:flat]), tuple(core[flat:])
        if inner not in self._fits:
            self._fits[inner] = fit_core(self.plan, inner, self.context)
        fit = self._fits[inner]
        if self.slab is not None:
            n_read = self.slab.count(core[0]) * self.slab.keep + 2 * self.slab.margin
            return Fit(tuple(core), (self.slab.margin, *fit.lead[1:]), (n_read, *fit.input[1:]), (0, *fit.skip[1:]))
        zeros = (0,) * flat
        return Fit(tuple(core), zeros + fit.lead, first + fit.input, zeros + fit.skip)

    def call_shape(self, core: Sequence[int]) -> tuple[int, ...]:
        """The largest batch of windows that one call of the network gets for a core, `(batch, *space)`."""
        shapes = [self._call_shape(view.turn_sides(core)) for view in self.views]
        return max(shapes, key=math.prod)

    def _call_shape(self, core: Sequence[int]) -> tuple[int, ...]:
        is_volume = self.plan.n_dims == 3
        if self.tiles is not None:
            return 1 if is_volume else core[0], *self.window.input
        fit = self._fit(core)
        if self.slab is not None:
            return self.slab.count(core[0]), self.slab.depth, *fit.input[1:]
        return (1, *fit.input) if is_volume else fit.input

    def bytes_for(self, core: Sequence[int]) -> int:
        """About how much memory its layers take for a core, in float32."""
        n_windows, *window = self.call_shape(core)
        return inference_bytes(self.plan, self.plan.sizes(tuple(window)), n_windows)

    def _run(self, batch: np.ndarray) -> list[np.ndarray]:
        answers = self._run_keras(batch) if self.run is None else self.run(batch)
        return [np.asarray(answer, np.float32) for answer in answers]

    def _run_keras(self, batch: np.ndarray) -> list[Any]:
        answers = self._model_for(batch.shape).predict_on_batch(batch)
        return answers if isinstance(answers, list) else [answers]

    def _model_for(self, shape: tuple[int, ...]) -> "keras.Model":
        """The model; one of its own for every shape where TensorFlow cannot change it.

        TensorFlow makes dilated 3-D convolutions of others by moving voxels to the batch; traced for open sizes, it
        does not pad them as it must ("padded_shape is not divisible by block_shape", seen with 2.21).
        """
        if self.model is None:
            raise ValueError("the network was not loaded: only its geometry is known")
        operations = [layer.operation for layer in self.plan.layers.values()]
        if self.plan.n_dims == 2 or not any(isinstance(o, Convolution) and o.dilation > 1 for o in operations):
            return self.model
        if shape not in self._by_shape:
            import keras

            image = keras.Input(batch_shape=shape)
            self._by_shape[shape] = keras.Model(image, self.model(image))
        return self._by_shape[shape]

    def predict(self, images: np.ndarray, reach: Reach) -> Answer:
        """What the network says about a core.

        Args:
            images: Normalised `(z, y, x, channels)` of the reach's input shape.
            reach: Of the core; what `reach` gives, or more.

        Returns:
            Of the core's shape.
        """
        means: list[Mean] = []
        for view in self.views:
            seen = view.turn(images[self._reach_of(view, reach.core).within(reach)])
            maps = self._predict(seen, view.turn_sides(reach.core))
            means = means or [Mean() for _ in maps]
            for mean, found in zip(means, maps, strict=True):
                mean.add(view.turn_back(found))
        by_kind = dict(zip(self.gives, (mean.value() for mean in means), strict=True))
        distances = by_kind["distance"][..., 0] if "distance" in by_kind else None
        if "foreground" in by_kind:
            share = by_kind["foreground"]
            return Answer(np.concatenate([1 - share, share], -1), distances)
        nothing = np.empty((*reach.core, 0), np.float32)
        return Answer(by_kind.get("classes", nothing), distances)

    def _predict(self, images: np.ndarray, core: Sequence[int]) -> list[np.ndarray]:
        """One view's answers, `(*core, values)`."""
        is_volume = self.plan.n_dims == 3
        if self.tiles is not None:
            blended = self.tiles.blend(images[None] if is_volume else images, core[3 - self.plan.n_dims :], self._run)
            return [each[0] for each in blended] if is_volume else blended
        if self.slab is not None:
            maps = [self.slab.join(each) for each in self._run(self.slab.cut(images))]
        elif is_volume:
            maps = [each[0] for each in self._run(images[None])]
        else:
            maps = self._run(images)
        keep = self._fit(core).keep
        return [each[keep] for each in maps]
