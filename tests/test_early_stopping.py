"""Early stopping: what does badly ends early, the best never does, and what was asked for is trained to its end."""

import numpy as np
import pytest
from optuna.trial import TrialState
from stub_worker import score
from test_study import create

import genenet as gn
from search.early_stopping import N_REPORTS, PRUNERS, Comparison, StoppedEarly
from search.study import Study
from search.worker import work

STEPS = 20


def quality(trial):
    """What a network reaches: known, and never the same twice."""
    return 0.5 + score(None, trial)["adjusted_rand"] / 10


def train(study, trial, check, seen=None):
    """Curves that do not cross: the share of its quality that a network has after a step."""
    drawn = not trial.state.get("enqueued")
    comparison = Comparison(trial.number, study.training, may_stop=drawn)
    for step in range(1, STEPS + 1):
        if seen is not None:
            seen[trial.number] = step
        comparison.report(study.optuna_study, step, 0.0, quality(trial) * (1 - 0.5 ** (step / 4)))
    return {"adjusted_rand": quality(trial), "steps": STEPS, "seconds": 0.0}


@pytest.mark.parametrize("kind", sorted(PRUNERS))
def test_what_does_badly_ends_early(kind, data_file, tmp_path):
    study = create(tmp_path / "study", data_file, early_stopping=kind, n_trials=30, steps=STEPS)
    bad = gn.EncoderDecoder(n_classes=3, n_features=1, window_size=32, log10_learning_rate=-6.0)
    seen = {}

    def watched(study, trial, check):
        if trial.number == 20:
            study.enqueue(bad, label="mine")
        return train(study, trial, check, seen)

    work(study, watched)
    table = study.table().set_index("trial")
    counts = table["state"].value_counts()
    assert counts["pruned"] >= 5 and counts["done"] >= 3 and counts.sum() == 31
    assert table[table["label"] == "mine"]["state"].tolist() == ["done"]  # though it is the worst
    best = max(study.trials(), key=quality)
    assert table.loc[best.number, "state"] == "done"
    pruned = table[table["state"] == "pruned"]
    assert pruned["reason"].str.contains("stopped early at step").all()
    assert (pruned["steps"] < STEPS).all() and pruned["steps"].tolist() == [seen[number] for number in pruned.index]
    assert sum(seen.values()) < 0.8 * 31 * STEPS
    told = [trial.state for trial in study.optuna_study.trials]
    assert [state == TrialState.PRUNED for state in told] == [state == "pruned" for state in table["state"]]
    assert len(study.leaderboard()) == counts["done"]


def test_a_continued_training_is_compared_where_it_was(data_file, tmp_path):
    study = create(tmp_path / "study", data_file, early_stopping="median", n_trials=1, steps=STEPS)

    class Killed(BaseException):
        pass

    def die(study, trial, check):
        comparison = Comparison(trial.number, study.training, may_stop=True)
        for step, value in ((1, 0.2), (2, 0.6), (3, 0.4)):
            comparison.report(study.optuna_study, step, 0.0, value)
        raise Killed

    with pytest.raises(Killed):
        work(study, die)

    def go_on(study, trial, check):
        comparison = Comparison(trial.number, study.training, may_stop=True)
        for step, value in ((3, 0.1), (4, 0.5), (5, 0.7)):
            comparison.report(study.optuna_study, step, 0.0, value)
        return score(study, trial)

    work(Study.open(study.folder), go_on)
    (told,) = Study.open(study.folder).optuna_study.trials
    assert told.intermediate_values == {1: 0.2, 2: 0.6, 3: 0.6, 4: 0.6, 5: 0.7}  # the best so far


def test_the_last_validation_ends_nothing(data_file, tmp_path):
    study = create(tmp_path / "study", data_file, early_stopping="successive_halving", n_trials=8, steps=STEPS)
    worth = iter(np.linspace(0.9, 0.1, 8))

    def at_the_end(study, trial, check):
        value = float(next(worth))
        comparison = Comparison(trial.number, study.training, may_stop=True)
        comparison.report(study.optuna_study, STEPS, 0.0, value)
        return {**score(study, trial), "adjusted_rand": value}

    work(study, at_the_end)
    assert study.table()["state"].tolist() == ["done"] * 8
    assert N_REPORTS == 20
    with pytest.raises(StoppedEarly, match="stopped early"):
        raise StoppedEarly("stopped early", steps=3)
