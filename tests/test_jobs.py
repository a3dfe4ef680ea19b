"""Segmentation by jobs: what each scheduler is asked for, and blocks done by jobs of one that is not Slurm."""

import os
import stat
import sys

import numpy as np
import pytest

import genenet as gn
from genenet.cli.jobs import jobs_for
from genenet.clusters import SCHEDULERS, Cluster, job_cluster
from genenet.ensemble import Ensemble
from genenet.folder import write_yaml
from genenet.network import save_network
from genenet.normalization import Normalization
from genenet.volume import create_volume, open_volume

pytest.importorskip("dask_jobqueue", reason="pip install 'genenet[cluster]'")

NONE = dict.fromkeys(("partition", "account", "time", "memory", "cpus", "gpus"))
ASKED = {**NONE, "partition": "long", "account": "lab", "time": "4h", "memory": "32G"}
CLASSES = gn.SegmentationClass(0, "background", "#000000"), gn.SegmentationClass(7, "cell", "#56b4e9")


def test_a_sites_profile_becomes_jobs_of_dask(tmp_path):
    write_yaml(
        tmp_path / "site.yaml",
        {"partition": "long", "account": "lab", "time": "4h", "cpus": 8, "gpus": "a100:1", "memory": "32G", "share": 4,
         "options": ["--constraint=x"], "modules": ["cuda"], "lines": ["umask 7"], "container": "apptainer exec g.sif"},
    )  # fmt: skip
    jobs = jobs_for("slurm", tmp_path / "site.yaml", {**NONE, "partition": "gpu"}, tmp_path / "o.ome.zarr")
    assert (jobs["queue"], jobs["account"], jobs["memory"], jobs["job_cpu"]) == ("gpu", "lab", "32G", 8)
    assert jobs["walltime"] == "04:00:00"
    assert jobs["worker_extra_args"] == ["--lifetime", f"{4 * 3600 - 180}s"]
    assert jobs["job_extra_directives"] == ["--gres=gpu:a100:1", "--constraint=x"]
    assert jobs["job_script_prologue"] == ["module load cuda", "umask 7"]
    assert jobs["python"].startswith("apptainer exec g.sif /") and jobs["log_directory"].endswith("o.ome.zarr.jobs")


@pytest.mark.parametrize(
    ("scheduler", "more", "lines"),
    [
        ("slurm", {"cpus": 8, "gpus": "2"}, ["-p long", "-A lab", "--cpus-per-task=8", "--mem=32G", "-t 04:00:00",
                                            "--gres=gpu:2"]),
        ("pbs", {"cpus": 8, "gpus": "2"}, ["-q long", "-A lab", "-l select=1:ncpus=8:mem=32gb:ngpus=2",
                                          "-l walltime=04:00:00"]),
        ("pbs", {"memory": None}, ["-l select=1:ncpus=1:mem=4gb"]),
        ("lsf", {"cpus": 8, "gpus": "2"}, ["-q long", '-P "lab"', "-n 8", "-M 34359739", "-W 04:00", "-gpu num=2"]),
        ("sge", {}, ["-q long", "-P lab", "-l h_rt=04:00:00"]),
    ],
)  # fmt: skip
def test_job_scripts(scheduler, more, lines, tmp_path):
    jobs = jobs_for(scheduler, None, {**ASKED, **more}, tmp_path / "o.ome.zarr")
    with job_cluster(scheduler, {**jobs, **({"lsf_units": "kb"} if scheduler == "lsf" else {})}) as cluster:
        script = cluster.job_script()
    mark = {"slurm": "#SBATCH ", "pbs": "#PBS ", "lsf": "#BSUB ", "sge": "#$ "}[scheduler]
    for line in lines:
        assert f"{mark}{line}" in script
    assert f"export OMP_NUM_THREADS=${{{SCHEDULERS[scheduler].cpus_variable}:-1}}" in script
    assert "--memory-limit 0" in script and "--lifetime 14220s" in script and sys.executable in script


def test_what_jobs_cannot_be_asked_for(tmp_path, monkeypatch):
    output = tmp_path / "o.ome.zarr"
    with pytest.raises(gn.InputError, match="every site of SGE has its own name for `cpus`"):
        jobs_for("sge", None, {**NONE, "cpus": 4}, output)
    with pytest.raises(gn.InputError, match="`gpus` cannot be a100:1 here"):
        jobs_for("pbs", None, {**NONE, "gpus": "a100:1"}, output)
    assert jobs_for("local", None, NONE, output) == {}
    for where in (None, "local", "tcp://head:8786"):
        with pytest.raises(gn.InputError, match="--mem is about jobs; ask for them by --cluster slurm or pbs"):
            jobs_for(where, None, {**NONE, "memory": "4G"}, output)
    monkeypatch.setenv("PATH", str(tmp_path))
    for scheduler, job_scheduler in SCHEDULERS.items():
        with pytest.raises(gn.InputError, match=f"there is no `{job_scheduler.command}` here"):
            Cluster(scheduler)


# As PBS's, but jobs run at once, here. A job's number is the process that leads it.
QSUB = """#!/bin/bash
grep '^#PBS' "$1" >> {folder}/asked
cp "$1" {folder}/job.$$
NCPUS=1 setsid bash {folder}/job.$$ > {folder}/log.$$ 2>&1 < /dev/null &
echo $!.here
"""
QDEL = """#!/bin/bash
for job; do kill -- -${{job%.here}} 2> /dev/null; echo "$job" >> {folder}/ended; done
exit 0
"""


@pytest.fixture
def pbs(tmp_path, monkeypatch):
    folder = tmp_path / "pbs"
    folder.mkdir()
    for name, text in (("qsub", QSUB), ("qdel", QDEL)):
        (folder / name).write_text(text.format(folder=folder))
        (folder / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


@pytest.mark.slow
def test_jobs_of_another_scheduler_segment(pbs, tmp_path):
    """The scheduler is a stand-in of two scripts: it shows what genenet and dask-jobqueue do, not what PBS does."""
    values = np.random.default_rng(0).normal(size=(8, 96, 96)).astype(np.float32)
    with create_volume(tmp_path / "image.ome.zarr", values.shape, values.dtype) as writer:
        writer.write(tuple(slice(0, n) for n in values.shape), values)
    net = gn.EncoderDecoder(n_classes=2, n_scales=1, n_features=3, n_convs=1, window_size=32)
    network = save_network(
        tmp_path / "net", net.build(seed=0), net, Normalization((0.0,), (1.0,)), CLASSES, {"adjusted_rand": 0.5},
        details={},
    )  # fmt: skip
    ensemble = Ensemble((network,))
    ensemble.segment(tmp_path / "image.ome.zarr", tmp_path / "here.ome.zarr", precision="float32")
    jobs = jobs_for("pbs", None, {**NONE, "partition": "long", "memory": "2G"}, tmp_path / "there.ome.zarr")
    summary = ensemble.segment(
        tmp_path / "image.ome.zarr", tmp_path / "there.ome.zarr", cluster="pbs", n_workers=2, jobs=jobs,
        precision="float32", max_voxels=4000,
    )  # fmt: skip
    assert summary.n_voxels == values.size
    box = tuple(slice(0, n) for n in values.shape)
    found, expected = (open_volume(tmp_path / f"{name}.ome.zarr").read(box) for name in ("there", "here"))
    np.testing.assert_array_equal(found, expected)
    assert "#PBS -q long\n" in (pbs / "asked").read_text()
    assert (pbs / "ended").exists()  # no job is left behind
