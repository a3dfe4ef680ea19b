"""Studies on a real Slurm of two nodes, started here, where jobs are preempted and nodes vanish.

Networks cost nothing and have known scores, so that lost and doubled trials can be counted.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import blobs
from stub_worker import score
from test_launch import states_of, stub_profile, wait_for
from test_study import blueprints, create

import genenet as gn
from genenet.errors import InputError
from genenet.settings import TrainingSettings
from genenet.train import train_network
from genenet.volume import create_volume, open_volume
from search import launch
from search.report import write_report
from search.study import Study
from search.worker import work

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).parent / "slurm"
N_TRIALS = 16


def shell(*command, check=True):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, timeout=120)
    assert not check or done.returncode == 0, f"{command}: {done.stderr}"
    return done


@pytest.fixture(scope="module")
def slurm():
    """A Slurm with the nodes n1 and n2 and the partitions low and high; nothing is left of it afterwards."""
    if os.geteuid() != 0 or not (shutil.which("slurmctld") or shutil.which("apt-get")):
        pytest.skip("a Slurm for tests can be started by root only, where it is installed or apt-get can install it")
    started = shell("bash", SCRIPTS / "up.sh", check=False)
    if started.returncode:
        pytest.skip(f"Slurm could not be started: {started.stderr.strip().splitlines()[-1]}")
    variables = {}
    for word in started.stdout.replace("export", "").split():
        name, _, value = word.partition("=")
        variables[name] = value
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    yield
    shell("bash", SCRIPTS / "down.sh", "--purge", check=False)
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture
def nodes(slurm):
    """Both nodes, idle, before and after."""

    def ready():
        shell("scancel", "--me", check=False)
        shell("bash", SCRIPTS / "up.sh")
        wait_for(lambda: not shell("squeue", "-h", "-t", "R,CG,PD").stdout.split())
        wait_for(lambda: shell("sinfo", "-h", "-p", "main", "-o", "%T").stdout.split() == ["idle"])

    ready()
    yield
    ready()


def node(action, name):
    shell("bash", SCRIPTS / "node.sh", action, name)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A network that every trial gives, so that there is something to load."""
    folder = tmp_path_factory.mktemp("network")
    image, labels = blobs()
    np.save(folder / "image.npy", image)
    np.save(folder / "labels.npy", labels)
    data = {
        "image": str(folder / "image.npy"),
        "labels": str(folder / "labels.npy"),
        "classes": [{"value": value, "name": f"class {value}"} for value in range(3)],
        "training": {"z": [0, 4]},
        "validation": {"z": [4, 6]},
    }
    net = gn.EncoderDecoder(n_classes=3, n_scales=1, n_features=4, n_convs=1, window_size=32)
    settings = TrainingSettings(steps=1, precision="float32")
    return train_network(net, gn.Dataset.open(data), folder / "network", settings).folder


@pytest.fixture
def searching(nodes, network, data_file, tmp_path):
    """A study under way on both nodes."""
    return begin(data_file, tmp_path / "study", network, seconds=2.0)


def begin(data_file, folder, network, seconds):
    study = create(folder, data_file, n_trials=N_TRIALS, lease_s=6.0)
    needs = {"partition": "low", "cpus": 2, "memory": "500M", "time_s": 3600, "spare": 4}
    profile = stub_profile(data_file.parent, seconds=seconds, network=network, **needs)
    launch.submit("slurm", launch.Request(study.folder, 4, profile))
    wait_for(lambda: states_of(study).count("done") >= 2)
    return study


def at_work(study, host=None):
    """Wait until work on a trial begins, on a node; its attempt."""
    found = []

    def look():
        open_ones = [trial.attempts[-1] for trial in study.trials() if trial.standing(study.asked.lease_s) == "running"]
        just_now = [attempt for attempt in open_ones if time.time() - attempt.worker["time"] < 0.7]
        found.extend(attempt for attempt in just_now if host in (None, attempt.worker["host"]))
        return found

    wait_for(look)
    return found[0]


def finished(study, tmp_path):
    """Wait for the end; then no trial is lost, none is counted twice, each has the result that it would have had.

    The best network can be loaded, and a report can be made.
    """
    wait_for(lambda: states_of(study).count("done") == N_TRIALS, timeout_s=240)
    once = create(tmp_path / "once", tmp_path / "data.yaml", n_trials=N_TRIALS)
    work(once, score)
    table = study.table()
    assert table["state"].tolist() == ["done"] * N_TRIALS
    assert blueprints(study) == blueprints(once)
    assert table["adjusted_rand"].tolist() == once.table()["adjusted_rand"].tolist()
    assert [trial.value for trial in Study.open(study.folder).optuna_study.trials] == table["adjusted_rand"].tolist()
    found = [[attempt.ending["how"] for attempt in trial.attempts] for trial in study.trials()]
    assert all(endings[-1] == "done" and endings.count("done") == 1 for endings in found)
    best = study.trials()[int(study.leaderboard()["trial"].iloc[0])]
    assert best.network().load("float32").count_params() > 0
    assert len(study.networks()) == N_TRIALS
    assert "networks trained" in write_report(study).read_text()
    return [how for endings in found for how in endings]


def test_jobs_are_preempted(nodes, network, data_file, tmp_path):
    searching = begin(data_file, tmp_path / "study", network, seconds=6.0)  # Slurm may take its time
    shell("sbatch", "--partition=high", "--exclusive", "--nodes=2", "--output=/dev/null", "--wrap=sleep 8")
    wait_for(lambda: "stopped" in [end for trial in searching.trials() for end in endings(trial)])
    assert "stopped" in finished(searching, tmp_path)


