"""Every kind of network, by one family of tests: what is planned is built, trained, saved, loaded, and has no seams."""

import numpy as np
import pytest
from family import FAMILY, ROOT, make

import genenet as gn
from genenet.averaging import MeanPredictor
from genenet.blocks import BlockPredictor
from genenet.build import build_model
from genenet.genes import PRESETS, DilatedNet, EncoderDecoder, Hybrid2D3D, PyramidNet, UNet3D, from_dict
from genenet.normalization import Normalization
from genenet.plot import place as place_boxes
from genenet.segment import segment_volume
from genenet.volume import open_volume

PLAIN = Normalization((0.0,), (1.0,))


@pytest.mark.parametrize("name", FAMILY)
def test_plans_know_what_keras_builds(name):
    net = make(name, n_channels=2)
    window, plan = net.window_shape(), net.plan_layers()
    model = net.build((*window.input, 2))
    outputs = model.output if isinstance(model.output, list) else [model.output]
    assert [tuple(o.shape[1:]) for o in outputs] == [(*window.output, 3), (*window.output, 1)][: len(outputs)]
    sizes, needed = plan.sizes(window.input), {head.answer for head in plan.heads if not head.auxiliary}
    for layer_name in reversed(plan.layers):
        layer = plan.layers[layer_name]
        if layer_name in needed:
            needed.update(layer.inputs)
            assert model.get_layer(layer_name).output.shape[1:] == (*sizes[layer_name], layer.n_channels)
    built = build_model(plan, (*window.input, 2), name="net")
    assert sum(int(np.prod(v.shape)) for v in built.trainer.trainable_variables) == net.n_parameters
    assert from_dict(net.to_dict()) == net


@pytest.mark.parametrize("name", [name for name in FAMILY if name != "squeeze"])
def test_seams_are_invisible(name, tmp_path):
    """Whatever a network is made of, blocks give what one window over everything gives."""
    net = make(name, n_classes=2)
    model = net.build(seed=1)
    rng = np.random.default_rng(0)
    for variable in model.variables:  # moving means and variances too
        if "moving" in variable.path:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    mean = MeanPredictor((BlockPredictor(model, net.plan_layers(), PLAIN, net.window_shape()),))
    volume = np.random.default_rng(1).normal(size=(6, 50, 45)).astype(np.float32)
    whole = mean.reach(mean.choose_core(volume.shape, 10**9))
    expected = mean.predict(mean.read(open_volume(volume).read_mirrored, (0, 0, 0), whole)[..., None], whole)
    expected = expected.probabilities[:6, :50, :45]
    classes = tuple(gn.SegmentationClass(value, str(value), "#000000") for value in (0, 7))
    paths = tmp_path / "o.npy", tmp_path / "p.npy"
    segment_volume(
        mean, classes, open_volume(volume), paths[0], identity="a", max_voxels=1500, extras={"probabilities": paths[1]}
    )
    np.testing.assert_allclose(np.load(paths[1]), expected, atol=2e-3)
    assert expected.std() > 1e-4  # the network says something


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILY)
def test_networks_are_trained_saved_loaded_and_used(name, data_settings, quick, tmp_path):
    for key in ("image", "labels"):  # deep enough for windows of 3-D networks
        volume = np.load(data_settings[key])
        np.save(data_settings[key], np.concatenate([volume] * 3))
    data = gn.Dataset.open({**data_settings, "training": {"z": [0, 12]}, "validation": {"z": [12, 18]}})
    net = make(name, log10_learning_rate=-2.0)
    network = gn.train_network(net, data, tmp_path / "net", quick)
    again = gn.Network.open(tmp_path / "net")
    assert again.blueprint == net
    assert 0 <= network.scores["accuracy"] <= 1
    score = gn.evaluate(again, data)
    assert score.accuracy == pytest.approx(network.scores["accuracy"], abs=0.02)


def test_blocks_of_3d_networks_are_as_small_as_their_context_demands():
    net = Hybrid2D3D(n_classes=2, n_features=4)
    plan, window = net.plan_layers(), net.window_shape()
    mean = MeanPredictor((BlockPredictor(None, plan, PLAIN, window),))
    for max_voxels in (2**20, 2**19):
        core = mean.choose_core((3, 1024, 1024), max_voxels)
        fit = mean.reach(core)
        assert np.prod(fit.input) <= 4 * max_voxels
        assert core[0] == 3
    flat = gn.UNet(n_classes=2)
    mean = MeanPredictor((BlockPredictor(None, flat.plan_layers(), PLAIN, flat.window_shape()),))
    assert np.prod(mean.choose_core((3, 1024, 1024))) > 2**19  # little context, large blocks


# -- parameter counts, worked out by hand ---


def test_parameters_of_the_3d_unet():
    """Cicek et al. 2016 print 19,069,955 for 3 channels and 3 classes.

    They have biases in convolutions and none in transposed ones, and do not count batch normalization; here
    convolutions that are normalised have no biases (2,336 fewer), transposed ones do (896 more), and scales and shifts
    count (4,672 more).
    """
    assert UNet3D(3, 3).n_parameters == 19_069_955 - 2_336 + 896 + 4_672
    assert UNet3D(3, 3).window_shape() == gn.UNet3D(3, 3).window_shape((116, 132, 132))
    assert UNet3D(3, 3).window_shape().output == (28, 44, 44)  # the paper's 44x44x28 of 132x132x116


