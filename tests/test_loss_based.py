"""Loss-based pruning: the loss without a channel is the smaller model's, and the ordering is the naive one."""

import json

import keras
import numpy as np
import pytest
from backends import OTHERS, on, skip_where_missing
from pruning_family import FAMILY, L, head, image, inputs_for, randomized, through

from pruning import Graph, Ordering, PruningError, Search, Target, loss_ordering, masked, prune_by_loss, shrink
from pruning.batches import Draws, Objective, read_batch
from pruning.cut import NOTHING, Cut
from pruning.loss_based import Remover, free_units


def problem(model, seed=0, n_batches=1, batch=2):
    """Random batches for a model."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n_batches):
        images = [rng.normal(size=(batch, *t.shape[1:])).astype("float32") for t in model.inputs]
        answers = keras.tree.flatten(model(images if len(images) > 1 else images[0], training=False))
        labels = [rng.normal(size=answer.shape).astype("float32") for answer in answers]
        found.append((images, labels))
    return found


def naive_loss(model, batches, objective):
    """The mean loss of a model as it is."""
    found = []
    for images, labels in batches:
        answers = keras.tree.flatten(model(images if len(images) > 1 else images[0], training=False))
        found.append(float(objective.total(labels, None, answers)))
    return float(np.mean(found))


def naive_losses(model, units, batches, objective, removed=(), at_weights=False):
    """The loss without each unit, by a full forward pass each."""
    found = []
    for unit in units:
        remover = Remover(Graph(masked(model, {})), at_weights)
        for gone in (*removed, unit):
            remover.remove(gone)
        found.append(naive_loss(remover.graph.model, batches, objective))
    return np.array(found)


def compare(name):
    """How far losses and slopes of a family member are from the naive ones."""
    model, objective = randomized(FAMILY[name]()), Objective("mse")
    (content,) = problem(model)
    batch, graph = read_batch(content), Graph(masked(model, {}))
    layer = graph.prunable()[0]
    units = free_units(graph, [layer])
    cut = Cut(graph, units, objective)
    mine, expected = cut.losses(batch, [NOTHING, *units]), naive_losses(model, units, [content], objective)
    base = naive_loss(model, [content], objective)
    apart = np.abs(mine - [base, *expected]).max() / base
    return float(apart), float(np.abs(expected - base).max() / base), cut.predicted(batch)


@pytest.mark.parametrize("name", FAMILY)
def test_losses_are_those_of_the_masked_model(name):
    apart, changed, slopes = compare(name)
    assert apart < 1e-5
    assert changed > 1e-4
    assert np.all(np.isfinite(slopes))
    assert np.any(slopes != 0)


# Shrinking is tested for the whole family on every backend; here one of each way to cut a model.
ELSEWHERE = ["conv1d", "conv3d", "transposed2d", "separable2d", "grouped", "flatten", "residual", "squeeze", "shared"]
ELSEWHERE += ["nested", "several-outputs"]

ON_ANOTHER_BACKEND = """
import json, sys
import numpy as np
import keras
from test_loss_based import compare, small_net, problem
from pruning import loss_ordering
assert keras.backend.backend() == sys.argv[1]
found = {name: compare(name)[0] for name in sys.argv[2:]}
model = small_net()
order = loss_ordering(model, problem(model), "mse", "first")
print(json.dumps([found, [removal.channels[0] for removal in order.removals]]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", OTHERS)
def test_losses_are_the_same_on_other_backends(backend):
    skip_where_missing(backend)
    found, order = json.loads(on(backend, ON_ANOTHER_BACKEND, backend, *ELSEWHERE).splitlines()[-1])
    assert {name: apart for name, apart in found.items() if apart >= 1e-5} == {}
    model = small_net()
    expected = loss_ordering(model, problem(model), "mse", "first")
    assert order == [removal.channels[0] for removal in expected.removals]


def small_net():
    given = image(8, 8)
    x = L.Conv2D(7, 3, activation="relu", name="first")(given)
    x = L.MaxPooling2D(2)(x)
    x = L.Conv2D(5, 3, activation="relu", name="second")(x)
    return randomized(keras.Model(given, head(L.Flatten()(x), 2)))


def naive_order(model, layer, batches, objective, *, at_weights=False):
    """Exact greedy search by full forward passes."""
    units = free_units(Graph(model), [layer])
    gone, losses = [], []
    while len(gone) < len(units) - 1:
        left = [unit for unit in units if unit not in gone]
        found = naive_losses(model, left, batches, objective, gone, at_weights)
        gone.append(left[int(np.argmin(found))])
        losses.append(found.min())
    return [units.index(unit) for unit in gone], losses


@pytest.mark.parametrize("at_weights", [False, True])
@pytest.mark.parametrize("layer", ["first", "second"])
def test_the_exact_order_is_the_naive_one(layer, at_weights):
    model = small_net()
    batches = problem(model, n_batches=3)
    ordering = loss_ordering(model, batches, "mse", layer, search=Search("exact", n_batches=3, at_weights=at_weights))
    channels, losses = naive_order(model, layer, batches, Objective("mse"), at_weights=at_weights)
    assert [removal.channels for removal in ordering.removals] == [(channel,) for channel in channels]
    np.testing.assert_allclose(ordering.losses[1:], losses, rtol=1e-5)
    assert ordering.loss == pytest.approx(naive_loss(model, batches, Objective("mse")), rel=1e-5)


def test_zeros_in_weights_leave_what_an_activation_makes_of_zero():
    given = image(6, 6)
    x = L.Conv2D(4, 3, activation="sigmoid", name="first")(given)
    model = randomized(keras.Model(given, head(x)))
    (content,) = problem(model)
    for at_weights in (False, True):
        graph = Graph(masked(model, {}))
        units = free_units(graph, ["first"])
        mine = Cut(graph, units, Objective("mse"), at_weights=at_weights).losses(read_batch(content), units)
        expected = naive_losses(model, units, [content], Objective("mse"), at_weights=at_weights)
        np.testing.assert_allclose(mine, expected, rtol=1e-5)
        if at_weights:
            half = masked(model, {})
            kernel, bias = half.get_layer("first").kernel, half.get_layer("first").bias
            kernel.assign(np.array(kernel) * [0, 1, 1, 1])
            bias.assign(np.array(bias) * [0, 1, 1, 1])
            assert mine[0] == pytest.approx(naive_loss(half, [content], Objective("mse")), rel=1e-5)


@pytest.mark.parametrize("kind", ["prefilter", "first_order", "lazy"])
def test_faster_searches_come_close(kind):
    model = small_net()
    batches = problem(model, n_batches=4)
    exact = loss_ordering(model, batches, "mse", "first", search="exact")
    fast = loss_ordering(model, batches, "mse", "first", search=Search(kind, n_prefiltered=3))
    assert {removal.channels for removal in fast.removals} <= {(channel,) for channel in range(7)}
    assert len(set(fast.removals)) == len(exact) == 6
    assert fast.n_evaluations < exact.n_evaluations
    if kind != "first_order":
        assert fast.removals[0] == exact.removals[0] or kind == "prefilter"
    worst = max(loss_ordering(model, batches, "mse", "first", search="exact").losses)
    assert fast.losses[3] <= worst


def test_derivatives_serve_for_several_removals(monkeypatch):
    model = small_net()
    batches = problem(model, n_batches=2)
    asked = []
    predicted = Cut.predicted
    monkeypatch.setattr(Cut, "predicted", lambda self, batch: asked.append(batch) or predicted(self, batch))
    often = loss_ordering(model, batches, "mse", "first", search=Search(n_batches=2, n_prefiltered=1, rank_every=1))
    assert len(often) == 6 and len(asked) == 2 * 6
    asked.clear()
    assert (
        len(loss_ordering(model, batches, "mse", "first", search=Search(n_batches=2, n_prefiltered=1, rank_every=3)))
        == 6
    )
    assert len(asked) == 2 * 2
    with pytest.raises(PruningError, match="`rank_every` must be at least 1"):
        Search(rank_every=0)


def test_first_order_scores_are_derivatives():
    model = small_net()
    (content,) = problem(model)
    graph = Graph(masked(model, {}))
    units = free_units(graph, ["first"])
    slopes = Cut(graph, units, Objective("mse")).predicted(read_batch(content))
    kernel = model.get_layer("second").kernel
    whole = np.array(kernel)
    for channel in range(7):
        losses = []
        for factor in (0.99, 1.01):
            scaled = whole.copy()
            scaled[:, :, channel] *= factor
            kernel.assign(scaled)
            losses.append(naive_loss(model, [content], Objective("mse")))
        assert slopes[channel] == pytest.approx((losses[0] - losses[1]) / 0.02, rel=1e-2, abs=2e-3)
    kernel.assign(whole)


def test_the_whole_network_is_ordered_together():
    model = small_net()
    batches = problem(model, n_batches=2)
    before = [np.array(value) for value in model.get_weights()]
    ordering = loss_ordering(model, batches, "mse", target=Target(n_maps=6), search="exact")
    assert len(ordering) == 6
    assert {removal.layer for removal in ordering.removals} == {"first", "second"}
    small = shrink(model, ordering.keep(Graph(model)))
    assert naive_loss(small, batches, Objective("mse")) == pytest.approx(ordering.losses[-1], rel=1e-5)
    half = shrink(model, ordering.keep(Graph(model), 3))
    assert naive_loss(half, batches, Objective("mse")) == pytest.approx(ordering.losses[3], rel=1e-5)
    for value, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(value, now)


def test_caution_counts_standard_errors_of_the_rise():
    model, objective = small_net(), Objective("mse")
    batches = problem(model, n_batches=6)
    units = free_units(Graph(model), ["first"])
    losses = np.array([naive_losses(model, units, [content], objective) for content in batches])
    rises = losses - np.array([[naive_loss(model, [content], objective)] for content in batches])
    first = []
    for caution in (0.0, 1.0, 3.0, 10.0):
        ranks = rises.mean(0) + caution * rises.std(0, ddof=1) / np.sqrt(6)
        search = Search("exact", n_batches=6, caution=caution)
        ordering = loss_ordering(model, batches, "mse", "first", target=Target(n_maps=1), search=search)
        first.append(ordering.removals[0].channels[0])
        assert first[-1] == np.argmin(ranks)
        assert ordering.losses[1] == pytest.approx(losses.mean(0)[first[-1]], rel=1e-5)
    assert len(set(first)) > 1
    # All that is not known is how the others compare: lazy search begins as exact search does.
    search = Search("lazy", n_batches=6, caution=3.0)
    ordering = loss_ordering(model, batches, "mse", "first", target=Target(n_maps=1), search=search)
    assert ordering.removals[0].channels == (first[2],)


def test_several_go_at_once():
    model = small_net()
    batches = problem(model)
    ordering = loss_ordering(model, batches, "mse", "first", search=Search("first_order", at_once=3))
    assert len(ordering) == 6
    # Before anything goes, and after each of two steps; the loss after a step is that of the model without all of it.
    n_batches = len(batches[:4])
    assert ordering.n_evaluations == 3 * n_batches and len(set(ordering.losses[1:])) == 2
    small = shrink(model, ordering.keep(Graph(model), 3))
    assert naive_loss(small, batches, Objective("mse")) == pytest.approx(ordering.losses[3], rel=1e-5)
    # No more go than were asked for, however many go at once, and none where a step would cost too much.
    search = Search("first_order", at_once=3)
    pruned = prune_by_loss(model, batches, "mse", keep={"first": 3}, search=search)
    assert pruned.model.get_layer("first").filters == 3
    most = float(ordering.losses[3]) - float(ordering.losses[0])
    assert len(loss_ordering(model, batches, "mse", "first", target=Target(loss_increase=most), search=search)) in (
        3,
        6,
    )
    assert not len(loss_ordering(model, batches, "mse", "first", target=Target(loss_increase=-20.0), search=search))


@pytest.mark.parametrize(
    ("target", "holds"),
    [
        (Target(share=0.5), lambda small, before: small.count_params() < before),
        (Target(parameters=0.5), lambda small, before: small.count_params() <= 0.5 * before),
        (Target(multiply_adds=0.4), lambda small, before: True),
    ],
)
def test_targets_are_reached(target, holds):
    import pruning

    model = small_net()
    pruned = prune_by_loss(model, problem(model), "mse", target=target)
    assert holds(pruned.model, model.count_params())
    assert pruned.after == pruning.count(pruned.model)
    if target.multiply_adds is not None:
        assert pruned.after.n_multiply_adds <= 0.4 * pruned.before.n_multiply_adds


def test_costs_left_are_those_of_the_smaller_model():
    import pruning
    from pruning.target import Costs

    for name in ("skip", "separable2d", "residual", "squeeze", "grouped", "nested"):
        model = randomized(FAMILY[name]())
        graph = Graph(model)
        remover = Remover(graph)
        for unit in free_units(graph, None)[::2]:
            if remover.can_go(unit):
                remover.take(unit)
        from pruning.ordering import keep_without

        small = pruning.count(shrink(model, keep_without(graph, remover.removed)))
        left = Costs(graph, pruning.count_layers(model)).left(remover.removed)
        assert (left.n_parameters, left.n_multiply_adds) == (small.n_parameters, small.n_multiply_adds), name


def test_the_loss_may_rise_only_so_far():
    model = small_net()
    batches = [(images, keras.ops.convert_to_numpy(model(images[0]))) for images, _ in problem(model, n_batches=2)]
    most = 0.3 * loss_ordering(model, batches, "mse", "first").losses.max()
    ordering = loss_ordering(model, batches, "mse", "first", target=Target(loss_increase=most))
    assert 0 < len(ordering) < 6
    assert np.all(ordering.losses <= most)
    pruned = prune_by_loss(model, batches, "mse", target=Target(loss_increase=most))
    loss = naive_loss(pruned.model, [(images, [labels]) for images, labels in batches], Objective("mse"))
    assert 0 < loss <= most * (1 + 1e-5)


@pytest.mark.parametrize("rounds", [1, 3])
def test_layers_are_pruned_from_the_bottom_up_and_retrained(rounds):
    model = small_net()
    batches, seen = problem(model, n_batches=4), []

    def retrain(small):
        small.compile("sgd", "mse")
        seen.append((small.get_layer("first").filters, small.get_layer("second").filters))
        small.fit(*[np.concatenate(part) for part in zip(*[(x[0], y[0]) for x, y in batches], strict=True)], verbose=0)

    pruned = prune_by_loss(model, batches, "mse", keep={"second": 2, "first": 4}, rounds=rounds, retrain=retrain)
    assert seen[-1] == (4, 2)
    assert len(seen) == rounds
    assert [ordering.removals[0].layer for ordering in pruned.orderings[:2]] == ["first", "second"]
    if rounds == 3:
        assert seen == [(6, 4), (5, 3), (4, 2)]


def test_tied_channels_go_together():
    model = randomized(FAMILY["grouped"]())
    pruned = prune_by_loss(model, problem(model), "mse", keep={"grouped": 6})
    assert pruned.model.get_layer("grouped").filters == 6
    with pytest.raises(PruningError, match="the channels of grouped go 3 at a time"):
        prune_by_loss(model, problem(model), "mse", keep={"grouped": 5})


def test_held_out_loss_is_followed(tmp_path):
    model = small_net()
    ordering = loss_ordering(model, problem(model), "mse", "first", heldout=problem(model, seed=5, n_batches=2))
    (last,) = {removal.heldout for removal in ordering.removals[-1:]}
    small = shrink(model, ordering.keep(Graph(model)))
    assert last == pytest.approx(naive_loss(small, problem(model, seed=5, n_batches=2), Objective("mse")), rel=1e-5)
    assert Ordering.from_dict(json.loads(json.dumps(ordering.to_dict()))) == ordering
    ordering.plot(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 1000


def test_weights_of_samples_and_several_outputs_count():
    model = randomized(FAMILY["several-outputs"]())
    ((images, labels),) = problem(model)
    weights = [np.arange(128, dtype="float32").reshape(2, 8, 8) % 3] * 2
    (first, second) = (keras.losses.MeanSquaredError(), keras.losses.MeanAbsoluteError())
    graph = Graph(masked(model, {}))
    units = free_units(graph, ["first"])
    objective = Objective([first, second], [1.0, 0.3])
    mine = Cut(graph, units, objective).losses(read_batch((images, labels, weights)), [NOTHING])
    answers = keras.tree.flatten(model(images))
    expected = float(first(labels[0], answers[0], weights[0])) + 0.3 * float(second(labels[1], answers[1], weights[1]))
    assert mine[0] == pytest.approx(expected, rel=1e-5)


def test_batches_are_drawn_anew_and_from_any_iterable():
    batches = [(np.full((1, 1), i), np.full((1, 1), i)) for i in range(6)]
    draws = Draws(batches, 2, seed=0)
    drawn = [tuple(batch.key for batch in draws.draw()) for _ in range(20)]
    assert len(set(drawn)) > 5
    assert all(len(set(keys)) == 2 for keys in drawn)
    assert drawn == [tuple(batch.key for batch in again.draw()) for again in [Draws(batches, 2, seed=0)] for _ in drawn]
    taken = Draws(iter(batches * 2), 3)
    assert [int(batch.images[0][0, 0]) for _ in range(4) for batch in taken.draw()] == list(range(6)) * 2

    class Twice(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return batches[index]

    assert {int(batch.images[0][0, 0]) for batch in Draws(Twice(), 5).draw()} == {0, 1}
    with pytest.raises(PruningError, match="the data gives no batches"):
        taken.draw()
        taken.draw()


# -- refusals ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer": "frist"}, "there is no layer 'frist' with channels; layers that make some are first, second, head"),
        ({"layer": "head"}, "head makes 2 channels; none can be removed: they reach the output head"),
        ({"search": "best"}, "`search` must be one of exact, prefilter, first_order, lazy, but got 'best'"),
        ({"layer": None}, "a whole network needs a target"),
        ({"batches": []}, "the data gives no batches"),
        ({"batches": iter([])}, "the data gives no batches"),
        ({"batches": [np.zeros(3)]}, r"a batch must be \(x, y\)"),
        ({"heldout": []}, "the held-out data gives no batches"),
        ({"loss": lambda y, p: keras.ops.mean(p) * np.nan}, "the loss before anything is removed is nan; check"),
        ({"loss": ["mse", "mse"]}, "the model has 1 outputs, but 2 losses"),
        ({"target": Target(n_maps=7)}, "cannot be reached: with one channel in every layer"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    model = small_net()
    given = {"batches": problem(model), "loss": "mse", "layer": "first", **arguments}
    with pytest.raises(PruningError, match=message):
        loss_ordering(model, given.pop("batches"), given.pop("loss"), given.pop("layer"), **given)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Target(), "a target needs at least one of"),
        (lambda: Target(share=1.0), "`share` must lie above 0 and below 1, but got 1.0"),
        (lambda: Target(n_maps=-1), "`n_maps` must not be negative"),
        (lambda: Search("exact", n_batches=0), "`n_batches` must be at least 1"),
        (lambda: Search("exact", n_batches=1, caution=1.0), "`caution` is 0, or more with two batches or more"),
        (lambda: prune_by_loss(small_net(), [], "mse"), "give either `keep`"),
        (lambda: prune_by_loss(small_net(), [1], "mse", keep={"first": 0}), "first can keep 1 to 7 channels"),
        (lambda: prune_by_loss(small_net(), [1], "mse", keep={"first": 2}, rounds=0), "`rounds` must be at least 1"),
        (
            lambda: prune_by_loss(small_net(), problem(small_net()), "mse", target=Target(parameters=0.001)),
            "cannot be reached: with one channel in every layer that can be pruned",
        ),
    ],
)
def test_bad_targets_are_refused(make, message):
    with pytest.raises(PruningError, match=message):
        make()


def test_a_subclassed_model_is_refused():
    class Mine(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(PruningError, match="Mine is no functional or Sequential model"):
        loss_ordering(Mine(), problem(small_net()), "mse", "first")


def test_dropout_and_batch_statistics_play_no_part():
    model = randomized(through(lambda: L.Dropout(0.9), lambda: L.BatchNormalization())())
    (content,) = problem(model)
    graph = Graph(masked(model, {}))
    cut = Cut(graph, free_units(graph, ["first"]), Objective("mse"))
    first, again = cut.predicted(read_batch(content)), cut.predicted(read_batch(content))
    np.testing.assert_array_equal(first, again)
    assert inputs_for(model)[0].shape == (2, 8, 8, 2)
