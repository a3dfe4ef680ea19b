"""Pruning trained networks and ensembles, by Python and by the program."""

import json

import numpy as np
import pytest
from test_cli import fine, refused

import genenet as gn
import pruning
from genenet.cli.pruning import pruning_target
from genenet.ensemble import Ensemble
from genenet.errors import InputError
from genenet.prune_ensemble import prune_ensemble
from genenet.prune_network import PruningSettings, prune_network
from genenet.saving import load_model


@pytest.fixture
def data(data_settings):
    return gn.Dataset.open(data_settings)


@pytest.fixture
def network(small_net, data, quick, tmp_path):
    return gn.train_network(small_net, data, tmp_path / "network", quick)


@pytest.mark.parametrize(
    "settings",
    [
        PruningSettings(target=pruning.Target(share=0.3), n_batches=1),
        PruningSettings("structured", target=pruning.Target(multiply_adds=0.5)),
        PruningSettings("structured", target=pruning.Target(share=0.3), by="first_order", n_batches=1),
        PruningSettings("magnitude", compression_ratio=4.0),
    ],
    ids=lambda settings: f"{settings.method}-{settings.by}",
)
def test_a_network_gets_smaller_and_stays_a_network(settings, network, data, quick, tmp_path):
    before = load_model(network.folder / "model.keras").get_weights()
    done = prune_network(network, data, tmp_path / "small", settings, quick)
    small = gn.Network.open(tmp_path / "small")
    first, *_, second = done.report.rows
    # Trained and scored in float32, compared in what is fast here.
    assert second.score == pytest.approx(small.scores["adjusted_rand"], abs=0.02)
    assert second.score == pytest.approx(gn.evaluate(small, data).adjusted_rand, abs=0.02)
    assert second.compression_ratio > 1.2
    if settings.method == "magnitude":
        assert second.count.n_parameters == first.count.n_parameters
        assert second.count.n_nonzero < 0.5 * first.count.n_nonzero
    else:
        assert small.n_parameters == second.count.n_parameters < first.count.n_parameters
    assert small.details["pruned"]["method"] == settings.method
    assert small.blueprint == network.blueprint
    for mine, now in zip(before, load_model(network.folder / "model.keras").get_weights(), strict=True):
        np.testing.assert_array_equal(mine, now)
    image = np.random.default_rng(0).integers(0, 255, (2, 40, 50)).astype(np.uint8)
    Ensemble((small,)).segment(image, tmp_path / "out.npy")
    assert np.load(tmp_path / "out.npy").shape == (2, 40, 50)


def test_rounds_show_what_each_costs(network, data, quick, tmp_path):
    settings = PruningSettings("structured", target=pruning.Target(multiply_adds=0.4))
    done = prune_network(network, data, tmp_path / "small", settings, quick, rounds=2)
    assert [row.name for row in done.report.rows] == ["before", "round 1", "after"]
    first, half, last = (row.count.n_multiply_adds for row in done.report.rows)
    assert first > half > last
    assert half <= 0.4**0.5 * first
    assert last <= 0.4 * first
    assert gn.Network.open(tmp_path / "small" / "rounds" / "1").n_parameters == done.report.rows[1].count.n_parameters
    assert len((tmp_path / "small" / "pruning.csv").read_text().splitlines()) == 4
    kept = PruningSettings("structured", keep={"encode__stack0__conv0": 1})
    found = prune_network(network, data, tmp_path / "kept", kept, rounds=3)
    rounds = [load_model(tmp_path / "kept" / "rounds" / str(n) / "model.keras") for n in (1, 2)]
    assert [model.get_layer("encode__stack0__conv0").filters for model in rounds] == [3, 2]
    assert found.network.n_parameters < gn.Network.open(tmp_path / "kept" / "rounds" / "2").n_parameters
    with pytest.raises(InputError, match="exists; choose another folder"):
        prune_network(network, data, tmp_path / "kept", kept)
    with pytest.raises(InputError, match="`rounds` must be at least 1, and 1 for magnitude"):
        prune_network(network, data, tmp_path / "m", PruningSettings("magnitude", compression_ratio=2.0), rounds=2)


@pytest.mark.parametrize("rounds", [1, 2])
def test_killed_it_continues(rounds, network, data, quick, tmp_path, monkeypatch):
    settings = PruningSettings("structured", target=pruning.Target(multiply_adds=0.4))
    whole = prune_network(network, data, tmp_path / "whole", settings, quick, rounds=rounds)
    begun = []

    def killed(step, _, record):
        begun.extend([record] if step == 0 else [])
        if len(begun) == rounds and step == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune_network(network, data, tmp_path / "small", settings, quick, rounds=rounds, watch=killed)
    assert not (tmp_path / "small").exists()
    with pytest.raises(InputError, match="holds an unfinished pruning with other settings|exists; choose"):
        other = PruningSettings("structured", target=pruning.Target(multiply_adds=0.3))
        prune_network(network, data, tmp_path / "small", other, quick, rounds=rounds)
    monkeypatch.setattr(pruning, "select_channels", None)  # what was chosen is kept
    done = prune_network(network, data, tmp_path / "small", settings, quick, rounds=rounds)
    assert done.network.scores == whole.network.scores
    again = prune_network(network, data, tmp_path / "small", settings, quick, rounds=rounds)
    assert again.network == done.network and len(again.stages) == rounds + 1
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"network", "whole", "small"}


def test_without_training_it_is_written_as_it_is(network, data, tmp_path):
    settings = PruningSettings("structured", keep={"encode__stack0__conv0": 3})
    done = prune_network(network, data, tmp_path / "small", settings)
    assert load_model(done.network.folder / "model.keras").get_layer("encode__stack0__conv0").filters == 3


