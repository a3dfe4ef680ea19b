"""The way of working of tensorflow_model_optimization: what its public guides show holds here."""

import csv
import importlib.util

import keras
import numpy as np
import pytest
from backends import OTHERS, on, skip_where_missing

import pruning as sparsity
from pruning import PruningError, PruningWarning
from pruning.wrapping import sparsity_of, wrappers

L = keras.layers
rng = np.random.default_rng(0)
X, Y = rng.normal(size=(64, 20)).astype("float32"), rng.integers(0, 10, 64)


def dense_net():
    return keras.Sequential([keras.Input((20,)), L.Dense(32, activation="relu", name="a"), L.Dense(10, name="b")])


def train(model, callbacks, epochs=2, optimizer="adam"):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.get(optimizer), loss, metrics=["accuracy"])
    model.fit(X, Y, batch_size=8, epochs=epochs, verbose=0, callbacks=callbacks)  # 8 steps per epoch
    return model


def zeros(variable):
    return float((keras.ops.convert_to_numpy(variable) == 0).mean())


def test_a_whole_model_reaches_the_schedule(tmp_path):
    schedule = sparsity.PolynomialDecay(0.50, 0.80, begin_step=0, end_step=16, frequency=4)
    plain = dense_net()
    model = sparsity.prune_low_magnitude(plain, pruning_schedule=schedule)
    np.testing.assert_array_equal(plain.predict_on_batch(X), model.predict_on_batch(X))
    train(model, [sparsity.UpdatePruningStep(), sparsity.PruningSummaries(tmp_path)], epochs=3)
    for wrapper in wrappers(model):
        assert sparsity_of(wrapper) == pytest.approx(0.8, abs=0.01)
        assert zeros(wrapper.layer.kernel) == pytest.approx(0.8, abs=0.01)
        assert int(wrapper.pruning_step) == 16
    exported = sparsity.strip_pruning(model)
    assert [type(layer).__name__ for layer in exported.layers] == ["Dense", "Dense"]
    assert [layer.name for layer in exported.layers] == ["a", "b"]
    np.testing.assert_allclose(exported.predict_on_batch(X), model.predict_on_batch(X), rtol=1e-6)
    assert exported.count_params() == plain.count_params()
    with (tmp_path / "pruning.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["step"], row["layer"]) for row in rows[:2]] == [("8", "a"), ("8", "b")]
    assert float(rows[-1]["sparsity"]) == pytest.approx(0.8, abs=0.01)
    assert bool(list(tmp_path.glob("events*"))) == (importlib.util.find_spec("tensorboard") is not None)


def test_some_layers_only_by_a_clone_function():
    def prune_dense(layer):
        return sparsity.prune_low_magnitude(layer) if layer.name == "a" else layer

    base = dense_net()
    model = keras.models.clone_model(base, clone_function=prune_dense)
    train(model, [sparsity.UpdatePruningStep()])
    (wrapper,) = wrappers(model)
    assert zeros(wrapper.layer.kernel) == pytest.approx(0.5, abs=0.01)


def test_layers_while_a_model_is_made():
    given = keras.Input((20,))
    x = sparsity.prune_low_magnitude(L.Dense(16), sparsity.ConstantSparsity(0.75, 0, frequency=1))(given)
    model = keras.Model(given, L.Dense(10)(L.ReLU()(x)))
    train(model, [sparsity.UpdatePruningStep()])
    (wrapper,) = wrappers(model)
    assert zeros(wrapper.layer.kernel) == pytest.approx(0.75, abs=0.01)
    listed = sparsity.prune_low_magnitude([L.Dense(16), L.Dense(3)], sparsity.ConstantSparsity(0.5, 0))
    assert [type(layer) for layer in listed] == [sparsity.PruneLowMagnitude] * 2


def test_a_custom_layer_says_what_may_go():
    class MyDense(L.Dense, sparsity.PrunableLayer):
        def get_prunable_weights(self):
            return [self.kernel, self.bias]

    given = keras.Input((20,))
    wrapped = sparsity.prune_low_magnitude(MyDense(10, bias_initializer="ones"), sparsity.ConstantSparsity(0.5, 0))
    model = train(keras.Model(given, wrapped(given)), [sparsity.UpdatePruningStep()])
    assert zeros(wrapped.layer.bias) == 0.5
    assert zeros(sparsity.strip_pruning(model).layers[-1].kernel) == pytest.approx(0.5, abs=0.01)


@keras.saving.register_keras_serializable("test_wrapping")
class Unknown(L.Layer):
    def build(self, shape):
        self.table = self.add_weight(shape=(shape[-1], shape[-1]))

    def call(self, inputs):
        return inputs @ self.table


def test_an_unknown_layer_is_refused_alone_and_passed_over_in_a_model():
    with pytest.raises(PruningError, match="it is not known which weights of unknown.*may be pruned"):
        sparsity.prune_low_magnitude(Unknown())
    model = keras.Sequential([keras.Input((20,)), Unknown(name="own"), L.Dense(10)])
    with pytest.warns(PruningWarning, match=r"own \(Unknown\) are not pruned"):
        wrapped = sparsity.prune_low_magnitude(model)
    assert len(list(wrappers(wrapped))) == 1
    with pytest.raises(PruningError, match="has no layer that could be pruned"), pytest.warns(PruningWarning):
        sparsity.prune_low_magnitude(keras.Sequential([keras.Input((20,)), Unknown()]))
    with pytest.raises(PruningError, match="must be a layer, a model, or a list"):
        sparsity.prune_low_magnitude("model")


def test_a_checkpoint_goes_on(tmp_path):
    schedule = sparsity.ConstantSparsity(0.5, 0, frequency=1)
    model = sparsity.prune_low_magnitude(dense_net(), pruning_schedule=schedule, block_size=(1, 2))
    train(model, [sparsity.UpdatePruningStep()])
    model.save(tmp_path / "pruned.keras")
    with sparsity.prune_scope():
        loaded = keras.models.load_model(tmp_path / "pruned.keras")
    for mine, other in zip(wrappers(model), wrappers(loaded), strict=True):
        np.testing.assert_array_equal(*[keras.ops.convert_to_numpy(each.masks[0]) for each in (mine, other)])
        assert other.pruning_schedule.get_config() == schedule.get_config()
        assert other.block_size == (1, 2)
    loaded.fit(X, Y, batch_size=8, epochs=1, verbose=0, callbacks=[sparsity.UpdatePruningStep()])
    assert int(next(wrappers(loaded)).pruning_step) == 23  # step 16 to 23, the optimizer's count went on
    for wrapper in wrappers(loaded):
        kernel, mask = (keras.ops.convert_to_numpy(each) for each in (wrapper.layer.kernel, wrapper.masks[0]))
        assert not np.any(kernel[mask == 0])


def test_a_training_loop_of_ones_own():
    model = sparsity.prune_low_magnitude(dense_net(), sparsity.ConstantSparsity(0.5, 0, frequency=1))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    step = sparsity.UpdatePruningStep()
    step.set_model(model)
    step.on_train_begin()
    for _ in range(2):
        for start in range(0, 64, 8):
            step.on_train_batch_begin(batch=-1)
            model.train_on_batch(X[start : start + 8], Y[start : start + 8])
        step.on_epoch_end(batch=-1)
    assert all(zeros(wrapper.layer.kernel) >= 0.5 for wrapper in wrappers(model))


@pytest.mark.parametrize("optimizer", [keras.optimizers.AdamW(weight_decay=0.1), keras.optimizers.SGD(0.01, 0.9)])
def test_masked_weights_stay_zero_between_updates(optimizer):
    schedule = sparsity.ConstantSparsity(0.5, 3, 3, frequency=1)  # once, at step 3
    model = sparsity.prune_low_magnitude(dense_net(), pruning_schedule=schedule)
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append([zeros(wrapper.layer.kernel) for wrapper in wrappers(self.model)])

    train(model, [sparsity.UpdatePruningStep(), Look()], optimizer=optimizer)
    assert seen[2] == [0, 0]
    assert all(each == seen[3] for each in seen[3:])
    assert seen[3] == pytest.approx([0.5, 0.5], abs=0.01)


def test_masks_follow_the_weights_at_every_update():
    model = sparsity.prune_low_magnitude(
        keras.Sequential([keras.Input((4,)), L.Dense(1, use_bias=False)]),
        sparsity.ConstantSparsity(0.5, 0),
        sparsity_m_by_n=(2, 4),
    )
    (wrapper,) = wrappers(model)
    wrapper.layer.kernel.assign([[1.0], [2.0], [3.0], [4.0]])
    wrapper.update(0, 0.5)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(wrapper.layer.kernel).ravel(), [0, 0, 3, 4])
    wrapper.layer.kernel.assign([[5.0], [2.0], [3.0], [6.0]])
    wrapper.update(1, 0.5)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(wrapper.layer.kernel).ravel(), [5, 0, 0, 6])


