"""Networks without pooling: growing dilation one after the other, or side by side."""

from typing import ClassVar

from genenet.gene import Gene, Kinds, Reads
from genenet.genes.convolution import Conv
from genenet.genes.edges import Branch, Forward
from genenet.genes.network_root import NetworkRoot
from genenet.genes.stack import Inputs, Stack
from genenet.genes.vocabulary import N_BRANCHES, N_SCALES
from genenet.plan import Plan


class DilatedPath(Gene):
    """Stacks at full resolution; the dilation doubles from one to the next."""

    child_kinds: ClassVar[Kinds] = (Stack,)

    def make_children(self) -> list[Gene]:
        """`stack0`, `stack1`, ..., as many as `n_scales`."""
        stacks: list[Gene] = []
        for index in range(self.root.n_scales):
            source = stacks[-1].path if stacks else ""
            stacks.append(Stack(f"stack{index}", self, scale=0, inputs=[(Forward, source)], dilation_factor=2**index))
        return stacks

    def plan(self, plan: Plan) -> None:
        """One after the other."""
        for child in self.children:
            child.plan(plan)
        plan.outputs[self.path] = plan.outputs[self.children[-1].path]


class DilatedNet(NetworkRoot):
    """Dilated convolutions at full resolution (Yu & Koltun 2016): context grows, detail stays.

    Example:
        >>> net = DilatedNet(n_classes=2, n_scales=3)
        >>> [net[f"context/stack{i}/conv0"].dilation_factor for i in range(3)]
        [1, 2, 4]
    """

    reads: ClassVar[Reads] = (N_SCALES, *NetworkRoot.reads)
    child_kinds: ClassVar[Kinds] = (DilatedPath, *NetworkRoot.child_kinds)
    defaults = {"padding": "same", "n_features": 32, "n_scales": 5, "window_size": 192}
    body_output = "context"
    paper = "Yu & Koltun 2016"

    def make_body(self) -> list[Gene]:
        """`context`."""
        return [DilatedPath("context", self)]


class Pyramid(Gene):
    """Parallel stacks of doubling dilation, and a convolution that brings them together.

    Args:
        inputs: Where every branch reads.
    """

    reads: ClassVar[Reads] = (N_BRANCHES,)
    child_kinds: ClassVar[Kinds] = (Stack, Conv)

    def __init__(self, name: str, parent: Gene, *, inputs: Inputs) -> None:
        super().__init__(name, parent)
        self.inputs = inputs

    def make_children(self) -> list[Gene]:
        """`branch0`, `branch1`, ..., `fuse`."""
        branches: list[Gene] = [
            Stack(f"branch{index}", self, scale=0, inputs=self.inputs, dilation_factor=2**index)
            for index in range(self.n_branches)
        ]
        return [*branches, Conv("fuse", self, edges=[(Branch, branch.path) for branch in branches], scale=0)]

    def plan(self, plan: Plan) -> None:
        """The branches, then what brings them together."""
        for child in self.children:
            child.plan(plan)
        plan.outputs[self.path] = plan.outputs[self.children[-1].path]


class PyramidNet(NetworkRoot):
    """A stack, and a spatial pyramid of dilated branches (Chen et al. 2017, atrous spatial pyramid)."""

    child_kinds: ClassVar[Kinds] = (Stack, Pyramid, *NetworkRoot.child_kinds)
    defaults = {"padding": "same", "n_features": 32, "n_branches": 4, "window_size": 192}
    body_output = "pyramid"
    paper = "Chen et al. 2017"

    def make_body(self) -> list[Gene]:
        """`trunk`, `pyramid`."""
        trunk = Stack("trunk", self, scale=0, inputs=[(Forward, "")])
        return [trunk, Pyramid("pyramid", self, inputs=[(Forward, trunk.path)])]
