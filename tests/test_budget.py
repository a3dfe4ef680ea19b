"""What ends a search, what begins it, and what makes its comparison fair."""

import dataclasses
import time

import numpy as np
import pytest
from stub_worker import score
from test_cli import fine, refused
from test_study import RANGES, create

import genenet as gn
from genenet.settings import TrainingSettings
from search.distributions import distribution_of
from search.samplers import SAMPLERS
from search.settings import UNLIMITED, SearchSettings
from search.sobol import SobolSampler
from search.space import Choice, Levels, Range, Space, Whole
from search.study import Study
from search.warm_start import parameters
from search.worker import work

DEEPER = Range(-2, 2), Range(-1, 1)


def slow(seconds):
    def train(study, trial, check):
        time.sleep(seconds)
        return score(study, trial)

    return train


# -- hours ---


def test_hours_of_work_end_a_search(data_file, tmp_path):
    study = create(tmp_path / "study", data_file, n_trials=None, trial_hours=2 / 3600)
    work(study, slow(0.5))
    worked = study.table()["worked_s"].tolist()
    assert sum(worked[:-1]) < 2 <= sum(worked) + 0.2  # sums are rounded
    assert min(worked) >= 0.4
    work(Study.open(study.folder), slow(0.5))
    assert len(study.table()) == len(worked)
    assert "of 0.000555556 hours of work" in fine("search", "status", study.folder)
    fine("search", "extend", study.folder, "--trials", len(worked) + 2, "--trial-hours", 1)
    work(study, score)  # the same object notices
    assert len(study.table()) == len(worked) + 2
    assert "nothing is to change" in refused("search", "extend", study.folder)


def test_hours_since_the_first_trial_end_a_search(data_file, tmp_path):
    study = create(tmp_path / "study", data_file, n_trials=50, total_hours=1.5 / 3600)
    work(study, slow(0.4))
    assert 2 <= len(study.table()) < 10
    assert study.table()["state"].tolist() == ["done"] * len(study.table())


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"n_trials": None}, "a study needs an end"),
        ({"n_trials": -1}, "`n_trials` must be at least 0"),
        ({"trial_hours": 0}, "`trial_hours` must be positive, but got 0"),
        ({"total_hours": -2}, "`total_hours` must be positive"),
        ({"early_stopping": "sometimes"}, "`early_stopping` must be one of hyperband, successive_halving, median"),
        (
            {"early_stopping": "median", "objectives": ("adjusted_rand", "n_parameters")},
            "by their adjusted Rand score alone",
        ),
        ({"early_stopping": "median", "objectives": ("n_parameters",)}, "by their adjusted Rand score alone"),
        ({"early_stopping": "median", "fair": "steps"}, "gives some networks less than others"),
        ({"fair": "luck"}, "`fair` must be one of steps, time"),
        ({"fair": "time"}, "`fair: time` needs `seconds`"),
        ({"fair": "steps", "training": TrainingSettings(seconds=3)}, "leave out `seconds`"),
        ({"fair": "steps", "training": TrainingSettings(patience=3)}, "leave out `patience`"),
        ({"n_trails": 3}, "a study has no setting `n_trails`; did you mean `n_trials`"),
        ({"storage": "sqlite:///x.db"}, "`storage` must be the URL of a database"),
    ],
)
def test_settings_refuse(asked, message, data_file, tmp_path):
    with pytest.raises(gn.InputError, match=message):
        create(tmp_path / "study", data_file, **asked)
    assert not (tmp_path / "study").exists()


def test_equal_time_has_no_limit_of_steps(data_file, tmp_path):
    study = create(tmp_path / "study", data_file, fair="time", training=TrainingSettings(seconds=3, steps=5))
    assert study.training.steps == UNLIMITED
    assert create(tmp_path / "steps", data_file, fair="steps", steps=7).training.steps == 7


def test_settings_survive_yaml():
    asked = SearchSettings(n_trials=None, trial_hours=3, objectives=("adjusted_rand", "n_parameters"), sampler="sobol")
    assert SearchSettings.from_dict(asked.to_dict()) == asked
    assert dataclasses.replace(asked, n_trials=4).budget() == {"n_trials": 4, "trial_hours": 3}


# -- samplers ---


def test_sobol_points_leave_no_gaps():
    """Of 64 points from the sequence's beginning, each 64th of every hyperparameter's range has one."""
    domains = {"a": Range(0.0, 1.0), "b": Range(-3.0, 5.0), "c": Whole(0, 63), "d": Choice("x", "y")}
    found = []
    for number in range(64):
        sampler = SobolSampler(5, number)
        found.append([sampler.sample_independent(None, None, n, distribution_of(d)) for n, d in domains.items()])
    a, b, c, d = zip(*found, strict=True)
    assert sorted(int(64 * value) for value in a) == list(range(64))
    assert sorted(int(8 * (value + 3)) for value in b) == list(range(64))
    assert sorted(c) == list(range(64))
    assert d.count("x") == d.count("y") == 32


