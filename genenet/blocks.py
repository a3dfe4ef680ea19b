"""Run networks over a volume block by block; the pieces of their answer fit without seams."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from genenet.dataset import Part
from genenet.doubt import entropy, sharpened
from genenet.label_table import UNLABELLED
from genenet.metrics import Scores, contingency, scores
from genenet.normalization import Normalization
from genenet.operations import Convolution, SqueezeExcitation
from genenet.operations import Normalization as NormalizationLayer
from genenet.plan import Plan, WindowShape
from genenet.tiling import Box, Fit, blocks, choose_core, fit_core

if TYPE_CHECKING:
    import keras

# What a block may write at once: the largest tensor of a network with 64 features is then 64 million numbers.
MAX_CORE_VOXELS = 2**20

# What a block may read, times what it may write; and what it may read in any case.
MAX_READ, MAX_READ_VOXELS = 4, 2**21

# Reads `(start, shape)` `(z, y, x)` as an image `(*shape, channels)`, mirrored beyond the edges.
Reader = Callable[[Sequence[int], Sequence[int]], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Answer:
    """What networks say about a box.

    Attributes:
        probabilities: float32 `(z, y, x, classes)`.
        distances: float32 `(z, y, x)`, 0 at the border of an object to 1 where it is as far away as was told apart in
            training (`distance_cap`); None where no network has a distance head.
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


