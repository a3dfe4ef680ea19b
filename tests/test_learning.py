"""Networks learn from corrections: what is vouched for, rounds, and orders of work compared."""

import dataclasses
import json

import numpy as np
import pytest
from conftest import blobs
from typer.testing import CliRunner

import genenet as gn
from genenet.cli import app
from genenet.corrections.effort import Effort
from genenet.corrections.errors import count_network_errors
from genenet.corrections.learn import learn, rounds
from genenet.corrections.planning import compare_orders, plot_orders
from genenet.corrections.session import Session
from genenet.corrections.simulate import Corrector
from genenet.corrections.store import Corrections
from genenet.corrections.training_data import UNKNOWN, write_data
from genenet.dataset import Dataset
from genenet.ensemble import Ensemble
from genenet.folder import read_yaml
from genenet.train import train_network
from genenet.windows import TrainingWindows

NEXT = (6, 64, 64)


@pytest.fixture
def trained(tmp_path, data_file, small_net, quick):
    """Two networks that hardly learned, as an ensemble; and the next volume with its labels."""
    networks = [train_network(small_net, Dataset.open(data_file), tmp_path / f"n{s}", quick, seed=s) for s in range(2)]
    image, labels = blobs(NEXT, seed=5)
    np.save(tmp_path / "next.npy", image)
    return Ensemble(tuple(networks)), labels


def segmented(tmp_path, ensemble, name="next"):
    """A segmentation with its entropy, to be corrected."""
    output, entropy = tmp_path / f"{name}.ome.zarr", tmp_path / f"{name}-entropy.ome.zarr"
    ensemble.segment(tmp_path / "next.npy", output, extras={"entropy": entropy})
    return Corrections.create(
        tmp_path / f"{name}.corrections", image=tmp_path / "next.npy", segmentation=output, doubt=entropy
    )


def whole(shape):
    return tuple(slice(0, n) for n in shape)


def test_a_segmentation_says_which_networks_made_it(tmp_path, trained):
    kept = segmented(tmp_path, trained[0])
    assert kept.identity == trained[0].identity
    assert [entry.name for entry in kept.classes] == ["background", "disc", "core"]
    Session(kept, "anna").close()
    said = kept.events("anna")[0].fields
    assert said["networks"] == trained[0].identity
    assert said["blueprints"] == [member.blueprint_hash for member in trained[0].members]


def test_only_what_people_vouch_for_is_learned(tmp_path, trained, data_file, quick, small_net):
    kept = segmented(tmp_path, trained[0])
    session = Session(kept, "anna")
    before = np.asarray(session.labels)
    session.labels[1, 10:20, 10:30] = (before[1, 10:20, 10:30] + 1) % 3
    session.go_to(3)
    session.mark(done=True)
    session.close()
    found = write_data(tmp_path / "round", data_file, [kept], 7)
    assert found == {"n_known": 200 + 64 * 64, "n_changed": 200}
    data = Dataset.open(tmp_path / "round" / "data.yaml")
    old, new = data.training
    assert old.weights is None and data.validation[0].shape == Dataset.open(data_file).validation[0].shape
    labels, weights = (getattr(new, read)((0, 0, 0), new.shape) for read in ("read_labels", "read_weights"))
    assert (labels != 255).sum() == found["n_known"] and (weights == 7).sum() == 200
    z = 1 - new.start[0]
    np.testing.assert_array_equal(labels[z, 10:20, 10:30], (before[1, 10:20, 10:30] + 1) % 3)
    np.testing.assert_array_equal(labels[3 - new.start[0]], before[3])
    assert data.counts == tuple(
        int((labels == value).sum()) + n for value, n in enumerate(Dataset.open(data_file).counts)
    )
    windows = TrainingWindows(data, small_net.window_shape(), data.normalization(), quick.windows, seed=0)
    batches = [windows.batch(step) for step in range(150)]
    ratios = {round(float(batch.weights.max() / batch.weights[batch.weights > 0].min()), 3) for batch in batches}
    assert max(ratios) > 6.9


