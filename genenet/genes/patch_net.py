"""A classifier of patches: convolutions and pools down to one answer (Roels et al. 2017, Ciresan et al. 2012)."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from genenet.errors import InputError
from genenet.gene import Gene, Kinds, Reads
from genenet.genes.edges import features_of, kernel_penalties
from genenet.genes.network_root import NetworkRoot
from genenet.genes.vocabulary import (
    ACTIVATION,
    DROPOUT,
    KERNEL_PENALTIES,
    KERNEL_SIZE,
    LOG2_WIDTH,
    N_CONVS,
    N_FEATURES,
    NORMALIZATION,
)
from genenet.operations import Activation, Convolution, Dropout, Normalization, PatchPool
from genenet.plan import Plan

if TYPE_CHECKING:
    from genenet.build import Built

# Pools are maxima over 3x3 at every other position, sizes rounded up.
POOL, POOL_STRIDE = 3, 2


class PatchConv(Gene):
    """A convolution without padding and what follows it; and the pool before it.

    Args:
        source: The path of the gene it reads; empty for the image.
        depth: How many pools come before.
        side: Positions of a patch along an axis, before the pool.
        reads_all: Whether the kernel is as large as what is left of the patch, as a dense layer's is.
    """

    reads: ClassVar[Reads] = (
        N_FEATURES,
        LOG2_WIDTH,
        KERNEL_SIZE,
        ACTIVATION,
        NORMALIZATION,
        DROPOUT,
        *KERNEL_PENALTIES,
    )

    def __init__(self, name: str, parent: Gene, *, source: str, depth: int, side: int, reads_all: bool = False) -> None:
        super().__init__(name, parent)
        self.source = source
        self.depth_in_pools = depth
        self.side = side
        self.reads_all = reads_all

    @property
    def side_pooled(self) -> int:
        """Positions of a patch after the pool."""
        return math.ceil((self.side - POOL) / POOL_STRIDE) + 1 if self.source else self.side

    @property
    def side_after(self) -> int:
        """Positions of a patch after the convolution."""
        return self.side_pooled - self.kernel + 1

    @property
    def kernel(self) -> int:
        """The side of its kernel."""
        return self.side_pooled if self.reads_all else self.kernel_size

    @property
    def features(self) -> int:
        """Channels of its output."""
        return features_of(self, 0)

    @property
    def note(self) -> str:
        """For the drawn tree: what is built."""
        return f"{self.features} features"

    def make_children(self) -> list[Gene]:
        """None."""
        return []

    def plan(self, plan: Plan) -> None:
        """`pool`, the convolution, `norm`, `act`, `drop`."""
        last = plan.outputs[self.source]
        if self.source:
            cut = (self.side_pooled - 1) * POOL_STRIDE + POOL - self.side
            dilation = POOL_STRIDE ** (self.depth_in_pools - 1)
            last = plan.add(PatchPool(POOL, POOL_STRIDE, dilation, cut), last, gene=self.path, part="pool")
        if self.side_after < 1 or self.side_pooled < 1:
            raise InputError(
                f"a patch of {self.root.window_size} has nothing left at {self.path}; choose a larger `window_size`, "
                "smaller kernels or fewer convolutions"
            )
        normalized = self.normalization != "none"
        convolution = Convolution(
            self.features,
            (self.kernel, self.kernel),
            POOL_STRIDE**self.depth_in_pools,
            bias=not normalized,
            penalties=kernel_penalties(self),
        )
        plan.add(convolution, last, gene=self.path)
        if normalized:
            plan.add(Normalization(self.normalization), plan.outputs[self.path], gene=self.path, part="norm")
        plan.add(Activation(self.activation), plan.outputs[self.path], gene=self.path, part="act")
        if self.dropout > 0:
            plan.add(Dropout(self.dropout), plan.outputs[self.path], gene=self.path, part="drop")
        plan.chain.append(self.path)


class PatchNet(NetworkRoot):
    """A classifier of patches: three convolutions with pools, a dense layer, and the classes of the patch's centre.

    Built for one patch, `build((32, 32, 1))`, it classifies patches, `(batch, 32, 32, 1)` to `(batch, 1, 1, classes)`,
    and can be pruned. Built for images of any size, as training and segmentation do, it is the same classifier on every
    pixel at once (`genenet.dense`).

    Args:
        n_classes: Classes, at least 2.
        n_channels: Channels of the image.
        maps: Features of the convolutions and of the dense layer.
        **values: First values of hyperparameters; `window_size` is the side of the patch.

    Example:
        >>> net = PatchNet(maps=(100, 75, 50, 200))
        >>> net.n_parameters
        236977
        >>> net.window_shape()
        WindowShape(input=(32, 32), output=(1, 1))
    """

    reads: ClassVar[Reads] = (N_CONVS, *NetworkRoot.reads)
    child_kinds: ClassVar[Kinds] = (PatchConv, *NetworkRoot.child_kinds)
    defaults = {"n_convs": 3, "n_features": 100, "kernel_size": 7, "window_size": 32}
    default_deltas = {"c2": {"kernel_size": -2}, "c3": {"kernel_size": -4}}
    fixed = ("kernel_size", "window_size", "n_convs")
    body_output = "dense"
    paper = "Roels et al. 2017"

    def __init__(
        self, n_classes: int = 2, n_channels: int = 1, maps: Sequence[int] = (100, 75, 50, 200), **values: Any
    ) -> None:
        if len(maps) < 2 or min(maps) < 1:
            raise InputError(f"`maps` must be the features of the convolutions and of the dense layer, but got {maps}")
        super().__init__(n_classes, n_channels, **{"n_convs": len(maps) - 1, "n_features": int(maps[0]), **values})
        names = [*(f"c{index + 1}" for index in range(len(maps) - 1)), "dense"]
        widths = {name: math.log2(n_maps / maps[0]) for name, n_maps in zip(names, maps, strict=True)}
        self.update({name: {**self.deltas.get(name, {}), "log2_width": width} for name, width in widths.items()})

    def make_body(self) -> list[Gene]:
        """`c1`, `c2`, ..., `dense`."""
        genes: list[PatchConv] = []
        side = self.window_size
        for index in range(self.n_convs + 1):
            name = f"c{index + 1}" if index < self.n_convs else "dense"
            source = genes[-1].path if genes else ""
            gene = PatchConv(name, self, source=source, depth=index, side=side, reads_all=index == self.n_convs)
            genes.append(gene)
            side = gene.side_after
        return list(genes)

    @property
    def maps(self) -> tuple[int, ...]:
        """Features of the convolutions and of the dense layer."""
        return tuple(gene.features for gene in self.walk() if isinstance(gene, PatchConv))

    def make(self, shape: tuple[int | None, ...], *, precision: str = "float32", seed: int = 0) -> "Built":
        """The classifier for one patch, the same on every pixel for any other shape; see `NetworkRoot.make`."""
        from genenet.build import build_patches

        return build_patches(
            self.plan_layers(), shape, self.window_size, name="patchnet", precision=precision, seed=seed
        )
