"""The membrane classifier of Roels et al. 2017: its figures, and that it is one network, by patches or by images."""

import keras
import numpy as np
import pytest

import genenet as gn
import pruning
from genenet.averaging import MeanPredictor
from genenet.blocks import BlockPredictor
from genenet.errors import InputError
from genenet.genes import from_dict
from genenet.normalization import Normalization
from genenet.segment import segment_volume
from genenet.volume import open_volume

# docs/facts.md: maps, parameters, percent pruned, kB of activations in the paper.
VARIANTS = {
    "N": ((100, 75, 50, 200), 236_977, 0.0, 654),
    "N1": ((90, 75, 40, 150), 206_817, 12.7, 594),
    "N2": ((65, 75, 40, 150), 158_692, 33.0, 445),
    "N3": ((90, 60, 40, 150), 167_652, 29.3, 583),
    "N4": ((90, 75, 30, 150), 198_557, 16.2, 593),
    "N5": ((90, 75, 40, 110), 205_097, 13.5, 593),
    "N6": ((65, 60, 30, 110), 120_672, 49.1, 434),
    "N7": ((30, 20, 10, 10), 18_462, 92.2, 197),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_figures_of_the_paper(name):
    maps, n_parameters, percent, kilobytes = VARIANTS[name]
    net = gn.PatchNet(maps=maps)
    assert net.maps == maps
    assert net.n_parameters == n_parameters
    assert round(100 * (1 - n_parameters / 236_977), 1) == percent
    model = net.build((32, 32, 1))
    counted = pruning.count(model)
    assert counted.n_parameters == n_parameters
    # Input, convolutions and the dense layer before and after their activation, pools, scores, probabilities.
    assert (counted.n_activations + 32 * 32) * 4 / 1024 == pytest.approx(kilobytes, abs=1)
    if name == "N":
        assert counted.n_multiply_adds == pytest.approx(18.6e6, rel=0.01)
        assert net.cost((1024, 1024)).n_multiply_adds_per_voxel == pytest.approx(0.24e6, rel=0.06)


def small(**values):
    return gn.PatchNet(maps=(5, 4, 3, 6), **values)


@pytest.mark.parametrize(
    "values", [{}, {"normalization": "batch", "activation": "elu"}, {"window_size": 29, "n_convs": 2}]
)
def test_images_get_what_patches_get(values):
    net = gn.PatchNet(maps=(5, 4, 3), **values) if "n_convs" in values else small(**values)
    side = net.window_size
    patches, images = net.build((side, side, 1), seed=3), net.build(seed=4)
    rng = np.random.default_rng(0)
    for variable in patches.variables:
        variable.assign(rng.uniform(0.2, 1.0, variable.shape) if "moving" in variable.path else variable)
    images.set_weights(patches.get_weights())
    picture = rng.normal(size=(1, side + 5, side + 8, 1)).astype("float32")
    found = images.predict_on_batch(picture)
    cut = np.stack([picture[0, y : y + side, x : x + side] for y in range(6) for x in range(9)])
    assert found.shape == (1, 6, 9, 2)
    np.testing.assert_allclose(found.reshape(-1, 1, 1, 2), patches.predict_on_batch(cut), atol=1e-5)
    assert from_dict(net.to_dict()) == net
    (before, after), _ = net.plan_layers().halo()
    assert before + after == side - 1


def test_blocks_have_no_seams(tmp_path):
    net = small()
    plain = Normalization((0.0,), (1.0,))
    mean = MeanPredictor((BlockPredictor(net.build(seed=1), net.plan_layers(), plain, net.window_shape()),))
    volume = np.random.default_rng(1).normal(size=(2, 50, 45)).astype(np.float32)
    classes = tuple(gn.SegmentationClass(value, str(value), "#000000") for value in (0, 7))
    found = []
    for name, most in (("a", 1500), ("b", 10**6)):
        out, probabilities = tmp_path / f"{name}.npy", tmp_path / f"p{name}.npy"
        given = open_volume(volume)
        segment_volume(
            mean, classes, given, out, identity="a", max_voxels=most, extras={"probabilities": probabilities}
        )
        found.append(np.load(probabilities))
    np.testing.assert_allclose(found[0], found[1], atol=2e-3)
    assert found[0].shape == (2, 50, 45, 2)


def test_it_is_trained_saved_loaded_and_used(data_settings, quick, tmp_path):
    data = gn.Dataset.open(data_settings)
    net = gn.PatchNet(3, maps=(4, 3, 2, 5), log10_learning_rate=-2.0)
    network = gn.train_network(net, data, tmp_path / "net", quick)
    again = gn.Network.open(tmp_path / "net")
    assert again.blueprint == net
    assert gn.evaluate(again, data).accuracy == pytest.approx(network.scores["accuracy"], abs=0.02)


def test_it_is_pruned_as_patches_and_goes_on_as_images():
    net = small()
    patches = net.build((32, 32, 1), seed=1)
    rng = np.random.default_rng(0)
    batches = [(rng.normal(size=(8, 32, 32, 1)).astype("float32"), rng.integers(0, 2, (8, 1, 1)))]
    pruned = pruning.prune_by_loss(
        patches, batches, keras.losses.SparseCategoricalCrossentropy(), keep={"c1": 4, "c2": 3, "dense": 5}
    ).model
    smaller = gn.PatchNet(maps=(4, 3, 3, 5))
    images = smaller.build()
    images.set_weights(pruned.get_weights())
    picture = rng.normal(size=(1, 40, 40, 1)).astype("float32")
    np.testing.assert_allclose(
        images.predict_on_batch(picture)[0, 3, 5], pruned.predict_on_batch(picture[:, 3:35, 5:37])[0, 0, 0], atol=1e-5
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gn.PatchNet(maps=(5,)), "`maps` must be the features of the convolutions and of the dense layer"),
        (
            lambda: small(window_size=12).n_parameters,
            "a patch of 12 has nothing left at c2; choose a larger",
        ),
        (lambda: small().build((32, 32, 2)), r"the input shape must be \(size, size, 1\)"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