def test_the_validation_part_stays_out(tmp_path, trained, data_file):
    ensemble, _ = trained
    image = tmp_path / "image.npy"
    ensemble.segment(image, tmp_path / "same.ome.zarr")
    kept = Corrections.create(tmp_path / "same.corrections", image=image, segmentation=tmp_path / "same.ome.zarr")
    session = Session(kept, "anna")
    for number in (4, 5):
        session.go_to(number)
        session.mark(done=True)
    session.close()
    with pytest.raises(gn.InputError, match="there is nothing to learn from: nobody edited anything, or marked"):
        write_data(tmp_path / "none", data_file, [kept], 4)
    session = Session(kept, "anna")
    session.mark(done=True)
    session.close()
    assert write_data(tmp_path / "some", data_file, [kept], 4)["n_known"] == 64 * 64
    assert read_yaml(tmp_path / "some" / "data.yaml")["ignore"] == UNKNOWN


def test_weights_must_fit_their_labels(tmp_path, data_settings):
    np.save(tmp_path / "w.npy", np.ones((6, 64, 60), np.uint8))
    data_settings["training"] = {**data_settings["training"], "weights": str(tmp_path / "w.npy")}
    with pytest.raises(
        gn.InputError, match=r"w.npy holds uint8 of shape \(6, 64, 60\), but weights of .* must be uint8"
    ):
        Dataset.open(data_settings)


def test_errors_of_networks_are_counted_whatever_the_blocks(tmp_path, trained, data_file):
    data = Dataset.open(data_file)
    predictor = trained[0].predictor()
    found = count_network_errors(predictor, data.validation)
    labels = data.validation[0].read_labels((0, 0, 0), data.validation[0].shape)
    assert found[0] == (labels != 255).sum()
    assert found[2] == round((1 - trained[0].score(data).accuracy) * found[0])
    assert 0 < found[1] <= found[2]
    minutes = Effort().minutes_per_megavoxel(*found)
    assert minutes == pytest.approx((30 * found[0] / 1e6 + 3 * found[1] + 3 * found[2] / 1e3) / 60 / found[0] * 1e6)


@pytest.mark.slow
def test_three_rounds_with_a_simulated_corrector(tmp_path, trained, data_file, quick):
    ensemble, labels = trained
    truth = gn.open_volume(labels.astype(np.uint8))
    training = dataclasses.replace(quick, steps=60, validate_every=20, checkpoint_every=20)
    scores = []
    for number in range(3):
        kept = segmented(tmp_path, ensemble, f"round{number}")
        prediction = gn.open_volume(kept.segmentation).read(whole(NEXT))
        scores.append(gn.adjusted_rand_score(labels, prediction))
        corrector = Corrector(kept, truth)
        corrector.work([(slice(z, z + 1), slice(0, 64), slice(0, 64)) for z in (2 * number, 2 * number + 1)])
        corrector.finish_slices((2 * number, 2 * number + 1))
        corrector.close()
        done = learn(tmp_path / "rounds", ensemble, data_file, [kept], training)
        assert done.number == number + 1 and done.n_known == (number + 1) * 2 * 64 * 64
        assert done.after >= done.before - 1e-6 and done.worked_min > 0 and done.worked_min_per_megavoxel > 0
        ensemble = Ensemble.open(done.folder / "ensemble")
    over = rounds(tmp_path / "rounds")
    assert [entry.number for entry in over] == [1, 2, 3]
    assert scores[-1] > scores[0] + 0.05 and over[-1].after > over[0].before + 0.05
    assert over[-1].predicted_after < over[0].predicted_before
    assert over[1].before == pytest.approx(over[0].after, abs=1e-6)
    # A killed round goes on: what is trained stays.
    (over[2].folder / "round.json").unlink()
    kept_networks = {path: path.stat().st_mtime_ns for path in over[2].folder.glob("networks/*/model.keras")}
    again = learn(tmp_path / "rounds", ensemble, data_file, [kept], training)
    assert again.number == 3 and again.after == pytest.approx(over[2].after, abs=1e-6)
    assert {path: path.stat().st_mtime_ns for path in over[2].folder.glob("networks/*/model.keras")} == kept_networks