def test_steps_that_run_together_miss_no_update():
    schedule = sparsity.ConstantSparsity(0.5, 3, 3, frequency=1)
    model = sparsity.prune_low_magnitude(dense_net(), pruning_schedule=schedule)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, steps_per_execution=4)
    model.fit(X, Y, batch_size=8, epochs=1, verbose=0, callbacks=[sparsity.UpdatePruningStep()])
    assert all(int(wrapper.pruning_step) == 3 for wrapper in wrappers(model))


def test_pruning_that_never_happened_is_an_error():
    late = sparsity.ConstantSparsity(0.5, 2000)
    model = sparsity.prune_low_magnitude(dense_net(), pruning_schedule=late)
    with pytest.raises(PruningError, match="training ended after step 16, but schedules begin at step 2000"):
        train(model, [sparsity.UpdatePruningStep()])
    train(model, [sparsity.UpdatePruningStep(may_be_late=True)])
    with pytest.warns(PruningWarning, match="nothing of .* was pruned: train it with the callback"):
        sparsity.strip_pruning(model)
    with pytest.raises(PruningError, match="the model has no layers that `prune_low_magnitude` wrapped"):
        train(dense_net(), [sparsity.UpdatePruningStep()])


def test_stripping_can_shrink():
    model = sparsity.prune_low_magnitude(
        dense_net(), sparsity.ConstantSparsity(0.5, 0), block_size=(1, 10)
    )  # whole rows of `b`: what reads a feature of `a`
    train(model, [sparsity.UpdatePruningStep()])
    small = sparsity.strip_pruning(model, shrink=True)
    assert small.get_layer("a").units == 16
    np.testing.assert_allclose(small.predict_on_batch(X), model.predict_on_batch(X), rtol=1e-4, atol=1e-5)


