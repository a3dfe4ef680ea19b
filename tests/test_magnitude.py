"""Magnitude pruning: which weights and channels go, and zeros that stay zero."""

import warnings

import keras
import numpy as np
import pytest
from backends import OTHERS, on, skip_where_missing
from pruning_family import FAMILY, L, head, image, randomized, through

import pruning
from pruning import PruningError, PruningWarning, Target, blocks, iterative_magnitude, magnitude_masks, n_of_m
from pruning.magnitude import ratios
from pruning.masks import kernels, single


def net(features=8, seed=0):
    given = image(8, 8)
    x = L.Conv2D(features, 3, padding="same", activation="relu", name="first")(given)
    x = L.BatchNormalization(name="batch")(x)
    x = L.Conv2D(features, 3, padding="same", activation="relu", name="second")(x)
    return randomized(keras.Model(given, head(x)), seed)


def fitting(optimizer="adam", epochs=2):
    """Train on random numbers."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 8, 8, 2)).astype("float32"), rng.normal(size=(16, 8, 8, 3)).astype("float32")

    def fit(model):
        model.compile(keras.optimizers.get(optimizer), "mse")
        return model.fit(x, y, batch_size=4, epochs=epochs, verbose=0).history["loss"][-1]

    return fit


def test_the_largest_weights_stay():
    # |w| = 5 1 4 2 3 0 of which half stay: 5, 4, 3.
    weights = np.array([[-5.0, 1.0], [4.0, 2.0], [-3.0, 0.0]])
    np.testing.assert_array_equal(single(weights, 0.5), [[True, False], [True, False], [True, False]])


def test_scopes():
    model = net()
    layer = magnitude_masks(model, 0.25)
    assert {name: mask.mean() for name, mask in layer.items()} == {
        "first/kernel": 0.25, "second/kernel": 0.25, "head/kernel": 0.25}  # fmt: skip
    network = magnitude_masks(model, 0.25, scope="network")
    values = {name: np.abs(keras.ops.convert_to_numpy(kernel)) for name, kernel in kernels(model).items()}
    kept = np.concatenate([values[name][mask] for name, mask in network.items()])
    gone = np.concatenate([values[name][~mask] for name, mask in network.items()])
    assert kept.min() >= gone.max()
    assert kept.size == round(0.25 * (kept.size + gone.size))


def test_a_floor_per_layer_holds_and_the_whole_stays_as_asked():
    model = net()
    model.get_layer("first").kernel.assign(model.get_layer("first").kernel * 1e-3)
    masks = magnitude_masks(model, 0.1, scope="network", least=0.05)
    assert masks["first/kernel"].sum() == int(np.ceil(0.05 * masks["first/kernel"].size))
    total = sum(mask.size for mask in masks.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == round(0.1 * total)


def test_an_empty_layer_is_warned_of():
    model = net()
    model.get_layer("first").kernel.assign(model.get_layer("first").kernel * 1e-3)
    with pytest.warns(PruningWarning, match=r"with 10.00% of the weights left, first would keep none"):
        magnitude_masks(model, 0.1, scope="network")


def test_blocks_go_as_a_whole():
    weights = np.random.default_rng(0).normal(size=(3, 3, 8, 6))
    for pool in ("mean", "max"):
        mask = blocks(4, 2, pool=pool)(weights, 0.5)
        parts = mask.reshape(3, 3, 2, 4, 3, 2)
        assert np.all(parts.all((3, 5)) | ~parts.any((3, 5)))
        assert mask.mean() == 0.5
    ragged = blocks(4, 4)(np.random.default_rng(0).normal(size=(6, 5)), 0.5)
    assert ragged.shape == (6, 5)
    # The block whose mean is greatest is kept: (1+9)/2 < (6+5)/2, but 9 is the largest number.
    rows = np.array([[1.0, 6.0], [9.0, 5.0]])
    np.testing.assert_array_equal(blocks(2, 1)(rows, 0.5), [[False, True], [False, True]])
    np.testing.assert_array_equal(blocks(2, 1, pool="max")(rows, 0.5), [[True, False], [True, False]])


def test_two_of_four_stay():
    weights = np.random.default_rng(0).normal(size=(3, 3, 10, 5))
    mask = n_of_m(2, 4)(weights, 0.9)
    np.testing.assert_array_equal(mask[:, :, :8].reshape(3, 3, 2, 4, 5).sum(3), 2)
    assert mask[:, :, 8:].all()  # two inputs that fill no row
    kept = np.sort(np.abs(weights[0, 0, :4, 0]))[2:]
    np.testing.assert_array_equal(np.sort(np.abs(weights[0, 0, :4, 0][mask[0, 0, :4, 0]])), kept)


# -- iterative ---


def test_rounds_halve_and_the_last_takes_the_rest():
    assert ratios(8) == [2, 4, 8]
    assert ratios(20) == [2, 4, 8, 16, 20]
    assert ratios(5, np.inf) == [5]
    assert ratios(1.5) == [1.5]


@pytest.mark.parametrize(
    "optimizer", ["adam", keras.optimizers.AdamW(weight_decay=0.1), keras.optimizers.SGD(0.01, 0.9)]
)
@pytest.mark.parametrize("scope", ["layer", "network"])
def test_zeros_stay_zero_whatever_the_optimizer_does(scope, optimizer, tmp_path):
    model = net()
    before = [np.array(value) for value in model.get_weights()]
    config = keras.optimizers.serialize(keras.optimizers.get(optimizer))
    losses = []

    def fit(copy):
        losses.append(fitting(keras.optimizers.deserialize(config))(copy))
        return losses[-1]

    thinned = iterative_magnitude(model, fit, 5, scope, per_round=3)
    assert [round(each.compression_ratio, 1) for each in thinned.rounds] == pytest.approx([3, 5], rel=0.02)
    assert [each.fitted for each in thinned.rounds] == losses
    found = kernels(thinned.model)
    for name, mask in thinned.masks.items():
        assert not np.any(keras.ops.convert_to_numpy(found[name])[~mask])
    for value, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(value, now)
    thinned.model.save(tmp_path / "thinned.keras")
    loaded = keras.models.load_model(tmp_path / "thinned.keras")
    assert pruning.count(loaded).n_nonzero == pruning.count(thinned.model).n_nonzero < 0.4 * loaded.count_params()
    assert all(kernel.constraint is None for kernel in kernels(thinned.model).values())


ON_ANOTHER_BACKEND = """
import keras, numpy as np, sys
from test_magnitude import fitting, net
from pruning import iterative_magnitude
from pruning.masks import kernels
assert keras.backend.backend() == sys.argv[1]
thinned = iterative_magnitude(net(), fitting(keras.optimizers.AdamW(weight_decay=0.1)), 4, per_round=np.inf)
found = kernels(thinned.model)
print(max(np.abs(keras.ops.convert_to_numpy(found[name]))[~mask].max() for name, mask in thinned.masks.items()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", OTHERS)
def test_zeros_stay_zero_on_other_backends(backend):
    skip_where_missing(backend)
    assert float(on(backend, ON_ANOTHER_BACKEND, backend).splitlines()[-1]) == 0


def test_layer_wise_speedup_is_the_ratio_and_network_wide_less():
    given = image(16, 16)
    x = L.Conv2D(8, 3, padding="same", name="fine")(given)
    x = L.MaxPooling2D(2)(x)
    x = L.Conv2D(32, 3, padding="same", name="coarse")(x)
    model = keras.Model(given, head(x, 4))
    model.get_layer("coarse").kernel.assign(model.get_layer("coarse").kernel * 0.3)
    speedups = {}
    for scope in ("layer", "network"):
        thinned = iterative_magnitude(model, lambda _: None, 4, scope)
        speedups[scope] = pruning.theoretical_speedup(pruning.count(model), pruning.count(thinned.model))
    assert speedups["layer"] == pytest.approx(4, rel=0.01)
    assert speedups["network"] < 3.5


def test_rewinding_trains_from_earlier_weights():
    model = net()
    early = [np.array(value) for value in model.get_weights()]
    starts = []

    def fit(copy):
        starts.append([np.array(value) for value in copy.get_weights()])
        fitting()(copy)

    thinned = iterative_magnitude(model, fit, 4, rewind_to=early)
    for start in starts:
        kernel = start[0]
        np.testing.assert_array_equal(kernel[kernel != 0], early[0][kernel != 0])
    assert thinned.rounds[-1].compression_ratio == pytest.approx(4, rel=0.01)


def test_constraints_of_ones_own_hold_too():
    model = net()
    own = keras.constraints.NonNeg()
    model.get_layer("first").kernel.constraint = own
    masks = magnitude_masks(model, 0.5)
    with pruning.held_at_zero(model, masks):
        fitting()(model)
    kernel = keras.ops.convert_to_numpy(model.get_layer("first").kernel)
    assert kernel.min() >= 0
    assert not np.any(kernel[~masks["first/kernel"]])
    assert model.get_layer("first").kernel.constraint is own


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: magnitude_masks(net(), 0), "must lie above 0 and be at most 1, but got 0"),
        (lambda: magnitude_masks(net(), 0.5, scope="all"), "`scope` must be layer or network, but got 'all'"),
        (lambda: magnitude_masks(net(), 0.5, least=0.6), "`least` must lie between 0 and the share that stays, 0.5"),
        (lambda: magnitude_masks(net(), 0.5, layers=["thrid"]), "there is no layer 'thrid'"),
        (lambda: magnitude_masks(net(), 0.5, layers=["batch"]), "batch has no kernel whose weights could be masked"),
        (lambda: magnitude_masks(net(), 0.5, scope="network", pattern=n_of_m(2, 4)), "a pattern needs scope='layer'"),
        (lambda: n_of_m(4, 4), "0 < n < m, but got n=4, m=4"),
        (lambda: blocks(0, 2), "a block needs sides of at least 1"),
        (lambda: blocks(2, 2, pool="min"), "`pool` must be mean or max"),
        (lambda: iterative_magnitude(net(), lambda _: None, 1), "a compression ratio must be above 1, but got 1"),
        (lambda: pruning.apply_masks(net(), {"first/kernel": np.ones(3, bool)}), "but its mask has"),
        (lambda: pruning.apply_masks(net(), {"x/kernel": np.ones(3, bool)}), "the masks belong to another model"),
        (
            lambda: iterative_magnitude(net(), lambda m: m.set_weights([w + 1 for w in m.get_weights()]), 2),
            "masked weights of first/kernel are not 0 after `fit`",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(PruningError, match=message):
        call()


# -- whole channels ---


def test_channels_of_least_norm_go():
    model = net(4)
    layer = model.get_layer("first")
    kernel, bias = np.ones((3, 3, 2, 4), "float32"), np.zeros(4, "float32")
    kernel[..., 1] *= 0.1
    kernel[..., 3] *= 0.2
    bias[1] = 5  # kernel and bias count together: 18 * 0.1 + 5 > 18 * 0.2
    layer.kernel.assign(kernel)
    layer.bias.assign(bias)
    keep = pruning.select_channels(model, {"first": 3})
    np.testing.assert_array_equal(keep["first"], [0, 1, 2])


def test_the_channel_in_the_midst_of_others_goes():
    model = net(4)
    for channel, value in enumerate((1.0, 2.0, 2.1, 4.0)):
        kernel = keras.ops.convert_to_numpy(model.get_layer("first").kernel).copy()
        kernel[..., channel] = value
        model.get_layer("first").kernel.assign(kernel)
    model.get_layer("first").bias.assign(np.zeros(4))
    # Distances to the others: 1 -> 1 + 1.1 + 3; 2 -> 1 + 0.1 + 2; 2.1 -> 1.1 + 0.1 + 1.9; 4 -> 3 + 2 + 1.9.
    keep = pruning.select_channels(model, {"first": 3}, by="geometric_median")
    assert set(keep["first"].tolist()) in ({0, 2, 3}, {0, 1, 3})


def test_scales_of_normalization_count():
    model = randomized(through(lambda: L.BatchNormalization(name="batch"))())
    scales = np.array([0.5, -0.1, 2.0, 0.3, -3.0, 1.0], "float32")
    model.get_layer("batch").gamma.assign(scales)
    keep = pruning.select_channels(model, {"first": 4}, by="batch_norm")
    np.testing.assert_array_equal(keep["first"], [0, 2, 4, 5])
    with pytest.raises(PruningError, match="by='batch_norm' needs normalization with a scale after every layer; first"):
        pruning.select_channels(randomized(FAMILY["conv2d"]()), {"first": 4}, by="batch_norm")


@pytest.mark.parametrize("by", ["l1", "l2", "geometric_median", "random", "largest_layer", "first_order"])
def test_every_criterion_reaches_every_target(by):
    model = randomized(FAMILY["skip"]())
    rng = np.random.default_rng(0)
    data = [(rng.normal(size=(2, 8, 8, 2)).astype("float32"), rng.normal(size=(2, 8, 8, 3)).astype("float32"))]
    more = {"data": data, "loss": "mse"} if by == "first_order" else {}
    before = pruning.count(model)
    for target in (Target(multiply_adds=0.5), Target(parameters=0.4), Target(share=0.5), Target(n_maps=3)):
        small = pruning.shrink(model, pruning.select_channels(model, target, by, **more))
        after = pruning.count(small)
        assert target.multiply_adds is None or after.n_multiply_adds <= 0.5 * before.n_multiply_adds
        assert target.parameters is None or after.n_parameters <= 0.4 * before.n_parameters
        assert after.n_parameters < before.n_parameters


def test_the_same_share_of_every_layer_goes():
    model = randomized(FAMILY["skip"]())
    graph = pruning.Graph(model)
    keep = pruning.select_channels(model, Target(share=0.5), scope="layer")
    assert {name: len(kept) for name, kept in keep.items()} == {
        name: round(len(graph.features(name)) / 2) for name in graph.prunable()
    }


def test_the_largest_layer_gives_way_first():
    model = randomized(FAMILY["skip"]())  # first 6, down 8, up 5
    keep = pruning.select_channels(model, Target(n_maps=4), "largest_layer")
    assert {name: len(kept) for name, kept in keep.items()} == {"first": 5, "down": 5}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pruning.select_channels(net(), Target(share=0.5), "norm"), "`by` must be one of l1, l2"),
        (lambda: pruning.select_channels(net(), Target(share=0.5), scope="all"), "`scope` must be network or layer"),
        (lambda: pruning.select_channels(net(), Target(n_maps=2), scope="layer"), "needs Target\\(share=...\\)"),
        (lambda: pruning.select_channels(net(), Target(share=0.5), "first_order"), "needs `data` and `loss`"),
        (lambda: pruning.select_channels(net(), Target(loss_increase=1.0)), "`loss_increase` needs the true loss"),
        (lambda: pruning.select_channels(net(), {"first": 99}), "first can keep 1 to 8 channels, but is to keep 99"),
        (lambda: pruning.select_channels(net(), Target(parameters=0.001)), "cannot be reached"),
    ],
)
def test_bad_choices_are_refused(call, message):
    with pytest.raises(PruningError, match=message):
        call()


