"""What a layer does to channels, sizes and positions; arithmetic only, one small class per operation.

Along one axis a tensor is a row of elements. Element `i` lies at `offset + stride * i` in voxels of the image. Sizes go
forward (how many elements come out), needs go backward (which elements of the input a range of the output reads).
"""

import dataclasses
import math
from collections.abc import Sequence

Range = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Operation:
    """One layer's arithmetic. What is said here holds for are those of operations that work on each voxel by itself."""

    def n_channels(self, inputs: Sequence[int]) -> int:
        """Channels out for channels in."""
        return inputs[0]

    def n_parameters(self, inputs: Sequence[int]) -> int:
        """Trainable parameters."""
        return 0

    def n_multiply_adds(self, inputs: Sequence[int]) -> int:
        """Multiply-adds per element of the output."""
        return 0

    def size(self, size: int, axis: int) -> int:
        """Elements out for elements in along an axis; not positive where nothing is left, -1 where it cannot be."""
        return size

    def keeps_size(self, axis: int) -> bool:
        """Whether as many elements come out as go in, however many they are."""
        return False

    @property
    def keeps_grid(self) -> bool:
        """Whether elements stay where they are, along all axes."""
        return False

    def is_like_the_axis_before(self, axis: int) -> bool:
        """Whether it does the same along an axis and the one before; False where that is not known."""
        return False

    def grid(self, stride: float, offset: float, axis: int) -> tuple[float, float]:
        """Stride and offset out for those in."""
        return stride, offset

    def needs(self, wanted: Range, axis: int) -> Range:
        """The first and one past the last input element that a range of output elements reads."""
        return wanted


@dataclasses.dataclass(frozen=True)
class Pointwise(Operation):
    """An operation that keeps sizes and positions."""

    keeps_grid = True  # type: ignore[assignment]

    def keeps_size(self, axis: int) -> bool:
        """Always."""
        return True

    def is_like_the_axis_before(self, axis: int) -> bool:
        """Always."""
        return True


@dataclasses.dataclass(frozen=True)
class Image(Pointwise):
    """The input itself."""

    channels: int

    def n_channels(self, inputs: Sequence[int]) -> int:
        """As the image has."""
        return self.channels


@dataclasses.dataclass(frozen=True)
class Penalties:
    """Factors of l1 and l2 terms; 0 is none."""

    l1: float = 0.0
    l2: float = 0.0


@dataclasses.dataclass(frozen=True)
class Convolution(Operation):
    """A convolution, Glorot-initialised, kernel and bias penalised alike.

    Attributes:
        features: Channels out.
        kernel: Kernel sides, one per axis.
        dilation: Spacing of the kernel's taps, the same along every axis whose kernel is wider than 1.
        same: Whether zeros are put around such that the size stays.
        bias: Whether there is one.
        penalties: On kernel and bias.
    """

    features: int
    kernel: tuple[int, ...]
    dilation: int = 1
    same: bool = False
    bias: bool = True
    penalties: Penalties = Penalties()

    def n_channels(self, inputs: Sequence[int]) -> int:
        """One per feature."""
        return self.features

    def n_parameters(self, inputs: Sequence[int]) -> int:
        """A kernel per pair of channels, and the biases."""
        return self.features * (math.prod(self.kernel) * inputs[0] + self.bias)

    def n_multiply_adds(self, inputs: Sequence[int]) -> int:
        """One per kernel entry."""
        return self.features * math.prod(self.kernel) * inputs[0]

    @property
    def keeps_grid(self) -> bool:
        """With zeros around."""
        return self.same

    def is_like_the_axis_before(self, axis: int) -> bool:
        """Where the kernel's sides are alike."""
        return self.kernel[axis] == self.kernel[axis - 1]

    def padded(self, size: int, axis: int) -> int:
        """Elements along an axis with the zeros that are put around."""
        return size + (self._reach(axis) if self.same else 0)

    def _reach(self, axis: int) -> int:
        return self.dilation * (self.kernel[axis] - 1)

    def keeps_size(self, axis: int) -> bool:
        """With zeros around, or where it sees a voxel alone."""
        return self.same or not self._reach(axis)

    def size(self, size: int, axis: int) -> int:
        """As large as the input, or shorter by the kernel's reach."""
        return size if self.same else size - self._reach(axis)

    def grid(self, stride: float, offset: float, axis: int) -> tuple[float, float]:
        """Centred on the taps."""
        return (stride, offset) if self.same else (stride, offset + stride * self._reach(axis) / 2)

    def needs(self, wanted: Range, axis: int) -> Range:
        """The taps of the first and of the last output."""
        reach = self._reach(axis)
        before = reach // 2 if self.same else 0
        return wanted[0] - before, wanted[1] + reach - before


