"""Databases instead of a file: the same study, copied there and back, and a server that goes away for a while."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from databases import started
from stub_worker import score
from test_cli import fine, refused
from test_study import blueprints, create

import genenet as gn
from genenet.folder import read_yaml
from search.report import write_report
from search.storage import check_url
from search.study import Study
from search.worker import work


@pytest.fixture(scope="module")
def postgresql():
    with started("postgresql") as database:
        yield database


@pytest.fixture(scope="module", params=["postgresql", pytest.param("mysql", marks=pytest.mark.slow)])
def database(request):
    if request.param == "postgresql":
        yield request.getfixturevalue("postgresql")
    else:
        with started(request.param) as found:
            yield found


def results(study):
    return study.table().drop(columns=["worked_s", "place"])


def test_a_study_in_a_database_is_the_same_study(database, data_file, tmp_path):
    studies = [create(tmp_path / str(n), data_file, sampler="tpe", n_trials=14, **options)
               for n, options in enumerate([{}, {"storage": database.url}])]  # fmt: skip
    for study in studies:
        work(study, score)
    assert blueprints(studies[0]) == blueprints(studies[1])
    assert results(studies[0]).equals(results(studies[1]))
    assert not (studies[1].folder / "optuna.journal").exists()
    again = create(tmp_path / "1", data_file, sampler="tpe", n_trials=14, storage=database.url)
    assert len(again.optuna_study.trials) == 14
    other = create(tmp_path / "other" / "1", data_file, n_trials=1, storage=database.url)  # a name of its own
    work(other, score)
    assert len(other.trials()) == 1


def test_a_study_is_copied_there_and_back(database, data_file, tmp_path):
    """Half of the work here, a part of it there, and the rest here again: as if nothing had been copied."""
    once = create(tmp_path / "once", data_file, n_trials=12, sampler="tpe")
    work(once, score)
    study = create(tmp_path / "study", data_file, n_trials=4, sampler="tpe")
    work(study, score)
    assert f"copied 4 trials; {study.folder}" in fine("search", "copy", study.folder, database.url)
    assert (study.folder / "optuna.journal.old").exists() and not (study.folder / "optuna.journal").exists()
    assert "is there already" in refused("search", "copy", study.folder, database.url)
    study.extend(n_trials=8)
    work(study, score)  # this process had the file open
    assert "copied 8 trials" in fine("search", "copy", study.folder, "file")
    study.extend(n_trials=12)
    work(Study.open(study.folder), score)
    assert blueprints(study) == blueprints(once)
    told = [(t.number, t.values, t.params) for t in Study.open(study.folder).optuna_study.trials]
    assert told == [(t.number, t.values, t.params) for t in once.optuna_study.trials]


@pytest.mark.slow
def test_a_server_that_is_started_anew_is_waited_for(data_file, tmp_path):
    with started("postgresql") as database:
        study = create(tmp_path / "study", data_file, n_trials=6, storage=database.url)

        def restart():
            time.sleep(2)
            database.start()

        def stop_it(study, trial, check):
            if trial.number == 2:
                database.stop()
                threading.Thread(target=restart).start()
            return score(study, trial)

        assert work(study, stop_it) == 6
        assert [t.value for t in study.optuna_study.trials] == study.table()["adjusted_rand"].tolist()


def test_databases_that_cannot_be_used_are_named(data_file, tmp_path):
    url = "postgresql://anna:secret@127.0.0.1:1/none"
    with pytest.raises(gn.InputError, match=r"anna:\*\*\*@127.0.0.1:1/none cannot be used: .*[Cc]onnection") as caught:
        create(tmp_path / "study", data_file, storage=url)
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "study").exists()
    study = create(tmp_path / "file", data_file)
    assert "must be the URL of a database" in refused("search", "copy", study.folder, "my.db")
    assert "storage" not in read_yaml(study.folder / "study.yaml")
    with pytest.raises(gn.InputError, match="needs a driver: pip install"):
        create(tmp_path / "driver", data_file, storage="postgresql+pg8000://anna@127.0.0.1/none")
    assert check_url("postgresql+psycopg://anna@host/name") == "postgresql+psycopg://anna@host/name"


def test_half_a_line_is_cut_off_before_the_next_one(data_file, tmp_path):
    """What a full disk or a kill leaves in the journal; Optuna alone could never read it again."""
    study = create(tmp_path / "study", data_file, n_trials=4)
    work(study, score)
    path = study.folder / "optuna.journal"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code":5,"trial_id"')
    write_report(Study.open(study.folder))  # who looks writes nothing
    assert path.read_bytes() == whole
    path.write_bytes(whole + b'{"op_code":5,"trial_id"')
    study.extend(n_trials=6)
    assert work(study, score) == 2
    assert work(Study.open(study.folder), score) == 0
    assert len(Study.open(study.folder).optuna_study.trials) == 6
    assert path.read_bytes().startswith(whole)


def test_a_lock_that_a_kill_left_behind_is_waited_out(data_file, tmp_path, monkeypatch):
    """Its link must lead somewhere: Optuna would wait for a dangling one forever."""
    monkeypatch.chdir(tmp_path)
    study = create(Path("runs/study"), data_file, n_trials=2)
    storage = study.optuna_study._storage._backend
    assert storage._lock.acquire()
    lock = tmp_path / "runs" / "study" / "optuna.journal.lock"
    assert lock.is_symlink() and lock.exists()
    storage._lock.release()
    work(study, score)
    assert len(study.leaderboard()) == 2


def test_two_processes_may_make_a_study_at_once(data_file, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: create(tmp_path / "study", data_file, n_trials=3, baseline=True), range(4)))
    assert len({study.storage_name for study in made}) == 1
    assert [t.user_attrs.get("label") for t in made[0].optuna_study.trials] == ["baseline"]


def test_what_a_study_begins_with_is_put_in_by_the_first_worker(data_file, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Study, "prepare", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            create(tmp_path / "study", data_file, n_trials=1, baseline=True)
    study = Study.open(tmp_path / "study")
    work(study, score)
    assert study.table()["label"].tolist() == ["baseline", ""]
    study.extend(n_trials=2)
    assert Study.open(study.folder).settings["warm_start"] == []  # nothing but the budget has changed
    assert study.settings["n_trials"] == 2
