"""Launchers: profiles, scripts, processes of this machine, and a study on a real Slurm where things go wrong."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_cli import fine, refused
from test_study import create

from genenet.errors import InputError
from genenet.folder import write_text, write_yaml
from genenet.settings import TrainingSettings
from search import launch
from search.launch.local import worker_environment
from search.launch.request import Profile, seconds

# -- what is asked for ---


@pytest.mark.parametrize(
    ("text", "expected"), [("90s", 90), ("90m", 5400), ("24h", 86400), ("2d", 172800), ("24:00:00", 86400)]
)
def test_times(text, expected):
    assert seconds(text) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"partitoin": "gpu"}, "there is no setting `partitoin`; did you mean `partition`"),
        ({"time": "a day"}, "`time` cannot be 'a day'; write 24h"),
        ({"memory": "lots"}, "`memory` cannot be 'lots'"),
        ({"gpus": -1}, "`gpus` cannot be '-1'"),
        ({"cpus": 0}, "`cpus` cannot be 0"),
    ],
)
def test_profiles_name_what_is_wrong(content, message, tmp_path):
    write_yaml(tmp_path / "site.yaml", content)
    with pytest.raises(InputError, match=f"site.yaml: {message}"):
        launch.read_profile(tmp_path / "site.yaml")


def test_the_command_line_goes_before_the_profile(tmp_path):
    write_yaml(tmp_path / "site.yaml", {"partition": "gpu", "time": "24h", "gpus": 1, "modules": ["CUDA/12"]})
    found = launch.read_profile(tmp_path / "site.yaml", partition="quick", time=None, memory="8G")
    assert found == Profile(partition="quick", time_s=86400, gpus="1", modules=("CUDA/12",), memory="8G")


def test_the_script_says_what_was_asked(data_file, tmp_path):
    study = create(tmp_path / "study", data_file)
    write_yaml(
        tmp_path / "site.yaml",
        {
            "partition": "gpu",
            "account": "lab",
            "time": "24h",
            "memory": "32G",
            "cpus": 8,
            "gpus": "a100:1",
            "options": ["--constraint=gpu80"],
            "modules": ["apptainer"],
            "lines": ["export KERAS_BACKEND=jax"],
            "container": "apptainer exec --nv genenet.sif",
            "python": "python3",
            "spare": 4,
        },
    )
    call = ("search", "submit", study.folder, "--workers", 20, "--profile", tmp_path / "site.yaml", "--dry-run")
    lines = fine(*call).splitlines()
    assert lines[0] == "#!/bin/bash"
    options = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}
    assert options >= {
        "array=0-23%20",
        "partition=gpu",
        "account=lab",
        "time=1440",
        "mem=32G",
        "cpus-per-task=8",
        "gres=gpu:a100:1",
        "constraint=gpu80",
        "requeue",
        "open-mode=append",
        "signal=B:USR1@180",
    }
    worker = f"python3 -m genenet search worker {study.folder}"
    assert lines[-3:] == [
        "module load apptainer",
        "export KERAS_BACKEND=jax",
        f"exec apptainer exec --nv genenet.sif {worker}",
    ]
    assert not (study.folder / "jobs").exists()
    assert "there is no launcher 'slrum'; did you mean `slurm`" in refused(*call[:3], "--launcher", "slrum")


def test_without_slurm(data_file, tmp_path, monkeypatch):
    study = create(tmp_path / "study", data_file)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="there is no `sbatch` here"):
        launch.submit("slurm", launch.Request(study.folder))
    assert launch.states(study.folder) == launch.cancel(study.folder) == []


# -- on this machine ---


def test_local_workers_have_no_partition(data_file, tmp_path):
    study = create(tmp_path / "study", data_file)
    with pytest.raises(InputError, match="workers of this machine have no `partition`; leave it out, or use Slurm"):
        launch.submit("local", launch.Request(study.folder, 1, Profile(partition="gpu")))
    with pytest.raises(InputError, match="have no `time`"):
        launch.preview("local", launch.Request(study.folder, 1, Profile(time_s=60)))


def stub_profile(tmp_path, **more):
    """Workers whose networks cost nothing: what is called as Python calls the stub."""
    tests = Path(__file__).parent
    seconds, network = more.pop("seconds", 0.5), more.pop("network", None)
    network = "" if network is None else f'export STUB_NETWORK="{network}"\n'
    path = tmp_path / "python"
    write_text(
        path,
        f'#!/bin/bash\nexport PYTHONPATH="{tests.parent}:{tests}"\n{network}'
        f'exec {sys.executable} {tests / "stub_worker.py"} "${{@: -1}}" {seconds}\n',
    )
    path.chmod(0o755)
    return Profile(python=str(path), **more)


def wait_for(what, timeout_s=90):
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.2)


def states_of(study):
    return study.table().get("state", []).tolist() if len(study.table()) else []


@pytest.mark.slow
def test_local_workers_go_on_by_themselves_until_they_are_ended(data_file, tmp_path):
    study = create(tmp_path / "study", data_file, n_trials=200)
    request = launch.Request(study.folder, 2, stub_profile(tmp_path, gpus="2"))
    assert "CUDA_VISIBLE_DEVICES=1" in launch.preview("local", request)
    jobs = launch.submit("local", request)
    wait_for(lambda: "done" in states_of(study))
    found = json.loads(fine("search", "status", study.folder, "--json"))
    assert [job["job"] for job in found["jobs"]] == jobs and len(jobs) == 2
    wait_for(lambda: states_of(study)[-1] == "running")
    assert f"ended job {', '.join(jobs)}" in fine("search", "stop", study.folder)
    wait_for(lambda: not launch.states(study.folder))
    assert set(states_of(study)) <= {"done", "stopped", "rejected"}
    assert "no job of" in fine("search", "stop", study.folder)


@pytest.mark.slow
def test_workers_that_share_a_job_stop_together(data_file, tmp_path):
    """As Slurm does it: one job, two workers in it, one signal."""
    settings = TrainingSettings(steps=4, validate_every=2, checkpoint_every=2, precision="float32")
    study = create(tmp_path / "study", data_file, n_trials=200, training=settings)
    request = launch.Request(study.folder, 1, Profile(share=2, gpus="1"))
    assert launch.preview("local", request).endswith(f"genenet search worker {study.folder} --processes 2")
    job = subprocess.Popen(request.command, stdout=subprocess.PIPE, text=True)
    wait_for(lambda: states_of(study).count("done") >= 3)
    job.terminate()
    assert "this worker stops, its scheduler wants the place" in job.communicate(timeout=60)[0]
    assert job.returncode == 0
    assert set(states_of(study)) <= {"done", "stopped", "rejected"}
    assert len({trial.attempts[-1].worker["pid"] for trial in study.trials() if trial.attempts}) == 2
    assert worker_environment(1, share=4)["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.22"  # 0.9 / 4
