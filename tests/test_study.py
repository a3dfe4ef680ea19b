"""Studies: the same seed gives the same blueprints whoever works on them, and nothing is lost when a process dies."""

import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from stub_worker import score
from test_cli import fine, refused

import genenet as gn
import search
from genenet.folder import read_yaml, write_json
from genenet.settings import TrainingSettings
from search.defaults import default_space
from search.provenance import checksum
from search.samplers import SAMPLERS, suggesting
from search.space import Choice, Levels, Limits, Range, Space, drawing, problem, read_range
from search.study import Study
from search.worker import work

RANGES = {
    "n_scales": Range(1, 2),
    "n_features": Levels(Range(3, 8), Range(-2, 2), Range(-1, 1)),
    "n_convs": Levels(Range(1, 2), None, Range(0, 1)),
    "pooling": Choice("max", "strided"),
    "log10_learning_rate": Range(-3, -2),
}


def space(**values):
    return Space(gn.EncoderDecoder(n_classes=3, **{"window_size": 32, **values}), RANGES)


def create(folder, data_file, **options):
    options = {"n_trials": 8, "baseline": False, "seed": 3, **options}
    return Study.create(folder, space(), data=data_file, **options)


def blueprints(study):
    tried = [trial for trial in study.trials() if trial.state["state"] != "rejected"]
    return [json.dumps(trial.blueprint.to_dict(), sort_keys=True) for trial in tried]


# -- spaces ---


def test_samples_lie_in_the_space():
    rng = np.random.default_rng(0)
    base = space()
    nets = [base.sample(rng) for _ in range(200)]
    assert {net.n_scales for net in nets} == {1, 2}
    assert {net.pooling for net in nets} == {"max", "strided"}
    assert {net.n_features for net in nets} == set(range(3, 9))
    for net in nets:
        assert -3 <= net.log10_learning_rate <= -2
        for gene in net.walk():
            if gene.depth in (1, 2) and "n_features" in gene.vocabulary:
                delta = net.deltas.get(gene.path, {}).get("n_features", 0)
                assert abs(delta) <= 3 - gene.depth
    assert any(net["encode"].n_features != net.n_features for net in nets)


def test_deltas_that_would_leave_the_bounds_are_drawn_again():
    wide = Space(gn.UNet(n_classes=2), {"n_features": Levels(Range(1, 3), Range(-9, 9), Range(-9, 9), Range(-9, 9))})
    rng = np.random.default_rng(0)
    for _ in range(50):
        net = wide.sample(rng)
        assert all(gene.n_features >= 1 for gene in net.walk() if "n_features" in gene.vocabulary)


def test_kernels_stay_odd():
    odd = Space(gn.UNet(n_classes=2), {"kernel_size": Levels(Range(3, 7), Range(-3, 3), Range(-3, 3))})
    rng = np.random.default_rng(0)
    sizes = {gene.kernel_size for _ in range(20) for gene in odd.sample(rng).walk() if "kernel_size" in gene.vocabulary}
    assert sizes <= set(range(1, 16, 2))
    assert len(sizes) > 3


def test_spaces_survive_yaml():
    written = space().to_dict()
    assert Space.from_dict(written).to_dict() == written
    assert read_range({"levels": [{"range": [1, 2]}, None]}, "x") == Levels(Range(1, 2), None)
    draws = [Space.from_dict(written).sample(drawing(np.random.default_rng(1))) for _ in range(2)]
    assert draws[0] == draws[1]


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"n_layers": Range(1, 2)}, "the space names `n_layers`, which EncoderDecoder has not"),
        ({"n_features": Range(0, 8)}, r"range of `n_features`: must lie in \[1, 1024\]"),
        ({"n_features": Range(1.5, 8)}, "`n_features` counts in whole numbers"),
        ({"pooling": Range(0, 1)}, "`pooling` must be a choice of max, strided at the root"),
        ({"pooling": Choice("mean")}, "`pooling` must be one of max, strided, but got 'mean'"),
        ({"n_convs": Choice("one")}, "`n_convs` is a number; give a range"),
        ({"kernel_size": Range(2, 5)}, "must be odd"),
    ],
)
def test_spaces_refuse(ranges, message):
    with pytest.raises(gn.InputError, match=message):
        Space(gn.EncoderDecoder(n_classes=2), ranges)


@pytest.mark.parametrize("entry", [{"range": [1]}, {"span": [1, 2]}, [1, 2], {"range": [3, 1]}, {"range": ["a", 2]}])
def test_range_entries_refuse(entry):
    with pytest.raises(gn.InputError):
        read_range(entry, "n_convs")


