"""Blocks done by other processes: the same voxels, and what a death costs."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import genenet as gn
from genenet import clusters
from genenet.clusters import Cluster
from genenet.ensemble import Ensemble
from genenet.manifest import path_beside
from genenet.network import Network, save_network
from genenet.normalization import Normalization
from genenet.volume import create_volume, open_volume

pytest.importorskip("distributed", reason="pip install 'genenet[cluster]'")

CLASSES = gn.SegmentationClass(0, "background", "#000000"), gn.SegmentationClass(7, "cell", "#56b4e9")
SHAPE = (12, 96, 112)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def members(folder):
    found = []
    for seed in range(2):
        net = gn.EncoderDecoder(n_classes=2, n_scales=1, n_features=3, n_convs=1, window_size=32, activation="tanh")
        model = net.build(seed=seed)
        normalization = Normalization((0.0,), (1.0,))
        scores = {"adjusted_rand": 0.5}
        found.append(save_network(folder / str(seed), model, net, normalization, CLASSES, scores, details={}))
    return Ensemble(tuple(found))


@pytest.fixture(scope="module")
def volume(folder):
    values = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    with create_volume(folder / "image.ome.zarr", SHAPE, np.float32) as writer:
        writer.write(tuple(slice(0, n) for n in SHAPE), values)
    return open_volume(folder / "image.ome.zarr")


@pytest.fixture(scope="module")
def expected(members, volume, folder):
    members.segment(
        volume, folder / "here.ome.zarr", max_voxels=4000, precision="float32",
        extras={"entropy": folder / "e.ome.zarr"},
    )  # fmt: skip
    return whole(folder / "here.ome.zarr"), whole(folder / "e.ome.zarr")


def whole(path):
    opened = open_volume(path)
    return opened.read(tuple(slice(0, n) for n in opened.shape))


@pytest.mark.slow
def test_two_local_workers_write_what_one_process_writes(members, volume, expected, tmp_path, caplog):
    caplog.set_level("INFO", "genenet")
    summary = members.segment(
        volume, tmp_path / "o.ome.zarr", max_voxels=4000, cluster="local", n_workers=2,
        extras={"entropy": tmp_path / "e.ome.zarr"}, engine="auto", precision="float32",
    )  # fmt: skip
    assert "Dask's dashboard: http://127.0.0.1:" in caplog.text
    entropy = whole(tmp_path / "e.ome.zarr").astype(np.float32)
    np.testing.assert_allclose(entropy, expected[1].astype(np.float32), atol=2e-3)
    assert (whole(tmp_path / "o.ome.zarr") == expected[0]).mean() > 0.999
    assert summary.n_voxels == np.prod(SHAPE) and summary.peak_bytes > 0 and len(summary.engines) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.ome.zarr", "o.ome.zarr"]


class Deaths:
    """A worker's process ends now and then, at first once there is one that works."""

    def __init__(self, n):
        self.left = n

    def __call__(self, done, total):
        children = [int(pid) for pid in workers_of(os.getpid())]
        if self.left and children:
            self.left -= 1
            os.kill(children[self.left % len(children)], signal.SIGKILL)


def workers_of(pid):
    """The processes in which Dask's nannies run their workers."""
    import psutil

    found = []
    for child in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any("spawn_main" in word for word in child.cmdline()):
                found.append(child.pid)
    return found


@pytest.mark.slow
def test_a_worker_that_dies_costs_its_blocks_only(members, volume, expected, tmp_path):
    deaths = Deaths(2)
    members.segment(
        volume, tmp_path / "o.ome.zarr", max_voxels=4000, cluster="local", n_workers=2, precision="float32",
        progress=deaths,
    )  # fmt: skip
    assert deaths.left == 0
    np.testing.assert_array_equal(whole(tmp_path / "o.ome.zarr"), expected[0])


class Dies(Exception):
    pass


@pytest.mark.slow
def test_a_running_scheduler_is_used_and_left_running(members, volume, expected, tmp_path):
    from distributed import Client, LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None) as cluster, Client(cluster) as client:
        address, done = client.scheduler.address, []

        def die(voxels, total):
            done.append(voxels)
            if len(done) == 5:
                raise Dies

        options = {"max_voxels": 4000, "cluster": address, "precision": "float32"}
        with pytest.raises(Dies):
            members.segment(volume, tmp_path / "o.ome.zarr", progress=die, **options)
        assert not (tmp_path / "o.ome.zarr").exists() and path_beside(tmp_path / "o.ome.zarr").exists()
        summary = members.segment(volume, tmp_path / "o.ome.zarr", **options)  # another time, with the same workers
        assert summary.n_kept == 5
        np.testing.assert_array_equal(whole(tmp_path / "o.ome.zarr"), expected[0])
        assert client.submit(sum, [1, 2]).result() == 3
        with pytest.raises(gn.InputError, match="has its own workers; leave --workers out"):
            members.segment(volume, tmp_path / "p.ome.zarr", cluster=address, n_workers=2)