def test_nested_and_recurrent_layers_are_wrapped():
    inner = keras.Sequential([keras.Input((20,)), L.Dense(8, name="deep")], name="inner")
    model = keras.Sequential([keras.Input((20,)), inner, L.Dense(10)])
    wrapped = sparsity.prune_low_magnitude(model)
    assert len(list(wrappers(wrapped))) == 2
    given = keras.Input((5, 3))
    recurrent = sparsity.prune_low_magnitude(keras.Model(given, L.Dense(2)(L.LSTM(4)(given))))
    first = next(wrappers(recurrent))
    assert len(first.masks) == 2
    first.update(0, 0.5)
    assert zeros(first.layer.cell.recurrent_kernel) == 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sparsity.ConstantSparsity(1.0, 0), "`target_sparsity` must be at least 0 and below 1, but got 1.0"),
        (lambda: sparsity.ConstantSparsity(0.5, -1), "`begin_step` must not be negative"),
        (lambda: sparsity.ConstantSparsity(0.5, 5, 3), "`end_step` must not lie before `begin_step`"),
        (lambda: sparsity.PolynomialDecay(0.5, 0.8, 10, 10), "`end_step` must lie after `begin_step`"),
        (lambda: sparsity.PruneLowMagnitude(L.Dense(2), block_pooling_type="MIN"), "must be AVG or MAX"),
        (
            lambda: sparsity.PruneLowMagnitude(L.Dense(2), block_size=(2, 2), sparsity_m_by_n=(2, 4)),
            "give either `block_size` or `sparsity_m_by_n`",
        ),
        (lambda: sparsity.PruningSummaries("x", update_freq="batch"), "`update_freq` must be epoch or a number"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(PruningError, match=message):
        make()


ON_ANOTHER_BACKEND = """
import sys
import keras
import test_wrapping as t
assert keras.backend.backend() == sys.argv[1]
import pathlib, tempfile
folder = pathlib.Path(tempfile.mkdtemp())
t.test_some_layers_only_by_a_clone_function()
t.test_a_checkpoint_goes_on(folder)
t.test_stripping_can_shrink()
t.test_masked_weights_stay_zero_between_updates(keras.optimizers.AdamW(weight_decay=0.1))
print("done")
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", OTHERS)
def test_the_same_on_other_backends(backend):
    skip_where_missing(backend)
    assert on(backend, ON_ANOTHER_BACKEND, backend).splitlines()[-1] == "done"


ALONE = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1:]:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
import keras
import pruning
image = keras.Input((8, 8, 1))
x = keras.layers.Conv2D(8, 3, name="first")(image)
model = keras.Model(image, keras.layers.Conv2D(2, 3, name="last")(x))
small = pruning.shrink(model, pruning.select_channels(model, pruning.Target(share=0.5)))
print(small.get_layer("first").filters, pruning.report({"before": model, "after": small}).rows[1].compression_ratio > 1)
"""


def test_keras_and_numpy_are_enough():
    missing = ["genenet", "search", "matplotlib", "optuna", "scipy", "pandas", "zarr", "tifffile", "yaml", "skimage"]
    found = on(keras.backend.backend(), ALONE, *missing)
    assert found.splitlines()[-1] == "4 True"
