"""Leases: one worker per trial, one result per trial, whoever dies, sleeps or is told to stop."""

import dataclasses
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from databases import started
from optuna.trial import TrialState
from stub_worker import score
from telling import tell_oneself
from test_study import blueprints, create

from genenet.errors import InputError, TrainingError
from genenet.folder import read_json, write_json
from genenet.interrupts import Stopped, stops_at_signals
from genenet.settings import TrainingSettings
from search import lease as leases
from search.dealer import Dealer
from search.lease import Attempt, Lease, LeaseLost, attempts, is_gone, server_time, this_worker
from search.report import write_report
from search.study import Study
from search.trial import Trial
from search.worker import work

# -- files ---


def test_one_of_many_makes_a_file(tmp_path):
    won = []
    barrier = threading.Barrier(8)

    def race(name):
        barrier.wait()
        won.extend([name] if leases.create(tmp_path / "0001.json", {"by": name}) else [])

    threads = [threading.Thread(target=race, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert read_json(tmp_path / "0001.json") == {"by": won[0]}
    assert [path.name for path in tmp_path.iterdir()] == ["0001.json"]


def test_file_systems_without_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    assert leases.create(tmp_path / "a.json", {"by": 1})
    assert not leases.create(tmp_path / "a.json", {"by": 2})
    assert read_json(tmp_path / "a.json") == {"by": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_full_disk_is_an_error(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(OSError, match="no space left"):
        leases.create(tmp_path / "a.json", {})
    assert list(tmp_path.iterdir()) == []


def test_time_is_the_servers(tmp_path):
    assert server_time(tmp_path) == pytest.approx(time.time(), abs=5)
    assert list(tmp_path.iterdir()) == []


# -- who is alive ---


def test_processes_beside_this_one_are_known_to_have_ended():
    assert not is_gone(this_worker())
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    other = {**this_worker(), "pid": process.pid, **leases._process(process.pid)}
    assert not is_gone(other)
    process.kill()
    process.wait()
    assert is_gone(other)
    assert is_gone({**this_worker(), "started": 1})  # its number was given again
    assert not is_gone({**other, "host": "elsewhere"})
    assert not is_gone({"host": "elsewhere", "pid": 1})


def test_a_lease_lasts_as_long_as_its_block(tmp_path):
    lease = Lease.take(tmp_path, 1, lease_s=0.4)
    assert Lease.take(tmp_path, 1, lease_s=0.4) is None
    with lease:
        write_json(lease.attempt.path, {**lease.attempt.worker, "host": "elsewhere"})
        time.sleep(1.0)
        assert lease.attempt.is_alive(0.4)
        lease.check()
    assert lease.attempt.ending == {"how": "lost", "step": None}
    time.sleep(0.5)
    assert not lease.attempt.is_alive(0.4)
    assert attempts(tmp_path) == [lease.attempt]
    assert not Attempt(tmp_path, 2).is_alive(100.0)


def test_who_lost_a_lease_notices(tmp_path):
    with Lease.take(tmp_path, 1, lease_s=0.2) as lease:
        assert lease.attempt.end("lost")
        time.sleep(0.2)
        with pytest.raises(LeaseLost, match="was given to another worker"):
            lease.check()
    assert not lease.attempt.end("done")


# -- studies ---


def put_to_sleep(trial):
    """As if a trial's worker ran elsewhere and gave no sign of life."""
    path = trial.attempts[-1].path
    write_json(path, {**read_json(path), "host": "elsewhere"})
    os.utime(path, (0, 0))


def test_a_worker_that_comes_back_to_life_changes_nothing(data_file, tmp_path):
    study = create(tmp_path / "study", data_file, n_trials=2, lease_s=1000.0)

    def sleep(study, trial, check):
        if trial.number == 0 and len(trial.attempts) == 1:
            put_to_sleep(trial)
            assert trial.standing(study.asked.lease_s) == "lost"
            work(Study.open(study.folder), score)
            return {**score(study, trial), "adjusted_rand": -1.0}
        return score(study, trial)

    assert work(study, sleep) == 0
    first, second = study.trials()
    assert first.state["adjusted_rand"] == score(study, first)["adjusted_rand"]
    assert [attempt.ending["how"] for attempt in first.attempts] == ["lost", "done"]
    assert [attempt.ending["how"] for attempt in second.attempts] == ["done"]
    assert [trial.state for trial in study.optuna_study.trials] == [TrialState.COMPLETE] * 2
    assert "this result is dropped" in first.log.read_text()


def test_killed_before_the_result_was_written_down(data_file, tmp_path, monkeypatch):
    study = create(tmp_path / "study", data_file, n_trials=3)
    with monkeypatch.context() as patch:
        patch.setattr(Dealer, "settle", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            work(study, score)
    assert study.trials()[0].state["state"] == "running"
    assert work(Study.open(study.folder), score) == 2
    assert [trial.state["state"] for trial in study.trials()] == ["done"] * 3
    assert len(study.trials()[0].attempts) == 1


def test_told_to_stop_it_leaves_its_trial_to_others(data_file, tmp_path):
    study = create(tmp_path / "study", data_file, n_trials=2)

    def stop(study, trial, check):
        tell_oneself(signal.SIGUSR1)
        check()

    with pytest.raises(Stopped, match="time is up"), stops_at_signals({signal.SIGUSR1: "time is up"}) as check:
        work(study, stop, check)
    assert study.table()["state"].tolist() == ["stopped"]
    assert study.trials()[0].attempts[0].ending["reason"] == "time is up"
    assert work(Study.open(study.folder), score) == 2


def test_a_stopped_training_continues_at_its_step(data_file, tmp_path):
    settings = TrainingSettings(steps=6, validate_every=3, checkpoint_every=6, precision="float32")
    settings = dataclasses.replace(settings, windows=dataclasses.replace(settings.windows, batch_size=1))
    studies = [create(tmp_path / name, data_file, n_trials=1, training=settings) for name in ("once", "stopped")]
    work(studies[0])
    calls = []

    def stop_at_four():
        calls.append(len(calls))
        if len(calls) == 4:
            raise Stopped("enough")

    with pytest.raises(Stopped):
        work(studies[1], check=stop_at_four)
    assert studies[1].trials()[0].attempts[0].ending == {"how": "stopped", "reason": "enough", "step": 4}
    assert work(studies[1]) == 1
    once, stopped = (study.trials()[0] for study in studies)
    assert once.state["adjusted_rand"] == stopped.state["adjusted_rand"]
    histories = [trial.network_folder / "history.csv" for trial in (once, stopped)]
    rows = [[line.split(",") for line in path.read_text().splitlines()] for path in histories]
    for name in ("step", "loss", "adjusted_rand"):
        column = rows[0][0].index(name)
        assert [row[column] for row in rows[0]] == [row[column] for row in rows[1]]
    assert not [path for path in (stopped.folder / "attempts").iterdir() if path.is_dir()]
    assert (stopped.folder / "history.csv").exists() or (stopped.network_folder / "history.csv").exists()


def test_out_of_memory_is_tried_again_with_half_the_batch(data_file, tmp_path, monkeypatch):
    from search import objective

    study = create(tmp_path / "study", data_file, n_trials=2)
    batch_size = study.training.windows.batch_size
    seen = []

    def train(blueprint, data, folder, training, **options):
        seen.append(training.windows.batch_size)
        raise TrainingError("memory", "memory ran out")

    monkeypatch.setattr(objective, "train_network", train)
    work(study, objective.train_trial)
    assert seen == [batch_size, batch_size // 2] * 2
    assert study.table()["state"].tolist() == ["failed"] * 2
    assert study.table()["reason"].tolist() == ["memory: memory ran out"] * 2


def test_a_loss_that_became_nan_is_bad_news_for_the_sampler(data_file, tmp_path):
    study = create(tmp_path / "study", data_file, n_trials=2)

    def diverge(study, trial, check):
        if trial.number == 0:
            raise TrainingError("nan", "the loss became nan at step 7")
        raise ValueError("a bug")

    work(study, diverge)
    assert [trial.state for trial in study.optuna_study.trials] == [TrialState.PRUNED, TrialState.FAIL]
    assert [len(trial.attempts) for trial in study.trials()] == [1, 2]
    assert study.table()["reason"].tolist() == ["nan: the loss became nan at step 7", "ValueError: a bug"]


def test_trials_that_get_on_are_not_given_up(data_file, tmp_path):
    study = create(tmp_path / "study", data_file, n_trials=1)

    class Killed(BaseException):
        pass

    def die(study, trial, check):
        write_json(trial.attempts[-1].work / "checkpoint.json", {"step": len(trial.attempts)})
        raise Killed

    for _ in range(5):
        with pytest.raises(Killed):
            work(Study.open(study.folder), die)
    assert study.table()["state"].tolist() == ["lost"]
    assert work(study, score) == 1


def test_a_full_disk_is_waited_for(data_file, tmp_path, monkeypatch):
    study = create(tmp_path / "study", data_file, n_trials=2)
    room = shutil.disk_usage(tmp_path)
    free = iter([0, 0, 0])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: room._replace(free=next(free, room.free)))
    monkeypatch.setattr("search.dealer.time.sleep", lambda _: None)

    def fill(study, trial, check):
        if len(trial.attempts) == 1:
            raise OSError(errno.ENOSPC, "no space left on device")
        return score(study, trial)

    assert work(study, fill) == 2
    assert next(free, None) is None
    assert [[attempt.ending["how"] for attempt in trial.attempts] for trial in study.trials()] == [
        ["stopped", "done"]
    ] * 2


@pytest.mark.slow
def test_a_small_disk_fills_up_and_is_freed(data_file, tmp_path):
    """On a real one: no trial is lost, and what was half-written is nowhere."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can be mounted by root only")
    workers = []
    try:
        study = create(disk / "study", data_file, n_trials=12)
        command = [sys.executable, Path(__file__).parent / "filling_worker.py", study.folder]
        workers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        deadline = time.monotonic() + 60
        while shutil.disk_usage(disk).free:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(3)
        assert all(worker.poll() is None for worker in workers)  # they wait
        (disk / "full").unlink()
        said = [worker.communicate(timeout=120)[1] for worker in workers]
        assert [worker.returncode for worker in workers] == [0, 0]
        assert "the disk is full" in "".join(said)
        table = study.table()
        assert table["state"].tolist() == ["done"] * 12
        assert [trial.value for trial in study.optuna_study.trials] == table["adjusted_rand"].tolist()
        once = create(tmp_path / "once", data_file, n_trials=12)
        work(once, score)
        assert blueprints(study) == blueprints(once)
        assert not list(disk.rglob("*.part*"))
        write_report(study)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_the_last_whole_checkpoint_is_carried_over(data_file, tmp_path):
    """Not that of an attempt that wrote none, nor one of which the arrays are gone."""
    study = create(tmp_path / "study", data_file, n_trials=1)

    class Killed(BaseException):
        pass

    def die(study, trial, check):
        if len(trial.attempts) == 1:
            (trial.attempts[-1].work / "checkpoint-0000004.npz").write_bytes(b"arrays")
            write_json(trial.attempts[-1].work / "checkpoint.json", {"step": 4, "arrays": "checkpoint-0000004.npz"})
        else:  # as if it had been killed before it had them
            for path in trial.attempts[-1].work.iterdir():
                path.unlink()
        raise Killed

    for _ in range(2):
        with pytest.raises(Killed):
            work(Study.open(study.folder), die)
    found = []

    def look(study, trial, check):
        folder = trial.attempts[-1].work
        found.append((trial.attempts[-1].step, sorted(path.name for path in folder.iterdir())))
        return score(study, trial)

    assert work(Study.open(study.folder), look) == 1
    assert found == [(4, ["checkpoint-0000004.npz", "checkpoint.json"])]
    first, second = (Attempt(tmp_path, number) for number in (1, 2))
    for attempt in (first, second):
        attempt.work.mkdir(parents=True)
        write_json(attempt.path, {"time": 0})
    write_json(first.work / "checkpoint.json", {"step": 4, "arrays": "gone.npz"})
    Trial(tmp_path).carry_over(second)
    assert not list(second.work.iterdir())


def test_a_machine_without_the_data_takes_no_trial(data_file, data_settings, tmp_path):
    study = create(tmp_path / "study", data_file, n_trials=2)
    Path(data_settings["image"]).rename(tmp_path / "elsewhere.npy")
    with pytest.raises(InputError, match="image.npy"):
        work(Study.open(study.folder), score)
    assert study.trials() == []


def test_a_record_that_was_never_filled_in_is_lost(tmp_path):
    """As a kill may leave it on file systems that know no links."""
    attempt = Attempt(tmp_path, 1)
    attempt.work.mkdir(parents=True)
    for path in (attempt.path, attempt.end_path):
        path.touch()
    assert attempt.worker == {} and attempt.ending == {"how": "lost"}
    assert attempt.worked_s == 0.0


# -- many workers, killed again and again ---


@pytest.fixture(params=["file", "postgresql"])
def storage(request):
    """Where Optuna keeps a study: None for the file."""
    if request.param == "file":
        yield None
    else:
        with started(request.param) as database:
            yield database.url


@pytest.mark.slow
def test_eight_workers_killed_every_moment(storage, data_file, tmp_path):
    """No trial is lost, none is counted twice, and each has the result that it would have had."""
    study = create(tmp_path / "study", data_file, n_trials=100, storage=storage)
    once = create(tmp_path / "once", data_file, n_trials=100)
    work(once, score)
    rng, n_kills = random.Random(0), 0
    command = [sys.executable, Path(__file__).parent / "stub_worker.py", study.folder]
    workers = [subprocess.Popen(command) for _ in range(8)]
    while any(worker.poll() is None for worker in workers):
        time.sleep(rng.uniform(0.5, 2.0))
        place = rng.randrange(8)
        if workers[place].poll() is None and n_kills < 20:
            workers[place].kill()
            workers[place].wait()
            n_kills += 1
            workers[place] = subprocess.Popen(command)
    assert n_kills >= 5
    work(Study.open(study.folder), score)  # the last worker itself may have been killed
    table, expected = study.table(), once.table()
    assert table["state"].tolist() == ["done"] * 100
    assert blueprints(study) == blueprints(once)
    assert table["adjusted_rand"].tolist() == expected["adjusted_rand"].tolist()
    told = [trial.value for trial in study.optuna_study.trials]
    assert told == table["adjusted_rand"].tolist()
    for trial in study.trials():
        endings = [attempt.ending["how"] for attempt in trial.attempts]
        assert endings.count("done") == 1 and endings[-1] == "done"
        assert set(endings[:-1]) <= {"lost"}