def test_limits_say_why():
    net = gn.UNet(n_classes=2)
    assert problem(net, Limits(), 1) is None
    assert "31,030,658 parameters are more than 1,000" in problem(net, Limits(max_parameters=1000), 1)
    assert "more than 1 GB" in problem(net, Limits(max_memory_gb=1), 4)
    assert "more than the training part's (64, 64)" in problem(net, Limits(), 1, (64, 64))
    assert "multiply-adds per voxel are more than 1,000" in problem(net, Limits(max_multiply_adds=1000), 1)
    net.set(window_size=60)
    assert "shrinks to nothing" in problem(net, Limits(), 1)


def test_the_default_space_holds_networks_that_can_be_built():
    rng = np.random.default_rng(0)
    nets = [default_space(5).sample(rng) for _ in range(50)]
    assert sum(problem(net, Limits(), 4) is None for net in nets) > 40


# -- the same seed, the same blueprints ---


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_restarts_repeat_no_trial(sampler, data_file, tmp_path):
    """Three restarts after a few trials each, and one process for all: the same blueprints, none twice."""
    once = create(tmp_path / "once", data_file, sampler=sampler, n_trials=16)
    work(once, score)
    for budget in (4, 9, 12, 16):
        study = Study.create(
            tmp_path / "parts", space(), data=data_file, baseline=False, seed=3, sampler=sampler, n_trials=4
        )
        study.extend(n_trials=budget)
        work(Study.open(tmp_path / "parts"), score)
    found = blueprints(Study.open(tmp_path / "parts"))
    assert found == blueprints(once)
    assert len(set(found)) == 16


def _work_in_process(folder):
    work(Study.open(folder), score)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_four_workers_repeat_no_trial(sampler, data_file, tmp_path):
    once = create(tmp_path / "once", data_file, sampler=sampler, n_trials=16)
    work(once, score)
    study = create(tmp_path / "four", data_file, sampler=sampler, n_trials=16)
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work_in_process, args=(study.folder,)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    found = blueprints(Study.open(study.folder))
    assert len(found) == len(set(found)) == 16
    assert {trial.state["state"] for trial in study.trials()} <= {"done", "rejected"}
    if sampler == "random":
        assert found == blueprints(once)


def test_another_seed_gives_other_blueprints(data_file, tmp_path):
    studies = [create(tmp_path / str(seed), data_file, seed=seed) for seed in (1, 2)]
    for study in studies:
        work(study, score)
    assert not set(blueprints(studies[0])) & set(blueprints(studies[1]))


def test_tpe_learns(data_file, tmp_path):
    """With a score that likes many features, later trials have more of them than random ones."""
    study = create(tmp_path / "tpe", data_file, sampler="tpe", n_trials=40)
    work(study, score)
    features = [trial.blueprint.n_features for trial in study.trials()]
    assert np.mean(features[20:]) > np.mean(features[:10]) + 0.5


# -- dying and failing ---


def test_a_killed_trial_is_continued_with_its_own_blueprint(data_file, tmp_path):
    once = create(tmp_path / "once", data_file)
    work(once, score)
    study = create(tmp_path / "study", data_file)

    class Killed(BaseException):
        pass

    def die_at_trial_3(study, trial, check):
        if trial.number == 3:
            raise Killed
        return score(study, trial)

    with pytest.raises(Killed):
        work(study, die_at_trial_3)
    again = Study.open(study.folder)
    assert again.table()["state"].tolist() == ["done"] * 3 + ["lost"]
    work(again, score)
    assert blueprints(again) == blueprints(once)
    assert len(again.trials()[3].attempts) == 2
    assert again.table()["state"].tolist() == ["done"] * 8


def test_killed_between_the_samplers_answer_and_the_folder(data_file, tmp_path, monkeypatch):
    once = create(tmp_path / "once", data_file)
    work(once, score)
    study = create(tmp_path / "study", data_file)
    study.optuna_study.ask()  # and then the process died
    work(Study.open(study.folder), score)
    assert blueprints(study) == blueprints(once)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@pytest.mark.parametrize("n_draws", [1, 4])
def test_killed_between_two_draws(sampler, n_draws, data_file, tmp_path):
    once = create(tmp_path / "once", data_file, sampler=sampler)
    work(once, score)
    study = create(tmp_path / "study", data_file, sampler=sampler)
    asked = study.optuna_study.ask()

    class Killed(BaseException):
        pass

    def dying(name, domain):
        if len(asked.params) == n_draws:
            raise Killed
        return draw(name, domain)

    draw = suggesting(asked)
    with pytest.raises(Killed):
        study.space.sample(dying)
    work(Study.open(study.folder), score)
    assert blueprints(study) == blueprints(once)


