"""Encoder-decoder networks: the two paths, and the roots (Ronneberger et al. 2015; Guay et al. 2018)."""

import math
from typing import ClassVar

from genenet.errors import InputError
from genenet.gene import Gene, Kinds, Reads
from genenet.genes.edges import Context, Down, Forward, Picture, Skip, Up
from genenet.genes.network_root import NetworkRoot
from genenet.genes.stack import Inputs, Stack, SupervisedStack
from genenet.genes.vocabulary import CONTEXT_MARGIN, CONTEXT_SCALE, N_SCALES
from genenet.operations import Crop, MeanPool
from genenet.plan import IMAGE, Plan
from genenet.root import Root


class ContextPath(Gene):
    """The image with a margin around, at lower resolution; `stack` works on it at that scale.

    The rest of the network reads the middle of the window.
    """

    child_kinds: ClassVar[Kinds] = (Stack,)

    @property
    def scale(self) -> int:
        """How often the resolution is halved, at most as often as in the rest of the network."""
        return min(self.root.context_scale, self.root.n_scales)

    def make_children(self) -> list[Gene]:
        """`stack`."""
        return [Stack("stack", self, scale=self.scale, inputs=[(Picture, self.path)])]

    def plan(self, plan: Plan) -> None:
        """The means over neighbours, the stack; `inner`, what the rest of the network reads."""
        factors = [self.root.pool_factor(scale) for scale in range(self.scale)]
        pool = tuple(math.prod(sides) for sides in zip(*factors, strict=True))
        plan.add(MeanPool(pool), IMAGE, gene=self.path)
        self.children[0].plan(plan)
        margin = self.root.context_margin + self.root.context_shift
        around = (0, margin, margin)[-plan.n_dims :]
        inner = plan.add(Crop(around), IMAGE, gene=self.path, part="inner") if margin else IMAGE
        plan.outputs[""], plan.outputs[self.path] = inner, plan.outputs[self.children[0].path]


def with_context(root: Root, scale: int, inputs: Inputs) -> Inputs:
    """The inputs of the encoder's or the deepest stack at a scale, with the context where it joins."""
    if root.context_scale and scale == min(root.context_scale, root.n_scales):
        return [*inputs, (Context, "context")]
    return inputs


class EncodePath(Gene):
    """From the image down: `stack0` is the finest."""

    child_kinds: ClassVar[Kinds] = (Stack,)

    def make_children(self) -> list[Gene]:
        """One stack per scale."""
        stacks: list[Gene] = []
        for scale in range(self.root.n_scales):
            inputs: Inputs = [(Down, stacks[-1].path)] if stacks else [(Forward, "")]
            inputs = with_context(self.root, scale, inputs)
            stacks.append(Stack(f"stack{scale}", self, scale=scale, inputs=inputs))
        return stacks

    def plan(self, plan: Plan) -> None:
        """Finest first."""
        for child in self.children:
            child.plan(plan)


class DecodePath(EncodePath):
    """From the deepest stack up: `stack0` is the finest, and as many scales as the encoder plus one."""

    child_kinds: ClassVar[Kinds] = (SupervisedStack, Stack)

    def make_children(self) -> list[Gene]:
        """The deepest stack reads the encoder; the others read the one below and skip across."""
        n_scales = self.root.n_scales
        stacks: list[Gene] = []
        for scale in range(n_scales, -1, -1):
            across = f"encode/stack{min(scale, n_scales - 1)}"
            inputs: Inputs = (
                [(Up, stacks[-1].path), (Skip, across)] if stacks else with_context(self.root, scale, [(Down, across)])
            )
            kind = SupervisedStack if scale else Stack
            stacks.append(kind(f"stack{scale}", self, scale=scale, inputs=inputs))
        return stacks


class EncoderDecoder(NetworkRoot):
    """A 2-D encoder-decoder network that keeps the image's size; a practical start for a search.

    Example:
        >>> net = EncoderDecoder(n_classes=2, n_scales=2, n_features=8)
        >>> net.window_shape(100).input
        (100, 100)
        >>> net["encode/stack1"].n_convs
        2
    """

    reads: ClassVar[Reads] = (N_SCALES, CONTEXT_SCALE, CONTEXT_MARGIN, *NetworkRoot.reads)
    child_kinds: ClassVar[Kinds] = (ContextPath, EncodePath, DecodePath, *NetworkRoot.child_kinds)
    defaults = {"padding": "same", "n_features": 32, "n_scales": 3, "window_size": 192}
    body_output = "decode/stack0"
    # What is added to the margin of the context so that its voxels lie on the grid of those that it joins.
    context_shift = 0

    def make_body(self) -> list[Gene]:
        """`context` where asked for, `encode`, `decode`."""
        context = [ContextPath("context", self)] if self.context_scale else []
        return [*context, EncodePath("encode", self), DecodePath("decode", self)]

    def _plan_layers(self) -> Plan:
        n_shifts = 2 ** min(self.context_scale, self.n_scales)
        for self.context_shift in range(n_shifts):
            try:
                return super()._plan_layers()
            except InputError:
                if self.context_shift == n_shifts - 1:
                    raise
        raise AssertionError


class UNet(EncoderDecoder):
    """The original U-Net (Ronneberger et al. 2015): four scales, 64 features, valid padding, windows of 572.

    Example:
        >>> net = UNet(n_classes=7)
        >>> net.n_parameters
        31030983
        >>> print(net.layers_per_stack())
        2,2,2,2 / 2,2,2,2,2
    """

    defaults = {}
    paper = "Ronneberger et al. 2015"


class UNet3D(EncoderDecoder):
    """The 3-D U-Net (Cicek et al. 2016): kernels of 3x3x3, three scales, batch normalization, windows of 116x132x132.

    Features double before each pooling and not after it: 32 and 64, 64 and 128, 128 and 256, 256 and 512. Transposed
    convolutions keep the features that they read.
    """

    defaults = {
        "spatial_mode": "3d",
        "n_scales": 3,
        "n_features": 64,
        "normalization": "batch",
        "pool_z": "always",
        "window_size": 132,
        "window_depth": 116,
    }
    default_deltas = {
        **{f"encode/stack{scale}/conv0": {"log2_width": -1.0} for scale in range(3)},
        "decode/stack3/conv0": {"log2_width": -1.0},
        **{f"decode/stack{scale}/conv0/up": {"log2_width": 1.0} for scale in range(3)},
    }
    paper = "Cicek et al. 2016"


class ResidualUNet(EncoderDecoder):
    """A U-Net whose stacks add their input to their output (Zhang et al. 2018; Lee et al. 2017 for EM)."""

    defaults = {
        "padding": "same",
        "shortcut": "residual",
        "normalization": "batch",
        "n_features": 64,
        "n_scales": 3,
        "window_size": 224,
    }
    paper = "Zhang et al. 2018"
