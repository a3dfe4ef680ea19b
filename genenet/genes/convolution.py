"""Genes that compute: one convolution and what follows it, and the head."""

from genenet.gene import Gene
from genenet.genes.edges import Down, Edge, Forward, Skip, Up, kernel_penalties
from genenet.genes.vocabulary import (
    ACTIVATION,
    ACTIVATION_PENALTIES,
    DILATION,
    DROPOUT,
    KERNEL_PENALTIES,
    KERNEL_SIZE,
    N_FEATURES,
    NORMALIZATION,
    PADDING,
    penalty,
)
from genenet.operations import Activation, Convolution, Dropout, Normalization, Penalties, Softmax
from genenet.plan import Plan


class Conv(Gene):
    """A convolution: merge the inputs, convolve, normalise, activate, drop.

    Its children are the edges that say where its inputs come from.

    Args:
        edges: The kinds of its edges, each with the path it reads.
        scale: How often the resolution was halved; multiplies the features by `2**scale`.
    """

    reads = (
        N_FEATURES,
        KERNEL_SIZE,
        DILATION,
        PADDING,
        ACTIVATION,
        NORMALIZATION,
        DROPOUT,
        *KERNEL_PENALTIES,
        *ACTIVATION_PENALTIES,
    )
    child_kinds = (Forward, Skip, Down, Up)

    def __init__(self, name: str, parent: Gene, *, edges: list[tuple[type[Edge], str]], scale: int) -> None:
        super().__init__(name, parent)
        self.edges = edges
        self.scale = scale

    @property
    def note(self) -> str:
        """For the drawn tree: what is built."""
        return f"{self.n_features * 2**self.scale} features"

    def make_children(self) -> list[Gene]:
        """One per input."""
        return [kind(kind.default_name, self, source=source, scale=self.scale) for kind, source in self.edges]

    def plan(self, plan: Plan) -> None:
        """Merge, convolution, `norm`, `act`, `drop`."""
        for edge in self.children:
            edge.plan(plan)
        merged = plan.merge([(edge.path, plan.outputs[edge.path]) for edge in self.children], gene=self.path)
        convolution = Convolution(
            features=self.n_features * 2**self.scale,
            kernel=(self.kernel_size,) * plan.n_dims,
            dilation=self.dilation,
            same=self.padding == "same",
            bias=self.normalization == "none",
            penalties=kernel_penalties(self),
        )
        last = plan.add(convolution, merged, gene=self.path)
        if self.normalization != "none":
            last = plan.add(Normalization(self.normalization), last, gene=self.path, part="norm")
        on_activations = Penalties(penalty(self.log10_l1_activation), penalty(self.log10_l2_activation))
        last = plan.add(Activation(self.activation, on_activations), last, gene=self.path, part="act")
        if self.dropout > 0:
            plan.add(Dropout(self.dropout), last, gene=self.path, part="drop")


class Head(Gene):
    """The last 1x1 convolution, to class scores, and the softmax that makes them probabilities.

    Args:
        source: The path of the gene it reads.
    """

    reads = KERNEL_PENALTIES

    def __init__(self, name: str, parent: Gene, *, source: str) -> None:
        super().__init__(name, parent)
        self.source = source

    @property
    def note(self) -> str:
        """For the drawn tree: what is built."""
        return f"{self.root.n_classes} classes"

    def make_children(self) -> list[Gene]:
        """None."""
        return []

    def plan(self, plan: Plan) -> None:
        """Class scores, `act`."""
        scores = Convolution(self.root.n_classes, (1,) * plan.n_dims, penalties=kernel_penalties(self))
        last = plan.add(scores, plan.outputs[self.source], gene=self.path)
        plan.add(Softmax(), last, gene=self.path, part="act")