def test_failures_say_why_and_do_not_stop_the_others(data_file, tmp_path):
    study = create(tmp_path / "study", data_file, n_trials=4)

    def fail(study, trial, check):
        if trial.number == 1:
            raise gn.InputError("the image is made of cheese")
        if trial.number == 2:
            raise RuntimeError("a bug")
        return score(study, trial)

    work(study, fail)
    table = study.table().set_index("trial")
    assert table["state"].tolist() == ["done", "failed", "failed", "done"]
    assert table.loc[1, "reason"] == "the image is made of cheese"
    assert table.loc[2, "reason"] == "RuntimeError: a bug"
    assert "Traceback" in study.trials()[2].log.read_text()
    assert len(study.leaderboard()) == 2


def test_a_trial_that_kills_its_process_is_given_up(data_file, tmp_path):
    study = create(tmp_path / "study", data_file, n_trials=2)

    class Killed(BaseException):
        pass

    def die(study, trial, check):
        if trial.number == 0:
            raise Killed
        return score(study, trial)

    for _ in range(3):
        with pytest.raises(Killed):
            work(Study.open(study.folder), die)
    work(Study.open(study.folder), die)
    table = study.table()
    assert table["state"].tolist() == ["failed", "done"]
    assert "killed 3 times" in table["reason"][0]


def test_blueprints_over_the_limits_are_counted_not_trained(data_file, tmp_path):
    study = create(tmp_path / "study", data_file, n_trials=4, limits=Limits(max_parameters=1500))
    work(study, score)
    states = study.table()["state"]
    assert (states == "done").sum() == 4
    assert (states == "rejected").sum() >= 1
    assert all(n <= 1500 for n in study.leaderboard()["n_parameters"])
    assert study.table().query("state == 'rejected'")["reason"].str.contains("parameters are more than 1,500").all()
    hopeless = create(tmp_path / "hopeless", data_file, limits=Limits(max_parameters=10))
    with pytest.raises(gn.InputError, match="500 blueprints in a row"):
        work(hopeless, score)


@pytest.mark.parametrize("sampler", ["random", "tpe", "evolution"])
def test_costs_may_be_objectives(sampler, data_file, tmp_path):
    options = {"n_trials": 14, "sampler": sampler, "objectives": ("adjusted_rand", "n_multiply_adds_per_voxel")}
    study = create(tmp_path / "study", data_file, **options)
    work(study, score)
    trials = study.optuna_study.trials
    for trial, entry in zip(trials, study.trials(), strict=True):
        expected = [entry.state["adjusted_rand"], entry.blueprint.cost().n_multiply_adds_per_voxel]
        assert trial.values == pytest.approx(expected)
    assert study.optuna_study.best_trials
    assert Study.open(study.folder).asked.objectives == options["objectives"]
    with pytest.raises(gn.InputError, match="there is no objective `speed`"):
        create(tmp_path / "other", data_file, objectives=("speed",))
    with pytest.raises(gn.InputError, match="each once"):
        create(tmp_path / "other", data_file, objectives=())


def test_the_baseline_comes_first_and_on_top(data_file, tmp_path):
    baseline = gn.UNet(n_classes=3, n_scales=1, n_features=4, window_size=32)
    study = create(tmp_path / "study", data_file, n_trials=2, baseline=baseline)
    study.enqueue(gn.EncoderDecoder(n_classes=3, n_features=5), label="mine")
    work(study, score)
    assert study.table()["label"].tolist() == ["baseline", "mine", "", ""]
    assert study.trials()[0].blueprint == baseline
    board = study.leaderboard()
    assert board["adjusted_rand"].is_monotonic_decreasing
    assert (study.folder / "leaderboard.csv").read_text().count("\n") == 5


# -- settings ---


def test_a_folder_made_by_other_settings_is_refused(data_file, data_settings, tmp_path):
    create(tmp_path / "study", data_file)
    create(tmp_path / "study", data_file)  # the same is fine
    with pytest.raises(gn.InputError, match="made by other settings: `seed` is 3 there and 4 here"):
        create(tmp_path / "study", data_file, seed=4)
    with pytest.raises(gn.InputError, match="made by other settings: `training.steps` is .* there and 17 here"):
        create(tmp_path / "study", data_file, steps=17)
    with pytest.raises(gn.InputError, match="is not a study"):
        Study.open(tmp_path)
    with pytest.raises(gn.InputError, match="`sampler` must be one of random, sobol, tpe"):
        create(tmp_path / "other", data_file, sampler="magic")
    assert not (tmp_path / "other").exists()
    labels = np.load(data_settings["labels"])
    labels[0] = 1 - np.minimum(labels[0], 1)
    np.save(data_settings["labels"], labels)
    with pytest.raises(gn.InputError, match="the data of .* changed since the study was made"):
        work(Study.open(tmp_path / "study"), score)


