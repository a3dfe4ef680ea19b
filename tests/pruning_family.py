"""Small models that between them hold every kind of layer that pruning has a rule for."""

import keras
import numpy as np

import pruning

L = keras.layers
ops = keras.ops


def image(*space, channels=2):
    return keras.Input((*space, channels))


def head(x, units=3):
    """What reads the channels under test: a convolution over what is left of space, or a dense layer."""
    kinds = {2: L.Dense, 3: L.Conv1D, 4: L.Conv2D, 5: L.Conv3D}
    if len(x.shape) == 2:
        return L.Dense(units, name="head")(x)
    return kinds[len(x.shape)](units, 1, name="head")(x)


def chain(kind, space, **options):
    def build():
        x = given = image(*space)
        x = kind(6, 3, activation="relu", name="first", **options)(x)
        x = kind(5, 3, name="second", **options)(x)
        return keras.Model(given, head(x))

    return build


def through(*layers, space=(8, 8), features=6):
    """A convolution, some layers, and what reads them."""

    def build():
        given = image(*space)
        kind = {1: L.Conv1D, 2: L.Conv2D, 3: L.Conv3D}[len(space)]
        x = kind(features, 3, padding="same", name="first")(given)
        for make in layers:
            x = make()(x)
        return keras.Model(given, head(x))

    return build


def called(function, space=(8, 8), features=6):
    """A convolution, a function of its output, and what reads it."""

    def build():
        given = image(*space)
        return keras.Model(given, head(function(L.Conv2D(features, 3, padding="same", name="first")(given), given)))

    return build


def residual(x, _):
    y = L.BatchNormalization()(L.Conv2D(6, 3, padding="same", name="inner")(x))
    return L.ReLU()(L.Add()([x, y]))


def projected(x, _):
    y = L.Conv2D(8, 3, padding="same", name="inner")(x)
    return L.Average()([L.Conv2D(8, 1, name="project")(x), y])


def to_the_input(x, given):
    narrow = L.Conv2D(2, 3, padding="same", name="narrow")(x)
    return L.Concatenate()([L.Add()([given, narrow]), x])


def gate(x, _):
    return L.Multiply()([x, L.Conv2D(1, 1, activation="sigmoid", name="gate")(x)])


def squeeze(x, _):
    s = L.GlobalAveragePooling2D(keepdims=True)(x)
    s = L.Dense(4, activation="relu", name="hidden")(s)
    return L.Multiply()([x, L.Dense(6, activation="sigmoid", name="factors")(s)])


def squeeze_reshaped(x, _):
    s = L.Reshape((1, 1, 6))(L.GlobalMaxPooling2D()(x))
    return L.Multiply()([x, L.Conv2D(6, 1, activation="sigmoid", name="factors")(s)])


def crelu(x, _):
    x = L.Concatenate()([L.ReLU()(x), L.ReLU()(L.Rescaling(-1.0)(x))])
    return L.BatchNormalization()(x)


def raw(x, _):
    x = ops.relu(x) * 2.0 + 1.0
    y = ops.concatenate([x, -x], axis=-1)
    z = ops.max_pool(y, (2, 2), (2, 2))
    return ops.tanh(z) + ops.mean(y, axis=(1, 2), keepdims=True)


def skip(x, _):
    down = L.Conv2D(8, 3, padding="same", name="down")(L.MaxPooling2D(2)(x))
    up = L.Conv2DTranspose(5, 2, strides=2, name="up")(down)
    return L.Concatenate()([x, up])


def shared(x, _):
    conv = L.Conv2D(6, 3, padding="same", name="shared")
    return L.Concatenate()([conv(x), conv(L.ReLU()(conv(x)))])


def permuted(x, _):
    return L.Permute((2, 1, 3))(x)


def layer_normalized(x, _):
    return L.LayerNormalization()(L.Conv2D(4, 1, name="narrow")(x))


def nested():
    inner_given = keras.Input((8, 8, 4))
    x = L.Conv2D(5, 3, padding="same", name="conv")(inner_given)
    inner = keras.Model(inner_given, L.Conv2D(4, 1, name="last")(x), name="inner")
    given = image(8, 8)
    x = L.Conv2D(4, 3, padding="same", name="first")(given)
    return keras.Model(given, head(L.Add()([inner(x), inner(L.ReLU()(x))])))


def sequential():
    inner = keras.Sequential([L.Conv2D(5, 3, name="a"), L.BatchNormalization(), L.ReLU()], name="inner")
    return keras.Sequential([image(8, 8), L.Conv2D(6, 3, name="first"), inner, L.Flatten(), L.Dense(3, name="head")])


def several_outputs():
    given, other = image(8, 8), image(8, 8, channels=3)
    x = L.Conv2D(6, 3, padding="same", name="first")(given)
    y = L.Conv2D(6, 3, padding="same", name="second")(other)
    both = L.Maximum()([x, y])
    return keras.Model([given, other], {"a": head(both), "b": L.Conv2D(2, 1, name="aside")(x)})


