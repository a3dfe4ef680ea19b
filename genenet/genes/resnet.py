"""Residual networks as encoders (He et al. 2016), layer for layer as in torchvision, so that its weights fit."""

from typing import ClassVar

from genenet.gene import Gene, Kinds, Reads
from genenet.genes.edges import features_of, kernel_penalties, penalties
from genenet.genes.vocabulary import (
    ACTIVATION,
    ACTIVATION_PENALTIES,
    DROPOUT,
    KERNEL_PENALTIES,
    LOG2_WIDTH,
    N_FEATURES,
    NORMALIZATION,
    SPATIAL_MODE,
)
from genenet.operations import (
    Activation,
    Add,
    Convolution,
    Dropout,
    Normalization,
    PaddedConvolution,
    PaddedMaxPool,
)
from genenet.plan import Plan

# Blocks per stage by the depth of the whole network with its classifier (He et al. 2016, table 1).
N_BLOCKS = {"18": (2, 2, 2, 2), "34": (3, 4, 6, 3), "50": (3, 4, 6, 3)}
BOTTLENECKS = ("50",)

# The last convolution of a bottleneck has so many times the features of the others.
EXPANSION = 4

# The scale of `stage0`; the stem and the pool halve the resolution before it.
FIRST_SCALE = 2


def plan_convolution(
    gene: Gene, plan: Plan, source: str, features: int, side: int, halved: int | None, part: str = ""
) -> str:
    """Plan a convolution and what normalises it; gives the last layer's name.

    Args:
        gene: Whose values count.
        plan: Where to add it.
        source: The layer that it reads.
        features: Channels out.
        side: Of the kernel.
        halved: The scale whose resolution it halves, if any.
        part: What its name has besides the gene's.
    """
    bias, on_kernels = gene.normalization == "none", kernel_penalties(gene)
    stride = (1,) * plan.n_dims if halved is None else gene.root.pool_factor(halved)
    # Where planar networks halve z, a kernel of one section would never see every other section.
    depth = side if gene.spatial_mode == "3d" else min(side, 2 * stride[0] - 1)
    kernel = (depth, side, side)[-plan.n_dims :]
    convolution = Convolution(features, kernel, same=True, bias=bias, penalties=on_kernels)
    if max(stride) > 1:
        convolution = PaddedConvolution(features, kernel, bias=bias, penalties=on_kernels, stride=stride)
    last = plan.add(convolution, source, gene=gene.path, part=part)
    if bias:
        return last
    normalization = Normalization(gene.normalization, gene.root.epsilon)
    return plan.add(normalization, last, gene=gene.path, part=f"{part}_norm" if part else "norm")


class ResNetConv(Gene):
    """A convolution of a residual network: convolve, normalise, activate, drop.

    Args:
        source: The path of the gene it reads; empty for the image.
        scale: Says how many features it has.
        side: Of its kernel.
        halved: The scale whose resolution it halves, if any.
        expansion: Multiplies the features.
    """

    reads: ClassVar[Reads] = (
        N_FEATURES,
        LOG2_WIDTH,
        SPATIAL_MODE,
        ACTIVATION,
        NORMALIZATION,
        DROPOUT,
        *KERNEL_PENALTIES,
        *ACTIVATION_PENALTIES,
    )

    def __init__(
        self,
        name: str,
        parent: Gene,
        *,
        source: str,
        scale: int,
        side: int = 3,
        halved: int | None = None,
        expansion: int = 1,
    ) -> None:
        super().__init__(name, parent)
        self.source = source
        self.scale = scale
        self.side = side
        self.halved = halved
        self.expansion = expansion

    @property
    def features(self) -> int:
        """Channels of its output, before crelu."""
        return self.expansion * features_of(self, self.scale)

    @property
    def note(self) -> str:
        """For the drawn tree: what is built."""
        return f"{self.side}x{self.side}{', stride 2' if self.halved is not None else ''}, {self.features} features"

    def make_children(self) -> list[Gene]:
        """None."""
        return []

    def plan(self, plan: Plan) -> None:
        """The convolution, `norm`, `act`, `drop`."""
        self.finish(plan, self.convolve(plan))

    def convolve(self, plan: Plan) -> str:
        """Plan the convolution and `norm`; gives the last layer's name."""
        return plan_convolution(self, plan, plan.outputs[self.source], self.features, self.side, self.halved)

    def finish(self, plan: Plan, last: str) -> None:
        """Plan what follows: `act`, `drop`."""
        on_activations = penalties(self.log10_l1_activation, self.log10_l2_activation)
        last = plan.add(Activation(self.activation, on_activations), last, gene=self.path, part="act")
        if self.dropout > 0:
            plan.add(Dropout(self.dropout), last, gene=self.path, part="drop")
        plan.chain.append(self.path)


