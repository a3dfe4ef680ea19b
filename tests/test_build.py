"""Plans and the models built from them: figures of the papers, geometry, names."""

import itertools

import keras
import numpy as np
import pytest

import genenet as gn
from genenet.genes.vocabulary import ACTIVATIONS
from genenet.plan import IMAGE, WindowShape, swap_separator


def parameters(model):
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)


def test_the_original_unet():
    """docs/facts.md: 31,030,983 parameters; 572 in, 388 out; LPES and LPDS of Table 1."""
    net = gn.UNet(n_classes=7)
    model = net.build((572, 572, 1))
    assert net.n_parameters == model.count_params() == 31_030_983
    assert model.output_shape == (None, 388, 388, 7)
    assert net.window_shape() == net.window_shape(570) == WindowShape((572, 572), (388, 388))
    assert str(net.layers_per_stack()) == "2,2,2,2 / 2,2,2,2,2"


@pytest.mark.parametrize(
    ("lpes", "lpds"),
    [((1, 1, 3, 1), (3, 1, 5, 3, 3)), ((1, 2, 2), (6, 6, 3, 4)), ((3, 1, 2, 2), (1, 1, 1, 1, 1)), ((2, 3), (4, 2, 1))],
)
def test_networks_of_table_1_can_be_written_as_trees(lpes, lpds):
    net = gn.UNet(n_classes=7, n_scales=len(lpes))
    for scale, n_convs in enumerate(lpes):
        net[f"encode/stack{scale}"].set(n_convs=n_convs)
    for scale, n_convs in zip(range(len(lpes), -1, -1), lpds, strict=True):
        net[f"decode/stack{scale}"].set(n_convs=n_convs)
    assert net.layers_per_stack() == (lpes, lpds)
    assert net.window_shape(572).output[0] > 0


VARIANTS = [
    dict(zip(("padding", "pooling", "upsampling", "normalization"), values, strict=True))
    for values in itertools.product(("valid", "same"), ("max", "strided"), ("transposed", "resize"), ("none", "batch"))
]


@pytest.mark.parametrize("values", VARIANTS, ids=lambda v: "-".join(v.values()))
def test_plans_know_what_keras_builds(values):
    net = gn.EncoderDecoder(n_classes=3, n_scales=2, n_features=4, **values)
    window = net.window_shape(61)
    model = net.build((*window.input, 1))
    assert model.output_shape[1:] == (*window.output, 3)
    assert parameters(model) == net.n_parameters
    plan, sizes = net.plan_layers(), net.plan_layers().sizes(window.input)
    for name, layer in plan.layers.items():
        if name != IMAGE:
            assert model.get_layer(name).output.shape[1:] == (*sizes[name], layer.n_channels)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation):
    net = gn.EncoderDecoder(n_classes=2, n_scales=1, n_features=4, n_convs=1, activation=activation)
    model = net.build()
    assert parameters(model) == net.n_parameters
    answer = model.predict_on_batch(np.random.default_rng(0).normal(size=(1, 16, 16, 1)))
    np.testing.assert_allclose(answer.sum(-1), 1, rtol=1e-5)


def test_layers_are_named_by_their_genes():
    net = gn.EncoderDecoder(n_classes=2, n_scales=1, normalization="group", dropout=0.1, padding="valid")
    names = {layer.name for layer in net.build().layers}
    assert {"encode__stack0__conv0", "encode__stack0__conv0__norm", "encode__stack0__conv0__act"} <= names
    assert {"decode__stack0__conv0__up", "decode__stack0__conv0__skip__crop", "head__act"} <= names
    paths = {gene.path for gene in net.walk()}
    for name in names - {IMAGE}:
        path = swap_separator(name)
        assert path in paths or path.rpartition("/")[0] in paths


