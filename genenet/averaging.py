"""Run several networks as one over a volume, block by block: what an ensemble says, and how it scores."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from genenet.blocks import Answer, BlockPredictor, Mean
from genenet.cost import FLOAT_BYTES
from genenet.dataset import Part
from genenet.doubt import entropy, sharpened
from genenet.label_table import UNLABELLED
from genenet.metrics import Scores, contingency, scores
from genenet.tiling import Box, Reach, blocks, choose_core, union

# What a block may write at once: the largest tensor of a network with 64 features is then 64 million numbers.
MAX_CORE_VOXELS = 2**20

# What a block may read, times what it may write; and what it may read in any case.
MAX_READ, MAX_READ_VOXELS = 4, 2**21

# Answers of a block's size at a time: a member's, the running sum, the one being written, and copies on the way.
N_ANSWERS = 5

# Reads `(start, shape)` `(z, y, x)` as an image `(*shape, channels)`, mirrored beyond the edges.
Reader = Callable[[Sequence[int], Sequence[int]], np.ndarray]


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

    def choose_core(
        self, shape: Sequence[int], max_voxels: int = MAX_CORE_VOXELS, max_bytes: float = math.inf
    ) -> tuple[int, ...]:
        """Blocks for a volume `(z, y, x)` that every member can give.

        They are smaller than `max_voxels` where they would take more than `max_bytes`, or where the context around
        them would be much more than they are: in thin slabs a 3-D network reads many times the slices that it writes.
        Where even the smallest take more memory, they are the smallest.
        """
        room = max_voxels
        while True:
            core = self._largest_core(shape, room)
            n_read = max(math.prod(member.reach(core).input) for member in self.members)
            is_small = n_read <= max(MAX_READ * max_voxels, MAX_READ_VOXELS) and self.bytes_for(core) <= max_bytes
            if is_small or room < MAX_READ:
                return core
            room //= 2

    def bytes_for(self, core: Sequence[int]) -> int:
        """About how much memory a block takes: what is read, what is said, and what the largest member needs."""
        n_channels, n_classes = len(self.members[0].normalization.mean), max(self.n_classes, 1)
        kinds = len({member.normalization for member in self.members})
        read = FLOAT_BYTES * n_channels * math.prod(self.reach(core).input) * (2 + kinds)
        said = FLOAT_BYTES * n_classes * math.prod(core) * N_ANSWERS
        return read + said + max(member.bytes_for(core) for member in self.members)

    def _largest_core(self, shape: Sequence[int], max_voxels: int) -> tuple[int, ...]:
        stride = [math.lcm(*sides) for sides in zip(*(member.stride for member in self.members), strict=True)]
        free = [all(axes) for axes in zip(*(member.free_axes for member in self.members), strict=True)]
        core = choose_core(shape, stride, max_voxels, free=free)
        for limit in filter(None, (member.largest_core() for member in self.members)):
            core = tuple(
                max(step, min(side, most) // step * step) for side, most, step in zip(core, limit, stride, strict=True)
            )
        return core

    def reach(self, core: Sequence[int]) -> Reach:
        """What all members together read for a core."""
        return union([member.reach(core) for member in self.members])

    def read(self, read: Reader, start: Sequence[int], reach: Reach) -> np.ndarray:
        """Read once what all members need for the core that begins at `start`."""
        return read([first - before for first, before in zip(start, reach.lead, strict=True)], reach.input)

    @property
    def gives_distances(self) -> bool:
        """Whether a member has a distance head."""
        return any("distance" in member.gives for member in self.members)

    @property
    def n_classes(self) -> int:
        """How many classes are told apart; none where all members give distances only."""
        for member in self.members:
            if "foreground" in member.gives:
                return 2
            if "classes" in member.gives:
                return member.plan.output.n_channels
        return 0

    def predict(self, images: np.ndarray, reach: Reach, *, member_entropy: bool = False) -> Answer:
        """Combine the members' answers for images that `read` gave.

        Args:
            images: Unnormalised `(z, y, x, channels)`.
            reach: As for `read`.
            member_entropy: Whether to work out how sure every member is for itself.

        Returns:
            Mean probabilities, or shares of votes, of the members that tell classes apart; the mean distances of those
            that give them.
        """
        probabilities, distances, entropies = Mean(), Mean(), Mean()
        normalized = {kind: kind(images) for kind in dict.fromkeys(member.normalization for member in self.members)}
        ones = (1.0,) * len(self.members)
        weights, temperatures = self.weights or ones, self.temperatures or ones
        for member, weight, temperature in zip(self.members, weights, temperatures, strict=True):
            answer = member.predict(normalized[member.normalization], reach)
            if answer.probabilities.shape[-1]:
                own = sharpened(answer.probabilities, temperature)
                own = as_votes(own) if self.vote else own
                probabilities.add(own, weight)
                if member_entropy:
                    entropies.add(entropy(own), weight)
            if answer.distances is not None:
                distances.add(answer.distances, weight)
        classes = probabilities.value() if probabilities.weight else np.empty((*reach.core, 0), np.float32)
        return Answer(classes, *(each.value() if each.weight else None for each in (distances, entropies)))


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
    """Give every block of a part with its class probabilities, `(*block, classes)`."""
    for box, answer in answer_part(predictor, part, max_voxels):
        yield box, answer.probabilities


def answer_part(
    predictor: MeanPredictor, part: Part, max_voxels: int = MAX_CORE_VOXELS
) -> Iterator[tuple[Box, Answer]]:
    """Give every block of a part with all that the networks say of it."""
    yield from answers(predictor, part.shape, part.read_image, max_voxels)


def answers(
    predictor: MeanPredictor,
    shape: Sequence[int],
    read: Reader,
    max_voxels: int = MAX_CORE_VOXELS,
    max_bytes: float = math.inf,
) -> Iterator[tuple[Box, Answer]]:
    """Give every block of an image `(z, y, x)` with all that the networks say of it."""
    core = predictor.choose_core(shape, max_voxels, max_bytes)
    reach = predictor.reach(core)
    for box in blocks(shape, core):
        answer = predictor.predict(predictor.read(read, [side.start for side in box], reach), reach)
        yield box, answer.inside(tuple(slice(side.stop - side.start) for side in box))


def count_box(part: Part, box: Box, answer: np.ndarray) -> np.ndarray:
    """Count label against most probable class in a block, `(classes, classes)`, rows labels."""
    labels = part.read_labels([side.start for side in box], [side.stop - side.start for side in box])
    return contingency(labels, answer.argmax(-1).astype(np.uint8), answer.shape[-1], ignore=UNLABELLED)
