"""Edges: where a convolution's input comes from, how it gets there, and how it joins the others."""

import abc
import functools
from typing import ClassVar

from genenet.errors import InputError
from genenet.gene import Gene, Reads
from genenet.genes.vocabulary import (
    KERNEL_PENALTIES,
    KERNEL_SIZE,
    LOG2_WIDTH,
    MERGE,
    N_FEATURES,
    PADDING,
    POOLING,
    REACH,
    SPATIAL_MODE,
    UPSAMPLING,
    penalty,
)
from genenet.operations import (
    Convolution,
    MaxPool,
    Operation,
    Penalties,
    Repeat,
    StridedConvolution,
    TransposedConvolution,
)
from genenet.plan import Plan, Source


def kernel_penalties(gene: Gene) -> Penalties:
    """The penalties on a gene's kernels and biases."""
    return penalties(gene.log10_l1_kernel, gene.log10_l2_kernel)


@functools.lru_cache(maxsize=2**12)
def penalties(log10_l1: float, log10_l2: float) -> Penalties:
    """Penalties from the logarithms of their factors."""
    return Penalties(penalty(log10_l1), penalty(log10_l2))


def features_of(gene: Gene, scale: int) -> int:
    """Features that a gene builds: `n_features`, doubled at every scale, times `2**log2_width`; at least one."""
    return max(1, round(gene.n_features * 2 ** (scale - gene.root.base_scale + gene.log2_width)))


def kernel_shape(gene: Gene, n_dims: int) -> tuple[int, ...]:
    """A gene's kernel in voxels per axis: k x k, 1 x k x k or k x k x k."""
    side = gene.kernel_size
    if n_dims == 2:
        return side, side
    return side if gene.spatial_mode == "3d" else 1, side, side


class Edge(Gene, abc.ABC):
    """An input of a convolution.

    Args:
        source: The path of the gene whose output it reads; empty for the image.
        scale: How often the resolution was halved where the edge ends.
    """

    default_name: ClassVar[str]
    reads: ClassVar[Reads] = (MERGE, *KERNEL_PENALTIES)

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

    def as_source(self, plan: Plan) -> Source:
        """What it gives to the gene that merges."""
        return Source(self.path, plan.outputs[self.path], self.merge, kernel_penalties(self))


class Forward(Edge):
    """The output of the convolution before, or of an earlier one of the same path.

    Args:
        source: What it reads unless `reach` says otherwise.
        index: How much further back than `reach` it reads.
    """

    default_name = "forward"
    reads: ClassVar[Reads] = (REACH, *Edge.reads)

    def __init__(self, name: str, parent: Gene, *, source: str, scale: int, index: int = 0) -> None:
        super().__init__(name, parent, source=source, scale=scale)
        self.index = index

    @property
    def note(self) -> str:
        """For the drawn tree: where it reads."""
        back = self.reach + self.index
        return super().note if back == 1 else f"<- {back} convolutions back"

    def plan(self, plan: Plan) -> None:
        """No layer, unless it comes from another scale."""
        found = self.find(plan)
        name = plan.outputs[found]
        plan.outputs[self.path] = name if found == self.source else self.at_my_scale(plan, name)

    def find(self, plan: Plan) -> str:
        """The path of the gene that it reads.

        Raises:
            InputError: So many convolutions do not come before in the path.
        """
        back = self.reach + self.index
        if back == 1:
            return self.source
        conv = self.path.rpartition("/")[0]
        # An edge stands below its convolution, that below its stack, and that below its path.
        own = self.lineage[-4] if len(self.lineage) > 3 else ""
        chain = [path for path in plan.chain if path.startswith(own)]
        if back > len(chain):
            raise InputError(
                f"{self.path} reads {back} convolutions back, but only {len(chain)} come before {conv}; "
                "choose a smaller reach"
            )
        return chain[-back]

    def at_my_scale(self, plan: Plan, name: str) -> str:
        """Refuse an input of another scale: this edge says at which scale its convolution works."""
        if plan.strides(name) != plan.strides(plan.outputs[self.source]):
            raise InputError(
                f"{self.path} cannot read {plan.layers[name].gene}, which lies at another scale; choose another reach"
            )
        return name


class Link(Forward):
    """A further input from an earlier convolution; pooled or repeated where that lies at another scale."""

    default_name = "link"

    def at_my_scale(self, plan: Plan, name: str) -> str:
        """Bring it to the scale of the convolution's first edge."""
        first = plan.outputs[self.root[self.lineage[-2]].children[0].path]
        pairs = list(zip(plan.strides(name), plan.strides(first), strict=True))
        for part, factor in (
            ("pool", tuple(max(1, int(there / here)) for here, there in pairs)),
            ("resize", tuple(max(1, int(here / there)) for here, there in pairs)),
        ):
            if max(factor) > 1:
                operation = MaxPool(factor) if part == "pool" else Repeat(factor)
                name = plan.add(operation, name, gene=self.path, part=part)
        return name


class Skip(Edge):
    """The output of the encoder at the same scale; cropped where it is merged."""

    default_name = "skip"

    def plan(self, plan: Plan) -> None:
        """No layer."""
        plan.outputs[self.path] = plan.outputs[self.source]


class Branch(Skip):
    """The output of one of several parallel stacks."""

    default_name = "branch"


class Prediction(Skip):
    """The class probabilities of a head further up."""

    default_name = "prediction"


class Picture(Skip):
    """The image itself."""

    default_name = "image"


class Context(Skip):
    """What was seen of a larger field at lower resolution."""

    default_name = "context"


class Down(Edge):
    """The output of the finer scale at half its resolution."""

    default_name = "down"
    reads: ClassVar[Reads] = (POOLING, *Edge.reads)

    def plan(self, plan: Plan) -> None:
        """A maximum over neighbours, or a convolution of stride 2 with as many features as it reads."""
        source, factor = plan.outputs[self.source], self.root.pool_factor(self.scale - 1)
        operation: Operation = MaxPool(factor)
        if self.pooling == "strided":
            operation = StridedConvolution(factor, plan.layers[source].n_channels, kernel_penalties(self))
        plan.add(operation, source, gene=self.path)


class Up(Edge):
    """The output of the coarser scale at twice its resolution, with the features of the stack it feeds."""

    default_name = "up"
    reads: ClassVar[Reads] = (UPSAMPLING, N_FEATURES, LOG2_WIDTH, KERNEL_SIZE, PADDING, SPATIAL_MODE, *Edge.reads)

    def plan(self, plan: Plan) -> None:
        """A transposed convolution, or repetition (`resize`) and a convolution; no activation."""
        source, factor = plan.outputs[self.source], self.root.pool_factor(self.scale)
        features = features_of(self, self.scale)
        if self.upsampling == "transposed":
            plan.add(TransposedConvolution(factor, features, kernel_penalties(self)), source, gene=self.path)
            return
        resized = plan.add(Repeat(factor), source, gene=self.path, part="resize")
        convolution = Convolution(
            features, kernel_shape(self, plan.n_dims), same=self.padding == "same", penalties=kernel_penalties(self)
        )
        plan.add(convolution, resized, gene=self.path)


class Enlarge(Edge):
    """The output of the coarser scale, its voxels repeated."""

    default_name = "up"

    def plan(self, plan: Plan) -> None:
        """Repetition alone."""
        plan.add(Repeat(self.root.pool_factor(self.scale)), plan.outputs[self.source], gene=self.path)
