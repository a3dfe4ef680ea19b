"""The layers that a gene tree asks for, as data: what is built, counted, drawn and fitted with windows.

Genes add planned layers in order; `genenet.build` makes a Keras model of them. Everything about sizes is known here,
without Keras: which windows fit, where the output lies in the input, how much context a voxel needs.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

from genenet.errors import InputError
from genenet.operations import (
    Activation,
    Add,
    Concatenate,
    Convolution,
    Crop,
    Image,
    Multiply,
    Operation,
    Penalties,
)

IMAGE = "image"


@functools.lru_cache(maxsize=2**16)
def swap_separator(name: str) -> str:
    """Turn a gene's path into the name of its layer, or a layer's name into a path.

    Keras forbids `/` in layer names and PyTorch forbids `.`, so layers use `__`.

    >>> swap_separator("encode/stack2/conv0"), swap_separator("encode__stack2__conv0__act")
    ('encode__stack2__conv0', 'encode/stack2/conv0/act')
    """
    return "/".join(part.replace("/", "__") for part in name.split("__"))


class PlannedLayer(NamedTuple):
    """One layer to be built.

    Attributes:
        name: The layer's name in Keras.
        gene: The path of the gene that asked for it.
        operation: What it does.
        inputs: Names of the layers it reads.
        n_channels: Channels of its output.
        grid: `(stride, offset)` of its output per axis, in voxels of the image.
    """

    name: str
    gene: str
    operation: Operation
    inputs: tuple[str, ...]
    n_channels: int
    grid: tuple[tuple[float, float], ...]


@dataclasses.dataclass(frozen=True)
class WindowShape:
    """A window that fits: what the network reads, and the smaller or equal core it writes, in voxels per axis."""

    input: tuple[int, ...]
    output: tuple[int, ...]

    @property
    def margin(self) -> tuple[int, ...]:
        """Voxels per side and axis that are read but not written."""
        return tuple((i - o) // 2 for i, o in zip(self.input, self.output, strict=True))


class Source(NamedTuple):
    """One input of a gene that merges several.

    Attributes:
        edge: The path of the edge gene that gives it.
        layer: The layer it comes from.
        merge: How it joins those before it: `concatenate`, `sum` or `gate`.
        penalties: On the kernels that merging may need.
    """

    edge: str
    layer: str
    merge: str = "concatenate"
    penalties: Penalties = Penalties()


@dataclasses.dataclass(frozen=True)
class Output:
    """What a network is trained to give.

    Attributes:
        kind: `classes`, `foreground` (one class against the background) or `distance`.
        scores: The layer that the loss compares: class scores, the score of the foreground, or distances.
        answer: The layer that is used: class probabilities, that of the foreground, or distances.
        weight: Of its loss.
        auxiliary: Whether it helps training only.
    """

    kind: str
    scores: str
    answer: str
    weight: float = 1.0
    auxiliary: bool = False


class Plan:
    """Layers in building order, for `n_dims` spatial axes.

    Attributes:
        layers: By name, inputs before what reads them.
        outputs: The name of the layer that a gene's output comes from, by the gene's path.
        heads: What the network gives; its main answer, class probabilities as a rule, comes first.
        chain: Paths of the convolutions planned so far, in order.
    """

    def __init__(self, n_dims: int, n_channels: int) -> None:
        self.n_dims = n_dims
        grid = ((1.0, 0.0),) * n_dims
        self.layers = {IMAGE: PlannedLayer(IMAGE, "", Image(n_channels), (), n_channels, grid)}
        self.outputs: dict[str, str] = {"": IMAGE}
        self.heads: list[Output] = []
        self.chain: list[str] = []

    @property
    def output(self) -> PlannedLayer:
        """The layer that gives the main answer, class probabilities as a rule."""
        return self.layers[self.heads[0].answer]

    def add(self, operation: Operation, inputs: tuple[str, ...] | str, *, gene: str, part: str = "") -> str:
        """Plan a layer and make it the gene's output.

        Args:
            operation: What it does.
            inputs: The layers it reads, by name.
            gene: The path of the gene that asks for it.
            part: What a gene's further layers append to the name: `norm`, `act`.

        Returns:
            The layer's name.
        """
        inputs = (inputs,) if isinstance(inputs, str) else inputs
        layers = self.layers
        name = swap_separator(f"{gene}/{part}" if part else gene)
        if name in layers:
            raise ValueError(f"two layers would have the name {name}")
        grid = layers[inputs[0]].grid
        if not operation.keeps_grid:
            grid = tuple([operation.grid(*place, axis) for axis, place in enumerate(grid)])
        n_channels = operation.n_channels([layers[source].n_channels for source in inputs])
        layers[name] = PlannedLayer(name, gene, operation, inputs, n_channels, grid)
        self.outputs[gene] = name
        return name

    def strides(self, name: str) -> tuple[float, ...]:
        """The distance of a layer's elements per axis, in voxels of the image."""
        return tuple(stride for stride, _ in self.layers[name].grid)

    def align(self, sources: Sequence[Source], *, gene: str) -> list[str]:
        """Crop inputs at their centres to where all of them lie; gives the layers' names.

        Raises:
            InputError: The inputs lie on grids that no crop can bring together.
        """
        grids = [self.layers[source.layer].grid for source in sources]
        last = [max(grid[axis][1] for grid in grids) for axis in range(self.n_dims)]
        names = []
        for source, grid in zip(sources, grids, strict=True):
            amounts = [(end - offset) / stride for end, (stride, offset) in zip(last, grid, strict=True)]
            alike = all(mine[0] == first[0] for mine, first in zip(grid, grids[0], strict=True))
            if not alike or any(amount != int(amount) for amount in amounts):
                paths = " and ".join(each.edge for each in sources)
                raise InputError(f"{gene} cannot merge {paths}: their voxels do not lie on one grid")
            crop = Crop(tuple(int(amount) for amount in amounts))
            names.append(self.add(crop, source.layer, gene=source.edge, part="crop") if any(amounts) else source.layer)
        return names

    def merge(self, sources: Sequence[Source], *, gene: str, part: str = "sum") -> str:
        """Make one input of several: sums first, then gates, then all side by side.

        Inputs are cropped at their centres to where all of them lie. What is summed is projected to the first input's
        channels where it has others. A gated input is weighed voxel by voxel, by what it shows together with the first
        (Oktay et al. 2018, attention U-Net).

        Args:
            sources: In order; the first one's own `merge` does not matter.
            gene: The path of the gene that merges.
            part: What the layer that adds appends to its name.

        Returns:
            The name of the merged layer.

        Raises:
            InputError: The inputs lie on grids that no crop can bring together.
        """
        if len(sources) == 1:
            return sources[0].layer
        first, *names = self.align(sources, gene=gene)
        rest = list(zip(sources[1:], names, strict=True))
        added = [self._project(source, name, first) for source, name in rest if source.merge == "sum"]
        if added:
            first = self.add(Add(), (first, *added), gene=gene, part=part)
        beside = [
            self._gate(source, name, first) if source.merge == "gate" else name
            for source, name in rest
            if source.merge != "sum"
        ]
        return self.add(Concatenate(), (first, *beside), gene=gene, part="merge") if beside else first

    def _project(self, source: Source, name: str, first: str) -> str:
        n_channels = self.layers[first].n_channels
        if self.layers[name].n_channels == n_channels:
            return name
        projection = Convolution(n_channels, (1,) * self.n_dims, penalties=source.penalties)
        return self.add(projection, name, gene=source.edge, part="project")

    def _gate(self, source: Source, name: str, first: str) -> str:
        gene, one = source.edge, (1,) * self.n_dims
        hidden = max(1, self.layers[name].n_channels // 2)
        looks = [
            self.add(Convolution(hidden, one, bias=bias, penalties=source.penalties), of, gene=gene, part=part)
            for of, part, bias in ((name, "gate_input", False), (first, "gate_signal", True))
        ]
        both = self.add(Add(), tuple(looks), gene=gene, part="gate_sum")
        both = self.add(Activation("relu"), both, gene=gene, part="gate_relu")
        scores = self.add(Convolution(1, one, penalties=source.penalties), both, gene=gene, part="gate_scores")
        gate = self.add(Activation("sigmoid"), scores, gene=gene, part="gate")
        return self.add(Multiply(), (name, gate), gene=gene, part="gated")

    def check_all_read(self) -> None:
        """Refuse a plan with a layer that nothing reads and that is no output.

        Raises:
            InputError: Names the gene.
        """
        read = {name for layer in self.layers.values() for name in layer.inputs}
        read |= {name for head in self.heads for name in (head.answer, head.scores)}
        for name, layer in self.layers.items():
            if name not in read:
                raise InputError(f"nothing reads {layer.gene or 'the image'}; remove it, or let an edge reach it")

    @property
    def n_parameters(self) -> int:
        """Trainable parameters of all layers."""
        channels = {name: layer.n_channels for name, layer in self.layers.items()}
        return sum(
            layer.operation.n_parameters([channels[name] for name in layer.inputs]) for layer in self.layers.values()
        )

    def n_multiply_adds(self, shape: tuple[int, ...]) -> int:
        """Multiply-adds of all layers for an input of a shape that fits, `(*space)`."""
        sizes = self.sizes(shape)
        return sum(
            layer.operation.n_multiply_adds([self.layers[source].n_channels for source in layer.inputs])
            * math.prod(sizes[name])
            for name, layer in self.layers.items()
        )

    @property
    def total_stride(self) -> tuple[int, ...]:
        """The coarsest grid per axis: shifting a window by less changes what is pooled together."""
        return tuple(int(max(layer.grid[axis][0] for layer in self.layers.values())) for axis in range(self.n_dims))

    def sizes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """The spatial shape of every layer's output for an input of `shape`.

        Raises:
            InputError: The window shrinks to nothing or does not divide; names the gene where it happens.
        """
        sizes: dict[str, tuple[int, ...]] = {IMAGE: tuple(shape)}
        for name, layer in self.layers.items():
            if name == IMAGE:
                continue
            came = [sizes[source] for source in layer.inputs]
            sizes[name] = tuple(layer.operation.size(came[0][axis], axis) for axis in range(self.n_dims))
            window = "x".join(map(str, shape))
            if min(sizes[name]) == -1:
                raise InputError(
                    f"a window of {window} does not fit: {layer.gene} would halve {'x'.join(map(str, came[0]))}; "
                    "window_shape() gives the nearest size that fits"
                )
            if min(sizes[name]) < 1:
                raise InputError(f"a window of {window} shrinks to nothing at {layer.gene}; choose a larger window")
            if any(other != came[0] for other in came):
                raise InputError(
                    f"a window of {window} does not fit: the inputs of {layer.gene} differ in size; "
                    "window_shape() gives the nearest size that fits"
                )
        return sizes

    def window_shape(self, shape: tuple[int, ...]) -> WindowShape:
        """The nearest input that fits, and its output; on a tie the larger.

        Args:
            shape: Wanted input, voxels per axis.

        Raises:
            InputError: The window shrinks to nothing; names the gene where it happens.
        """
        stride = self.total_stride
        chosen: list[tuple[int, int]] = []
        for axis, size in enumerate(shape):
            if axis and size == shape[axis - 1] and self._is_like_the_axis_before(axis):
                chosen.append(chosen[-1])
            else:
                chosen.append(self._nearest(size, axis, stride[axis]))
        return WindowShape(tuple(size for size, _ in chosen), tuple(core for _, core in chosen))

    def _is_like_the_axis_before(self, axis: int) -> bool:
        """Whether all layers do the same along both."""
        operations = {id(layer.operation): layer.operation for layer in self.layers.values()}
        return all(operation.is_like_the_axis_before(axis) for operation in operations.values())

    def _nearest(self, size: int, axis: int, stride: int) -> tuple[int, int]:
        """The nearest size along an axis that fits, and the output's."""
        line = Line(self, axis)
        for distance in range(stride + 1):
            for candidate in (size + distance, size - distance):
                core = line.walk(candidate)[0] if candidate > 0 else 0
                if core:
                    return candidate, core
        smallest = next((n for n in range(size, size + 8192) if line.walk(n)[0]), None)
        cure = f"the smallest window that fits is {smallest}" if smallest else "no window fits"
        # The gene that the window reaches furthest, over the sizes within one stride.
        order = {layer.gene: index for index, layer in enumerate(self.layers.values())}
        ends = [line.walk(n)[1] for n in range(max(size - stride, 1), size + stride + 1)]
        raise InputError(f"a window of {size} shrinks to nothing at {max(ends, key=lambda gene: order[gene])}; {cure}")

    def fits(self, size: int, axis: int) -> bool:
        """Whether an input of `size` voxels along an axis goes through all layers."""
        return Line(self, axis).walk(size)[0] > 0

    def needs(self, first: int, end: int, axis: int) -> dict[str, tuple[int, int]]:
        """The range of every layer that a range of the outputs reads along an axis: first and one past the last.

        Ranges may lie beyond a window on either side, where layers pad.
        """
        needs = {head.answer: (first, end) for head in self.heads if not head.auxiliary}
        for name in reversed(self.layers):
            if name not in needs:
                continue
            layer = self.layers[name]
            low, high = layer.operation.needs(needs[name], axis)
            for source in layer.inputs:
                old = needs.get(source, (low, high))
                needs[source] = min(old[0], low), max(old[1], high)
        return needs

    def halo(self) -> tuple[tuple[int, int], ...]:
        """Context per axis: voxels that a core aligned to the total stride reads before and after itself.

        Worked backward from the first stride of output, so it is exact for cores that begin where a window's
        output may begin: with less context the result changes, with more it does not. A layer that does not reach as
        far as the image, because it was cropped, needs as much more.
        """
        halo = []
        for axis in range(self.n_dims):
            stride = self.total_stride[axis]
            start = int(self.output.grid[axis][1])
            before = after = 0.0
            for name, (first, end) in self.needs(0, stride, axis).items():
                step, offset = self.layers[name].grid[axis]
                cut = offset - (step - 1) / 2  # voxels of the window that it does not cover, on either side
                before = max(before, -first * step)
                after = max(after, end * step + 2 * cut)
            halo.append((int(before) + start, int(after) - stride - start))
        return tuple(halo)


class Line:
    """The sizes along one axis, to try many: only the layers that change them, or need inputs of the same size."""

    def __init__(self, plan: Plan, axis: int) -> None:
        self.axis = axis
        self.steps: list[tuple[tuple[int, ...], Operation, str]] = []
        place = {IMAGE: 0}
        for name, layer in plan.layers.items():
            if name == IMAGE:
                continue
            came = {place[source] for source in layer.inputs}
            if len(came) == 1 and layer.operation.keeps_size(axis):
                (place[name],) = came
            else:
                self.steps.append((tuple(came), layer.operation, layer.gene))
                place[name] = len(self.steps)
        self.end = place[plan.output.name]

    def walk(self, size: int) -> tuple[int, str]:
        """The output's size, or `(0, gene)` where a window of a size ends."""
        sizes = [size]
        for came, operation, gene in self.steps:
            first = sizes[came[0]]
            after = operation.size(first, self.axis)
            if after < 1 or any(sizes[other] != first for other in came[1:]):
                return 0, gene
            sizes.append(after)
        return sizes[self.end], ""
