"""Genes that compute: one convolution and what follows it, and the heads."""

import dataclasses
from typing import ClassVar, NamedTuple

from genenet.gene import Gene, Kinds, Reads
from genenet.genes.edges import (
    Branch,
    Context,
    Down,
    Edge,
    Enlarge,
    Forward,
    Link,
    Picture,
    Prediction,
    Skip,
    Up,
    features_of,
    kernel_penalties,
    kernel_shape,
    penalties,
)
from genenet.genes.vocabulary import (
    ACTIVATION,
    ACTIVATION_PENALTIES,
    CONVOLUTION,
    DILATION,
    DROPOUT,
    KERNEL_PENALTIES,
    KERNEL_SIZE,
    LOG2_WIDTH,
    N_FEATURES,
    N_LINKS,
    NORMALIZATION,
    PADDING,
    SPATIAL_MODE,
    SQUEEZE_EXCITATION,
)
from genenet.operations import (
    Activation,
    Convolution,
    DepthwiseConvolution,
    Dropout,
    Normalization,
    Operation,
    Repeat,
    Softmax,
    SqueezeExcitation,
)
from genenet.plan import Output, Plan, Source, swap_separator

# The hidden layer of squeeze and excitation has so many times fewer channels.
REDUCTION = 8


class Steps(NamedTuple):
    """The operations of a convolution gene.

    Attributes:
        depthwise: What comes before, where it is separable; with as many features as the input has channels.
        convolution: The convolution.
        normalization: What follows, if anything.
        after: What comes last, by part: `act`, `squeeze`, `drop`.
    """

    depthwise: DepthwiseConvolution | None
    convolution: Convolution
    normalization: Normalization | None
    after: tuple[tuple[str, Operation], ...]


class Conv(Gene):
    """A convolution: merge the inputs, convolve, normalise, activate, drop.

    Its children are the edges that say where its inputs come from.

    Args:
        edges: The kinds of its first edges, each with the path it reads.
        scale: How often the resolution was halved; multiplies the features by `2**scale`.
        dilation_factor: Multiplies the dilation.
        n_dense: Earlier convolutions of its stack to read as well.
    """

    reads: ClassVar[Reads] = (
        N_FEATURES,
        LOG2_WIDTH,
        KERNEL_SIZE,
        DILATION,
        SPATIAL_MODE,
        PADDING,
        CONVOLUTION,
        ACTIVATION,
        NORMALIZATION,
        SQUEEZE_EXCITATION,
        DROPOUT,
        N_LINKS,
        *KERNEL_PENALTIES,
        *ACTIVATION_PENALTIES,
    )
    child_kinds: ClassVar[Kinds] = (Forward, Skip, Link, Down, Up, Enlarge, Branch, Prediction, Picture, Context)

    def __init__(
        self,
        name: str,
        parent: Gene,
        *,
        edges: list[tuple[type[Edge], str]],
        scale: int,
        dilation_factor: int = 1,
        n_dense: int = 0,
    ) -> None:
        super().__init__(name, parent)
        self.edges = edges
        self.scale = scale
        self.dilation_factor = dilation_factor
        self.n_dense = n_dense

    @property
    def features(self) -> int:
        """Channels of its output, before crelu."""
        return features_of(self, self.scale)

    @property
    def note(self) -> str:
        """For the drawn tree: what is built."""
        return f"{self.features} features"

    def make_children(self) -> list[Gene]:
        """One per input: those of its place in the network, then links."""
        names = [kind.default_name for kind, _ in self.edges]
        children: list[Gene] = []
        for index, (kind, source) in enumerate(self.edges):
            name = names[index]
            if len(names) > 1 and names.count(name) > 1:
                name = f"{name}{names[:index].count(name)}"
            children.append(kind(name, self, source=source, scale=self.scale))
        n_links = max(self.n_links, self.n_dense)
        return children + [
            Link(f"link{index}", self, source="", scale=self.scale, index=index + 1) for index in range(n_links)
        ]

    def merge(self, plan: Plan) -> str:
        """Plan the edges and bring them together; gives the merged layer's name."""
        first, *others = self.children
        first.plan(plan)
        sources = [Source(first.path, plan.outputs[first.path])]
        for edge in others:
            if edge.merge != "none":
                edge.plan(plan)
                sources.append(edge.as_source(plan))
        return plan.merge(sources, gene=self.path)

    def plan(self, plan: Plan) -> None:
        """Merge, convolution, `norm`, `act`, `squeeze`, `drop`."""
        merged, steps = self.merge(plan), self.steps(plan.n_dims)
        self.finish(plan, self.convolve(plan, merged, steps), steps)

    def convolve(self, plan: Plan, last: str, steps: "Steps") -> str:
        """Plan the convolution and its `norm`; separable: `depthwise` before."""
        if steps.depthwise is not None:
            depthwise = dataclasses.replace(steps.depthwise, features=plan.layers[last].n_channels)
            last = plan.add(depthwise, last, gene=self.path, part="depthwise")
        last = plan.add(steps.convolution, last, gene=self.path)
        if steps.normalization is not None:
            last = plan.add(steps.normalization, last, gene=self.path, part="norm")
        return last

    def finish(self, plan: Plan, last: str, steps: "Steps") -> None:
        """Plan what follows: `act`, `squeeze`, `drop`."""
        for part, operation in steps.after:
            last = plan.add(operation, last, gene=self.path, part=part)
        plan.chain.append(self.path)

    def steps(self, n_dims: int) -> "Steps":
        """What is computed one after the other; worked out once for all convolutions with the same values."""
        key = type(self), n_dims, self.scale, self.dilation_factor
        return self.root.values(self).remembered(key, lambda: self._steps(n_dims))

    def _steps(self, n_dims: int) -> "Steps":
        values = self.root.values(self)
        kernel, features, on_kernels = kernel_shape(self, n_dims), self.features, kernel_penalties(self)
        dilation, same = values["dilation"] * self.dilation_factor, values["padding"] == "same"
        depthwise = None
        if values["convolution"] == "separable":
            depthwise = DepthwiseConvolution(1, kernel, dilation, same, bias=False, penalties=on_kernels)
            kernel = (1,) * n_dims
        normalization, dropout = values["normalization"], values["dropout"]
        on_activations = penalties(values["log10_l1_activation"], values["log10_l2_activation"])
        after: list[tuple[str, Operation]] = [("act", Activation(values["activation"], on_activations))]
        if values["squeeze_excitation"] == "on":
            after.append(("squeeze", SqueezeExcitation(REDUCTION)))
        if dropout > 0:
            after.append(("drop", Dropout(dropout)))
        return Steps(
            depthwise,
            Convolution(features, kernel, dilation, same, normalization == "none", on_kernels),
            Normalization(normalization, self.root.epsilon) if normalization != "none" else None,
            tuple(after),
        )

    def add_shortcut(self, plan: Plan, last: str, shortcut: str) -> str:
        """Plan the sum of what was convolved and an earlier layer, projected where its channels differ: `shortcut`."""
        sources = [Source(self.path, last), Source(self.path, shortcut, "sum", kernel_penalties(self))]
        return plan.merge(sources, gene=self.path, part="shortcut")