@dataclasses.dataclass(frozen=True)
class Padded(Operation):
    """What looks at the neighbours of every `stride`-th element, zeros around; sizes must divide.

        input      0   1 | 2   3 | 4   5       kernel 3, stride 2
        reads  -1  0   1
                   1   2   3
        output     0     |   1   |   2         repeated, each lies where it came from

    The kernel is centred on the first of the elements that an output stands for, as in PyTorch; the output stands for
    all of them, so that it lines up with what is repeated or pooled in twos.

    Attributes:
        kernel: Sides, one per axis, odd.
        stride: Elements from one output to the next, per axis.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...] = dataclasses.field(kw_only=True)

    @property
    def padding(self) -> tuple[int, ...]:
        """Zeros put on either side, per axis."""
        return tuple(side // 2 for side in self.kernel)

    def padded(self, size: int, axis: int) -> int:
        """Elements along an axis with the zeros that are put around."""
        return size + 2 * self.padding[axis]

    def is_like_the_axis_before(self, axis: int) -> bool:
        """Where kernels and strides are alike."""
        return self.kernel[axis] == self.kernel[axis - 1] and self.stride[axis] == self.stride[axis - 1]

    def keeps_size(self, axis: int) -> bool:
        """Where nothing is left out."""
        return self.stride[axis] == 1

    def size(self, size: int, axis: int) -> int:
        """Divided by the stride."""
        return size // self.stride[axis] if size % self.stride[axis] == 0 else -1

    def grid(self, stride: float, offset: float, axis: int) -> tuple[float, float]:
        """In the middle of what an output stands for."""
        return stride * self.stride[axis], offset + stride * (self.stride[axis] - 1) / 2

    def needs(self, wanted: Range, axis: int) -> Range:
        """The neighbours of the first and of the last output."""
        step, before = self.stride[axis], self.padding[axis]
        return wanted[0] * step - before, (wanted[1] - 1) * step + before + 1


@dataclasses.dataclass(frozen=True)
class PaddedConvolution(Padded, Convolution):
    """A convolution with a stride, zeros around."""


@dataclasses.dataclass(frozen=True)
class PaddedMaxPool(Padded):
    """The maximum over neighbours, zeros around; after a ReLU, zeros are what PyTorch's minus infinity is."""


@dataclasses.dataclass(frozen=True)
class DepthwiseConvolution(Convolution):
    """A convolution of every channel with a kernel of its own; `features` is the number of channels."""

    def n_parameters(self, inputs: Sequence[int]) -> int:
        """A kernel per channel, and the biases."""
        return inputs[0] * (math.prod(self.kernel) + self.bias)

    def n_multiply_adds(self, inputs: Sequence[int]) -> int:
        """One per kernel entry."""
        return inputs[0] * math.prod(self.kernel)


@dataclasses.dataclass(frozen=True)
class Pool(Operation):
    """One element for `factor` neighbours along each axis; sizes must divide."""

    factor: tuple[int, ...]

    def is_like_the_axis_before(self, axis: int) -> bool:
        """Where the sides are alike."""
        return self.factor[axis] == self.factor[axis - 1]

    def size(self, size: int, axis: int) -> int:
        """Divided by the factor."""
        return size // self.factor[axis] if size % self.factor[axis] == 0 else -1

    def grid(self, stride: float, offset: float, axis: int) -> tuple[float, float]:
        """Centred on the neighbours."""
        return stride * self.factor[axis], offset + stride * (self.factor[axis] - 1) / 2

    def needs(self, wanted: Range, axis: int) -> Range:
        """All neighbours."""
        return wanted[0] * self.factor[axis], wanted[1] * self.factor[axis]


@dataclasses.dataclass(frozen=True)
class MaxPool(Pool):
    """The maximum over neighbours."""


@dataclasses.dataclass(frozen=True)
class MeanPool(Pool):
    """The mean over neighbours."""


@dataclasses.dataclass(frozen=True)
class PatchPool(Operation):
    """The maximum over neighbours in a patch classifier, as seen over a whole image: the next layer's taps lie apart.

    Attributes:
        side: Neighbours along each axis.
        stride: Positions of a patch from one maximum to the next.
        dilation: Elements from one neighbour to the next.
        cut: How many neighbours the last maximum of a patch lacks.
    """

    side: int
    stride: int
    dilation: int
    cut: int = 0

    def _reach(self) -> int:
        return self.dilation * (self.side - 1 - self.cut)

    def is_like_the_axis_before(self, axis: int) -> bool:
        """Always."""
        return True

    def size(self, size: int, axis: int) -> int:
        """Shorter by what the last maximum of a patch reaches."""
        return size - self._reach()

    def grid(self, stride: float, offset: float, axis: int) -> tuple[float, float]:
        """Centred on the neighbours."""
        return stride, offset + stride * self._reach() / 2

    def needs(self, wanted: Range, axis: int) -> Range:
        """All neighbours."""
        return wanted[0], wanted[1] + self._reach()


