"""Edges: where a convolution's input comes from, and how it gets there."""

import abc
from typing import ClassVar

from genenet.gene import Gene
from genenet.genes.vocabulary import KERNEL_PENALTIES, KERNEL_SIZE, N_FEATURES, PADDING, POOLING, UPSAMPLING, penalty
from genenet.operations import Convolution, MaxPool, Penalties, Repeat, TransposedConvolution
from genenet.plan import Plan


def kernel_penalties(gene: Gene) -> Penalties:
    """The penalties on a gene's kernels and biases."""
    return Penalties(penalty(gene.log10_l1_kernel), penalty(gene.log10_l2_kernel))


class Edge(Gene, abc.ABC):
    """An input of a convolution.

    Args:
        source: The path of the gene whose output it reads; empty for the image.
        scale: How often the resolution was halved where the edge ends.
    """

    default_name: ClassVar[str]

    def __init__(self, name: str, parent: Gene, *, source: str, scale: int) -> None:
        super().__init__(name, parent)
        self.source = source
        self.scale = scale

    @property
    def note(self) -> str:
        """For the drawn tree: where it reads."""
        return f"<- {self.source or 'image'}"

    def make_children(self) -> list[Gene]:
        """None."""
        return []


class Forward(Edge):
    """The output of the gene before, as it is."""

    default_name = "forward"

    def plan(self, plan: Plan) -> None:
        """No layer."""
        plan.outputs[self.path] = plan.outputs[self.source]


class Skip(Forward):
    """The output of the encoder at the same scale; cropped where it is merged."""

    default_name = "skip"


class Down(Edge):
    """The output of the finer scale at half its resolution."""

    default_name = "down"
    reads = (POOLING, *KERNEL_PENALTIES)

    def plan(self, plan: Plan) -> None:
        """A maximum over 2x2 voxels, or a 2x2 convolution of stride 2 with as many features as it reads."""
        source, two = plan.outputs[self.source], (2,) * plan.n_dims
        if self.pooling == "max":
            plan.add(MaxPool(two), source, gene=self.path)
        else:
            features = plan.layers[source].n_channels
            plan.add(Convolution(features, two, stride=2, penalties=kernel_penalties(self)), source, gene=self.path)


class Up(Edge):
    """The output of the coarser scale at twice its resolution, with the features of the stack it feeds."""

    default_name = "up"
    reads = (UPSAMPLING, N_FEATURES, KERNEL_SIZE, PADDING, *KERNEL_PENALTIES)

    def plan(self, plan: Plan) -> None:
        """A transposed convolution, or repetition (`resize`) and a convolution; no activation."""
        source, two = plan.outputs[self.source], (2,) * plan.n_dims
        features = self.n_features * 2**self.scale
        if self.upsampling == "transposed":
            plan.add(TransposedConvolution(two, features, kernel_penalties(self)), source, gene=self.path)
            return
        resized = plan.add(Repeat(two), source, gene=self.path, part="resize")
        convolution = Convolution(
            features, (self.kernel_size,) * plan.n_dims, same=self.padding == "same", penalties=kernel_penalties(self)
        )
        plan.add(convolution, resized, gene=self.path)
