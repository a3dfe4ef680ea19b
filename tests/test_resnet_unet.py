"""The network of Mahbod et al. 2022: its figures, its geometry, its heads, and weights of torchvision."""

import functools
import re

import numpy as np
import pytest
from pruning_family import random_keep

import genenet as gn
import pruning
import search
from genenet.blocks import BlockPredictor
from genenet.build import build_model
from genenet.genes import from_dict
from genenet.normalization import Normalization
from genenet.plan import IMAGE, WindowShape
from genenet.plot import place as place_boxes
from genenet.pretrained import IMAGENET, IMAGENET_GREY, load_encoder
from genenet.saving import with_policy
from search.moves import Mutation, mutate

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


def small(depth=18, **values):
    return gn.ResNetUNet(depth=depth, **{"n_features": 8, "window_size": 64, **values})


def said(model, image):
    """A model's answers, a list also of one."""
    answers = model.predict_on_batch(image)
    return answers if isinstance(answers, list) else [answers]


def randomized(model):
    """The model with statistics and scales that differ by channel; what passes through keeps its size."""
    rng = np.random.default_rng(0)
    for variable in model.variables:
        name = variable.path.rpartition("/")[2]
        if name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif name in ("beta", "moving_mean"):
            variable.assign(rng.normal(0, 0.2, variable.shape))
    return model


def parts(net, count):
    """What the layers of `encode`, `decode`, `head` have or do, summed."""
    plan, found = net.plan_layers(), {}
    for layer in list(plan.layers.values())[1:]:
        part = layer.gene.partition("/")[0]
        found[part] = found.get(part, 0) + count(layer, [plan.layers[name].n_channels for name in layer.inputs])
    return found


# -- figures ---


def test_the_figures_of_the_paper():
    """docs/facts.md, section 3: parameters, and multiply-adds per pixel of the input."""
    net = gn.ResNetUNet(depth=34, n_classes=1)
    model = net.build((None, None, 3))
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == net.n_parameters == 24_436_369
    decoder = 0
    for n_in, n_out in ((768, 256), (384, 128), (192, 64), (128, 32), (32, 16)):
        decoder += 9 * n_in * n_out + 9 * n_out * n_out + 2 * 2 * n_out  # no biases; scales and shifts
    counted = parts(net, lambda layer, inputs: layer.operation.n_parameters(inputs))
    assert counted == {"encode": 21_284_672, "decode": decoder, "head": 9 * 16 + 1}
    side = 64
    sizes = net.plan_layers().sizes((side, side))
    work = parts(net, lambda layer, n: layer.operation.n_multiply_adds(n) * np.prod(sizes[layer.name]) / side**2)
    assert work == {"encode": 73_008, "decode": 46_080, "head": 144}
    assert net.plan_layers().n_multiply_adds((side, side)) == (73_008 + 46_080 + 144) * side**2
    assert pruning.count(net.build((side, side, 3))).n_multiply_adds == (73_008 + 46_080 + 144) * side**2


@pytest.mark.parametrize(
    ("depth", "whole", "classifier"),
    [(18, 11_689_512, 513_000), (34, 21_797_672, 513_000), (50, 25_557_032, 2_049_000)],
)
def test_the_encoder_is_torchvisions(depth, whole, classifier):
    """What torchvision prints for its networks, less the classifier of 1,000 classes."""
    counted = parts(gn.ResNetUNet(depth=depth), lambda layer, inputs: layer.operation.n_parameters(inputs))
    assert counted["encode"] == whole - classifier


def test_what_is_the_default():
    net = gn.ResNetUNet()
    assert net == gn.ResNetUNet(n_classes=1, n_channels=3, depth=34)
    assert net.window_shape() == WindowShape((256, 256), (256, 256))
    assert net.value("log10_learning_rate") == -3 and net.encoder_depth == "34"
    assert str(net.layers_per_stack()) == "1,6,8,12,6 / 2,2,2,2,2"
    assert str(gn.ResNetUNet(depth=50).layers_per_stack()) == "1,9,12,18,9 / 2,2,2,2,2"
    assert "encode" in net.tree() and net.cost().n_multiply_adds_per_voxel == 119_232