def test_a_round_needs_an_image_and_a_sensible_weight(tmp_path, trained, data_file, quick):
    ensemble, _ = trained
    ensemble.segment(tmp_path / "next.npy", tmp_path / "next.ome.zarr")
    kept = Corrections.create(tmp_path / "c", segmentation=tmp_path / "next.ome.zarr")
    with pytest.raises(gn.InputError, match="does not say which image was corrected"):
        learn(tmp_path / "rounds", ensemble, data_file, [kept], quick)
    with pytest.raises(gn.InputError, match="the weight of errors is 1 to 255, but got 0"):
        learn(tmp_path / "rounds", ensemble, data_file, [kept], quick, error_weight=0)
    with pytest.raises(gn.InputError, match="name folders of corrections to learn from"):
        learn(tmp_path / "rounds", ensemble, data_file, [], quick)


@pytest.fixture
def doubtful(tmp_path):
    """A truth, a segmentation that is wrong in a corner of every slice, and a map that knows it."""
    _, labels = blobs((4, 96, 96), seed=1)
    wrong = labels.copy()
    wrong[:, 64:, 64:] = np.random.default_rng(0).integers(0, 3, (4, 32, 32))
    doubt = np.where(wrong != labels, 0.8, 0.05).astype(np.float16)
    for name, array in (("truth", labels.astype(np.uint8)), ("wrong", wrong.astype(np.uint8)), ("doubt", doubt)):
        with gn.create_volume(tmp_path / f"{name}.ome.zarr", array.shape, array.dtype) as out:
            out.write(whole(array.shape), array)
    return [str(tmp_path / f"{name}.ome.zarr") for name in ("wrong", "truth", "doubt")]


def test_doubtful_first_needs_less_area(doubtful, tmp_path):
    found = compare_orders(*doubtful, size=(1, 32, 32))
    for points in found.values():
        assert points[0].area == points[0].minutes == 0 and points[-1].area == pytest.approx(1)
        assert points[-1].adjusted_rand == pytest.approx(1) and points[-1].wrong == 0
        assert len(points) == 4 * 9 + 1
    labels, truth = (gn.open_volume(path).read(whole((4, 96, 96))) for path in doubtful[:2])
    assert found["random"][0].adjusted_rand == pytest.approx(gn.adjusted_rand_score(truth, labels))
    needed = {name: next(p.area for p in points if p.wrong < 0.001) for name, points in found.items()}
    assert needed["doubtful"] == pytest.approx(4 / 36) and needed["random"] > 0.5 and needed["sequential"] > 0.9
    plot_orders(found, tmp_path / "orders.png")
    assert (tmp_path / "orders.png").stat().st_size > 5000
    some = compare_orders(*doubtful, size=(1, 32, 32), share=0.5, orders=("doubtful",), ignore=2)
    assert 0 < some["doubtful"][-1].wrong < some["doubtful"][0].wrong
    with pytest.raises(gn.InputError, match="an order is one of doubtful, random, sequential, but got 'best'"):
        compare_orders(*doubtful, orders=("best",))
    with pytest.raises(gn.InputError, match="has shape"):
        compare_orders(*doubtful[:2], np.zeros((4, 96, 90), np.float16))


def test_the_command_plans(doubtful, tmp_path):
    asked = ["correct", "simulate", *doubtful, "--size", "32", "--plot", str(tmp_path / "plan.png")]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    assert "min doubtful" in done.stdout and (tmp_path / "plan.png").exists()
    rows = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)
    assert set(rows) == {"doubtful", "random", "sequential"}