@dataclasses.dataclass(frozen=True)
class BlockPredictor:
    """A network that gives class probabilities for any box of a volume.

    Attributes:
        model: From normalised images to probabilities.
        plan: Its layers, for the geometry of its windows.
        normalization: Of the images.
        window: The training window. Networks with group normalization or squeeze and excitation see windows of this
            size only, since their answer depends on it; 3-D networks whose context is deeper than that see windows of
            its depth (`slab`); the others see whatever is fast.
        run: Gives the answers, one array per output, for a batch of normalised windows; Keras does it if left out.
    """

    model: "keras.Model"
    plan: Plan
    normalization: Normalization
    window: WindowShape
    run: Callable[[np.ndarray], Sequence[np.ndarray]] | None = None
    _by_shape: "dict[tuple[int, ...], keras.Model]" = dataclasses.field(default_factory=dict, repr=False, compare=False)

    @functools.cached_property
    def slab(self) -> Slab | None:
        """The slabs in which a 3-D network sees a volume whose training windows were shallower than its context.

        In training most of its context along z was the zeros of padding; with real slices there it does worse.
        """
        if self.plan.n_dims == 2:
            return None
        depth = self.window.input[0]
        if fit_core(self.plan, self.plan.total_stride).input[0] <= depth:
            return None
        margin = depth // 4
        return Slab(depth, margin, depth - 2 * margin)

    @property
    def stride(self) -> tuple[int, ...]:
        """What cores must be multiples of, `(z, y, x)`."""
        if self.slab is not None:
            return self.slab.keep, *self.plan.total_stride[1:]
        return (1,) * (3 - self.plan.n_dims) + self.plan.total_stride

    @property
    def depends_on_window(self) -> bool:
        """Whether statistics of the whole window enter the answer."""
        operations = [layer.operation for layer in self.plan.layers.values()]
        return any(
            isinstance(o, SqueezeExcitation) or isinstance(o, NormalizationLayer) and o.kind == "group"
            for o in operations
        )

    def largest_core(self) -> tuple[int, ...] | None:
        """The core of a training window, `(z, y, x)`, where no other window may be used; else None."""
        if not self.depends_on_window:
            return None
        smallest = fit_core(self.plan, self.plan.total_stride)
        room = [w - n for w, n in zip(self.window.input, smallest.input, strict=True)]
        core = [s + max(r, 0) // s * s for r, s in zip(room, self.plan.total_stride, strict=True)]
        if self.slab is not None:
            core[0] = self.slab.keep
        return (1,) * (3 - self.plan.n_dims) + tuple(core)

    def fit(self, core: Sequence[int]) -> Fit:
        """The window for a core `(z, y, x)`; a 2-D network reads its slices as a batch, one of slabs these."""
        flat = 3 - self.plan.n_dims
        fit = fit_core(self.plan, core[flat:])
        if self.slab is not None:
            n_read = self.slab.count(core[0]) * self.slab.keep + 2 * self.slab.margin
            return Fit(tuple(core), (self.slab.margin, *fit.lead[1:]), (n_read, *fit.input[1:]), (0, *fit.skip[1:]))
        first, zeros = tuple(core[:flat]), (0,) * flat
        return Fit(tuple(core), zeros + fit.lead, first + fit.input, zeros + fit.skip)

    def _run_keras(self, batch: np.ndarray) -> list[Any]:
        answers = self._model_for(batch.shape).predict_on_batch(batch)
        return answers if isinstance(answers, list) else [answers]

    def _model_for(self, shape: tuple[int, ...]) -> "keras.Model":
        """The model; one of its own for every shape where TensorFlow cannot change it.

        TensorFlow makes dilated 3-D convolutions of others by moving voxels to the batch; traced for open sizes, it
        does not pad them as it must ("padded_shape is not divisible by block_shape", seen with 2.21).
        """
        operations = [layer.operation for layer in self.plan.layers.values()]
        if self.plan.n_dims == 2 or not any(isinstance(o, Convolution) and o.dilation > 1 for o in operations):
            return self.model
        if shape not in self._by_shape:
            import keras

            image = keras.Input(batch_shape=shape)
            self._by_shape[shape] = keras.Model(image, self.model(image))
        return self._by_shape[shape]

    def predict(self, images: np.ndarray, fit: Fit) -> Answer:
        """What the network says about a core.

        Args:
            images: Normalised `(z, y, x, channels)` of the fit's input shape.
            fit: The window.

        Returns:
            Of the fit's core shape.
        """
        batch = images
        if self.slab is not None:
            batch = self.slab.cut(batch)
        elif self.plan.n_dims == 3:
            batch = batch[None]
        answers = self._run_keras(batch) if self.run is None else self.run(batch)
        maps = [np.asarray(answer, np.float32) for answer in answers]
        if self.slab is not None:
            maps = [self.slab.join(each) for each in maps]
        elif self.plan.n_dims == 3:
            maps = [each[0] for each in maps]
        maps = [each[fit.keep] for each in maps]
        return Answer(maps[0], maps[1][..., 0] if len(maps) > 1 else None)


@dataclasses.dataclass(frozen=True)
class MeanPredictor:
    """Networks whose answers are combined, block by block.

    Attributes:
        members: One network or several with the same classes.
        vote: Count the members' most probable classes instead of averaging their probabilities.
        weights: How much each member counts; all the same if left out.
        temperatures: By which each member's probabilities are calibrated; 1 if left out.
    """

    members: tuple[BlockPredictor, ...]
    vote: bool = False
    weights: tuple[float, ...] = ()
    temperatures: tuple[float, ...] = ()

    def choose_core(self, shape: Sequence[int], max_voxels: int = MAX_CORE_VOXELS) -> tuple[int, ...]:
        """Blocks for a volume `(z, y, x)` that every member can give.

        They are smaller than `max_voxels` where the context around them would take more memory than they do: in thin
        slabs a 3-D network reads many times the slices that it writes.
        """
        room = max_voxels
        while True:
            core = self._largest_core(shape, room)
            n_read = max(math.prod(fit.input) for fit in self.fits(core))
            if n_read <= max(MAX_READ * max_voxels, MAX_READ_VOXELS) or room < MAX_READ:
                return core
            room //= 2

    def _largest_core(self, shape: Sequence[int], max_voxels: int) -> tuple[int, ...]:
        stride = [math.lcm(*sides) for sides in zip(*(member.stride for member in self.members), strict=True)]
        flat = 3 - min(member.plan.n_dims for member in self.members)
        free = [axis < flat for axis in range(3)]
        core = choose_core(shape, stride, max_voxels, free=free)
        for limit in filter(None, (member.largest_core() for member in self.members)):
            core = tuple(
                max(step, min(side, most) // step * step) for side, most, step in zip(core, limit, stride, strict=True)
            )
        return core

    def fits(self, core: Sequence[int]) -> list[Fit]:
        """Every member's window for a core."""
        return [member.fit(core) for member in self.members]

    def read(self, read: Reader, start: Sequence[int], fits: Sequence[Fit]) -> np.ndarray:
        """Read once what all members need for the core that begins at `start`."""
        lead = [max(sides) for sides in zip(*(fit.lead for fit in fits), strict=True)]
        tail = [
            max(sides)
            for sides in zip(*([n - m for n, m in zip(f.input, f.lead, strict=True)] for f in fits), strict=True)
        ]
        shape = [a + b for a, b in zip(lead, tail, strict=True)]
        return read([s - a for s, a in zip(start, lead, strict=True)], shape)

    @property
    def gives_distances(self) -> bool:
        """Whether a member has a distance head."""
        return any(head.kind == "distance" for member in self.members for head in member.plan.heads)

    def predict(self, images: np.ndarray, fits: Sequence[Fit], *, member_entropy: bool = False) -> Answer:
        """Combine the members' answers for images that `read` gave.

        Args:
            images: Unnormalised `(z, y, x, channels)`.
            fits: As for `read`.
            member_entropy: Whether to work out how sure every member is for itself.

        Returns:
            Mean probabilities, or shares of votes; the mean distances of the members that have them.
        """
        lead = [max(sides) for sides in zip(*(fit.lead for fit in fits), strict=True)]
        probabilities, distances, entropies = Mean(), Mean(), Mean()
        normalized = {kind: kind(images) for kind in dict.fromkeys(member.normalization for member in self.members)}
        ones = (1.0,) * len(self.members)
        weights, temperatures = self.weights or ones, self.temperatures or ones
        for member, fit, weight, temperature in zip(self.members, fits, weights, temperatures, strict=True):
            inside = tuple(slice(a - b, a - b + n) for a, b, n in zip(lead, fit.lead, fit.input, strict=True))
            answer = member.predict(normalized[member.normalization][inside], fit)
            own = sharpened(answer.probabilities, temperature)
            own = as_votes(own) if self.vote else own
            probabilities.add(own, weight)
            if member_entropy:
                entropies.add(entropy(own), weight)
            if answer.distances is not None:
                distances.add(answer.distances, weight)
        return Answer(
            probabilities.value(), *(each.value() if each.weight else None for each in (distances, entropies))
        )


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


def as_votes(probabilities: np.ndarray) -> np.ndarray:
    """1 for the most probable class, 0 for the others; shape and dtype stay."""
    votes = np.zeros_like(probabilities)
    np.put_along_axis(votes, probabilities.argmax(-1)[..., None], 1, -1)
    return votes


def score_parts(
    predictor: MeanPredictor, parts: Sequence[Part], n_classes: int, max_voxels: int = MAX_CORE_VOXELS
) -> Scores:
    """Score networks on whole parts, block by block, all parts counted together."""
    table = np.zeros((n_classes, n_classes), np.int64)
    for part in parts:
        table += score_part(predictor, part, n_classes, max_voxels)
    return scores(table)


def score_part(predictor: MeanPredictor, part: Part, n_classes: int, max_voxels: int = MAX_CORE_VOXELS) -> np.ndarray:
    """Count label against prediction over a whole part, block by block.

    Returns:
        The contingency table `(n_classes, n_classes)`, rows labels.
    """
    table = np.zeros((n_classes, n_classes), np.int64)
    for box, answer in predict_part(predictor, part, max_voxels):
        table += count_box(part, box, answer)
    return table


def predict_part(
    predictor: MeanPredictor, part: Part, max_voxels: int = MAX_CORE_VOXELS
) -> Iterator[tuple[Box, np.ndarray]]:
    """Give every block of a part with its answer, `(*block, classes)`."""
    core = predictor.choose_core(part.shape, max_voxels)
    fits = predictor.fits(core)
    for box in blocks(part.shape, core):
        answer = predictor.predict(predictor.read(part.read_image, [side.start for side in box], fits), fits)
        yield box, answer.probabilities[tuple(slice(side.stop - side.start) for side in box)]


def count_box(part: Part, box: Box, answer: np.ndarray) -> np.ndarray:
    """Count label against most probable class in a block, `(classes, classes)`, rows labels."""
    labels = part.read_labels([side.start for side in box], [side.stop - side.start for side in box])
    return contingency(labels, answer.argmax(-1).astype(np.uint8), answer.shape[-1], ignore=UNLABELLED)