# -- the table ---


def test_a_report_says_what_was_bought(tmp_path):
    model = net()
    half = pruning.shrink(model, pruning.select_channels(model, Target(share=0.5), scope="layer"))
    models, batch = {"before": model, "half": half}, np.zeros((2, 8, 8, 2), "float32")
    found = pruning.report(
        models,
        predict={name: each.predict_on_batch for name, each in models.items()},
        batch=batch,
        scores={"before": 0.9, "half": 0.8},
    )
    first, second = found.rows
    assert (first.speedup, first.compression_ratio) == (1.0, 1.0)
    assert second.count == pruning.count(half)
    assert second.theoretical_speedup == pytest.approx(
        pruning.count(model).n_multiply_adds / second.count.n_multiply_adds
    )
    assert second.latency_s > 0
    assert second.file_bytes < first.file_bytes
    lines = str(found).splitlines()
    assert lines[0].split("  ")[0] == "model"
    assert "measured speed-up" in lines[0]
    assert len({len(line) for line in lines}) <= 2
    found.to_csv(tmp_path / "table.csv")
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 3
    found.plot(tmp_path / "table.png")
    pruning.report(models).plot(tmp_path / "bars.png")
    assert (tmp_path / "bars.png").stat().st_size > 1000
    assert "latency" not in str(pruning.report(models))