def conv(n_in, n_out, taps=9, bias=True):
    return n_out * (taps * n_in + bias)


def test_parameters_of_the_original_unet():
    assert gn.UNet(7).n_parameters == 31_030_983


def test_parameters_of_the_residual_unet():
    normalised = 2
    expected = 0
    n_in = 1
    for features in (64, 128, 256, 512):  # encoder, and the deepest stack of the decoder
        expected += conv(n_in, features, bias=False) + conv(features, features, bias=False) + 2 * normalised * features
        expected += conv(n_in, features, taps=1) if n_in != features else 0  # the projection
        n_in = features
    for features in (256, 128, 64):
        expected += conv(2 * features, features, taps=4)  # transposed
        expected += conv(2 * features, features, bias=False) + conv(features, features, bias=False)
        expected += 2 * normalised * features + conv(2 * features, features, taps=1)
    assert gn.ResidualUNet(2).n_parameters == expected + conv(64, 2, taps=1)


def test_parameters_of_the_dilated_and_the_pyramid_network():
    assert DilatedNet(2).n_parameters == conv(1, 32) + 9 * conv(32, 32) + conv(32, 2, taps=1)
    trunk = conv(1, 32) + conv(32, 32)
    branches = 4 * 2 * conv(32, 32)
    assert PyramidNet(2).n_parameters == trunk + branches + conv(4 * 32, 32) + conv(32, 2, taps=1)


def test_parameters_of_the_hybrid():
    """docs/facts.md: 1x3x3, three scales of 64; 3x3x3 of half the features begins the stacks of the two finest."""
    flat, cube = 9, 27
    expected = conv(1, 32, cube) + conv(32, 64, flat) + conv(64, 64, flat)
    expected += conv(64, 64, cube) + conv(64, 128, flat) + conv(128, 128, flat)
    expected += conv(128, 256, flat) + conv(256, 256, flat)
    expected += conv(256, 512, flat) + conv(512, 512, flat)
    expected += conv(512, 256, 4) + conv(512, 256, flat) + conv(256, 256, flat)
    expected += conv(256, 128, 4) + conv(256, 64, cube) + conv(64, 128, flat) + conv(128, 128, flat)
    expected += conv(128, 64, 4) + conv(128, 32, cube) + conv(32, 64, flat) + conv(64, 64, flat)
    expected += conv(64, 2, 1)  # the 2-D prediction
    expected += conv(64 + 2 + 1, 32, cube) + 2 * conv(32, 32, cube)  # three convolutions
    expected += conv(64 + 2 + 1, 32, cube) + 4 * conv(32, 32, cube)  # five
    expected += conv(64, 32, cube) + conv(32, 2, 1)
    assert Hybrid2D3D(2).n_parameters == expected
    assert Hybrid2D3D(2).window_shape((5, 300, 300)).input == (5, 304, 304)


@pytest.mark.parametrize("kind", PRESETS)
def test_presets_say_where_they_come_from(kind):
    assert kind.paper and kind.__doc__
    assert kind(2).window_shape().output


def test_the_page_of_the_vocabulary_is_that_of_the_code():
    from genenet.reference import page

    assert (ROOT / "docs" / "vocabulary.md").read_text() == page(), (
        "run: python -m genenet.reference > docs/vocabulary.md"
    )


# -- pictures ---


@pytest.mark.parametrize("name", FAMILY)
def test_every_network_draws_itself(name, tmp_path):
    net = make(name)
    figure = net.plot(tmp_path / "net.svg")
    text = (tmp_path / "net.svg").read_text()
    assert text.count("<path") > 2 * len(net.plan_layers().chain)
    said = " ".join(entry.get_text() for axes in figure.axes for entry in axes.texts)
    assert f"{net.n_parameters:,} parameters" in said
    for path in net.plan_layers().chain:
        assert path.rpartition("/")[2] in said
    places = [(round(box.x, 3), round(box.y, 3)) for box in place_boxes(net, net.plan_layers()).values()]
    assert len(set(places)) == len(places)
    with pytest.raises(gn.InputError, match="a picture is written as"):
        net.plot(tmp_path / "net.doc")


# -- costs ---


def test_multiply_adds_by_hand():
    net = EncoderDecoder(2, n_scales=1, n_convs=1, n_features=4)
    size = 16 * 16
    expected = size * 9 * 1 * 4 + size // 4 * 9 * 4 * 8  # encoder, deepest
    expected += size * 8 * 4 + size * 9 * 8 * 4 + size * 4 * 2  # up: one tap each; decoder; head
    assert net.cost((16, 16)).n_multiply_adds == expected
    assert net.cost((16, 16)).n_multiply_adds_per_voxel == expected / size


