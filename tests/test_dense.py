"""Dense evaluation: a patch classifier on every pixel at once gives what it gives patch by patch."""

import keras
import numpy as np
import pytest

from genenet import dense
from genenet.dense_evaluation import DensePatches
from genenet.errors import InputError
from genenet.patch_maps import Axis, Window

L = keras.layers


def classifier(size, *layers, seed=0, channels=1, n_classes=2):
    """A chain of layers, then a flattening and two dense ones, with random weights."""
    given = x = keras.Input((size, size, channels))
    for make in layers:
        x = make(x)
    x = L.Dense(5, activation="relu", name="hidden")(L.Flatten()(x))
    model = keras.Model(given, L.Dense(n_classes, activation="softmax", name="last")(x), name="classifier")
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        values = rng.normal(size=weight.shape) * 0.4
        weight.assign(np.abs(values) + 0.5 if "variance" in weight.path else values)
    return model


def conv(n, side, activation="relu"):
    return lambda x: L.Conv2D(n, side, activation=activation)(x)


def pool(side, stride, kind=L.MaxPooling2D):
    """Rounded up: cut at the patch's edge where sizes do not divide."""

    def make(x):
        whole = (x.shape[1] - side) % stride == 0
        return kind(side, stride, padding="valid" if whole else "same")(x)

    return make


FAMILY = {
    "roels": (32, [conv(6, 7), pool(3, 2), conv(5, 5), pool(3, 2), conv(4, 3), pool(3, 2)]),
    "no-pool": (7, [conv(4, 3), conv(4, 3)]),
    "pairs": (16, [conv(4, 3), pool(2, 2), conv(4, 3), pool(2, 2)]),
    "cut-first": (12, [pool(3, 2), conv(4, 3), pool(3, 2)]),
    "threes": (20, [conv(4, 3), pool(3, 3), conv(3, 2), pool(2, 2)]),
    "more-left": (15, [conv(4, 4), pool(3, 2), conv(3, 2)]),
    "cut-more-left": (14, [conv(4, 3), pool(3, 2), conv(3, 3), lambda x: L.ELU()(x)]),
    "sigmoid": (14, [conv(4, 3, "sigmoid"), pool(3, 2), conv(3, 3, "tanh")]),
    "means": (17, [conv(4, 4), pool(2, 2, L.AveragePooling2D), conv(4, 3)]),
    "wide-means": (18, [conv(4, 4), pool(3, 2, L.AveragePooling2D), conv(4, 3)]),
    "batch": (14, [conv(4, 3, None), lambda x: L.BatchNormalization()(x), lambda x: L.ReLU()(x), pool(3, 2)]),
    "oblong-pool": (16, [conv(4, 3), lambda x: L.MaxPooling2D((3, 2), (2, 2), padding="same")(x), conv(4, 2)]),
}


def patch_by_patch(model, image):
    size = model.inputs[0].shape[1]
    rows, columns = image.shape[0] - size + 1, image.shape[1] - size + 1
    patches = np.stack([image[y : y + size, x : x + size] for y in range(rows) for x in range(columns)])
    return np.array(model.predict_on_batch(patches)).reshape(rows, columns, -1)


@pytest.mark.parametrize("shape", [(37, 45), (40, 33)])
@pytest.mark.parametrize("name", FAMILY)
def test_every_pixel_gets_what_its_patch_gets(name, shape):
    size, layers = FAMILY[name]
    model = classifier(size, *layers)
    image = np.random.default_rng(1).normal(size=(*shape, 1)).astype("float32")
    expected = patch_by_patch(model, image)
    found = dense(model).predict_on_batch(image[None])[0]
    assert found.shape == (shape[0] - size + 1, shape[1] - size + 1, 2)
    assert expected.std() > 0.02
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_edges_of_patches_matter():
    size, layers = FAMILY["roels"]
    model = classifier(size, *layers)
    window = Window.over(Axis(26), 3, 2, cut=True)
    assert window.after == Axis(13, 1)
    assert window.runs(0) == [(0, 2, None)]
    image = np.random.default_rng(1).normal(size=(40, 40, 1)).astype("float32")
    expected = patch_by_patch(model, image)
    patch = image[:32, :32]
    other = image[:33, :33].copy()
    other[32], other[:, 32] = 99, 99  # beyond the first patch
    found = dense(model).predict_on_batch(other[None])[0, 0, 0]
    np.testing.assert_allclose(found, expected[0, 0], atol=1e-5)
    np.testing.assert_allclose(model.predict_on_batch(patch[None])[0], expected[0, 0], atol=1e-6)


def test_it_follows_the_weights_and_saves(tmp_path):
    size, layers = FAMILY["pairs"]
    model = classifier(size, *layers, channels=3, n_classes=4)
    image = np.random.default_rng(1).normal(size=(2, 20, 21, 3)).astype("float32")
    found = dense(model)
    found.save(tmp_path / "dense.keras")
    loaded = keras.models.load_model(tmp_path / "dense.keras")
    first = found.predict_on_batch(image)
    np.testing.assert_allclose(loaded.predict_on_batch(image), first, atol=1e-6)
    model.get_layer("last").bias.assign([5.0, 0.0, 0.0, 0.0])
    assert np.abs(found.predict_on_batch(image) - first).max() > 0.1


def test_models_within_models_are_followed():
    inner = keras.Sequential(
        [keras.Input((14, 14, 1)), L.Conv2D(4, 3, activation="relu"), L.MaxPooling2D(3, 2, "same")]
    )
    model = classifier(14, inner)
    image = np.random.default_rng(1).normal(size=(20, 21, 1)).astype("float32")
    np.testing.assert_allclose(dense(model).predict_on_batch(image[None])[0], patch_by_patch(model, image), atol=1e-5)


def branching():
    given = keras.Input((8, 8, 1))
    x = L.Conv2D(2, 1)(given)
    return keras.Model(given, L.Dense(2)(L.Flatten()(L.Add(name="sum")([x, given]))))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: classifier(8, lambda x: L.Conv2D(2, 3, padding="same", name="c")(x)), "c has padding, groups or dil"),
        (lambda: classifier(8, lambda x: L.Conv2D(2, 3, strides=2, name="c")(x)), "c has a stride"),
        (lambda: classifier(8, lambda x: L.Conv2DTranspose(2, 3, name="up")(x)), "up, a Conv2DTranspose, cannot be"),
        (lambda: classifier(8, lambda x: L.MaxPooling2D(4, 2, padding="same", name="p")(x)), "p pads 2 positions"),
        (
            lambda: classifier(9, lambda x: L.AveragePooling2D(2, 2, padding="same", name="p")(x)),
            "p pads 1 positions around 9",
        ),
        (branching, "does not stand in a chain of layers"),
        (
            lambda: keras.Sequential([keras.Input((None, None, 1)), L.Conv2D(2, 3)], name="m"),
            "m must read patches of one",
        ),
        (lambda: keras.Sequential([keras.Input((8, 8, 1)), L.Conv2D(2, 3)], name="m"), "m gives 6x6 answers per patch"),
        (lambda: keras.Sequential([keras.Input((8, 1)), L.Flatten()], name="m"), "m must read 2-D patches"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_by_name(make, message):
    with pytest.raises(InputError, match=message):
        dense(make())


def test_the_layer_is_found_by_name():
    assert keras.saving.get_registered_name(DensePatches) == "genenet>DensePatches"