def test_clusters_that_cannot_be_are_named(members, volume, tmp_path, monkeypatch):
    with pytest.raises(gn.InputError, match="several processes write one OME-Zarr, but not"):
        members.segment(volume, tmp_path / "o.tif", cluster="local", n_workers=1)
    with pytest.raises(
        gn.InputError, match="local, slurm, pbs, sge, lsf or the address of a scheduler, but got 'moon'"
    ):
        members.segment(volume, tmp_path / "o.ome.zarr", cluster="moon")
    with pytest.raises(gn.InputError, match="no Dask scheduler answers at tcp://127"):
        members.segment(volume, tmp_path / "o.ome.zarr", cluster="tcp://127.0.0.1:9")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(gn.InputError, match="no `sbatch` here"):
        members.segment(volume, tmp_path / "o.ome.zarr", cluster="slurm")


@pytest.mark.slow
def test_engines_and_blocks_are_those_of_the_workers(members, volume, expected, tmp_path, monkeypatch, caplog):
    """Another machine's, seen by the threads it gives to its workers and by the memory that they have."""
    from distributed import LocalCluster, Nanny

    caplog.set_level("INFO", "genenet")
    folder = tmp_path / "net"
    shutil.copytree(members.members[0].folder, folder, ignore=shutil.ignore_patterns("engines"))
    alone = Ensemble((Network.open(folder),))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    options = {"worker_class": Nanny, "env": {"OMP_NUM_THREADS": "1"}, "memory_limit": "3GiB"}
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, **options) as there:
        address = there.scheduler_address
        with Cluster(address) as cluster:
            assert cluster.free_bytes() <= 3 * 2**30
            assert cluster.ask(sum, [1, 2]) == 3
        summary = alone.segment(
            volume, tmp_path / "o.ome.zarr", cluster=address, engine="auto", precision="float32", memory_bytes=2**24
        )
    assert (whole(tmp_path / "o.ome.zarr") == whole_of(alone, volume, tmp_path)).mean() > 0.999
    measured = json.loads((folder / "engines" / "measured.json").read_text())
    assert [entry["where"]["threads"] for entry in measured] == [1]
    assert f"runs by {summary.engines[0].split('/')[0]} in float32" in caplog.text  # said where one asked


def whole_of(ensemble, volume, folder):
    ensemble.segment(volume, folder / "one.ome.zarr", precision="float32")
    return whole(folder / "one.ome.zarr")


def test_gpus_are_those_that_are_named(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    assert clusters.gpus() == ["0", "3"] and clusters.n_devices() == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert clusters.gpus() == [] and clusters.n_devices() == 1


def test_two_programs_do_not_write_one_output(members, volume, tmp_path):
    """A second process is refused while the first works, and goes on where it was when the first is killed."""
    out = tmp_path / "o.ome.zarr"
    script = (
        "import sys, time, genenet as gn\n"
        "from genenet.ensemble import Ensemble\n"
        "from genenet.network import Network\n"
        f"members = Ensemble(tuple(map(Network.open, {[str(member.folder) for member in members.members]!r})))\n"
        f"members.segment({volume.source!r}, {str(out)!r}, max_voxels=4000, precision='float32',\n"
        "    progress=lambda done, total: time.sleep(0.5))\n"
    ).replace("PosixPath(", "str(")
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    manifest = path_beside(out)
    deadline = time.monotonic() + 120
    while process.poll() is None and not (manifest.exists() and manifest.read_text().count("\n") > 3):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert process.poll() is None, process.stderr.read()
    with pytest.raises(gn.InputError, match="another program is writing"):
        members.segment(volume, out, max_voxels=4000, precision="float32")
    process.kill()
    process.communicate()
    summary = members.segment(volume, out, max_voxels=4000, precision="float32")
    assert summary.n_kept >= 3 and not manifest.exists()


def test_threads_that_share_a_process_share_its_networks(members, volume, tmp_path):
    """Two threads do blocks at a time, as Dask's workers do; only one is in the networks."""
    from genenet.maps import class_map
    from genenet.tiling import blocks
    from genenet.work import Work, Worker

    inside, most, lock = [0], [0], threading.Lock()
    create_volume(tmp_path / "o.ome.zarr", SHAPE, np.uint8, chunks=(12, 32, 32)).close()
    work = Work(
        members.predictor, volume, (class_map(CLASSES),), (str(tmp_path / "o.ome.zarr"),), (12, 32, 32)
    )  # fmt: skip
    worker = Worker(work)
    predict = worker.predict

    def watched(images):
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        try:
            return predict(images)
        finally:
            with lock:
                inside[0] -= 1

    worker.predict = watched
    networks, boxes = threading.Lock(), list(blocks(SHAPE, work.core))
    threads = [
        threading.Thread(target=lambda part=part: [worker.do(box, networks) for box in boxes[part::2]])
        for part in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert set(np.unique(whole(tmp_path / "o.ome.zarr"))) <= {0, 7}


@pytest.mark.slow
def test_every_local_worker_has_a_gpu_and_cores_of_its_own(monkeypatch):
    from distributed import Client

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    monkeypatch.setattr(clusters, "n_cores", lambda: 8)
    with clusters._local(2) as cluster, Client(cluster) as client:
        client.wait_for_workers(2, timeout=60)
        found = client.run(lambda: (os.environ["CUDA_VISIBLE_DEVICES"], os.environ["OMP_NUM_THREADS"]))
    assert sorted(found.values()) == [("0", "4"), ("3", "4")]
