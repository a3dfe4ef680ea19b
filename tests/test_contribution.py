"""What networks add to each other: Krogh and Vedelsby's identity, and objectives that are measured."""

import json

import numpy as np
import pytest
from test_cli import fine
from test_study import create

from genenet.dataset import Dataset
from genenet.ensemble import Ensemble
from genenet.network import Network
from genenet.predictions import draw_sample, probabilities_at
from genenet.selection_rules import score_probabilities
from genenet.settings import TrainingSettings, WindowSettings
from search import goals
from search.contribution import ambiguity, best_group
from search.goals import DIRECTIONS, front
from search.worker import work


def test_the_ensembles_error_is_the_members_less_their_ambiguity():
    """Krogh and Vedelsby 1995, equation 6, for any predictions and targets."""
    rng = np.random.default_rng(0)
    members = rng.dirichlet((1, 1, 1), size=(5, 1000)).astype(np.float32)
    targets = np.eye(3)[rng.integers(0, 3, 1000)]
    mean = members.mean(0)

    def error(prediction):
        return ((prediction - targets) ** 2).sum(-1).mean()

    spread = np.mean([ambiguity(member, mean) for member in members])
    assert error(mean) == pytest.approx(np.mean([error(member) for member in members]) - spread, rel=1e-5)


def test_the_best_group_is_the_best_beginning():
    labels = np.array([0, 0, 1, 1], np.uint8)
    right = np.array([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.1, 0.9]])
    wrong = right[::-1]
    weak = 0.5 + (right - 0.5) * 0.1
    assert best_group(labels, []) is None
    assert best_group(labels, [right, wrong]).n_members == 1
    assert best_group(labels, [weak, wrong, right, right]).n_members == 1  # a tie is for the smaller one
    # weak and strong in the wrong half; two that are right outvote it
    half = right.copy()
    half[2] = (0.6, 0.4)
    assert best_group(labels, [half, weak, right]).n_members == 3
    assert (
        best_group(labels, [half, weak, right]).adjusted_rand == score_probabilities(labels, right).adjusted_rand == 1
    )


def test_the_front_holds_what_nothing_beats():
    rng = np.random.default_rng(0)
    rows = np.round(rng.random((60, 2)), 1).tolist()
    found = front(rows, ["adjusted_rand", "n_parameters"])

    def beats(a, b):
        return a[0] >= b[0] and a[1] <= b[1] and a != b

    assert sorted(found) == [n for n, row in enumerate(rows) if not any(beats(other, row) for other in rows)]
    assert front([], ["adjusted_rand"]) == []
    assert goals.ENSEMBLE_AWARE in DIRECTIONS


@pytest.fixture
def trained(data_file, tmp_path):
    """Three small networks, trained for two measured objectives."""
    windows = WindowSettings(batch_size=1)
    settings = TrainingSettings(steps=12, validate_every=6, checkpoint_every=6, precision="float32", windows=windows)
    objectives = ("ensemble_aware", "latency_s_per_megavoxel")
    options = {"n_trials": 3, "training": settings, "objectives": objectives}
    study = create(tmp_path / "study", data_file, **options)
    work(study)
    return study


def test_objectives_are_measured(trained, data_file):
    data = Dataset.open(data_file)
    table = trained.table().set_index("trial")
    assert table["state"].tolist() == ["done"] * 3
    assert (table["latency_s_per_megavoxel"] > 0).all()
    # the first network adds to nothing; the second to the first
    assert table.loc[0, "ensemble_gain"] == table.loc[0, "ambiguity"] == 0
    assert table.loc[0, "ensemble_aware"] == table.loc[0, "adjusted_rand"]
    sample = draw_sample(data, trained.asked.seed)
    assert len(sample.labels) == 2 * 64 * 64  # all there are
    first, second = (np.load(trained.folder / f"trials/000{n}/validation.npz")["probabilities"] for n in (0, 1))
    expected = probabilities_at(trained.trials()[0].network(), data, sample)
    np.testing.assert_array_equal(first, expected.astype(np.float16))
    total = first.astype(np.float32) + second
    gain = score_probabilities(sample.labels, total).adjusted_rand
    gain -= score_probabilities(sample.labels, first).adjusted_rand
    assert table.loc[1, "ensemble_gain"] == pytest.approx(gain)
    assert table.loc[1, "ambiguity"] == pytest.approx(ambiguity(second, total / 2), rel=1e-5)
    assert table.loc[1, "ensemble_aware"] == pytest.approx(table.loc[1, "adjusted_rand"] + gain)
    told = [trial.values for trial in trained.optuna_study.trials]
    assert told == table[["ensemble_aware", "latency_s_per_megavoxel"]].to_numpy().tolist()
    # what does nothing better than another is not on the front
    found = trained.pareto_front()
    assert found["trial"].iloc[0] == table["ensemble_aware"].idxmax()
    assert table["latency_s_per_megavoxel"].idxmin() in found["trial"].tolist()
    # the ensemble's curve says the ambiguity of its members
    made = Ensemble.select(trained.networks(), data)
    pair = [probabilities_at(Network.open(point.added), data, sample) for point in made.curve[:2]]
    assert made.curve[0].ambiguity == pytest.approx(0, abs=1e-6)
    expected = np.mean([ambiguity(each, (pair[0] + pair[1]) / 2) for each in pair])
    assert made.curve[1].ambiguity == pytest.approx(expected, rel=1e-4)
    made.save(trained.folder / "ensemble")
    assert Ensemble.open(trained.folder / "ensemble").curve[1].ambiguity == pytest.approx(made.curve[1].ambiguity)
    fine("search", "report", trained.folder)
    page = (trained.folder / "report.html").read_text()
    assert "Score against seconds per million voxels" in page
    assert "that no other one beats in all objectives" in page
    rows = json.loads(fine("search", "status", trained.folder, "--json"))["trials"]
    assert rows[1]["ambiguity"] == table.loc[1, "ambiguity"]


def test_a_sample_is_the_same_for_every_worker(data_file):
    data = Dataset.open(data_file)
    samples = [draw_sample(data, 3, n_voxels=1000) for _ in range(2)]
    np.testing.assert_array_equal(samples[0].places[0], samples[1].places[0])
    assert 800 < len(samples[0].labels) < 1200
    z, y, x = samples[0].places[0].T
    np.testing.assert_array_equal(data.validation[0].read_labels((0, 0, 0), (2, 64, 64))[z, y, x], samples[0].labels)