def test_a_damaged_study_is_named(data_file, tmp_path):
    study = create(tmp_path / "study", data_file)
    (study.folder / "study.yaml").write_text("study: 1\n")
    with pytest.raises(gn.InputError, match="study.yaml is damaged"):
        Study.open(study.folder)


def test_half_a_trial_folder_is_no_trial(data_file, tmp_path):
    study = create(tmp_path / "study", data_file, n_trials=2)
    (study.folder / "trials" / "0000").mkdir()
    write_json(study.folder / "trials" / "0000" / "blueprint.json", {})
    work(study, score)
    assert study.table()["state"].tolist() == ["done", "done"]


# -- for real ---


@pytest.mark.slow
def test_kill_minus_nine_during_a_search(data_file, tmp_path):
    """Workers killed at random, the same command again: blueprints and scores as from an uninterrupted run."""
    settings = TrainingSettings(steps=8, validate_every=4, checkpoint_every=2, precision="float32")
    settings = dataclasses.replace(settings, windows=dataclasses.replace(settings.windows, batch_size=1))
    folders = [tmp_path / name for name in ("once", "killed")]
    for folder in folders:
        create(folder, data_file, n_trials=3, training=settings)
    names = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, "1")}
    command = [sys.executable, "-m", "genenet", "search", "worker"]
    subprocess.run([*command, str(folders[0])], env=environment, check=True, capture_output=True)
    for kill in range(3):
        process = subprocess.Popen([*command, str(folders[1])], env=environment, stderr=subprocess.DEVNULL)
        trial = folders[1] / "trials" / f"{kill:04d}"
        while not list(trial.glob("attempts/*/checkpoint.json")) and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run([*command, str(folders[1])], env=environment, check=True, capture_output=True)
    once, killed = (Study.open(folder) for folder in folders)
    assert blueprints(once) == blueprints(killed)
    scores = [[trial.state["adjusted_rand"] for trial in study.trials()] for study in (once, killed)]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-6)
    assert max(len(trial.attempts) for trial in killed.trials()) >= 2


@pytest.mark.slow
def test_a_trial_is_replayed_to_the_last_bit(data_file, tmp_path):
    settings = TrainingSettings(steps=6, validate_every=3, checkpoint_every=3, precision="float32")
    study = create(tmp_path / "study", data_file, n_trials=2, training=settings, limits=Limits(max_parameters=3000))
    names = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, "1")}
    fine("search", "worker", study.folder, env=environment)
    best = study.leaderboard().iloc[0]
    call = ("search", "replay", study.folder, best["trial"])
    assert "then: +0.0e+00; wrote" in fine(*call, tmp_path / "again", env=environment)
    again, once = gn.Network.open(tmp_path / "again"), study.networks()[0]
    assert again.scores == once.scores and again.blueprint == once.blueprint
    for mine, theirs in zip(again.load("float32").get_weights(), once.load("float32").get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    recorded = read_yaml(study.folder / "study.yaml")
    assert recorded["versions"].keys() >= {"genenet", "python", "keras", "numpy", "optuna", "system"}
    assert recorded["checksums"] == {str(path): checksum(path) for path in Path(data_file).parent.glob("*.npy")}
    image = np.load(data_file.parent / "image.npy")
    np.save(data_file.parent / "image.npy", 255 - image)
    message = f"{data_file.parent / 'image.npy'} changed since {study.folder} was made"
    assert message in refused(*call, tmp_path / "other", env=environment)
    assert "has no trial 99 that was trained" in refused("search", "replay", study.folder, 99, tmp_path / "none")


@pytest.mark.slow
def test_two_local_workers_finish_a_study(data_file, tmp_path):
    settings = TrainingSettings(steps=4, validate_every=4, checkpoint_every=4, precision="float32")
    study = create(tmp_path / "study", data_file, n_trials=3, training=settings)
    study.run(workers=2)
    assert study.table()["state"].tolist() == ["done"] * 3
    assert len(study.networks()) == 3
    shutil.rmtree(study.folder / "trials" / "0000" / "network")
    assert len(study.networks()) == 2
    assert all(trial.log.read_text().count("is done") == 1 for trial in study.trials())
    assert search.Study is Study