def endings(trial):
    return [(attempt.ending or {}).get("how") for attempt in trial.attempts]


def test_a_node_loses_its_power(searching, tmp_path):
    at_work(searching, "n1")
    node("crash", "n1")
    shell("scontrol", "update", "nodename=n1", "state=down", "reason=power")
    assert "lost" in finished(searching, tmp_path)


def test_a_node_is_cut_off_and_goes_on_working(searching, tmp_path):
    """Slurm starts its jobs again elsewhere while they go on; they hold their trials, and nobody else takes these."""
    at_work(searching, "n2")
    node("hang", "n2")
    shell("scontrol", "update", "nodename=n2", "state=down", "reason=network")
    finished(searching, tmp_path)
    node("wake", "n2")


def test_the_controller_is_away(searching, tmp_path):
    node("crash", "ctl")
    started = time.monotonic()
    (job,) = launch.states(searching.folder)
    assert (job.state, job.place) == ("UNKNOWN", "Slurm gives no answer")
    time.sleep(max(30 - (time.monotonic() - started), 0))
    node("start", "ctl")
    finished(searching, tmp_path)
    wait_for(lambda: not launch.states(searching.folder))


def test_the_time_is_up(nodes, network, data_file, tmp_path):
    study = begin(data_file, tmp_path / "study", network, seconds=9.0)
    worker = at_work(study).worker
    job = f"{worker['job']}_{worker['task']}"
    shell("scontrol", "update", f"JobId={job}", "TimeLimit=2")  # less than the notice that it is to have
    wait_for(lambda: "stopped" in [end for trial in study.trials() for end in endings(trial)])
    assert "stopped" in finished(study, tmp_path)
    assert "Restarts=1" in shell("scontrol", "show", "job", job).stdout


def test_workers_are_killed(searching, tmp_path):
    for _ in range(2):
        os.kill(at_work(searching).worker["pid"], 9)
    assert "lost" in finished(searching, tmp_path)


def test_the_disk_fills_up_and_is_freed(nodes, network, data_file, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if shell("mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", disk, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        study = begin(data_file, disk / "study", network, seconds=1.0)
        shell("dd", "if=/dev/zero", f"of={disk / 'full'}", "bs=4k", check=False)
        time.sleep(6)
        assert shutil.disk_usage(disk).free < 2**22 and states_of(study).count("done") < N_TRIALS
        (disk / "full").unlink()
        finished(study, tmp_path)
        wait_for(lambda: not launch.states(study.folder))
        assert not list(disk.rglob("*.part*"))
    finally:
        shell("scancel", "--me", check=False)
        wait_for(lambda: not shell("squeue", "-h", "-t", "R,CG").stdout.split())
        shell("umount", "--lazy", disk)


def test_a_study_is_ended_and_taken_up_again(searching, network, tmp_path):
    at_work(searching)
    (job,) = launch.cancel(searching.folder)
    wait_for(lambda: not launch.states(searching.folder))
    wait_for(lambda: "running" not in states_of(searching))
    assert "stopped" in states_of(searching)
    profile = stub_profile(tmp_path, seconds=0.5, network=network, partition="main", cpus=1, memory="500M")
    (again,) = launch.submit("slurm", launch.Request(searching.folder, 2, profile))
    assert again != job
    finished(searching, tmp_path)


def test_what_slurm_refuses_is_said(nodes, data_file, tmp_path):
    study = create(tmp_path / "study", data_file)
    with pytest.raises(InputError, match="Slurm refuses: .*invalid partition"):
        launch.submit("slurm", launch.Request(study.folder, 1, stub_profile(tmp_path, partition="gold")))
    assert list((study.folder / "jobs").iterdir()) == []


def test_a_segmentation_on_slurm_outlives_its_jobs(nodes, network, tmp_path):
    """Blocks are done by jobs; one of two jobs is cancelled half-way, and the result is that of one process."""
    pytest.importorskip("dask_jobqueue", reason="pip install 'genenet[cluster]'")
    values = np.random.default_rng(0).integers(0, 255, (24, 96, 96)).astype(np.uint8)
    with create_volume(tmp_path / "image.ome.zarr", values.shape, values.dtype) as writer:
        writer.write(tuple(slice(0, n) for n in values.shape), values)
    ensemble = gn.Ensemble((gn.Network.open(network),))
    options = {"precision": "float32", "max_voxels": 2000}
    ensemble.segment(tmp_path / "image.ome.zarr", tmp_path / "here.ome.zarr", **options)
    cancelled = []

    def cancel(done, total):
        time.sleep(0.05)
        running = shell("squeue", "-h", "-t", "R", "-o", "%i", check=False).stdout.split()
        if not cancelled and len(running) == 2 and done > total / 4:
            cancelled.append(running[0])
            shell("scancel", running[0])

    jobs = {"queue": "low", "memory": "2GB", "cores": 2, "job_cpu": 1, "log_directory": str(tmp_path / "jobs"),
            "python": sys.executable, "walltime": "01:00:00"}  # fmt: skip
    summary = ensemble.segment(
        tmp_path / "image.ome.zarr", tmp_path / "there.ome.zarr", cluster="slurm", n_workers=2, jobs=jobs,
        progress=cancel, **options,
    )  # fmt: skip
    assert cancelled and summary.n_voxels == values.size
    box = tuple(slice(0, n) for n in values.shape)
    found, expected = (open_volume(tmp_path / f"{name}.ome.zarr").read(box) for name in ("there", "here"))
    np.testing.assert_array_equal(found, expected)
    wait_for(lambda: not shell("squeue", "-h").stdout.split())  # no job is left behind