class StemPool(Gene):
    """The maximum over 3x3 neighbours at every other voxel.

    Args:
        source: The path of the gene it reads.
    """

    def __init__(self, name: str, parent: Gene, *, source: str) -> None:
        super().__init__(name, parent)
        self.source = source

    def make_children(self) -> list[Gene]:
        """None."""
        return []

    def plan(self, plan: Plan) -> None:
        """One layer; along an axis that is not halved it sees a voxel alone."""
        factor = self.root.pool_factor(FIRST_SCALE - 1)
        kernel = tuple(2 * step - 1 for step in factor)
        plan.add(PaddedMaxPool(kernel, stride=factor), plan.outputs[self.source], gene=self.path)


class Block(Gene):
    """Convolutions whose sum with their input is activated; bottlenecks have a 1x1 before and after the 3x3.

    The input is projected, `project`, where the resolution or the channels change.

    Args:
        source: The path of the gene it reads.
        scale: How often the resolution was halved.
        halves: Whether it halves it once more itself.
    """

    reads: ClassVar[Reads] = (SPATIAL_MODE, NORMALIZATION, *KERNEL_PENALTIES)
    child_kinds: ClassVar[Kinds] = (ResNetConv,)

    def __init__(self, name: str, parent: Gene, *, source: str, scale: int, halves: bool) -> None:
        super().__init__(name, parent)
        self.source = source
        self.scale = scale
        self.halved = scale - 1 if halves else None

    def make_children(self) -> list[Gene]:
        """`conv0`, `conv1`; a bottleneck has `conv2` too. The first 3x3 has the stride."""
        sides = (1, 3, 1) if self.root.encoder_depth in BOTTLENECKS else (3, 3)
        children: list[Gene] = []
        for index, side in enumerate(sides):
            children.append(
                ResNetConv(
                    f"conv{index}",
                    self,
                    source=children[-1].path if children else self.source,
                    scale=self.scale,
                    side=side,
                    halved=self.halved if index == sides.index(3) else None,
                    expansion=EXPANSION if index == 2 else 1,
                )
            )
        return children

    def plan(self, plan: Plan) -> None:
        """The convolutions, the last one with the sum, `shortcut`, before its activation."""
        *convs, last = self.children
        for conv in convs:
            conv.plan(plan)
        new, old = last.convolve(plan), plan.outputs[self.source]
        n_channels = plan.layers[new].n_channels
        if self.halved is not None or plan.layers[old].n_channels != n_channels:
            old = plan_convolution(self, plan, old, n_channels, 1, self.halved, "project")
        last.finish(plan, plan.add(Add(), (new, old), gene=last.path, part="shortcut"))
        plan.outputs[self.path] = plan.outputs[last.path]


class Stage(Gene):
    """Blocks one after the other at one scale.

    Args:
        source: The path of the gene it reads.
        scale: How often the resolution was halved.
        n_blocks: How many there are.
    """

    child_kinds: ClassVar[Kinds] = (Block,)

    def __init__(self, name: str, parent: Gene, *, source: str, scale: int, n_blocks: int) -> None:
        super().__init__(name, parent)
        self.source = source
        self.scale = scale
        self.n_blocks = n_blocks

    @property
    def n_convs(self) -> int:
        """Convolutions of its blocks, without projections."""
        return sum(len(block.children) for block in self.children)

    def make_children(self) -> list[Gene]:
        """`block0`, `block1`, ..."""
        children: list[Gene] = []
        for index in range(self.n_blocks):
            source = children[-1].path if children else self.source
            halves = index == 0 and self.scale > FIRST_SCALE
            children.append(Block(f"block{index}", self, source=source, scale=self.scale, halves=halves))
        return children

    def plan(self, plan: Plan) -> None:
        """One after the other."""
        for child in self.children:
            child.plan(plan)
        plan.outputs[self.path] = plan.outputs[self.children[-1].path]


class ResNetEncoder(Gene):
    """A residual network without its classifier: `stem`, `pool`, and `stage0` to `stage3`, layers 1 to 4 elsewhere."""

    child_kinds: ClassVar[Kinds] = (ResNetConv, StemPool, Stage)

    def make_children(self) -> list[Gene]:
        """The stem has as many features as `stage0`."""
        stem = ResNetConv("stem", self, source="", scale=FIRST_SCALE, side=7, halved=0)
        children: list[Gene] = [stem, StemPool("pool", self, source=stem.path)]
        for index, n_blocks in enumerate(N_BLOCKS[self.root.encoder_depth]):
            source, scale = children[-1].path, FIRST_SCALE + index
            children.append(Stage(f"stage{index}", self, source=source, scale=scale, n_blocks=n_blocks))
        return children

    def plan(self, plan: Plan) -> None:
        """From the image down."""
        for child in self.children:
            child.plan(plan)
        plan.outputs[self.path] = plan.outputs[self.children[-1].path]
