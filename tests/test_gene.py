"""The laws of the gene tree: sums, structure, refusals that change nothing, round trips."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import genenet as gn
from genenet.genes import ROOTS
from genenet.genes.vocabulary import ACTIVATIONS, penalty
from genenet.plan import swap_separator


def test_a_value_is_the_sum_of_the_deltas_above():
    net = gn.UNet(n_classes=2)
    net["decode"].add(n_features=-16)
    net["decode/stack1"].add(n_features=4)
    net["decode/stack1/conv0"].add(n_features=-2)
    # 64 - 16 + 4 - 2
    assert net["decode/stack1/conv0"].n_features == 50
    assert net["decode/stack1/conv1"].n_features == 52
    assert net["encode/stack1"].n_features == 64
    assert net["decode/stack1/conv0"].parts("n_features") == [
        ("", 64), ("decode", -16), ("decode/stack1", 4), ("decode/stack1/conv0", -2)
    ]  # fmt: skip


def test_set_chooses_the_delta():
    net = gn.UNet(n_classes=2)
    net.add(n_features=-10)
    net["encode/stack2"].set(n_features=30, activation="elu", dropout=0.25)
    assert net["encode/stack2"].n_features == 30
    assert net["encode/stack2/conv0"].activation == "elu"
    assert net["encode/stack2/conv0"].dropout == pytest.approx(0.25)
    assert net.to_dict()["deltas"]["encode/stack2"]["n_features"] == -24


def test_choices_are_clipped_to_their_options():
    net = gn.UNet(n_classes=2)
    net["encode"].add(activation=100)
    assert net["encode/stack0/conv0"].activation == ACTIVATIONS[-1]
    net["encode"].add(activation=-200)
    assert net["encode/stack0/conv0"].activation == ACTIVATIONS[0]


def test_structure_follows_the_values():
    net = gn.UNet(n_classes=2)
    assert net.layers_per_stack() == ((2, 2, 2, 2), (2, 2, 2, 2, 2))
    net["encode/stack2"].add(n_convs=1)
    net["decode"].add(n_convs=1)
    net["decode/stack4"].add(n_convs=2)
    assert net.layers_per_stack() == ((2, 2, 3, 2), (5, 3, 3, 3, 3))
    net.add(n_scales=-2)
    assert net.layers_per_stack() == ((2, 2), (3, 3, 3))


def test_deltas_of_vanished_genes_sleep_and_wake():
    net = gn.UNet(n_classes=2)
    net["encode/stack3/conv1"].add(n_features=8)
    net.set(n_scales=2)
    assert net.dormant == {"encode/stack3/conv1": {"n_features": 8}}
    assert "dormant" in net.tree()
    assert gn.from_dict(net.to_dict()) == net
    net.set(n_scales=4)
    assert net["encode/stack3/conv1"].n_features == 72
    assert not net.dormant
    net.set(n_scales=2)
    net.drop_dormant()
    net.set(n_scales=4)
    assert net["encode/stack3/conv1"].n_features == 64


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda net: net.add(n_features=-50), r"`n_features` must lie in \[1, 1024\], but got n_features=-2 at decode"),
        (lambda net: net["decode"].set(n_features=0), r"must lie in .* at decode"),
        (
            lambda net: net.add(kernel_size=1),
            r"must be odd, but got kernel_size=4; the nearest odd size is 5 at the root",
        ),
        (lambda net: net["encode/stack1"].add(foo=1), r"encode/stack1 knows no hyperparameter `foo`"),
        (lambda net: net["encode"].add(n_scales=1), r"`n_scales` has no effect at encode: it is read by the root"),
        (lambda net: net["head"].add(n_convs=1), r"`n_convs` has no effect at head"),
        (lambda net: net.set(padding="both"), r"`padding` must be one of valid, same, but got 'both' at the root"),
        (lambda net: net.add(n_features=1.5), r"`n_features` takes an integer, but got 1.5 at the root"),
        (lambda net: net.add(dropout="high"), r"`dropout` takes a number, but got 'high' at the root"),
        (lambda net: net.set(n_scales=True), r"`n_scales` takes an integer, but got True"),
        (lambda net: net.set(log10_learning_rate=1), r"`log10_learning_rate` must lie in \[-7, 0\]"),
    ],
)
def test_refusals_name_the_gene_and_change_nothing(edit, message):
    net = gn.UNet(n_classes=2)
    net["decode"].add(n_features=-16)
    before = net.to_dict()
    with pytest.raises(gn.InputError, match=message):
        edit(net)
    assert net.to_dict() == before


def test_waking_a_gene_out_of_bounds_is_refused():
    net = gn.UNet(n_classes=2)
    net["encode/stack3"].add(n_features=-60)
    net.set(n_scales=2)
    net.add(n_features=-10)
    with pytest.raises(gn.InputError, match=r"n_features=-6 at encode/stack3"):
        net.set(n_scales=4)
    assert net.n_scales == 2


def test_a_missing_gene_is_named_with_its_neighbours():
    net = gn.UNet(n_classes=2)
    with pytest.raises(KeyError, match=r"no gene 'encode/stack9': encode has stack0, stack1, stack2, stack3"):
        net["encode/stack9"]
    gone = net["encode/stack3"]
    net.set(n_scales=2)
    with pytest.raises(gn.InputError, match="there is no gene encode/stack3 any more"):
        gone.add(n_features=1)
    with pytest.raises(AttributeError, match="no attribute or hyperparameter 'n_layers'"):
        _ = net.n_layers


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "Net"}, "kind must be one of EncoderDecoder, UNet, .*, but got 'Net'"),
        ({"blueprint": 2}, "a blueprint is an object"),
        ({"deltas": {"encode": {"colour": 1}}}, "encode knows no hyperparameter `colour`"),
        ({"deltas": {"encode": {"n_features": "many"}}}, "takes an integer, but got 'many' at encode"),
        ({"deltas": {"": {"n_features": 5000}}}, r"must lie in \[1, 1024\]"),
        ({"n_classes": 1}, "`n_classes` must be an integer of at least 2, but got 1"),
    ],
)
def test_damaged_blueprints_are_refused(change, message):
    with pytest.raises(gn.InputError, match=message):
        gn.from_dict({**gn.UNet(n_classes=2).to_dict(), **change})


def edits():
    paths = ["", "encode", "decode", "encode/stack0", "decode/stack1", "decode/stack2/conv0", "encode/stack1/conv1"]
    names = ["n_features", "n_convs", "n_scales", "activation", "dropout", "kernel_size"]
    return st.lists(st.tuples(st.sampled_from(paths), st.sampled_from(names), st.integers(-4, 4)), max_size=8)


@settings(max_examples=60, deadline=None)
@given(edits())
def test_any_edits_leave_a_tree_that_survives_json(changes):
    net = gn.EncoderDecoder(n_classes=3)
    for path, name, delta in changes:
        try:
            net[path].add(**{name: delta}) if path else net.add(**{name: delta})
        except (gn.InputError, KeyError):
            continue
    twin = gn.from_dict(json.loads(json.dumps(net.to_dict())))
    assert twin == net
    assert twin.diff(net) == []
    for gene in net.walk():
        for declaration in gene.reads:
            assert declaration.problem(gene.total(declaration.name)) is None
            assert twin.genes[gene.path].value(declaration.name) == gene.value(declaration.name)


def test_diff_says_what_differs():
    left, right = gn.UNet(n_classes=2), gn.UNet(n_classes=3)
    right["encode"].add(n_features=4)
    right.set(activation="elu")
    found = {(entry.path, entry.name): (entry.mine, entry.theirs) for entry in left.diff(right)}
    assert found == {("", "n_classes"): (2, 3), ("", "activation"): ("relu", "elu"), ("encode", "n_features"): (0, 4)}
    assert str(left.diff(right)[-1]) == "encode: n_features 0 -> 4"


def test_copies_share_nothing():
    net = gn.UNet(n_classes=2)
    twin = net.copy()
    twin["encode"].add(n_features=1)
    assert net["encode"].n_features == 64
    assert twin["encode"].n_features == 65


def test_tree_shows_where_sums_come_from():
    net = gn.UNet(n_classes=2)
    net["decode"].add(n_features=-16)
    net["encode"].set(activation="elu")
    text = net.tree()
    assert "n_features 48 = 64 - 16 (decode)" in text
    assert "activation elu = relu + 3 (encode)" in text
    assert text.count("conv0") >= 9
    assert len(net.tree(short=True)) < len(text)


@pytest.mark.parametrize("kind", sorted(ROOTS))
def test_every_hyperparameter_is_declared_in_full(kind):
    for name, entry in ROOTS[kind](n_classes=2).vocabulary.items():
        assert entry.name == name
        assert entry.meaning
        assert entry.range()
        assert entry.problem(entry.total(entry.default)) is None


def test_names_go_both_ways():
    for gene in gn.UNet(n_classes=2).walk():
        assert swap_separator(swap_separator(gene.path)) == gene.path
        assert "/" not in swap_separator(gene.path)


def test_penalties_below_minus_ten_are_none():
    assert [penalty(x) for x in (-20.0, -10.1, -10.0, -2.0)] == [0.0, 0.0, 1e-10, 0.01]


def test_a_numpy_integer_is_an_integer():
    assert gn.UNet(n_classes=2, n_features=np.int64(8)).n_features == 8
