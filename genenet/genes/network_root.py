"""What all roots share: windows, spatial axes, pooling factors, outputs, and the way to Keras."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from genenet.cost import Cost, cost
from genenet.gene import Gene, Kinds, Reads
from genenet.genes.convolution import DistanceHead, Head
from genenet.genes.stack import Stack
from genenet.genes.vocabulary import (
    ANISOTROPY,
    DISTANCE_WEIGHT,
    LOG10_LEARNING_RATE,
    POOL_Z,
    SPATIAL_MODE,
    WINDOW_DEPTH,
    WINDOW_SIZE,
)
from genenet.plan import Plan, WindowShape
from genenet.root import Root

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from genenet.build import Built


class LayersPerStack(NamedTuple):
    """Convolutions per stack, as in Table 1 of Guay et al. 2018.

    Attributes:
        encode: LPES, finest stack first; all stacks of a network without decoder.
        decode: LPDS, deepest stack first; one entry more.
    """

    encode: tuple[int, ...]
    decode: tuple[int, ...]

    def __str__(self) -> str:
        return " / ".join(",".join(map(str, part)) for part in self if part)


class NetworkRoot(Root):
    """The root of a segmentation network: the image in, class probabilities out.

    A subclass makes the genes that compute (`make_body`) and names the one that the head reads (`body_output`).

    Attributes:
        paper: Where the network comes from, for the table of presets.
        context: About how many voxels around are read for a block of a large image, where that is less than the network
            sees; all that it sees if None.
        base_scale: The scale whose convolutions have `n_features` features; those below have twice as many each.
        epsilon: What normalisation adds to variances; Keras' own unless a paper has another.
    """

    # What a space leaves alone unless it is told otherwise.
    fixed: ClassVar[tuple[str, ...]] = ()

    reads: ClassVar[Reads] = (LOG10_LEARNING_RATE, WINDOW_SIZE, WINDOW_DEPTH, ANISOTROPY, POOL_Z, DISTANCE_WEIGHT)
    child_kinds: ClassVar[Kinds] = (Head, DistanceHead)
    body_output: ClassVar[str]
    paper: ClassVar[str] = ""
    context: ClassVar[int | None] = None
    base_scale: ClassVar[int] = 0
    epsilon: ClassVar[float] = 1e-3

    def make_body(self) -> list[Gene]:
        """Create the genes before the head, in building order."""
        raise NotImplementedError

    def make_children(self) -> list[Gene]:
        """The body, `head`, and `distance` where its loss has a weight."""
        children = [*self.make_body(), Head("head", self, source=self.body_output)]
        if self.distance_weight > 0:
            children.append(DistanceHead("distance", self, source=self.body_output))
        return children

    def plan(self, plan: Plan) -> None:
        """Children in order, then the auxiliary heads."""
        for child in self.children:
            child.plan(plan)
        for gene in self.auxiliary_heads():
            gene.plan_auxiliary(plan)

    def auxiliary_heads(self) -> list[Head]:
        """Heads that help training only; they are planned last, since they are brought to the place of `head`."""
        return [gene for gene in self.walk() if isinstance(gene, Head) and gene.weight is not None]

    @property
    def n_dims(self) -> int:
        """Spatial axes of the window: 2 where every gene is 2-D, else 3."""
        return self.remembered("n_dims", self._count_dims)

    def _count_dims(self) -> int:
        name = SPATIAL_MODE.name
        if not any(name in entry for path, entry in self.deltas.items() if path):
            return 2 if self.totals(self).get(name, 0) <= 0 else 3  # what the root says holds everywhere
        modes = (gene.spatial_mode for gene in self.walk() if SPATIAL_MODE in gene.reads)
        return 2 if all(mode == "2d" for mode in modes) else 3

    def pool_factor(self, scale: int) -> tuple[int, ...]:
        """By how much a scale is finer than the next, `(y, x)` or `(z, y, x)`.

        With `pool_z` auto, z is halved from the scale on at which voxels are about as wide as deep: 1.41 times at most.
        """
        if self.n_dims == 2:
            return 2, 2
        depth = self.anisotropy
        for finer in range(scale + 1):
            side = 2.0**finer
            pools = self.pool_z == "always" or self.pool_z == "auto" and depth <= side * math.sqrt(2)
            depth *= 2 if pools else 1
        return 2 if pools else 1, 2, 2

    def plan_layers(self) -> Plan:
        """The network's layers as data, without Keras; worked out once, and not to be changed.

        Raises:
            InputError: A wiring that cannot work; names the paths.
        """
        return self.remembered("plan", self._plan_layers)

    def _plan_layers(self) -> Plan:
        plan = Plan(n_dims=self.n_dims, n_channels=self.n_channels)
        self.plan(plan)
        plan.check_all_read()
        return plan

    @property
    def n_parameters(self) -> int:
        """Trainable parameters of the network that would be built."""
        return self.plan_layers().n_parameters

    def window_shape(self, size: int | tuple[int, ...] | None = None) -> WindowShape:
        """The window nearest to a size that the network can take, and what it gives.

        Args:
            size: Voxels per side `(y, x)` or `(z, y, x)`, or one number for y and x; the hyperparameters `window_size`
                and `window_depth` where left out.

        Returns:
            Input and output shapes in voxels.

        Raises:
            InputError: The window would shrink to nothing; the message names the gene where.

        >>> from genenet.genes import UNet
        >>> UNet(n_classes=2).window_shape(570)
        WindowShape(input=(572, 572), output=(388, 388))
        """
        size = self.window_size if size is None else size
        if isinstance(size, int):
            size = (size, size) if self.n_dims == 2 else (self.window_depth, size, size)
        return self.plan_layers().window_shape(tuple(size))

    def layers_per_stack(self) -> LayersPerStack:
        """LPES and LPDS: convolutions per encoding and per decoding stack."""
        stacks = [gene for gene in self.walk() if isinstance(gene, Stack)]
        decode = tuple(gene.n_convs for gene in stacks if gene.path.startswith("decode/"))
        return LayersPerStack(tuple(gene.n_convs for gene in stacks if not gene.path.startswith("decode/")), decode)

    def cost(self, window: tuple[int, ...] | None = None, batch_size: int = 1) -> Cost:
        """Parameters, multiply-adds, receptive field and memory, without building anything.

        Args:
            window: What a call reads, voxels per axis; the nearest that fits is taken. The training window if left out.
            batch_size: Windows per training step.
        """
        return cost(self.plan_layers(), self.window_shape(window).input, batch_size)

    def plot(self, path: "Path | str | None" = None) -> "Figure":
        """Draw the gene tree beside the network; see `genenet.plot.plot`."""
        from genenet.plot import plot

        return plot(self, path)

    def build(self, shape: tuple[int | None, ...] | None = None, *, precision: str = "float32", seed: int = 0) -> Any:
        """Make a functional `keras.Model` of the blueprint.

        Args:
            shape: Input shape `(*space, channels)`, space `(y, x)` or `(z, y, x)`; None for sizes that stay open. Open
                sizes if left out.
            precision: A Keras dtype policy, `float32` or `mixed_bfloat16`; the heads always compute in float32.
            seed: Of the first weights and of dropout.

        Returns:
            A `keras.Model` from images `(batch, *space, channels)` to class probabilities
            `(batch, *space', n_classes)`; with a distance head, to a list of these and of distances
            `(batch, *space', 1)`. `window_shape` says which sizes fit. Layers are named by their genes' paths with `/`
            written `__`.

        Raises:
            InputError: The shape does not fit; names the gene where the window shrinks to nothing.
        """
        from genenet.device import import_keras

        import_keras()
        shape = (*[None] * self.n_dims, self.n_channels) if shape is None else shape
        return self.make(shape, precision=precision, seed=seed).model

    def make(self, shape: tuple[int | None, ...], *, precision: str = "float32", seed: int = 0) -> "Built":
        """The model to use and the model to train; `build` gives the first alone, and takes the same arguments."""
        from genenet.build import build_model

        return build_model(self.plan_layers(), shape, name=self.kind.lower(), precision=precision, seed=seed)
