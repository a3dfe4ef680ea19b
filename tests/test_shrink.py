"""Shrinking: what is tied goes together, and the smaller model gives what the masked one gives."""

import json

import keras
import numpy as np
import pytest
from backends import OTHERS, on, skip_where_missing
from pruning_family import FAMILY, L, called, difference, head, image, inputs_for, random_keep, randomized, through

from pruning import Channels, Flow, Graph, PruningError, Weight, masked, rule, shrink


@pytest.mark.parametrize("name", FAMILY)
def test_the_smaller_model_gives_what_the_masked_one_gives(name, tmp_path):
    model = randomized(FAMILY[name]())
    before = [np.array(value) for value in model.get_weights()]
    keep = random_keep(model, np.random.default_rng(2))
    apart, changed, small = difference(model, keep, tmp_path)
    assert small.count_params() < model.count_params()
    assert apart < 1e-5
    assert changed > 1e-4  # the channels that went did something
    for value, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(value, now)


def test_every_rule_is_tested():
    from pruning.registry import RULES

    used = set()
    for build in FAMILY.values():
        for entry in Graph(build()).seen.values():
            used.add(type(entry.layer).__name__)
    layers = {name for name in RULES if not name.startswith("ops.") and "." not in name}
    alike = {"Subtract", "Minimum", "InputLayer", "RMSNormalization", "UnitNormalization", "Softmax"}
    alike |= {name for name in layers if name.startswith(("Global", "Spatial", "Gaussian", "Alpha", "Activity"))}
    alike |= {name for name in layers if name[-2:] in ("1D", "3D") and f"{name[:-2]}2D" in layers | used} | {"Identity"}
    assert layers - used - alike == set()