class Head(Gene):
    """A 1x1 convolution to class scores, and the softmax that makes them probabilities; a sigmoid for one class.

    Args:
        source: The path of the gene it reads.
        weight: Of its loss; None for the network's own head. A head with a weight is auxiliary: what it is compared
            with the labels for is training.
        side: Of the kernel within a section, if not 1.
    """

    reads: ClassVar[Reads] = KERNEL_PENALTIES

    def __init__(self, name: str, parent: Gene, *, source: str, weight: float | None = None, side: int = 1) -> None:
        super().__init__(name, parent)
        self.source = source
        self.weight = weight
        self.side = side

    @property
    def note(self) -> str:
        """For the drawn tree: what is built."""
        what = f"{self.root.n_classes} classes" if self.root.n_classes > 1 else "foreground"
        return what if self.weight is None else f"{what}, in training only, weight {self.weight:g}"

    def make_children(self) -> list[Gene]:
        """None."""
        return []

    def plan(self, plan: Plan) -> None:
        """Class scores, `act`."""
        scores, several = self.plan_scores(plan), self.root.n_classes > 1
        answer = plan.add(Softmax() if several else Activation("sigmoid"), scores, gene=self.path, part="act")
        if self.weight is None:
            plan.heads.append(Output("classes" if several else "foreground", scores, answer))

    def plan_scores(self, plan: Plan) -> str:
        """Class scores alone."""
        return plan.add(head_convolution(self, plan, self.root.n_classes), plan.outputs[self.source], gene=self.path)

    def plan_auxiliary(self, plan: Plan) -> None:
        """Scores at the resolution and the place of the network's own, to be compared with the labels."""
        name = swap_separator(self.path)
        scores = to_output(plan, name if name in plan.layers else self.plan_scores(plan), gene=self.path)
        plan.heads.append(Output("classes", scores, scores, self.weight or 0.0, auxiliary=True))


class DistanceHead(Gene):
    """A 1x1 convolution to one value per voxel: the distance to the border of the object that the voxel belongs to.

    Args:
        source: The path of the gene it reads.
        side: Of the kernel within a section, if not 1.
    """

    reads: ClassVar[Reads] = KERNEL_PENALTIES

    def __init__(self, name: str, parent: Gene, *, source: str, side: int = 1) -> None:
        super().__init__(name, parent)
        self.source = source
        self.side = side

    def make_children(self) -> list[Gene]:
        """None."""
        return []

    def plan(self, plan: Plan) -> None:
        """One feature, linear; its loss has `distance_weight`, unless it is the only one."""
        last = plan.add(head_convolution(self, plan, 1), plan.outputs[self.source], gene=self.path)
        weight = 1.0
        if plan.heads:
            last, weight = to_output(plan, last, gene=self.path), self.root.distance_weight
        plan.heads.append(Output("distance", last, last, weight))


def head_convolution(head: Head | DistanceHead, plan: Plan, features: int) -> Convolution:
    """The convolution of a head; where it sees neighbours, there are zeros around."""
    kernel = (*(1,) * (plan.n_dims - 2), head.side, head.side)
    return Convolution(features, kernel, same=head.side > 1, penalties=kernel_penalties(head))


def to_output(plan: Plan, name: str, *, gene: str) -> str:
    """Bring a layer to the resolution and the place of the network's class probabilities."""
    factor = tuple(int(stride) for stride in plan.strides(name))
    if max(factor) > 1:
        name = plan.add(Repeat(factor), name, gene=gene, part="resize")
    _, name = plan.align([Source("head", plan.heads[0].scores), Source(gene, name)], gene=gene)
    return name