# -- blueprints of one's own, and earlier studies ---


def test_own_blueprints_are_tried_next(data_file, tmp_path):
    study = create(tmp_path / "study", data_file, n_trials=1)
    fine("tree", "--classes", 3, "--set", "n_features=5", "--set", "window_size=188", "--output", tmp_path / "net.json")
    assert "is tried next" in fine("search", "enqueue", study.folder, tmp_path / "net.json", "--label", "mine")
    work(study, score)
    assert study.table()["label"].tolist() == ["mine", ""]
    assert study.trials()[0].blueprint.n_features == 5
    with pytest.raises(gn.InputError, match="is for 4 classes and 1 channel, but .* is for 3 and 1"):
        study.enqueue(gn.UNet(n_classes=4))
    with pytest.raises(gn.InputError, match="shrinks to nothing"):
        study.enqueue(gn.UNet(n_classes=3, window_size=60))


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_what_was_drawn_is_found_again(sampler, data_file, tmp_path):
    study = create(tmp_path / "study", data_file, sampler=sampler, n_trials=12)
    work(study, score)
    for told, trial in zip(study.optuna_study.trials, study.trials(), strict=True):
        params, distributions = parameters(study.space, trial.blueprint, told.params)
        assert params == told.params
        assert distributions == told.distributions


def test_samplers_learn_from_an_earlier_study(data_file, tmp_path):
    earlier = create(tmp_path / "earlier", data_file, n_trials=30)
    work(earlier, score)
    later = create(tmp_path / "later", data_file, n_trials=8, seed=9, sampler="tpe", warm_start=[earlier.folder])
    again = create(tmp_path / "later", data_file, n_trials=8, seed=9, sampler="tpe", warm_start=[earlier.folder])
    assert len(again.optuna_study.trials) == 30
    work(again, score)
    alone = create(tmp_path / "alone", data_file, n_trials=8, seed=9, sampler="tpe")
    work(alone, score)
    assert [trial.number for trial in later.trials()] == list(range(30, 38))
    features = [np.mean([trial.blueprint.n_features for trial in study.trials()]) for study in (later, alone)]
    assert features[0] > features[1] + 0.5
    with pytest.raises(gn.InputError, match="made by other settings: `warm_start`"):
        create(tmp_path / "later", data_file, n_trials=8, seed=9, sampler="tpe")


def test_networks_outside_of_the_space_are_not_learned_from(data_file, tmp_path, caplog):
    earlier = create(tmp_path / "earlier", data_file, n_trials=20)
    work(earlier, score)
    narrow = Space(earlier.space.base, {**RANGES, "n_features": Levels(Range(3, 5), *DEEPER), "pooling": Choice("max")})
    later = Study.create(tmp_path / "later", narrow, data=data_file, baseline=False, warm_start=[earlier])
    known = later.optuna_study.trials
    fits = [t for t in earlier.trials() if t.blueprint.n_features <= 5 and t.blueprint.pooling == "max"]
    assert fits and [trial.user_attrs["trial"] for trial in known] == [trial.number for trial in fits]
    assert all(3 <= trial.params["n_features"] <= 5 for trial in known)
    fixed = {name: entry for name, entry in RANGES.items() if name != "pooling"}
    deep = Space(gn.EncoderDecoder(n_classes=3, window_size=32, pooling="strided"), fixed)
    other = Study.create(tmp_path / "deep", deep, data=data_file, baseline=False, warm_start=[earlier])
    strided = [trial.number for trial in earlier.trials() if trial.blueprint.pooling == "strided"]
    assert [trial.user_attrs["trial"] for trial in other.optuna_study.trials] == strided  # not what is fixed otherwise
    with pytest.raises(gn.InputError, match="does not know `latency_s_per_megavoxel`"):
        create(tmp_path / "fast", data_file, objectives=("latency_s_per_megavoxel",), warm_start=[earlier])
    assert not (tmp_path / "fast").exists()


def test_what_an_earlier_space_left_fixed_is_read_from_its_blueprints(data_file, tmp_path):
    study = create(tmp_path / "study", data_file, n_trials=3)
    work(study, score)
    wider = Space(study.space.base, {**RANGES, "kernel_size": Range(3, 5)})
    later = Study.create(tmp_path / "later", wider, data=data_file, baseline=False, warm_start=[study])
    assert [trial.params["kernel_size"] for trial in later.optuna_study.trials] == [3] * 3