ON_ANOTHER_BACKEND = """
import json, sys
import numpy as np
import keras
from pruning_family import FAMILY, difference, random_keep, randomized
assert keras.backend.backend() == sys.argv[1]
found = {}
for name, build in FAMILY.items():
    if name == "layer-in-space" and sys.argv[1] == "torch":
        continue  # Keras' LayerNormalization over axes other than the last ones fails on PyTorch (seen with 3.15.1)
    model = randomized(build())
    found[name] = float(difference(model, random_keep(model, np.random.default_rng(2)))[0])
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", OTHERS)
def test_shrinking_is_the_same_on_other_backends(backend):
    skip_where_missing(backend)
    found = json.loads(on(backend, ON_ANOTHER_BACKEND, backend).splitlines()[-1])
    assert len(found) >= len(FAMILY) - 1
    assert {name: apart for name, apart in found.items() if apart >= 1e-5} == {}


# -- what is tied, what has to stay ---


def test_explanations_name_what_is_tied():
    graph = Graph(FAMILY["skip"]())
    assert graph.explain("down") == "down makes 8 channels; all can be removed. They are read by up."
    graph = Graph(FAMILY["residual"]())
    (batch,) = (entry for entry in graph.seen.values() if isinstance(entry.layer, L.BatchNormalization))
    assert graph.explain("inner") == (
        "inner makes 6 channels; all can be removed. They are tied to those of first. They are also cut in "
        f"{batch.path}. They are read by inner, head."
    )
    assert graph.explain("head") == "head makes 3 channels; none can be removed: they reach the output head."
    assert graph.prunable() == ["first", "inner"]


@pytest.mark.parametrize(
    ("name", "layer", "reason"),
    [
        ("layer", "narrow", "brings all channels together"),
        ("gate", "gate", "repeats them over the channels of another input"),
        ("to-the-input", "narrow", "joins them with an input whose channels have to stay"),
    ],
)
def test_what_has_to_stay_says_why(name, layer, reason):
    model = FAMILY[name]()
    graph = Graph(model)
    assert layer not in graph.prunable()
    assert reason in graph.explain(layer)
    with pytest.raises(PruningError, match=f"channels of {layer} cannot be removed: .*{reason}"):
        shrink(model, {layer: [0][: len(graph.features(layer)) - 1]})


def softmaxed(x, _):
    return L.Softmax()(L.Conv2D(4, 1, name="mixed")(x))


def ends_in_softmax(x, _):
    return L.Conv2D(4, 1, activation="softmax", name="mixed")(x)


def parts(x, _):
    return L.Conv2D(4, 1, name="mixed")(x)[..., :2]


def flat(x, _):
    return L.Reshape((64, 2, 2))(L.Conv2D(4, 1, name="mixed")(x))


def weighed(x, _):
    return L.Conv2D(4, 1, name="mixed")(x) * np.arange(4, dtype="float32")


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (softmaxed, "brings all channels together"),
        (ends_in_softmax, "ends in softmax, which mixes channels"),
        (parts, "takes a part of its channels"),
        (flat, "reshapes its channels"),
        (weighed, "works with an array of constants"),
    ],
)
def test_channels_that_are_mixed_stay(function, reason):
    model = called(function)()
    graph = Graph(model)
    assert graph.prunable() == ["first"]
    assert reason in graph.explain("mixed")
    assert difference(randomized(model), {"first": [0, 2, 3]})[0] < 1e-5


def test_flattening_open_sizes_is_refused_by_name():
    given = keras.Input((None, None, 2))
    x = L.Conv2D(4, 3, name="first")(given)
    x = L.GlobalAveragePooling2D()(x)
    model = keras.Model(given, head(x))
    assert Graph(model).prunable() == ["first"]  # open sizes alone are no obstacle
    small = shrink(model, {"first": [1, 2]})
    assert small.input_shape == (None, None, None, 2)


class Doubling(L.Layer):
    """A layer that no rule knows."""

    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, inputs):
        return inputs * self.factor * 2


def test_an_unknown_layer_keeps_what_it_reads_and_is_named():
    model = called(lambda x, _: Doubling(name="mine")(L.Conv2D(4, 1, name="second")(x)))()
    graph = Graph(model)
    assert graph.prunable() == ["first"]
    assert "mine is a Doubling, which no rule knows; `pruning.rule` adds one" in graph.explain("second")


def test_a_rule_of_ones_own_is_one_function():
    class Scale(Doubling):
        pass

    @rule(Scale)
    def scale(call):
        (channels,) = call.inputs
        return Flow((channels,), (Weight(call.layer.factor, {0: channels.labels}),))

    model = randomized(called(lambda x, _: Scale()(x))())
    apart, changed, small = difference(model, {"first": [0, 4]})
    assert apart < 1e-5 < changed
    assert {tuple(variable.shape) for variable in small.layers[2].variables} == {(2,)}


def test_a_layer_that_computes_otherwise_than_its_parent_has_no_rule():
    class Odd(L.Conv2D):
        def call(self, inputs):
            return super().call(inputs[..., ::-1])

    model = called(lambda x, _: Odd(4, 1, name="odd")(x))()
    assert Graph(model).prunable() == []
    assert "odd is a Odd, which no rule knows" in Graph(model).explain("first")


def test_a_layer_shared_with_the_input_keeps_what_it_reads():
    given = image(8, 8)
    conv = L.Conv2D(2, 3, padding="same", name="shared")
    model = randomized(keras.Model(given, head(conv(conv(given)))))
    graph = Graph(model)
    assert graph.prunable() == []
    assert "first" in Graph(FAMILY["shared"]()).prunable()
    assert "They are tied to those of first" in Graph(FAMILY["shared"]()).explain("shared")
    assert "shared is shared with a call whose channels have to stay" in graph.explain("shared")


def test_layers_within_models_go_by_their_path():
    model = FAMILY["nested"]()
    graph = Graph(model)
    assert graph.prunable() == ["first", "inner/conv", "inner/last"]
    assert len(graph.features("conv")) == 5
    assert graph.explain("first") == "first makes 4 channels; all can be removed. They are read by inner/conv."
    small = shrink(model, {"inner/conv": [0, 1]})
    assert small.get_layer("inner").get_layer("conv").filters == 2


# -- bad input ---


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"nowhere": [0]}, "there is no layer 'nowhere' with channels; layers that make some are first, inner, head"),
        ({"first": [0, 9]}, r"first has channels 0 to 5, but is to keep \[0, 9\]"),
        ({"first": [True, False]}, r"first has 6 channels, but its mask has shape \(2,\)"),
        ({"first": [0.5]}, r"first has channels 0 to 5, but is to keep \[0.5\]"),
        ({"first": []}, "would keep no channel; it must keep at least one"),
        ({"first": [0, 1], "inner": [0, 2]}, "are tied, but keep other channels; give one of them alone"),
        ({"head": [0]}, "channels of head cannot be removed: they reach the output head"),
    ],
)
def test_wrong_keep_lists_are_refused(keep, message):
    with pytest.raises(PruningError, match=message):
        shrink(FAMILY["residual"](), keep)


def test_groups_that_go_as_a_whole_are_not_cut():
    model = FAMILY["group"]()
    with pytest.raises(PruningError, match="first keeps some of several channels that are tied to each other"):
        shrink(model, {"first": range(1, 12)})
    small = shrink(model, {"first": [0, 1, 2, 6, 7, 8]})
    assert small.layers[2].groups == 2


def test_a_layer_that_passes_channels_on_makes_none():
    model = FAMILY["batch"]()
    name = model.layers[2].name
    with pytest.raises(PruningError, match=f"{name} makes no channels of its own; layers that do are first, head"):
        shrink(model, {name: [0]})


def test_models_whose_graph_cannot_be_read_are_refused():
    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(PruningError, match="Own is no functional or Sequential model"):
        Graph(Own())
    with pytest.raises(PruningError, match="is not built; call it once, or begin with keras.Input"):
        Graph(keras.Sequential([L.Dense(2)]))


def test_names_that_several_layers_have_need_a_path():
    def inner(name):
        given = keras.Input((8, 8, 4))
        return keras.Model(given, L.Conv2D(4, 3, padding="same", name="conv")(given), name=name)

    model = called(lambda x, _: inner("b")(inner("a")(L.Conv2D(4, 1, name="narrow")(x))))()
    with pytest.raises(PruningError, match="several layers are called 'conv'; name one: a/conv, b/conv"):
        shrink(model, {"conv": [0]})
    assert shrink(model, {"b/conv": [0]}).get_layer("b").output_shape[-1] == 1


# -- training goes on ---


def test_the_optimizer_is_cut_too():
    model = FAMILY["batch"]()
    model.compile(keras.optimizers.AdamW(0.01), "mse")
    x, y = inputs_for(model)[0], np.zeros((2, 8, 8, 3), "float32")
    for _ in range(3):
        model.train_on_batch(x, y)
    small = shrink(model, {"first": [1, 4]})
    assert int(small.optimizer.iterations) == 3
    moments = {tuple(variable.shape): np.array(variable) for variable in small.optimizer.variables}
    old = {tuple(variable.shape): np.array(variable) for variable in model.optimizer.variables}
    np.testing.assert_array_equal(moments[3, 3, 2, 2], old[3, 3, 2, 6][..., [1, 4]])
    np.testing.assert_array_equal(moments[1, 1, 2, 3], old[1, 1, 6, 3][:, :, [1, 4]])
    small.train_on_batch(x, y)
    assert int(small.optimizer.iterations) == 4
    assert int(model.optimizer.iterations) == 3
    fresh = shrink(model, {"first": [1, 4]}, optimizer=False)
    assert int(fresh.optimizer.iterations) == 0


def test_policies_and_trainability_stay():
    given = image(8, 8)
    x = L.Conv2D(6, 3, name="first", dtype="mixed_bfloat16")(given)
    frozen = L.BatchNormalization(name="bn", trainable=False)
    model = keras.Model(given, head(frozen(x)))
    small = shrink(model, {"first": [0, 1]})
    assert small.get_layer("first").dtype_policy.name == "mixed_bfloat16"
    assert not small.get_layer("bn").trainable


def test_channels_know_their_number():
    assert len(Channels(3, np.arange(5))) == 5
    assert masked(FAMILY["batch"](), {}).count_params() == FAMILY["batch"]().count_params()
    assert through()().count_params() > 0
