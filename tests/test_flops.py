"""Counting: against numbers worked out by hand, and against what blueprints say."""

import keras
import numpy as np
import pytest
from family import make
from pruning_family import FAMILY, L, image

import genenet as gn
from pruning import PruningError, compression_ratio, count, count_layers, shrink, theoretical_speedup

# Every kernel entry is used once per voxel written, of transposed convolutions once per voxel read.
BY_HAND = {
    "conv2d": (6 * 6 * 9 * 2 * 6) + (4 * 4 * 9 * 6 * 5) + (4 * 4 * 5 * 3),
    "conv3d": (4**3 * 27 * 2 * 6) + (2**3 * 27 * 6 * 5) + (2**3 * 5 * 3),
    "transposed2d": (6 * 6 * 9 * 2 * 6) + (13 * 13 * 9 * 6 * 5) + (27 * 27 * 5 * 3),
    "separable2d": 36 * (9 * 4 + 4 * 6) + 16 * (9 * 12 + 12 * 5) + 16 * 5 * 3,
    "depthwise2d": 64 * 9 * 2 * 6 + 36 * 9 * 6 * 2 + 36 * 12 * 3,
    "grouped": 64 * 9 * 2 * 12 + 36 * 9 * 4 * 9 + 36 * 9 * 3,
    "dense": 64 * 9 * 2 * 6 + 64 * 6 * 5 + 64 * 5 * 3,
    "shared": 64 * 9 * 2 * 6 + 3 * 64 * 9 * 6 * 6 + 64 * 12 * 3,
}


@pytest.mark.parametrize("name", BY_HAND)
def test_multiply_adds_by_hand(name):
    assert count(FAMILY[name]()).n_multiply_adds == BY_HAND[name]


@pytest.mark.parametrize("name", ["unet", "unet3d", "residual", "separable", "gate", "dilated-3d"])
def test_models_cost_what_their_blueprints_say(name):
    net = make(name)
    window = net.window_shape().input
    found = count(net.build(), (*window, 1))
    assert found.n_parameters == net.n_parameters
    assert found.n_multiply_adds == net.cost(window).n_multiply_adds


def test_models_within_models_and_names():
    layers = count_layers(FAMILY["nested"]())
    assert list(layers)[:3] == ["first", "inner/conv", "inner/last"] or "inner/conv" in layers
    assert layers["inner/conv"].n_multiply_adds == 2 * 64 * 9 * 4 * 5
    assert layers["inner/conv"].n_parameters == 9 * 4 * 5 + 5


def test_ratios_before_and_after():
    model = FAMILY["conv2d"]()
    for variable in model.trainable_variables:
        variable.assign(np.ones(variable.shape))
    before = count(model)
    assert before.n_nonzero == before.n_parameters
    assert compression_ratio(before, before) == theoretical_speedup(before, before) == 1
    kernel = np.ones(model.get_layer("second").kernel.shape)
    kernel[..., 1:] = 0  # four of five features
    model.get_layer("second").kernel.assign(kernel)
    zeros = count(model)
    assert before.n_nonzero - zeros.n_nonzero == 4 * 54
    assert before.n_multiply_adds - zeros.n_nonzero_multiply_adds == 16 * 4 * 54
    small = count(shrink(model, {"first": [0, 1, 2]}))
    assert small.n_multiply_adds == 36 * 54 + 16 * 27 * 5 + 16 * 15
    assert theoretical_speedup(before, small) > 1.9


def test_open_sizes_need_a_shape():
    model = gn.EncoderDecoder(n_classes=2, n_scales=1, n_features=4).build()
    with pytest.raises(PruningError, match="leaves sizes open: .* give the shape of one input"):
        count(model)
    assert count(model, (16, 16, 1)).n_multiply_adds * 4 == count(model, (32, 32, 1)).n_multiply_adds
    with pytest.raises(PruningError, match="`shape` is of one input, but several has 2"):
        several = [image(8, 8), image(8, 8)]
        count(keras.Model(several, L.Add()(several), name="several"), (8, 8, 2))


@pytest.mark.slow
def test_known_networks():
    """He et al. 2016 and Sandler et al. 2018 give 3.8 and 0.300 billion multiply-adds."""
    resnet = keras.applications.ResNet50(weights=None)
    assert count(resnet).n_multiply_adds == pytest.approx(3.86e9, rel=0.01)
    mobile = keras.applications.MobileNetV2(weights=None)
    assert count(mobile).n_multiply_adds == pytest.approx(0.30e9, rel=0.01)