FAMILY = {
    "conv1d": chain(L.Conv1D, (12,), padding="causal"),
    "conv2d": chain(L.Conv2D, (8, 8)),
    "conv3d": chain(L.Conv3D, (6, 6, 6)),
    "dilated": chain(L.Conv2D, (10, 10), dilation_rate=2, use_bias=False),
    "transposed1d": chain(L.Conv1DTranspose, (6,), strides=2),
    "transposed2d": chain(L.Conv2DTranspose, (6, 6), strides=2),
    "transposed3d": chain(L.Conv3DTranspose, (4, 4, 4), padding="same"),
    "separable1d": chain(L.SeparableConv1D, (10,), depth_multiplier=2),
    "separable2d": chain(L.SeparableConv2D, (8, 8), depth_multiplier=2),
    "depthwise1d": through(lambda: L.DepthwiseConv1D(3), space=(10,)),
    "depthwise2d": through(lambda: L.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False)),
    "grouped": through(lambda: L.Conv2D(9, 3, groups=3, name="grouped"), features=12),
    "groups-of-one": through(lambda: L.Conv2D(12, 3, groups=6, name="grouped")),
    "dense": through(lambda: L.Dense(5, activation="relu", name="dense")),
    "batch": through(lambda: L.BatchNormalization(), lambda: L.Activation("sigmoid")),
    "batch-plain": through(lambda: L.BatchNormalization(center=False, scale=False)),
    "group": through(lambda: L.GroupNormalization(4), features=12),
    "instance": through(lambda: L.GroupNormalization(-1)),
    "layer-in-space": through(lambda: L.LayerNormalization(axis=(1, 2))),
    "pools": through(lambda: L.MaxPooling2D(2), lambda: L.AveragePooling2D(2)),
    "sizes": through(lambda: L.UpSampling2D(2), lambda: L.ZeroPadding2D(1), lambda: L.Cropping2D(2)),
    "activations": through(lambda: L.LeakyReLU(), lambda: L.ELU(), lambda: L.Dropout(0.5), lambda: L.Rescaling(2.0)),
    "prelu": through(lambda: L.PReLU(alpha_initializer="random_normal")),
    "prelu-shared": through(lambda: L.PReLU(alpha_initializer="random_normal", shared_axes=[1, 2])),
    "flatten": through(lambda: L.MaxPooling2D(2), lambda: L.Flatten()),
    "flatten3d": through(lambda: L.Flatten(), space=(4, 3, 2)),
    "residual": called(residual),
    "projected": called(projected),
    "to-the-input": called(to_the_input),
    "gate": called(gate),
    "squeeze": called(squeeze),
    "squeeze-reshaped": called(squeeze_reshaped),
    "crelu": called(crelu),
    "raw": called(raw),
    "skip": called(skip),
    "shared": called(shared),
    "permuted": called(permuted),
    "layer": called(layer_normalized),
    "nested": nested,
    "sequential": sequential,
    "several-outputs": several_outputs,
}


def randomized(model, seed=0):
    """The model with random weights everywhere; variances are positive."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        if "seed" in variable.path:
            continue
        values = rng.normal(size=variable.shape) * 0.4
        variable.assign(abs(values) + 0.5 if "variance" in variable.path else values)
    return model


def random_keep(model, rng, share=0.35):
    """A keep-list for every prunable layer, such that tied layers agree and none is empty."""
    graph = pruning.Graph(model)
    layers = {name: graph.units.units(graph.features(name)) for name in graph.prunable()}
    free = sorted({int(u) for units in layers.values() for u in units if graph.units.reason(u) is None})
    gone = set()
    for unit in rng.permutation(free)[: max(1, int(share * len(free)))]:
        if all(set(units.tolist()) - gone - {int(unit)} for units in layers.values()):
            gone.add(int(unit))
    return {name: np.array([int(unit) not in gone for unit in units]) for name, units in layers.items()}


def inputs_for(model, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(2, *tensor.shape[1:])).astype("float32") for tensor in model.inputs]


def answers(model, inputs):
    given = inputs if len(inputs) > 1 else inputs[0]
    return [keras.ops.convert_to_numpy(each) for each in keras.tree.flatten(model(given, training=False))]


def difference(model, keep, folder=None):
    """How far the smaller model is from the masked one, relative to the largest output; and from the whole one."""
    small, masks, inputs = pruning.shrink(model, keep), pruning.masked(model, keep), inputs_for(model)
    if folder is not None:
        small.save(folder / "small.keras")
        small = keras.models.load_model(folder / "small.keras")
    mine, expected, whole = (answers(each, inputs) for each in (small, masks, model))
    largest = max(abs(each).max() for each in expected)
    apart = max(abs(a - b).max() for a, b in zip(mine, expected, strict=True))
    changed = max(abs(a - b).max() for a, b in zip(whole, expected, strict=True))
    return apart / largest, changed / largest, small