def test_features_double_from_the_stem_in_both_paths():
    net = gn.ResNetUNet(n_features=32)
    net["encode/stage1"].set(log2_width=1.0)
    net["decode/stage4"].add(n_features=-16)
    features = {path: net[path].features for path in net.plan_layers().chain}
    assert features["encode/stem"] == 32 and features["encode/stage0/block0/conv0"] == 32
    assert features["encode/stage1/block3/conv1"] == 128 and features["encode/stage2/block0/conv0"] == 128
    assert [features[f"decode/stage{scale}/conv1"] for scale in range(4, -1, -1)] == [64, 64, 32, 16, 8]
    assert net.build().count_params() > net.n_parameters  # with moving means and variances
    net = gn.ResNetUNet(depth=50)
    assert [net[f"encode/stage0/block0/conv{i}"].features for i in range(3)] == [64, 64, 256]
    assert net["encode/stage1/block0/conv1"].note == "3x3, stride 2, 128 features"


# -- heads ---


@pytest.mark.parametrize(
    ("values", "heads"),
    [
        ({}, [("foreground", "head", "head__act", 1.0)]),
        ({"n_classes": 3}, [("classes", "head", "head__act", 1.0)]),
        ({"target": "distance", "distance_weight": 2.0}, [("distance", "head", "head", 1.0)]),
        (
            {"distance_weight": 0.5},
            [("foreground", "head", "head__act", 1.0), ("distance", "distance__head", "distance__head", 0.5)],
        ),
    ],
)
def test_heads(values, heads):
    net = small(**values)
    plan = net.plan_layers()
    assert [(head.kind, head.scores, head.answer, head.weight) for head in plan.heads] == heads
    built = net.make((None, None, 3))
    image = np.random.default_rng(0).normal(size=(1, 64, 32, 3)).astype("float32")
    answers, scores = said(built.model, image), said(built.trainer, image)
    kinds = [head.kind for head in plan.heads]
    assert [a.shape for a in answers] == [(1, 64, 32, 3 if kind == "classes" else 1) for kind in kinds]
    if kinds[0] == "foreground":
        np.testing.assert_allclose(answers[0], 1 / (1 + np.exp(-scores[0])), rtol=1e-5)
    if kinds[-1] == "distance":
        np.testing.assert_array_equal(answers[-1], scores[-1])


def test_branches_share_what_they_say():
    nets = {name: small(distance_weight=1.0, branches=name) for name in ("shared", "decoders", "separate")}
    below = {name: {path for path in net.genes if path.startswith("distance")} for name, net in nets.items()}
    assert below["shared"] == {"distance", "distance/head"}
    assert "distance/decode/stage0/conv1" in below["decoders"] and "distance/encode" not in below["decoders"]
    assert "distance/encode/stage3/block1/conv1" in below["separate"]
    alone = small().n_parameters
    decoder = parts(small(), lambda layer, inputs: layer.operation.n_parameters(inputs))["decode"]
    head = 9 * 2 + 1
    assert nets["shared"].n_parameters == alone + head
    assert nets["decoders"].n_parameters == alone + decoder + head
    assert nets["separate"].n_parameters == 2 * alone
    for net in nets.values():
        assert [t.shape[-1] for t in net.build().outputs] == [1, 1]
    nets["separate"]["distance"].add(n_features=4)
    assert nets["separate"]["distance/encode/stem"].features == 12 and nets["separate"]["encode/stem"].features == 8
    nets["separate"].set(branches="shared")  # the deltas stay, and count again later
    assert nets["separate"].n_parameters == nets["shared"].n_parameters


@pytest.mark.parametrize("values", [{}, {"distance_weight": 1.0, "branches": "separate"}, {"target": "distance"}])
def test_heads_stay_in_float32(values):
    net = small(**values)
    models = net.build(precision="mixed_bfloat16"), with_policy(net.build(), "mixed_bfloat16")
    for model in models:
        computed = {layer.name: layer.compute_dtype for layer in model.layers[1:]}
        in_full = {name for name, kind in computed.items() if kind == "float32"}
        assert in_full == {name for name in computed if "head" in name}
    assert with_policy(models[0], "mixed_bfloat16") is models[0]


# -- blueprints ---


@pytest.mark.parametrize(
    "values", [{}, {"depth": 50, "distance_weight": 1.0, "branches": "decoders"}, {"n_classes": 4}]
)
def test_blueprints_read_back(values, tmp_path):
    net = small(**values)
    net["encode/stage1/block0"].set(log2_width=-1.0)
    net["decode/stage2"].set(n_convs=1, dropout=0.1)
    again = from_dict(net.to_dict())
    assert again == net and again.n_parameters == net.n_parameters
    net.plot(tmp_path / "net.svg")
    assert f"{net.n_parameters:,} parameters" in (tmp_path / "net.svg").read_text()


