"""Stacks: convolutions one after the other at one scale."""

from typing import ClassVar

from genenet.gene import Gene, Kinds, Reads
from genenet.genes.convolution import Conv, Head
from genenet.genes.edges import Edge, Forward
from genenet.genes.vocabulary import N_CONVS, SHORTCUT, SUPERVISION
from genenet.plan import Plan

Inputs = list[tuple[type[Edge], str]]


class Stack(Gene):
    """Convolutions one after the other at one scale.

    Args:
        scale: How often the resolution was halved.
        inputs: Where the first convolution reads: kinds of edges with paths.
        dilation_factor: Multiplies the dilation of all its convolutions.
    """

    reads: ClassVar[Reads] = (N_CONVS, SHORTCUT)
    child_kinds: ClassVar[Kinds] = (Conv,)

    def __init__(self, name: str, parent: Gene, *, scale: int, inputs: Inputs, dilation_factor: int = 1) -> None:
        super().__init__(name, parent)
        self.scale = scale
        self.inputs = inputs
        self.dilation_factor = dilation_factor

    @property
    def convs(self) -> list[Conv]:
        """Its convolutions."""
        return [child for child in self.children if isinstance(child, Conv)]

    def make_children(self) -> list[Gene]:
        """`conv0`, `conv1`, ..."""
        children: list[Gene] = []
        dense = self.shortcut == "dense"
        for index in range(self.n_convs):
            children.append(
                Conv(
                    f"conv{index}",
                    self,
                    edges=[(Forward, children[-1].path)] if children else self.inputs,
                    scale=self.scale,
                    dilation_factor=self.dilation_factor,
                    n_dense=max(0, index - 1) if dense else 0,
                )
            )
        return children

    def plan(self, plan: Plan) -> None:
        """The convolutions; the last one's output is the stack's.

        A residual stack adds its input to what the last convolution gives, before the activation (He et al. 2016).
        """
        convs = self.convs
        first = last = ""
        for conv in convs:
            merged, steps = conv.merge(plan), conv.steps(plan.n_dims)
            first = first or merged
            last = conv.convolve(plan, merged, steps)
            if conv is convs[-1] and self.shortcut == "residual":
                last = conv.add_shortcut(plan, last, first)
            conv.finish(plan, last, steps)
        plan.outputs[self.path] = plan.outputs[convs[-1].path]


class SupervisedStack(Stack):
    """A stack whose output may be compared with the labels too, in training (Lee et al. 2015)."""

    reads: ClassVar[Reads] = (*Stack.reads, SUPERVISION)
    child_kinds: ClassVar[Kinds] = (Conv, Head)

    def make_children(self) -> list[Gene]:
        """Convolutions, and an auxiliary `head` where its loss has a weight."""
        children = super().make_children()
        if self.supervision > 0:
            children.append(Head("head", self, source=self.path, weight=self.supervision))
        return children
