"""A gene of your own: what it reads, what it plans, and a root that has it. Then it can be set, sampled and trained."""

import numpy as np

import genenet as gn
import search
from genenet.gene import Gene
from genenet.hyperparameters import Integer
from genenet.operations import Convolution
from genenet.plan import IMAGE, Plan

STEM_SIZE = Integer(
    name="stem_size", default=7, low=1, high=15, odd=True, unit="voxels", meaning="side of the stem's kernel"
)


class Stem(Gene):
    """One wide convolution of the image; all that follows reads it in the image's place."""

    reads = (STEM_SIZE,)

    def make_children(self) -> list[Gene]:
        return []

    def plan(self, plan: Plan) -> None:
        plan.add(Convolution(8, (self.stem_size,) * plan.n_dims, same=True), IMAGE, gene=self.path)
        plan.outputs[""] = plan.outputs[self.path]


@gn.register
class StemNet(gn.EncoderDecoder):
    """An encoder-decoder behind a stem."""

    child_kinds = (Stem, *gn.EncoderDecoder.child_kinds)

    def make_body(self) -> list[Gene]:
        return [Stem("stem", self), *super().make_body()]


if __name__ == "__main__":
    net = StemNet(n_classes=2, n_scales=2, n_features=8, stem_size=5)
    print(net.tree(short=True))
    print(net.build((64, 64, 1)).output_shape)
    space = search.Space(net, {"stem_size": search.Range(3, 9), "n_features": search.Range(4, 16)})
    for seed in range(3):
        found = space.sample(np.random.default_rng(seed))
        print(f"stem of {found.stem_size}, {found.n_features} features, {found.n_parameters:,} parameters")