def test_reports_refuse_what_does_not_fit():
    models = {"a": net()}
    for arguments, message in (
        ({"models": {}}, "a report needs at least one model"),
        ({"models": models, "predict": {"b": None}}, "`predict` must name the same models, a, but got b"),
        ({"models": models, "predict": {"a": None}}, "`predict` needs a `batch`"),
    ):
        with pytest.raises(PruningError, match=message):
            pruning.report(**arguments)
    with pytest.raises(PruningError, match="`n_rounds` must be at least 1"):
        pruning.latencies({}, np.zeros(1), 0)


def test_channels_that_nothing_reads_go():
    model = net()
    kernel = keras.ops.convert_to_numpy(model.get_layer("second").kernel).copy()
    kernel[:, :, [1, 4]] = 0
    model.get_layer("second").kernel.assign(kernel)
    small = pruning.without_zeros(model)
    assert small.get_layer("first").filters == 6
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 2)).astype("float32")
    np.testing.assert_allclose(small.predict_on_batch(x), model.predict_on_batch(x), rtol=1e-4, atol=1e-4)
    model.get_layer("head").kernel.assign(np.zeros((1, 1, 8, 3)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", PruningWarning)
        tiny = pruning.without_zeros(model)
    assert (tiny.get_layer("first").filters, tiny.get_layer("second").filters) == (6, 1)
