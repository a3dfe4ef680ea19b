"""A U-Net whose encoder is a residual network, for nuclei in stained sections (Mahbod et al. 2022)."""

from typing import Any, ClassVar

from genenet.gene import Gene, Kinds, Reads
from genenet.genes.convolution import DistanceHead, Head
from genenet.genes.edges import Enlarge, Skip
from genenet.genes.network_root import LayersPerStack, NetworkRoot
from genenet.genes.resnet import FIRST_SCALE, ResNetEncoder, Stage
from genenet.genes.stack import Inputs, Stack
from genenet.genes.vocabulary import BRANCHES, ENCODER_DEPTH, TARGET
from genenet.plan import Plan

HEAD_SIDE = 3

# What a stack of the decoder skips to, by its scale; the finest has nothing at its resolution.
ACROSS = {4: "stage2", 3: "stage1", 2: "stage0", 1: "stem"}


class ResNetDecoder(Gene):
    """From the encoder's last stage up: `stage4` is the deepest, `stage0` has the image's resolution.

    Args:
        encoder: The path of the encoder.
    """

    child_kinds: ClassVar[Kinds] = (Stack,)

    def __init__(self, name: str, parent: Gene, *, encoder: str) -> None:
        super().__init__(name, parent)
        self.encoder = encoder

    def make_children(self) -> list[Gene]:
        """Every stack reads the one below, enlarged, and skips across."""
        stacks: list[Gene] = []
        for scale in range(FIRST_SCALE + 2, -1, -1):
            inputs: Inputs = [(Enlarge, stacks[-1].path if stacks else f"{self.encoder}/stage3")]
            if scale in ACROSS:
                inputs.append((Skip, f"{self.encoder}/{ACROSS[scale]}"))
            stacks.append(Stack(f"stage{scale}", self, scale=scale, inputs=inputs))
        return stacks

    def plan(self, plan: Plan) -> None:
        """Deepest first."""
        for child in self.children:
            child.plan(plan)
        plan.outputs[self.path] = plan.outputs[self.children[-1].path]


class DistanceBranch(Gene):
    """A second head that gives distances, and what it does not share with the first."""

    child_kinds: ClassVar[Kinds] = (ResNetEncoder, ResNetDecoder, DistanceHead)

    def make_children(self) -> list[Gene]:
        """`encode` where all is separate, `decode` unless that is shared, `head`."""
        encoder, decoder = "encode", "decode"
        children: list[Gene] = []
        if self.root.branches == "separate":
            children.append(ResNetEncoder("encode", self))
            encoder = children[-1].path
        if self.root.branches != "shared":
            children.append(ResNetDecoder("decode", self, encoder=encoder))
            decoder = children[-1].path
        return [*children, DistanceHead("head", self, source=decoder, side=HEAD_SIDE)]

    def plan(self, plan: Plan) -> None:
        """One after the other."""
        for child in self.children:
            child.plan(plan)
        plan.outputs[self.path] = plan.outputs[self.children[-1].path]


class ResNetUNet(NetworkRoot):
    """A U-Net with a ResNet-18, 34 or 50 as encoder, for nuclei; weights of torchvision fit.

    With `target` classes and one class the answer is one probability, that of the foreground; with more, class
    probabilities. With `target` distance there is one linear output. A `distance_weight` adds a second head that gives
    distances, and `branches` says what it shares with the first. `genenet.pretrained` loads the encoder's weights.

    `n_features` are those of the stem and of the first stage. The stage at each scale has twice as many as that at the
    finer one, in the encoder and in the decoder. Windows are multiples of 32. An answer depends on some 500 pixels on
    either side (ResNet-34), on the far ones next to nothing: blocks are read with some 256 around, mirrored at the
    image's edges (docs/design.md, section 3).

    Args:
        n_classes: Classes; 1 for the foreground alone.
        n_channels: Channels of the image.
        depth: Of the ResNet, the hyperparameter `encoder_depth`.
        **values: First values of hyperparameters.

    Example:
        >>> net = ResNetUNet(depth=34, n_classes=1)
        >>> net.n_parameters
        24436369
        >>> net["encode/stage3/block0/conv0"].note
        '3x3, stride 2, 512 features'
    """

    reads: ClassVar[Reads] = (ENCODER_DEPTH, TARGET, BRANCHES, *NetworkRoot.reads)
    child_kinds: ClassVar[Kinds] = (ResNetEncoder, ResNetDecoder, DistanceBranch, *NetworkRoot.child_kinds)
    defaults = {"padding": "same", "normalization": "batch", "window_size": 256}
    fixed = ("normalization", "pooling", "upsampling")
    least_classes = 1
    base_scale = FIRST_SCALE
    epsilon = 1e-5  # torchvision's
    body_output = "decode"
    paper = "Mahbod et al. 2022"
    context = 256

    def __init__(self, n_classes: int = 1, n_channels: int = 3, depth: int | str = 34, **values: Any) -> None:
        super().__init__(n_classes, n_channels, **{"encoder_depth": str(depth), **values})

    def make_body(self) -> list[Gene]:
        """`encode`, `decode`."""
        encoder = ResNetEncoder("encode", self)
        return [encoder, ResNetDecoder("decode", self, encoder=encoder.path)]

    def make_children(self) -> list[Gene]:
        """The body, `head`, and `distance` where its loss has a weight and the head gives something else."""
        body = self.make_body()
        if self.target == "distance":
            return [*body, DistanceHead("head", self, source=self.body_output, side=HEAD_SIDE)]
        children = [*body, Head("head", self, source=self.body_output, side=HEAD_SIDE)]
        return [*children, DistanceBranch("distance", self)] if self.distance_weight > 0 else children

    def layers_per_stack(self) -> LayersPerStack:
        """LPES and LPDS: convolutions of the stem and of the encoder's stages, and per decoding stack."""
        encode = (stage.n_convs for stage in self["encode"].children if isinstance(stage, Stage))
        decode = (stack.n_convs for stack in self["decode"].children)
        return LayersPerStack((1, *encode), tuple(decode))
