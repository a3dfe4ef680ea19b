"""`genenet correct`: times by hand, summaries, corrected labels, a model of time, a round of learning."""

import json

import numpy as np
import pytest
from conftest import blobs
from test_correction_times import log_paper
from test_corrections import corrections
from typer.testing import CliRunner

import genenet as gn
from genenet.cli import app
from genenet.corrections.session import Session
from genenet.corrections.simulate import Corrector
from genenet.corrections.store import Corrections
from search.space import Space
from search.study import Study


def run(*words):
    """What a verb says; errors of ours come out as they are."""
    done = CliRunner().invoke(app, ["correct", *map(str, words)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def test_times_by_hand(tmp_path):
    mine = ["--folder", tmp_path / "log", "--person", "anna"]
    assert "runs on slice 12 (manual)" in run("start", "--slice", 12, *mine)
    with pytest.raises(gn.InputError, match="runs on slice 12, not on slice 13; leave out --slice, or give 12"):
        run("stop", "--slice", 13, *mine)
    assert "slice 12: 0.0 min\n" in run("pause", *mine)
    run("start", "--slice", 12, *mine)
    assert "slice 12: 0.0 min, done" in run("stop", "--slice", 12, *mine)
    assert "nobody has done slices both by hand" in run("summary", tmp_path / "log")


def test_the_papers_times_are_summed_up(tmp_path):
    log_paper(tmp_path / "log", spread=0.2)
    said = run("summary", tmp_path / "log", "--csv", tmp_path / "t.csv", "--plot", tmp_path / "t.png")
    assert "annotator1: 22.3 min by hand, 10.9 min to correct: 2.05x, 95 % of resamples" in said
    assert "annotator2: 18.6 min by hand, 7.9 min to correct: 2.35x" in said
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 25 and (tmp_path / "t.png").exists()
    found = json.loads(run("summary", tmp_path / "log", "--json"))
    assert round(found["speed_up"][0]["ratio"], 3) == 2.046 and len(found["slices"]) == 24


def test_labels_are_written_and_conflicts_named(tmp_path):
    kept, labels = corrections(tmp_path)
    for number, person in enumerate(("anna", "ben")):
        session = Session(kept, person)
        session.labels[1, :3, :3] = 4 + number
        session.close()
    said = run("apply", kept.folder, tmp_path / "out.ome.zarr", "--conflicts", tmp_path / "c.csv")
    assert "9 voxels of 2 people (anna, ben)" in said and "1 place where people disagree; the later edit stands" in said
    assert "anna and ben" in (tmp_path / "c.csv").read_text()
    assert (gn.open_volume(tmp_path / "out.ome.zarr").read((slice(1, 2), slice(0, 3), slice(0, 3))) == 5).all()
    said = run("apply", kept.folder, tmp_path / "two.npy", "--person", "ben", "--person", "anna")
    assert "anna is trusted" in said and (np.load(tmp_path / "two.npy")[1, :3, :3] == 4).all()


@pytest.mark.slow
def test_a_study_learns(tmp_path, data_file, small_net, quick):
    study = Study.create(
        tmp_path / "study", Space(small_net, {}), data=data_file, n_trials=1, baseline=False, training=quick
    )
    study.run()
    board = study.leaderboard()
    guess = board["correction_min_per_megavoxel"][0]
    errors, wrong = board["connected_errors_per_megavoxel"][0], board["wrong_voxels_per_megavoxel"][0]
    assert guess == pytest.approx((30 + 3 * errors + 3 * wrong / 1000) / 60, abs=1e-3)
    image, labels = blobs((6, 64, 64), seed=5)
    np.save(tmp_path / "next.npy", image)
    with pytest.raises(gn.InputError, match="is a study that has no ensemble yet"):
        run("learn", study.folder, tmp_path / "none")
    ensemble = gn.Ensemble.select(study.networks(), study.data)
    ensemble.save(study.folder / "ensemble")
    ensemble.segment(tmp_path / "next.npy", tmp_path / "cells.ome.zarr")
    files = {"image": tmp_path / "next.npy", "segmentation": tmp_path / "cells.ome.zarr"}
    kept = Corrections.create(tmp_path / "cells.corrections", **files)
    corrector = Corrector(kept, gn.open_volume(labels.astype(np.uint8)))
    corrector.work([(slice(z, z + 1), slice(0, 64), slice(0, 64)) for z in range(5)])
    corrector.finish_slices(range(5))
    corrector.close()
    said = run("effort", kept.folder, "--study", study.folder)
    assert "from 5 slices" in said and (kept.folder / "effort.json").exists()
    assert Study.open(study.folder).leaderboard()["correction_min_per_megavoxel"][0] != guess
    with pytest.raises(gn.InputError, match="give both or neither"):
        run("learn", study.folder, kept.folder, "--segment", tmp_path / "next.npy")
    outputs = ["--output", tmp_path / "again.ome.zarr", "--entropy", tmp_path / "doubt.ome.zarr"]
    said = run("learn", study.folder, kept.folder, "--steps", 8, "--segment", tmp_path / "next.npy", *outputs)
    assert "rounds/01/ensemble" in said and gn.open_volume(tmp_path / "doubt.ome.zarr").shape == (6, 64, 64)
    rows = json.loads(run("learn", study.folder, kept.folder, "--steps", 8, "--json"))
    assert [row["number"] for row in rows] == [1, 2] and rows[0]["n_known"] == 5 * 64 * 64
    done = CliRunner().invoke(
        app, ["evaluate", str(study.folder), "--data", str(data_file), "--effort", str(study.folder)]
    )
    assert "a person would take" in done.stdout


@pytest.mark.slow
def test_a_search_for_what_is_quick_to_correct(tmp_path, data_file, small_net, quick):
    study = Study.create(
        tmp_path / "study", Space(small_net, {}), data=data_file, n_trials=2, baseline=False, training=quick,
        objectives=("correction_min_per_megavoxel", "adjusted_rand"),
    )  # fmt: skip
    study.run()
    told = [trial.values[0] for trial in study.optuna_study.trials]
    assert told == pytest.approx(study.table()["correction_min_per_megavoxel"].tolist()) and min(told) > 0
