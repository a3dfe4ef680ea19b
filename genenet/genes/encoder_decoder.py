"""Encoder-decoder networks: the root, its two paths, and their stacks (Ronneberger et al. 2015; Guay et al. 2018)."""

from typing import NamedTuple

from genenet.gene import Gene, Root
from genenet.genes.convolution import Conv, Head
from genenet.genes.edges import Down, Edge, Forward, Skip, Up
from genenet.genes.vocabulary import LOG10_LEARNING_RATE, N_CONVS, N_SCALES, WINDOW_SIZE
from genenet.plan import Plan, WindowShape

Inputs = list[tuple[type[Edge], str]]


class Stack(Gene):
    """Convolutions one after the other at one scale.

    Args:
        scale: How often the resolution was halved.
        inputs: Where the first convolution reads: kinds of edges with paths.
    """

    reads = (N_CONVS,)
    child_kinds = (Conv,)

    def __init__(self, name: str, parent: Gene, *, scale: int, inputs: Inputs) -> None:
        super().__init__(name, parent)
        self.scale = scale
        self.inputs = inputs

    def make_children(self) -> list[Gene]:
        """`conv0`, `conv1`, ..."""
        children: list[Gene] = []
        for index in range(self.n_convs):
            edges = [(Forward, children[-1].path)] if children else self.inputs
            children.append(Conv(f"conv{index}", self, edges=edges, scale=self.scale))  # type: ignore[arg-type]
        return children

    def plan(self, plan: Plan) -> None:
        """The convolutions; the last one's output is the stack's."""
        for child in self.children:
            child.plan(plan)
        plan.outputs[self.path] = plan.outputs[self.children[-1].path]


class EncodePath(Gene):
    """From the image down: `stack0` is the finest."""

    child_kinds = (Stack,)

    def make_children(self) -> list[Gene]:
        """One stack per scale."""
        stacks: list[Gene] = []
        for scale in range(self.root.n_scales):
            inputs: Inputs = [(Down, stacks[-1].path)] if stacks else [(Forward, "")]
            stacks.append(Stack(f"stack{scale}", self, scale=scale, inputs=inputs))
        return stacks

    def plan(self, plan: Plan) -> None:
        """Finest first."""
        for child in self.children:
            child.plan(plan)


class DecodePath(EncodePath):
    """From the deepest stack up: `stack0` is the finest, and as many scales as the encoder plus one."""

    def make_children(self) -> list[Gene]:
        """The deepest stack reads the encoder; the others read the one below and skip across."""
        n_scales = self.root.n_scales
        stacks: list[Gene] = []
        for scale in range(n_scales, -1, -1):
            across = f"encode/stack{min(scale, n_scales - 1)}"
            inputs: Inputs = [(Up, stacks[-1].path), (Skip, across)] if stacks else [(Down, across)]
            stacks.append(Stack(f"stack{scale}", self, scale=scale, inputs=inputs))
        return stacks


class LayersPerStack(NamedTuple):
    """Convolutions per stack, as in Table 1 of Guay et al. 2018.

    Attributes:
        encode: LPES, finest stack first.
        decode: LPDS, deepest stack first; one entry more.
    """

    encode: tuple[int, ...]
    decode: tuple[int, ...]

    def __str__(self) -> str:
        return " / ".join(",".join(map(str, part)) for part in self)


class EncoderDecoder(Root):
    """A 2-D encoder-decoder network that keeps the image's size; a practical start for a search.

    Example:
        >>> net = EncoderDecoder(n_classes=2, n_scales=2, n_features=8)
        >>> net.window_shape(100).input
        (100, 100)
        >>> net["encode/stack1"].n_convs
        2
    """

    reads = (N_SCALES, LOG10_LEARNING_RATE, WINDOW_SIZE)
    child_kinds = (EncodePath, DecodePath, Head)
    defaults = {"padding": "same", "n_features": 32, "n_scales": 3, "window_size": 192}

    def make_children(self) -> list[Gene]:
        """`encode`, `decode`, `head`."""
        return [EncodePath("encode", self), DecodePath("decode", self), Head("head", self, source="decode/stack0")]

    def plan(self, plan: Plan) -> None:
        """Encoder, decoder, head."""
        for child in self.children:
            child.plan(plan)

    def plan_layers(self) -> Plan:
        """The network's layers as data, without Keras."""
        plan = Plan(n_dims=2, n_channels=self.n_channels)
        self.plan(plan)
        return plan

    @property
    def n_parameters(self) -> int:
        """Trainable parameters of the network that would be built."""
        return self.plan_layers().n_parameters

    def window_shape(self, size: int | tuple[int, int] | None = None) -> WindowShape:
        """The window nearest to a size that the network can take, and what it gives.

        Args:
            size: Voxels per side `(y, x)`, or one number for both; the hyperparameter `window_size` if left out.

        Returns:
            Input and output shapes `(y, x)` in voxels.

        Raises:
            InputError: The window would shrink to nothing; the message names the gene where.

        >>> UNet(n_classes=2).window_shape(570)
        WindowShape(input=(572, 572), output=(388, 388))
        """
        size = self.window_size if size is None else size
        return self.plan_layers().window_shape((size, size) if isinstance(size, int) else tuple(size))

    def layers_per_stack(self) -> LayersPerStack:
        """LPES and LPDS: convolutions per encoding and per decoding stack."""
        encode, decode = (tuple(stack.n_convs for stack in self[name].children) for name in ("encode", "decode"))
        return LayersPerStack(encode, decode)

    def build(self, shape: tuple[int | None, ...] | None = None, *, precision: str = "float32", seed: int = 0):  # type: ignore[no-untyped-def]  # noqa: ANN201
        """Make a functional `keras.Model` of the blueprint.

        Args:
            shape: Input shape `(y, x, channels)`; None for sizes that stay open. Open sizes if left out.
            precision: A Keras dtype policy, `float32` or `mixed_bfloat16`; the head always computes in float32.
            seed: Of the first weights and of dropout.

        Returns:
            A `keras.Model` from images `(batch, y, x, channels)` to class probabilities `(batch, y', x', n_classes)`;
            `window_shape` says which sizes fit. Layers are named by their genes' paths with `/` written `__`.

        Raises:
            InputError: The shape does not fit; names the gene where the window shrinks to nothing.
        """
        from genenet.device import import_keras

        import_keras()
        from genenet.build import build_model

        shape = (None, None, self.n_channels) if shape is None else shape
        return build_model(self.plan_layers(), shape, name=self.kind.lower(), precision=precision, seed=seed)


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