def test_training_cannot_make_it_worse(network, data, quick, tmp_path):
    settings = PruningSettings("structured", keep={"encode__stack0__conv0": 4}, learning_rate=10.0)  # ruins it
    done = prune_network(network, data, tmp_path / "same", settings, quick)
    assert done.network.scores["adjusted_rand"] >= network.scores["adjusted_rand"] - 0.02


def test_a_patch_classifier_is_pruned_as_patches(data, quick, tmp_path):
    net = gn.PatchNet(3, maps=(6, 4, 3, 5), log10_learning_rate=-2.0)
    network = gn.train_network(net, data, tmp_path / "patches", quick)
    settings = PruningSettings(keep={"c1": 4, "dense": 3}, n_batches=1)
    done = prune_network(network, data, tmp_path / "small", settings, quick)
    assert done.network.n_parameters == gn.PatchNet(3, maps=(4, 4, 3, 3)).n_parameters
    assert gn.evaluate(done.network, data).adjusted_rand == pytest.approx(
        done.network.scores["adjusted_rand"], abs=0.02
    )


def test_an_ensemble_is_pruned_member_by_member(network, small_net, data, quick, tmp_path):
    other = gn.train_network(small_net, data, tmp_path / "other", quick, seed=1)
    ensemble = Ensemble((network, other))
    settings = PruningSettings("structured", target=pruning.Target(share=0.2))
    done = prune_ensemble(ensemble, data, tmp_path / "small", settings, quick)
    assert len(done.report.rows) == 4
    assert Ensemble.open(tmp_path / "small").members == done.ensemble.members
    assert "validation adjusted Rand score" in done.summary()
    before, after, chosen = done.together.rows
    assert (before.name, after.name, chosen.name) == ("before", "after", "chosen")
    assert before.count.n_parameters == 2 * network.n_parameters
    assert after.latency_s == pytest.approx(done.report.rows[1].latency_s + done.report.rows[3].latency_s)
    assert after.speedup == pytest.approx(before.latency_s / after.latency_s)
    assert before.score == pytest.approx(ensemble.score(data).adjusted_rand)
    assert done.after == pytest.approx(done.ensemble.score(data).adjusted_rand)
    assert prune_ensemble(ensemble, data, tmp_path / "small", settings, quick).ensemble.members == done.ensemble.members
    with pytest.raises(InputError, match="exists; choose another folder"):
        prune_ensemble(ensemble, data, tmp_path / "network", settings, quick)
    assert (tmp_path / "small" / "pruning.csv").exists()
    nothing = prune_ensemble(
        ensemble, data, tmp_path / "none", settings, None, most_lost=-1.0
    )  # every loss is too much
    assert nothing.broken == (network.folder, other.folder)
    assert {member.folder for member in nothing.ensemble.members} <= {network.folder, other.folder}
    assert "pruning broke 2 members" in nothing.summary()


def test_the_program_prunes(network, data_file, tmp_path):
    call = ("prune", network.folder, tmp_path / "small", "--data", data_file, "--retrain-steps", 2)
    rows = json.loads(fine(*call, "--target", "share=0.3", "--json"))
    assert [row["name"] for row in rows] == ["before", "after"]
    assert rows[1]["count"]["n_parameters"] == gn.Network.open(tmp_path / "small").n_parameters
    assert "would prune" in fine(*call, "--target", "share=0.3", "--dry-run", "--overwrite")
    assert "exists; choose another folder, or replace it" in refused(*call, "--target", "share=0.3")
    assert "Target(n_maps=100000) cannot be reached" in refused(*call, "--target", "n_maps=100000", "--overwrite")
    assert gn.Network.open(tmp_path / "small").n_parameters == rows[1]["count"]["n_parameters"]
    fine(*call, "--target", "share=0.5", "--overwrite")
    assert gn.Network.open(tmp_path / "small").n_parameters < rows[1]["count"]["n_parameters"]
    assert {path.name for path in tmp_path.iterdir()} >= {"small"} and not (tmp_path / "small.new").exists()
    elsewhere = (*call[:2], tmp_path / "none", *call[3:])
    assert "there is no layer 'frist'" in refused(*elsewhere, "--keep", "frist=3")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: pruning_target(["size=3"]),
            "--target takes n_maps, share, multiply_adds, parameters, loss_increase, but got si",
        ),
        (lambda: pruning_target(["share"]), "--target takes name=number, but got 'share'"),
        (lambda: pruning_target(["share=2"]), "`share` must lie above 0 and below 1, but got 2"),
        (lambda: PruningSettings(), "method loss needs either a `target` or channels to `keep`"),
        (lambda: PruningSettings("best"), "`method` must be one of loss, structured, magnitude, but got 'best'"),
        (lambda: PruningSettings("magnitude"), "method magnitude needs a `compression_ratio`"),
        (
            lambda: PruningSettings(target=pruning_target(["share=0.5"]), compression_ratio=2.0),
            "method loss needs either a `target` or channels to `keep`",
        ),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_networks_with_two_heads_are_pruned_by_their_weights_alone(data, quick, tmp_path, small_net):
    small_net.set(distance_weight=0.5)
    network = gn.train_network(small_net, data, tmp_path / "distances", quick)
    for settings in (
        PruningSettings("magnitude", compression_ratio=2.0),
        PruningSettings("structured", target=pruning.Target(share=0.3)),
    ):
        done = prune_network(network, data, tmp_path / settings.method, settings, quick)
        assert done.network.gives == ("classes", "distance")
        assert done.report.rows[1].count.n_nonzero < done.report.rows[0].count.n_nonzero
    with pytest.raises(InputError, match="networks with two heads cannot be pruned by their loss yet"):
        prune_network(network, data, tmp_path / "small", PruningSettings(target=pruning.Target(share=0.3)))
