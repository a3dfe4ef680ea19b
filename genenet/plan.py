"""The layers that a gene tree asks for, as data: what is built, counted, drawn and fitted with windows.

Genes add planned layers in order; `genenet.build` makes a Keras model of them. Everything about sizes is known here,
without Keras: which windows fit, where the output lies in the input, how much context a voxel needs.
"""

import dataclasses
import math

from genenet.errors import InputError
from genenet.operations import Concatenate, Crop, Image, Operation

IMAGE = "image"


def swap_separator(name: str) -> str:
    """Turn a gene's path into the name of its layer, or a layer's name into a path.

    Keras forbids `/` in layer names and PyTorch forbids `.`, so layers use `__`.

    >>> swap_separator("encode/stack2/conv0"), swap_separator("encode__stack2__conv0__act")
    ('encode__stack2__conv0', 'encode/stack2/conv0/act')
    """
    return "/".join(part.replace("/", "__") for part in name.split("__"))


@dataclasses.dataclass(frozen=True)
class PlannedLayer:
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


class Plan:
    """Layers in building order, for `n_dims` spatial axes.

    Attributes:
        layers: By name, inputs before what reads them; the last one is the output.
        outputs: The name of the layer that a gene's output comes from, by the gene's path.
    """

    def __init__(self, n_dims: int, n_channels: int) -> None:
        self.n_dims = n_dims
        grid = ((1.0, 0.0),) * n_dims
        self.layers = {IMAGE: PlannedLayer(IMAGE, "", Image(n_channels), (), n_channels, grid)}
        self.outputs: dict[str, str] = {"": IMAGE}

    @property
    def output(self) -> PlannedLayer:
        """The last layer."""
        return next(reversed(self.layers.values()))

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
        sources = [self.layers[name] for name in inputs]
        name = swap_separator(f"{gene}/{part}" if part else gene)
        grid = tuple(operation.grid(*sources[0].grid[axis], axis) for axis in range(self.n_dims))
        n_channels = operation.n_channels([source.n_channels for source in sources])
        self.layers[name] = PlannedLayer(name, gene, operation, inputs, n_channels, grid)
        self.outputs[gene] = name
        return name

    def merge(self, sources: list[tuple[str, str]], *, gene: str) -> str:
        """Put several inputs side by side, each cropped at its centre to where all of them lie.

        Args:
            sources: Pairs of the edge gene's path and the layer it gives.
            gene: The path of the gene that merges.

        Returns:
            The name of the merged layer.

        Raises:
            InputError: The inputs lie on grids that no crop can bring together.
        """
        if len(sources) == 1:
            return sources[0][1]
        grids = [self.layers[name].grid for _, name in sources]
        last = [max(grid[axis][1] for grid in grids) for axis in range(self.n_dims)]
        names = []
        for (edge, name), grid in zip(sources, grids, strict=True):
            amounts = []
            for axis in range(self.n_dims):
                stride, offset = grid[axis]
                amount = (last[axis] - offset) / stride
                if stride != grids[0][axis][0] or amount != int(amount):
                    paths = " and ".join(path for path, _ in sources)
                    raise InputError(f"{gene} cannot merge {paths}: their voxels do not lie on one grid")
                amounts.append(int(amount))
            names.append(self.add(Crop(tuple(amounts)), name, gene=edge, part="crop") if any(amounts) else name)
        return self.add(Concatenate(), tuple(names), gene=gene, part="merge")

    @property
    def n_parameters(self) -> int:
        """Trainable parameters of all layers."""
        channels = {name: layer.n_channels for name, layer in self.layers.items()}
        return sum(
            layer.operation.n_parameters([channels[name] for name in layer.inputs]) for layer in self.layers.values()
        )

    def n_activations(self, shape: tuple[int, ...]) -> int:
        """Numbers in all layers' outputs for an input of a shape that fits, `(*space)`."""
        sizes = self.sizes(shape)
        return sum(layer.n_channels * math.prod(sizes[name]) for name, layer in self.layers.items())

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
        chosen = [self._nearest(size, axis) for axis, size in enumerate(shape)]
        return WindowShape(tuple(chosen), self.sizes(tuple(chosen))[self.output.name])

    def _nearest(self, size: int, axis: int) -> int:
        for distance in range(self.total_stride[axis] + 1):
            for candidate in (size + distance, size - distance):
                if candidate > 0 and self.fits(candidate, axis):
                    return candidate
        smallest = next((n for n in range(size, size + 8192) if self.fits(n, axis)), None)
        cure = f"the smallest window that fits is {smallest}" if smallest else "no window fits"
        blame = self._where_it_ends(size, axis)
        raise InputError(f"a window of {size} shrinks to nothing at {blame}; {cure}")

    def _walk(self, size: int, axis: int) -> tuple[int, str]:
        """The output's size along one axis, or `(0, gene)` where the window ends."""
        sizes = {IMAGE: size}
        for name, layer in self.layers.items():
            if name != IMAGE:
                came = {sizes[source] for source in layer.inputs}
                sizes[name] = layer.operation.size(next(iter(came)), axis)
                if len(came) > 1 or sizes[name] < 1:
                    return 0, layer.gene
        return sizes[self.output.name], ""

    def fits(self, size: int, axis: int) -> bool:
        """Whether an input of `size` voxels along an axis goes through all layers."""
        return self._walk(size, axis)[0] > 0

    def _where_it_ends(self, size: int, axis: int) -> str:
        """The gene that the window reaches furthest, over the sizes within one stride."""
        order = {layer.gene: index for index, layer in enumerate(self.layers.values())}
        near = range(max(size - self.total_stride[axis], 1), size + self.total_stride[axis] + 1)
        return max((self._walk(n, axis)[1] for n in near), key=lambda gene: order[gene])

    def halo(self) -> tuple[tuple[int, int], ...]:
        """Context per axis: voxels that a core aligned to the total stride reads before and after itself.

        Worked backward from the first stride of output, so it is exact for cores that begin where a window's
        output may begin: with less context the result changes, with more it does not.
        """
        halo = []
        for axis in range(self.n_dims):
            stride = self.total_stride[axis]
            start = int(self.output.grid[axis][1])
            needs: dict[str, tuple[int, int]] = {self.output.name: (0, stride)}
            for name in reversed(self.layers):
                layer = self.layers[name]
                if name not in needs:
                    continue
                first, end = layer.operation.needs(needs[name], axis)
                for source in layer.inputs:
                    old = needs.get(source, (first, end))
                    needs[source] = min(old[0], first), max(old[1], end)
            first, end = needs[IMAGE]
            halo.append((start - first, end - stride - start))
        return tuple(halo)
