"""Run a network over a volume block by block; the pieces of its answer fit without seams."""

import dataclasses
from collections.abc import Callable, Sequence

import keras
import numpy as np

from genenet.dataset import UNLABELLED, Part
from genenet.metrics import contingency
from genenet.normalization import Normalization
from genenet.plan import Plan
from genenet.tiling import Fit, blocks, choose_core, fit_core

# What a block may write at once: the largest tensor of a network with 64 features is then 64 million numbers.
MAX_CORE_VOXELS = 2**20

Reader = Callable[[Sequence[int], Sequence[int]], np.ndarray]


@dataclasses.dataclass(frozen=True)
class BlockPredictor:
    """A network that gives class probabilities for any box of a volume.

    Attributes:
        model: From normalised images to probabilities.
        plan: Its layers, for the geometry of its windows.
        normalization: Of the images.
    """

    model: keras.Model
    plan: Plan
    normalization: Normalization

    @property
    def stride(self) -> tuple[int, int, int]:
        """What cores must be multiples of, `(z, y, x)`."""
        stride = (1,) * (3 - self.plan.n_dims) + self.plan.total_stride
        return stride[0], stride[1], stride[2]

    def choose_core(self, shape: Sequence[int], max_voxels: int = MAX_CORE_VOXELS) -> tuple[int, ...]:
        """Blocks for a volume `(z, y, x)`; slices of a 2-D network need no context from each other."""
        free = [True] * (3 - self.plan.n_dims) + [False] * self.plan.n_dims
        return choose_core(shape, self.stride, max_voxels, free=free)

    def fit(self, core: Sequence[int]) -> Fit:
        """The window for a core `(z, y, x)`; a 2-D network reads its slices as a batch."""
        flat = 3 - self.plan.n_dims
        fit = fit_core(self.plan, core[flat:])
        first, zeros = tuple(core[:flat]), (0,) * flat
        return Fit(tuple(core), zeros + fit.lead, first + fit.input, zeros + fit.skip)

    def predict(self, images: np.ndarray, fit: Fit) -> np.ndarray:
        """Class probabilities of a core.

        Args:
            images: Unnormalised `(z, y, x, channels)` of the fit's input shape.
            fit: The window.

        Returns:
            float32 `(z, y, x, classes)` of the fit's core shape.
        """
        batch = self.normalization(images)
        batch = batch[None] if self.plan.n_dims == 3 else batch
        answer = self.model.predict_on_batch(batch)
        answer = answer[0] if self.plan.n_dims == 3 else answer
        return answer[fit.keep]


def score_part(predictor: BlockPredictor, part: Part, n_classes: int, max_voxels: int = MAX_CORE_VOXELS) -> np.ndarray:
    """Count label against prediction over a whole part, block by block.

    Returns:
        The contingency table `(n_classes, n_classes)`, rows labels.
    """
    core = predictor.choose_core(part.shape, max_voxels)
    fit = predictor.fit(core)
    table = np.zeros((n_classes, n_classes), np.int64)
    for box in blocks(part.shape, core):
        start = [side.start for side in box]
        shape = [side.stop - side.start for side in box]
        images = part.read_image([s - lead for s, lead in zip(start, fit.lead, strict=True)], fit.input)
        prediction = predictor.predict(images, fit)[tuple(slice(n) for n in shape)].argmax(-1).astype(np.uint8)
        table += contingency(part.read_labels(start, shape), prediction, n_classes, ignore=UNLABELLED)
    return table