@dataclasses.dataclass(frozen=True)
class Patches(Operation):
    """A convolution whose kernel and stride are `factor`, so that no two patches overlap; what it shares either way.

    Attributes:
        factor: Sides of a patch, per axis.
        features: Channels out.
        penalties: On kernel and bias.
    """

    factor: tuple[int, ...]
    features: int = 1
    penalties: Penalties = Penalties()

    def n_channels(self, inputs: Sequence[int]) -> int:
        """One per feature."""
        return self.features

    def n_parameters(self, inputs: Sequence[int]) -> int:
        """A patch per pair of channels, and the biases."""
        return self.features * (math.prod(self.factor) * inputs[0] + 1)


@dataclasses.dataclass(frozen=True)
class StridedConvolution(Patches, Pool):
    """Neighbours are weighed and added."""

    def n_multiply_adds(self, inputs: Sequence[int]) -> int:
        """One per kernel entry."""
        return self.features * math.prod(self.factor) * inputs[0]


@dataclasses.dataclass(frozen=True)
class Repeat(Operation):
    """Every element repeated `factor` times along each axis (nearest-neighbour upsampling)."""

    factor: tuple[int, ...]

    def is_like_the_axis_before(self, axis: int) -> bool:
        """Where the sides are alike."""
        return self.factor[axis] == self.factor[axis - 1]

    def size(self, size: int, axis: int) -> int:
        """Multiplied by the factor."""
        return size * self.factor[axis]

    def grid(self, stride: float, offset: float, axis: int) -> tuple[float, float]:
        """The copies share the element's place."""
        fine = stride / self.factor[axis]
        return fine, offset - fine * (self.factor[axis] - 1) / 2

    def needs(self, wanted: Range, axis: int) -> Range:
        """The elements whose copies are wanted."""
        return wanted[0] // self.factor[axis], -(-wanted[1] // self.factor[axis])


@dataclasses.dataclass(frozen=True)
class TransposedConvolution(Patches, Repeat):
    """Every element becomes a small patch."""

    def n_multiply_adds(self, inputs: Sequence[int]) -> int:
        """Every element of the output comes from one of the input."""
        return self.features * inputs[0]


@dataclasses.dataclass(frozen=True)
class Crop(Operation):
    """The centre: `amount` elements less on either side, per axis."""

    amount: tuple[int, ...]

    def is_like_the_axis_before(self, axis: int) -> bool:
        """Where the sides are alike."""
        return self.amount[axis] == self.amount[axis - 1]

    def size(self, size: int, axis: int) -> int:
        """Shorter on both sides."""
        return size - 2 * self.amount[axis]

    def grid(self, stride: float, offset: float, axis: int) -> tuple[float, float]:
        """Begins later."""
        return stride, offset + stride * self.amount[axis]

    def needs(self, wanted: Range, axis: int) -> Range:
        """The same elements, counted from the larger input's start."""
        return wanted[0] + self.amount[axis], wanted[1] + self.amount[axis]


@dataclasses.dataclass(frozen=True)
class Concatenate(Pointwise):
    """Channels side by side."""

    def n_channels(self, inputs: Sequence[int]) -> int:
        """All of them."""
        return sum(inputs)


@dataclasses.dataclass(frozen=True)
class Add(Pointwise):
    """The sum of inputs with the same channels."""


@dataclasses.dataclass(frozen=True)
class Multiply(Pointwise):
    """The product of the first input, and of others with the same channels or one."""


@dataclasses.dataclass(frozen=True)
class SqueezeExcitation(Pointwise):
    """Every channel times a factor worked out from the means of all channels over the window (Hu et al. 2018).

    Attributes:
        reduction: The hidden layer has this many times fewer channels, at least one.
    """

    reduction: int

    def hidden(self, n_channels: int) -> int:
        """Channels of the hidden layer."""
        return max(1, n_channels // self.reduction)

    def n_parameters(self, inputs: Sequence[int]) -> int:
        """Two dense layers with biases."""
        hidden = self.hidden(inputs[0])
        return hidden * (inputs[0] + 1) + inputs[0] * (hidden + 1)


@dataclasses.dataclass(frozen=True)
class Activation(Pointwise):
    """A function of each value; crelu, relu of the value beside relu of its negative, doubles the channels."""

    function: str
    penalties: Penalties = Penalties()

    def n_channels(self, inputs: Sequence[int]) -> int:
        """The same, or twice as many for crelu."""
        return inputs[0] * (2 if self.function == "crelu" else 1)


@dataclasses.dataclass(frozen=True)
class Normalization(Pointwise):
    """Batch normalization, or group normalization with as many of 8 groups as divide the channels.

    Attributes:
        kind: `batch` or `group`.
        epsilon: What is added to variances.
    """

    kind: str
    epsilon: float = 1e-3

    def n_parameters(self, inputs: Sequence[int]) -> int:
        """A scale and a shift per channel."""
        return 2 * inputs[0]


@dataclasses.dataclass(frozen=True)
class Dropout(Pointwise):
    """A share of values set to 0 in training."""

    rate: float


@dataclasses.dataclass(frozen=True)
class Softmax(Pointwise):
    """Class scores to class probabilities, in float32."""
