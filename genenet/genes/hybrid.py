"""Hybrid 2D-3D networks: much context within a section, a little across (Guay et al. 2018, the original code)."""

from typing import ClassVar

from genenet.gene import Gene, Kinds, Reads
from genenet.genes.convolution import Head
from genenet.genes.edges import Forward, Picture, Prediction
from genenet.genes.encoder_decoder import EncoderDecoder
from genenet.genes.pyramid import Pyramid
from genenet.genes.stack import Inputs
from genenet.genes.vocabulary import AUXILIARY_WEIGHT


class Hybrid2D3D(EncoderDecoder):
    """An encoder-decoder of 1x3x3 kernels whose prediction and features, beside the image, feed a small 3-D pyramid.

    `flat` is the encoder-decoder's own prediction; its loss has the weight `auxiliary_weight`. As in the original's
    "2D-3D+3x3x3", the stacks of the two finest scales begin with a convolution of 3x3x3 and half the features.
    """

    reads: ClassVar[Reads] = (AUXILIARY_WEIGHT, *EncoderDecoder.reads)
    child_kinds: ClassVar[Kinds] = (Pyramid, *EncoderDecoder.child_kinds)
    defaults = {
        "spatial_mode": "planar",
        "padding": "same",
        "n_features": 64,
        "n_scales": 3,
        "n_branches": 2,
        "pool_z": "never",
        "window_size": 300,
        "window_depth": 5,
    }
    default_deltas = {
        **{f"{path}/stack{scale}": {"n_convs": 1} for path in ("encode", "decode") for scale in (0, 1)},
        **{
            f"{path}/stack{scale}/conv0": {"spatial_mode": 1, "log2_width": -1.0}
            for path in ("encode", "decode")
            for scale in (0, 1)
        },
        **{f"decode/stack{scale}/conv0/up": {"log2_width": 1.0} for scale in (0, 1)},
        "pyramid": {"spatial_mode": 1, "log2_width": -1.0},
        "pyramid/branch0": {"n_convs": 1},
        "pyramid/branch1": {"n_convs": 3},
    }
    body_output = "pyramid"
    paper = "Guay et al. 2018"

    def make_body(self) -> list[Gene]:
        """`encode`, `decode`, `flat`, `pyramid`."""
        flat = Head("flat", self, source="decode/stack0", weight=self.auxiliary_weight)
        inputs: Inputs = [(Forward, "decode/stack0"), (Prediction, "flat"), (Picture, "")]
        return [*super().make_body(), flat, Pyramid("pyramid", self, inputs=inputs)]