def test_penalties_reach_kernels_biases_and_activations():
    # One 1x1 network of known weights: the penalty is worked out by hand.
    net = gn.EncoderDecoder(
        n_classes=2, n_scales=1, n_convs=1, n_features=1, kernel_size=1, log10_l1_kernel=-1.0, log10_l2_activation=-2.0
    )
    model = net.build()
    for variable in model.trainable_variables:
        variable.assign(np.ones(variable.shape))
    model(np.ones((1, 2, 2, 1)))
    n_weights = net.n_parameters  # all ones: l1 is 0.1 for each weight and bias
    # Activations: conv 1*1+1 = 2 at 4 voxels; deep stack: pool 2, conv 2 features 2+1 = 3 at 1 voxel;
    # up 2*3+1 = 7 beside skip 2, conv 7+2+1 = 10 at 4 voxels.
    squares = 4 * 2**2 + 2 * 3**2 + 4 * 10**2
    assert float(sum(model.losses)) == pytest.approx(0.1 * n_weights + 0.01 * squares, rel=1e-5)


def test_same_seed_same_weights():
    net = gn.EncoderDecoder(n_classes=2, n_scales=1, n_features=4)
    first, again, other = (net.build(seed=seed).get_weights() for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_the_head_stays_in_float32():
    model = gn.EncoderDecoder(n_classes=2, n_scales=1, n_features=4).build(precision="mixed_bfloat16")
    assert model.get_layer("encode__stack0__conv0").compute_dtype == "bfloat16"
    assert model.get_layer("head").compute_dtype == model.get_layer("head__act").compute_dtype == "float32"


def test_models_load_without_genenet(tmp_path):
    net = gn.EncoderDecoder(n_classes=2, n_scales=1, activation="crelu", normalization="group", log10_l2_kernel=-3.0)
    model = net.build()
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras", safe_mode=True)
    image = np.random.default_rng(0).normal(size=(1, 16, 16, 1))
    np.testing.assert_allclose(model.predict_on_batch(image), again.predict_on_batch(image), atol=1e-6)
    assert all(layer.__module__.startswith("keras.") for layer in model.layers)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: gn.UNet(2).window_shape(100),
            r"100 shrinks to nothing at decode/stack4/conv1; the smallest .* is 188",
        ),
        (lambda: gn.UNet(2).build((100, 100, 1)), r"window of 100x100 (shrinks to nothing|does not fit)"),
        (lambda: gn.UNet(2).build((573, 573, 1)), r"573x573 does not fit: encode/stack1/conv0/down would halve"),
        (lambda: gn.UNet(2).build((572, 572, 3)), r"the input shape must be \(size, size, 1\), but got"),
        (lambda: gn.UNet(2, kernel_size=15, dilation=32).window_shape(), r"shrinks to nothing at encode/stack0/conv1"),
    ],
)
def test_windows_that_cannot_be_are_refused_where_they_end(make, message):
    with pytest.raises(gn.InputError, match=message):
        make()


@pytest.mark.parametrize("values", VARIANTS[::3], ids=lambda v: "-".join(v.values()))
def test_the_halo_is_exact(values):
    """Changing a voxel outside of a core and its halo changes nothing; one at the halo's rim does."""
    net = gn.EncoderDecoder(n_classes=2, n_scales=2, n_features=3, n_convs=1, activation="tanh", **values)
    plan = net.plan_layers()
    stride = plan.total_stride[0]
    (before, after), _ = plan.halo()
    window = plan.window_shape((96, 96))
    margin = window.margin[0]
    core = margin + -(-(48 - margin) // stride) * stride  # where an output block may begin
    model = net.build((*window.input, 1))
    image = np.random.default_rng(0).normal(size=(1, *window.input, 1)).astype(np.float32)

    def answer(changed):
        return model.predict_on_batch(changed)[0, core - margin : core - margin + stride, 30]

    plain = answer(image)
    outside = image.copy()
    outside[:, : core - before] += 1
    outside[:, core + stride + after :] += 1
    np.testing.assert_array_equal(answer(outside), plain)
    for row in (core - before, core + stride + after - 1):
        inside = image.copy()
        inside[:, row] += 10
        changes = np.abs(answer(inside) - plain).max() > 0
        # A maximum over two rows may hide one of them.
        assert changes or values["pooling"] == "max"