@pytest.mark.parametrize("name", ["unet-same", "residual", "dilated", "pyramid", "gate", "context"])
def test_receptive_fields_are_what_the_network_looks_at(name):
    """Change one column of the image at a time, and see whether a voxel in the middle of the output does."""
    net = make(name, n_classes=2, activation="softplus")
    plan, field = net.plan_layers(), net.cost().receptive_field[1]
    stride = plan.total_stride[1]
    window = plan.window_shape((net.window_shape().input[0], 2 * field + 4 * stride))
    rng = np.random.default_rng(0)
    images = np.repeat(rng.normal(size=(1, *window.input, 1)), window.input[1], 0).astype(np.float32)
    for x in range(window.input[1]):
        images[x, :, x] += 5
    model, first = net.build(seed=3), window.output[1] // 2 // stride * stride
    answers = np.concatenate([model.predict_on_batch(part) for part in np.array_split(images, 8)])
    reached = []
    for place in range(first, first + stride):
        column = answers[:, :, place]
        changed = np.flatnonzero(abs(column - np.median(column, 0)).max((1, 2)) > 0)
        reached.append(changed[-1] - changed[0] + 1)
    assert 0.7 * field < max(reached) <= field


# -- wiring ---


def test_links_read_further_back():
    net = EncoderDecoder(2, n_scales=1, n_features=4, n_convs=3)
    net["encode/stack0/conv2"].set(n_links=1)
    merge = net.plan_layers().layers["encode__stack0__conv2__merge"]
    assert merge.inputs == ("encode__stack0__conv1__act", "encode__stack0__conv0__act")
    net["encode/stack0/conv2/link0"].set(reach=2)
    with pytest.raises(gn.InputError, match="encode/stack0/conv2/link0 reads 3 convolutions back, but only 2 come"):
        net.plan_layers()


def test_links_cross_scales_by_pooling_and_repetition():
    net = EncoderDecoder(2, n_scales=2, n_features=4, n_convs=1)
    net["encode/stack1"].set(n_convs=2)
    net["encode/stack1/conv1"].set(n_links=1)
    net["decode/stack0/conv0"].set(n_links=1)
    plan = net.plan_layers()
    assert plan.layers["encode__stack1__conv1__link0__pool"].inputs == ("encode__stack0__conv0__act",)
    assert plan.layers["decode__stack0__conv0__link0__resize"].operation.factor == (4, 4)
    assert net.build((32, 32, 1)).output_shape == (None, 32, 32, 2)


@pytest.mark.parametrize("shortcut", ["none", "residual", "dense"])
@pytest.mark.parametrize("merge", ["none", "concatenate", "sum", "gate"])
@pytest.mark.parametrize("n_convs", [1, 3])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_shortcuts_go_with_every_way_to_merge(shortcut, merge, n_convs, padding):
    values = {"shortcut": shortcut, "merge": merge, "n_convs": n_convs, "padding": padding}
    net = gn.EncoderDecoder(2, n_scales=2, n_features=4, window_size=92, **values)
    assert net.build().count_params() == net.n_parameters
    assert min(net.window_shape().output) > 0


def test_a_layer_that_nothing_reads_is_refused():
    net = EncoderDecoder(2, n_scales=1, n_features=4, n_convs=3)
    net["encode/stack0/conv2/forward"].set(reach=2)
    with pytest.raises(gn.InputError, match="nothing reads encode/stack0/conv1"):
        net.plan_layers()


def test_skips_can_be_removed_one_by_one():
    net = EncoderDecoder(2, n_scales=2, n_features=4, n_convs=1)
    net["decode/stack1/conv0/skip"].set(merge="none")
    layers = net.plan_layers().layers
    assert "decode__stack0__conv0__merge" in layers
    assert "decode__stack1__conv0__merge" not in layers


def test_a_forward_edge_stays_at_its_scale():
    net = EncoderDecoder(2, n_scales=1, n_features=4, n_convs=2)
    net["decode/stack0/conv1/forward"].set(reach=3)
    with pytest.raises(
        gn.InputError, match="decode/stack0/conv1/forward cannot read decode/stack1/conv0, which lies at"
    ):
        net.plan_layers()


def test_pooling_in_z_waits_for_the_lateral_resolution():
    net = EncoderDecoder(2, spatial_mode="3d", n_scales=4, anisotropy=5.0)  # 50 x 10 x 10 nm
    assert [net.pool_factor(scale)[0] for scale in range(4)] == [1, 1, 2, 2]
    net.set(pool_z="always")
    assert [net.pool_factor(scale)[0] for scale in range(4)] == [2, 2, 2, 2]
    net.set(pool_z="never")
    assert [net.pool_factor(scale)[0] for scale in range(4)] == [1, 1, 1, 1]


def test_one_gene_may_be_3d_among_planar_ones():
    net = EncoderDecoder(2, n_scales=1, n_features=4, spatial_mode="planar")
    net["decode/stack1"].set(spatial_mode="3d")
    kernels = {name: layer.operation.kernel for name, layer in net.plan_layers().layers.items() if name[-5:] == "conv0"}
    assert kernels["encode__stack0__conv0"] == (1, 3, 3)
    assert kernels["decode__stack1__conv0"] == (3, 3, 3)
    assert EncoderDecoder(2).n_dims == 2