@pytest.mark.parametrize("branches", ["shared", "decoders", "separate"])
def test_no_two_boxes_of_a_picture_share_a_place(branches):
    net = gn.ResNetUNet(depth=18, distance_weight=1.0, branches=branches)
    places = [(round(box.x, 3), round(box.y, 3)) for box in place_boxes(net, net.plan_layers()).values()]
    assert len(set(places)) == len(places)


def test_it_can_be_searched_over():
    ranges = {
        "encoder_depth": search.Choice("18", "34", "50"),
        "branches": search.Choice("shared", "decoders", "separate"),
        "n_features": search.Levels(search.Range(8, 16), search.Range(-2, 2), search.Range(-2, 2)),
        "log2_width": search.Levels(search.Range(0, 0), search.Range(-1, 1), None, search.Range(-0.5, 0.5)),
        "activation": search.Choice("relu", "elu", "crelu"),
        "dropout": search.Levels(search.Range(0, 0.2), search.Range(0, 0.1)),
        "log10_l2_kernel": search.Range(-14, -5),
    }
    space = search.Space(small(distance_weight=1.0), ranges)
    rng, seen = np.random.default_rng(0), set()
    for _ in range(8):
        net = space.sample(rng)
        child = mutate(net, space, rng, Mutation(rates=(0.5, 0.3), scales=(0.5, 0.5)))
        for each in (net, child):
            assert from_dict(each.to_dict()) == each
            assert each.n_parameters > 0 and each.window_shape().output == (64, 64)
            seen.add((each.encoder_depth, each.branches))
    assert len(seen) > 3
    assert child.build().count_params() >= child.n_parameters


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gn.ResNetUNet(depth=101), "`encoder_depth` must be one of 18, 34, 50, but got '101'"),
        (lambda: gn.ResNetUNet(n_classes=0), "`n_classes` must be an integer of at least 1, but got 0"),
        (lambda: gn.UNet(n_classes=1), "`n_classes` must be an integer of at least 2, but got 1"),
        (lambda: gn.ResNetUNet(target="boxes"), "`target` must be one of classes, distance"),
        (lambda: gn.ResNetUNet(branches="none"), "`branches` must be one of shared, decoders, separate"),
        (lambda: small().build((100, 100, 3)), "100x100 does not fit: encode/stage1/block0/conv0 would halve 25x25"),
        (lambda: small().build((64, 64, 1)), r"the input shape must be \(size, size, 3\)"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(gn.InputError, match=message):
        make()


# -- geometry ---


def test_windows_are_multiples_of_32():
    net = gn.ResNetUNet()
    assert net.plan_layers().total_stride == (32, 32)
    assert [net.window_shape(size).output[0] for size in (10, 100, 112, 1000)] == [32, 96, 128, 992]
    plan, sizes = net.plan_layers(), net.plan_layers().sizes((64, 96))
    model = net.build((64, 96, 3))
    for name, layer in plan.layers.items():
        if name != IMAGE:
            assert model.get_layer(name).output.shape[1:] == (*sizes[name], layer.n_channels)
    assert not any(name.endswith("__crop") for name in plan.layers)  # skips lie where the decoder does


@pytest.mark.parametrize("values", [{}, {"depth": 50}, {"branches": "separate", "distance_weight": 1.0}])
def test_the_halo_is_exact(values):
    """All weights alike and positive, the image 0 but for one row: the answer is 0 where that row is not read.

    No cancellation hides a path, no rounding what comes along it.
    """
    net = small(**{"n_features": 1, "n_channels": 1, **values})
    plan = net.plan_layers()
    (before, after), _ = plan.halo()
    core = before + -before % 32
    size = core + 32 + after + -after % 32
    model = build_model(plan, (size, 32, 1), name="net").trainer
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            layer.kernel.assign(np.full(layer.kernel.shape, 1 / 3))
    assert before > 200 and max(after, before) < size // 2

    def reaches(row):
        image = np.zeros((1, size, 32, 1), np.float32)
        image[:, row] = 1
        return any(answer[0, core : core + 32].any() for answer in said(model, image))

    assert reaches(core - before) and reaches(core + 32 + after - 1)
    assert not any(reaches(row) for row in (core - before - 1, core + 32 + after) if 0 <= row < size)


@pytest.mark.parametrize("values", [{}, {"depth": 50, "distance_weight": 1.0, "branches": "decoders"}])
def test_blocks_give_what_the_whole_gives(values):
    """Every window begins on the grid of the pools and is read with its halo, so zeros around windows never show."""
    net = small(**{"activation": "elu", **values})
    model = randomized(net.build(seed=2))
    plain = Normalization((0.0,) * 3, (1.0,) * 3)
    predictor = BlockPredictor(model, net.plan_layers(), plain, net.window_shape())
    assert predictor.stride == (1, 32, 32) and predictor.largest_core() is None
    whole = predictor.reach((2, 96, 64))
    picture = np.random.default_rng(0).normal(size=(*whole.input, 3)).astype(np.float32)
    expected = predictor.predict(picture, whole)
    assert expected.probabilities.std() > 1e-3
    reach = predictor.reach((1, 32, 32))
    for z, y, x in np.ndindex(2, 3, 2):
        first = [z, *(32 * n + mine - own for n, mine, own in zip((y, x), whole.lead[1:], reach.lead[1:], strict=True))]
        read = picture[tuple(slice(f, f + n) for f, n in zip(first, reach.input, strict=True))]
        box = (slice(z, z + 1), slice(32 * y, 32 * y + 32), slice(32 * x, 32 * x + 32))
        found, wanted = predictor.predict(read, reach), expected.inside(box)
        np.testing.assert_allclose(found.probabilities, wanted.probabilities, atol=1e-4)
        if values:
            np.testing.assert_allclose(found.distances, wanted.distances, atol=1e-3)


# -- pruning ---


@pytest.mark.parametrize("values", [{}, {"depth": 50, "distance_weight": 1.0}])
def test_the_smaller_network_gives_what_the_masked_one_gives(values):
    net = small(**values)
    model = randomized(net.build((64, 64, 3), seed=1))
    graph = pruning.Graph(model)
    assert {"encode__stem", "encode__stage0__block0__conv0", "decode__stage0__conv1"} <= set(graph.prunable())
    last = "encode__stage1__block0__conv2" if net.encoder_depth == "50" else "encode__stage1__block0__conv1"
    assert "encode__stage1__block0__project" in graph.explain(last)
    keep = random_keep(model, np.random.default_rng(1))
    shrunk, masked = pruning.shrink(model, keep), pruning.masked(model, keep)
    assert shrunk.count_params() < 0.9 * model.count_params()
    image = np.random.default_rng(2).normal(size=(2, 64, 64, 3)).astype("float32")
    for one, other in zip(said(shrunk, image), said(masked, image), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * max(1, abs(other).max()))


# -- weights of torchvision ---


@functools.cache
def state_dict(depth):
    """Random weights with torchvision's names and shapes, classifier and counters included."""
    rng, found = np.random.default_rng(0), {}

    def convolution(name, n_out, n_in, side):
        scale = np.sqrt(2 / (n_in * side**2))
        found[f"{name}.weight"] = scale.astype(np.float32) * rng.standard_normal((n_out, n_in, side, side), np.float32)

    def normalization(name, n):
        for part, low, high in (("weight", 0.5, 1), ("bias", -0.2, 0.2), ("running_var", 0.5, 2)):
            found[f"{name}.{part}"] = rng.uniform(low, high, n).astype(np.float32)
        found[f"{name}.running_mean"] = rng.normal(0, 0.2, n).astype(np.float32)
        found[f"{name}.num_batches_tracked"] = np.array(7)

    convolution("conv1", 64, 3, 7)
    normalization("bn1", 64)
    n_in, expansion = 64, 4 if depth == 50 else 1
    for stage, n_blocks in enumerate(BLOCKS[depth], 1):
        width = 32 * 2**stage
        for index in range(n_blocks):
            name, n_out = f"layer{stage}.{index}", expansion * width
            sides = (1, 3, 1) if depth == 50 else (3, 3)
            channels = [n_in, *[width] * (len(sides) - 1), n_out]
            for place, side in enumerate(sides):
                convolution(f"{name}.conv{place + 1}", channels[place + 1], channels[place], side)
                normalization(f"{name}.bn{place + 1}", channels[place + 1])
            if index == 0 and (stage > 1 or n_in != n_out):
                convolution(f"{name}.downsample.0", n_out, n_in, 1)
                normalization(f"{name}.downsample.1", n_out)
            n_in = n_out
    found["fc.weight"] = np.zeros((1000, n_in), np.float32)
    found["fc.bias"] = np.zeros(1000, np.float32)
    return found


def torchvision_features(weights, depth, image):
    """What torchvision's network gives after the stem and after every stage, `(batch, y, x, channels)`."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    w = {name: torch.tensor(values) for name, values in weights.items()}

    def convolution(x, name, stride):
        kernel = w[f"{name}.weight"]
        return functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)

    def normalized(x, name):
        given = [w[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return functional.batch_norm(x, *given, eps=1e-5)

    x = torch.relu(normalized(convolution(torch.tensor(image).permute(0, 3, 1, 2), "conv1", 2), "bn1"))
    found = [x]
    x = functional.max_pool2d(x, 3, stride=2, padding=1)
    for stage, n_blocks in enumerate(BLOCKS[depth], 1):
        for index in range(n_blocks):
            name, stride, shortcut = f"layer{stage}.{index}", 2 if index == 0 and stage > 1 else 1, x
            n_convs = 3 if depth == 50 else 2
            strided = 2 if depth == 50 else 1  # the first 3x3
            for place in range(1, n_convs + 1):
                x = convolution(x, f"{name}.conv{place}", stride if place == strided else 1)
                x = normalized(x, f"{name}.bn{place}")
                x = torch.relu(x) if place < n_convs else x
            if f"{name}.downsample.0.weight" in w:
                shortcut = normalized(convolution(shortcut, f"{name}.downsample.0", stride), f"{name}.downsample.1")
            x = torch.relu(x + shortcut)
        found.append(x)
    return [x.permute(0, 2, 3, 1).numpy() for x in found]


def encoder_features(net, model, image, above=""):
    """The same of an encoder."""
    import keras

    names = [f"{above}encode/stem", *(f"{above}encode/stage{stage}" for stage in range(4))]
    outputs = [model.get_layer(net.plan_layers().outputs[name]).output for name in names]
    return keras.Model(model.inputs[0], outputs).predict_on_batch(image)


def write(path, weights):
    """A file of weights, of the kind that its suffix says."""
    if path.suffix == ".npz":
        np.savez(path, **weights)
    elif path.suffix == ".safetensors":
        pytest.importorskip("safetensors.numpy").save_file(weights, path)
    else:
        torch = pytest.importorskip("torch")
        torch.save({name: torch.tensor(values) for name, values in weights.items()}, path)
    return path


@pytest.mark.parametrize(("depth", "suffix"), [(18, ".npz"), (34, ".safetensors"), (50, ".pth")])
def test_with_its_weights_the_encoder_is_torchvisions_function(depth, suffix, tmp_path):
    weights, net = state_dict(depth), gn.ResNetUNet(depth=depth)
    model = net.build()
    load_encoder(model, write(tmp_path / f"weights{suffix}", weights))
    image = np.random.default_rng(1).normal(size=(1, 64, 96, 3)).astype(np.float32)
    expected = torchvision_features(weights, depth, image)
    for mine, other in zip(encoder_features(net, model, image), expected, strict=True):
        assert mine.shape == other.shape and other.std() > 0.1
        np.testing.assert_allclose(mine, other, atol=1e-4 * max(1, abs(other).max()))


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    return write(tmp_path_factory.mktemp("weights") / "resnet18.npz", state_dict(18))


def test_both_encoders_get_the_weights(weights_file):
    net = gn.ResNetUNet(depth=18, distance_weight=1.0, branches="separate")
    built = net.make((None, None, 3))
    load_encoder(built.model, weights_file)
    image = np.random.default_rng(1).normal(size=(1, 32, 32, 3)).astype(np.float32)
    first, second = (encoder_features(net, built.trainer, image, above) for above in ("", "distance/"))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(first[-1], torchvision_features(state_dict(18), 18, image)[-1], atol=1e-3)


def test_grey_images_get_what_three_equal_channels_get(weights_file):
    grey, colour = gn.ResNetUNet(depth=18, n_channels=1), gn.ResNetUNet(depth=18)
    models = grey.build(), colour.build()
    for model in models:
        load_encoder(model, weights_file)
    image = np.random.default_rng(1).normal(size=(1, 32, 32, 1)).astype(np.float32)
    found = encoder_features(grey, models[0], image), encoder_features(colour, models[1], np.repeat(image, 3, -1))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4 * max(1, abs(other).max()))


def test_what_the_weights_expect_of_images():
    """ImageNet's means and deviations of images from 0 to 1, here of 8 bits."""
    pixel = np.array([[[124, 116, 104]]], np.uint8)
    np.testing.assert_allclose(
        IMAGENET(pixel)[0, 0], (pixel[0, 0] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225], atol=1e-6
    )
    assert IMAGENET_GREY.mean == pytest.approx((255 * (0.485 + 0.456 + 0.406) / 3,))


def keras_names(weights):
    return {"conv1_conv/kernel": np.zeros(3), "conv2_block1_1_conv/kernel": np.zeros(3)}


def pickled(weights):
    return {"conv1.weight": np.array([None])}


def without_bias(weights):
    return {name: values for name, values in weights.items() if name != "bn1.bias"}


def deeper(weights):
    return state_dict(34)


@pytest.mark.parametrize(
    ("values", "change", "name", "message"),
    [
        ({}, dict, "no.npz", "there is no file"),
        ({}, dict, "weights.onnx", "weights are read from .safetensors, .npz, .pth, .pt, but got"),
        ({}, dict, "weights.h5", "is a file of Keras; Keras' ResNet50 is another function.*the stride in the 1x1"),
        ({}, dict, "weights.keras", "is a file of Keras; Keras' ResNet50 is another function"),
        ({}, keras_names, "weights.npz", "has the names of Keras' ResNet50; .* epsilon of 1.001e-5"),
        ({}, pickled, "weights.npz", "is not a readable file of weights: Object arrays"),
        ({}, without_bias, "weights.npz", "has no bn1.bias; weights fit 2-D encoders"),
        ({}, deeper, "weights.npz", "has layer1.2.bn1.bias, for which encode has no place; weights fit"),
        ({"depth": 34}, None, "", "has no layer1.2.conv1.weight; .* the same `encoder_depth`"),
        ({"depth": 50}, None, "", r"layer1.0.conv1.weight of shape \(64, 64, 3, 3\), which does not fit"),
        (
            {"n_features": 32},
            None,
            "",
            r"not fit encode__stem of shape \(7, 7, 3, 32\); .* with 64 features",
        ),
        ({"n_channels": 4}, None, "", r"of shape \(7, 7, 4, 64\); .* for 3 channels or 1"),
        ({"normalization": "none"}, None, "", "has no conv1.bias; .* and batch normalization"),
        ({"normalization": "group"}, None, "", "has bn1.bias, for which encode has no place"),
        ({"spatial_mode": "planar"}, None, "", "weights fit 2-D encoders"),
    ],
)
def test_weights_that_do_not_fit_are_refused(values, change, name, message, weights_file, tmp_path):
    model = network_of_18(**values)
    before = model.get_weights()
    path = weights_file if change is None else tmp_path / name
    if name == "weights.npz":
        write(path, change(state_dict(18)))
    with pytest.raises(gn.InputError, match=message):
        load_encoder(model, path)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@functools.cache
def network_of_18(**values):
    return gn.ResNetUNet(**{"depth": 18, **values}).build()


def test_other_networks_and_files_that_run_code_are_refused(weights_file, tmp_path):
    with pytest.raises(gn.InputError, match="has no ResNet as encoder; weights can be loaded into a ResNetUNet"):
        load_encoder(gn.UNet(2, n_scales=1, n_features=2).build(), weights_file)
    torch = pytest.importorskip("torch")
    model = network_of_18()

    class Bomb:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    torch.save({"conv1.weight": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(gn.InputError, match=re.escape("bomb.pth is not a readable file of weights")):
        load_encoder(model, tmp_path / "bomb.pth")
    assert not (tmp_path / "ran").exists()
    torch.save({"state": {"conv1.weight": torch.zeros(1)}}, tmp_path / "nested.pth")
    with pytest.raises(gn.InputError, match="it is no state dict, that is tensors by name"):
        load_encoder(model, tmp_path / "nested.pth")


@pytest.mark.slow
def test_layer_wise_pruning_saves_what_the_paper_says():
    """Table 1 of Mahbod et al., by all convolutions: within 3 % up to 64; at 128 the paper has 121.18."""
    model = gn.ResNetUNet(depth=34).build((64, 64, 3))
    whole = pruning.count(model)
    for ratio, speedup in {2: 1.99, 4: 3.99, 8: 7.97, 16: 15.89, 32: 31.57, 64: 62.27, 128: None}.items():
        thinned = pruning.masked(model, {})
        pruning.apply_masks(thinned, pruning.magnitude_masks(thinned, 1 / ratio, scope="layer"))
        found = pruning.theoretical_speedup(whole, pruning.count(thinned))
        assert found == pytest.approx(ratio, rel=2e-3)
        assert speedup is None or found == pytest.approx(speedup, rel=0.03)
