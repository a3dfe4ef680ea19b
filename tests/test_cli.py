"""The program as people use it: every verb in a process of its own, its output and what it leaves behind."""

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

import genenet as gn
from genenet.folder import write_json, write_yaml
from genenet.volume import open_volume

VERBS = [
    "demo",
    "tree",
    "train",
    "evaluate",
    "ensemble",
    "segment",
    "components",
    "correct",
    "prune",
    "export",
    "doctor",
    "data",
    "search",
]
VERBS += [f"data {verb}" for verb in ("info", "convert", "phantom", "fetch")]
VERBS += [f"search {verb}" for verb in ("init", "run", "worker", "submit", "stop", "status", "report", "replay")]
VERBS += [f"search {verb}" for verb in ("extend", "enqueue", "copy", "dashboard")]
VERBS += [f"correct {verb}" for verb in ("open", "start", "pause", "stop", "summary", "apply")]
VERBS += [f"correct {verb}" for verb in ("simulate", "effort", "learn")]

SMALL = ["--precision", "float32", "--set", "window_size=32", "--set", "n_scales=1", "--set", "n_features=4"]


def genenet(*arguments, **options):
    command = [sys.executable, "-m", "genenet", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


def fine(*arguments, **options):
    done = genenet(*arguments, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(*arguments, **options):
    """Exit code 2 and one line that begins with the program's name; before it nothing but progress."""
    done = genenet(*arguments, **options)
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    lines = done.stderr.strip().splitlines()
    assert all(re.match(r"[a-z ]+: \d+/\d+, \d+ s", line) for line in lines[:-1]), done.stderr
    assert lines[-1].startswith("genenet: ")
    return lines[-1]


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_every_verb_has_help(verb):
    text = fine(*verb.split(), "--help")
    assert "Usage" in text
    assert len(text) > 200


def test_the_readme_names_every_verb():
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    for verb in VERBS:
        if verb not in ("data", "search", "correct open"):
            assert f"genenet {verb}" in readme, verb


def test_tree(tmp_path):
    text = fine("tree", "--classes", "7")
    assert "31,030,983" in text
    assert "(572, 572) -> (388, 388)" in text
    assert "2,2,2,2 / 2,2,2,2,2" in text
    fine("tree", "--set", "n_scales=2", "--set", "activation=elu", "--output", tmp_path / "net.json")
    printed = json.loads(fine("tree", tmp_path / "net.json", "--json"))
    assert gn.from_dict(printed).activation == "elu"
    assert "activation elu" in fine("tree", tmp_path / "net.json", "--short")
    assert "net.json exists" in refused("tree", "--output", tmp_path / "net.json")
    assert "must be one of" in refused("tree", "--set", "activation=sine")
    assert "name=value" in refused("tree", "--set", "activation")
    text = fine("tree", "--set", "encode/stack1/n_convs=3", "--set", "n_scales=2")
    assert "LPES / LPDS     2,3 / 2,2,2" in text
    assert "there is no gene 'encode/stack9'" in refused("tree", "--set", "encode/stack9/n_convs=3")
    assert "did you mean `n_convs`?" in refused("tree", "--set", "encode/n_conv=3")
    assert "shrinks to nothing at decode/stack4/conv1" in refused("tree", "--set", "window_size=100")


def test_data_verbs(tmp_path, data_file):
    fine("data", "phantom", tmp_path / "p", "--shape", 4, 64, 64, "--seed", 3)
    assert "exists" in refused("data", "phantom", tmp_path / "p", "--shape", 4, 64, 64)
    told = json.loads(fine("data", "info", tmp_path / "p" / "image.ome.zarr", "--json"))
    assert told["shape"] == [4, 64, 64]
    assert told["voxel_size_nm"] == [50.0, 10.0, 10.0]
    text = fine("data", "info", tmp_path / "p" / "labels.ome.zarr")
    assert "4 x 64 x 64 (z, y, x)" in text and "50 x 10 x 10 nm" in text
    assert "holds a data.yaml" in refused("data", "info", tmp_path / "p")
    said = fine("data", "convert", tmp_path / "p" / "image.ome.zarr", tmp_path / "image.tif", "--dry-run")
    assert "would copy" in said and not (tmp_path / "image.tif").exists()
    said = fine("data", "phantom", tmp_path / "q", "--dry-run")
    assert "would write" in said and not (tmp_path / "q").exists()
    fine("data", "convert", tmp_path / "p" / "image.ome.zarr", tmp_path / "image.tif")
    box = tuple(slice(0, n) for n in (4, 64, 64))
    np.testing.assert_array_equal(
        open_volume(tmp_path / "image.tif").read(box), open_volume(tmp_path / "p" / "image.ome.zarr").read(box)
    )
    assert "exists" in refused("data", "convert", tmp_path / "p" / "image.ome.zarr", tmp_path / "image.tif")
    text = fine("data", "info", data_file)
    assert "disc" in text and "training voxels" in text
    assert json.loads(fine("data", "info", data_file, "--json"))["classes"][2]["name"] == "core"


@contextlib.contextmanager
def served(folder):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def test_data_fetch(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "a.npy").write_bytes(b"12345")
    assert "platelet" in fine("data", "fetch", "list")
    with served(tmp_path / "there") as address:
        checksum = hashlib.md5(b"12345", usedforsecurity=False).hexdigest()
        fine("data", "fetch", f"{address}/a.npy", tmp_path / "here", "--md5", checksum)
        assert (tmp_path / "here" / "a.npy").read_bytes() == b"12345"
        assert "0" * 32 in refused("data", "fetch", f"{address}/a.npy", tmp_path / "other", "--md5", "0" * 32)
        assert "--md5" in refused("data", "fetch", f"{address}/a.npy", tmp_path / "other")
    assert "there is no data set 'moon'" in refused("data", "fetch", "moon", tmp_path)


@pytest.mark.slow
def test_one_network_from_training_to_segmentation(tmp_path, data_file, data_settings):
    (tmp_path / "settings.yaml").write_text("validate_every: 10\ncheckpoint_every: 10\nwindows: {batch_size: 2}\n")
    net = tmp_path / "net"
    options = ["--data", data_file, "--steps", 20, "--settings", tmp_path / "settings.yaml", *SMALL]
    assert "would train" in fine("train", net, *options, "--dry-run")
    assert not net.exists()
    assert "best adjusted Rand score" in fine("train", net, *options)
    fine("train", net, *options)  # the same again is done already
    assert "is not this network" in refused("train", net, *options, "--seed", 1)
    text = fine("evaluate", net, "--data", data_file)
    assert "adjusted_rand" in text and "confusion" in text and "core" in text
    told = json.loads(fine("evaluate", net, "--data", data_file, "--json"))
    assert len(told["confusion"]) == 3
    out = tmp_path / "out.tif"
    assert "wrote" in fine("segment", net, data_settings["image"], out, "--precision", "float32")
    by_file = json.loads(fine("evaluate", out, "--data", data_file, "--json"))
    assert by_file["adjusted_rand"] == pytest.approx(told["adjusted_rand"], abs=0.02)
    assert "out.tif exists" in refused("segment", net, data_settings["image"], out)
    text = fine("segment", net, data_settings["image"], tmp_path / "x.tif", "--dry-run", "--tta", "flips")
    assert "would segment" in text and "1 block of 6x64x64" in text and "GiB" in text
    plan = json.loads(fine("segment", net, data_settings["image"], tmp_path / "x.tif", "--dry-run", "--json"))
    assert plan["block"] == [6, 64, 64] and plan["members"][0]["views"] == 1 and not (tmp_path / "x.tif").exists()
    assert "--memory: a size in memory" in refused(
        "segment", net, data_settings["image"], tmp_path / "x.tif", "--memory", "lots"
    )
    assert "test-time augmentation is one of" in refused(
        "segment", net, data_settings["image"], tmp_path / "x.tif", "--tta", "spin"
    )
    objects = tmp_path / "objects.ome.zarr"
    text = fine("components", out, objects, "--table", tmp_path / "objects.csv", "--min-voxels", 5)
    assert "wrote" in text and (tmp_path / "objects.csv").read_text().startswith("object,value,class,voxels")
    assert open_volume(objects).shape == (6, 64, 64)
    assert "objects.csv exists" in refused("components", out, tmp_path / "p.tif", "--table", tmp_path / "objects.csv")
    assert "has the classes" in refused("components", out, tmp_path / "p.tif", "--values", "9")
    told = json.loads(fine("components", out, objects, "--overwrite", "--json"))
    assert sum(row["voxels"] for row in told["classes"]) == np.count_nonzero(
        open_volume(objects).read((slice(0, 6), slice(0, 64), slice(0, 64)))
    )
    assert not (tmp_path / "x.tif").exists()
    told = json.loads(fine("segment", net, data_settings["image"], out, "--overwrite", "--json"))
    assert told["n_voxels"] == 6 * 64 * 64
    assert "suffix" in refused("segment", net, data_settings["image"], tmp_path / "out.doc")
    assert "is not the folder of a network" in refused("segment", data_file, data_settings["image"], tmp_path / "y.tif")
    assert "there is no" in refused("segment", tmp_path / "none", data_settings["image"], tmp_path / "y.tif")


@pytest.mark.slow
def test_a_study_from_init_to_report(tmp_path, data_file, data_settings):
    study = tmp_path / "study"
    (tmp_path / "settings.yaml").write_text("validate_every: 4\ncheckpoint_every: 4\nprecision: float32\n")
    write_yaml(
        tmp_path / "space.yaml",
        {"n_scales": {"range": [1, 2]}, "n_features": {"levels": [{"range": [3, 6]}, {"range": [-1, 1]}]}},
    )
    options = ["--data", data_file, "--steps", 4, "--batch-size", 2, "--settings", tmp_path / "settings.yaml"]
    options += ["--space", tmp_path / "space.yaml", "--window", 32, "--no-baseline"]
    assert "is a study of 2 networks" in fine("search", "init", study, *options, "--trials", 2)
    line = refused("search", "init", study, *options, "--trials", 2, "--seed", 9)
    assert "made by other settings: `seed` is 0 there and 9 here" in line
    assert "has no ensemble yet" in refused("evaluate", study, "--data", data_file)
    assert "holds a study.yaml" in refused("data", "info", study)
    assert "0 of 2 networks drawn" in fine("search", "status", study)
    assert "finished 2 trials" in fine("search", "worker", study)
    assert (study / "leaderboard.csv").exists()
    text = fine("search", "run", study, "--trials", 3, "--segment", data_settings["image"])
    assert "together" in text and "report.html" in text
    assert open_volume(study / "segmentation.ome.zarr").shape == (6, 64, 64)
    text = fine("search", "run", study, "--segment", data_settings["image"], "--steps", 4, "--no-baseline")  # again
    assert "adjusted Rand score" in text
    assert "was made with 4 steps" in refused("search", "run", study, "--steps", 5)
    assert "needs --data" in refused("search", "run", tmp_path / "new", "--window", 32)
    assert "is of another volume" in refused("search", "run", study, "--segment", data_settings["labels"])
    assert "no file or folder" in refused("search", "run", study, "--segment", tmp_path / "none.tif")
    write_yaml(tmp_path / "other.yaml", {**data_settings, "validation": {"z": [5, 6]}})
    assert "was made with other data" in refused("search", "run", study, "--data", tmp_path / "other.yaml")
    told = json.loads(fine("search", "status", study, "--json"))
    assert told["counts"] == {"done": 3}
    assert "together" in fine("ensemble", study, "--max-members", 2)
    assert len(json.loads(fine("ensemble", study, "--json"))["curve"]) == 3
    assert "report.html" in fine("search", "report", study)
    assert "<html" in (study / "report.html").read_text()
    assert 0 <= json.loads(fine("evaluate", study, "--data", data_file, "--json"))["accuracy"] <= 1


@pytest.mark.slow
def test_demo(tmp_path):
    text = fine("demo", tmp_path / "demo", "--trials", 1, "--steps", 8)
    assert "done in" in text and "report.html" in text
    told = json.loads((tmp_path / "demo" / "summary.json").read_text())
    assert 0 <= told["unseen"] <= 1
    assert (tmp_path / "demo" / "picture.png").stat().st_size > 10_000
    assert "adjusted Rand score" in fine("demo", tmp_path / "demo", "--trials", 1, "--steps", 8)


def test_doctor():
    told = json.loads(fine("doctor", "--json"))
    assert told["problems"] == []
    assert told["precision"] in ("float32", "mixed_bfloat16")
    assert "everything that is needed is here" in fine("doctor")


def test_doctor_names_the_cure_for_a_missing_backend():
    done = genenet("doctor", env={**os.environ, "KERAS_BACKEND": "torch"})
    if done.returncode == 0:
        pytest.skip("PyTorch is installed here")
    assert done.returncode == 1
    assert re.search(r"PROBLEM: Keras cannot load its backend 'torch' .* pip install", done.stdout)


# -- bad input ---


def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, data_settings):
    out = tmp_path / "out"

    def train(**changes):
        write_yaml(tmp_path / "bad.yaml", {**data_settings, **changes})
        line = refused("train", out, "--data", tmp_path / "bad.yaml", *SMALL, "--steps", 2)
        assert not out.exists() and not (tmp_path / "out.part").exists()
        return line

    assert "nowhere.tif" in train(image="nowhere.tif")
    import h5py

    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["volumes/raw"] = np.load(data_settings["image"])
        file["volumes/other"] = np.load(data_settings["image"])
    assert "volumes/raw" in train(image=str(tmp_path / "v.h5:/volume"))
    labels = np.load(data_settings["labels"])
    np.save(tmp_path / "small.npy", labels[:, :32])
    assert "has shape" in train(labels=str(tmp_path / "small.npy"))
    np.save(tmp_path / "strange.npy", labels + (labels == 2) * 5)
    assert "label values that no class has: 7" in train(labels=str(tmp_path / "strange.npy"))
    np.save(tmp_path / "empty.npy", np.minimum(labels, 1))
    assert "class 'core' (value 2) has no voxel" in train(labels=str(tmp_path / "empty.npy"))
    image = np.load(data_settings["image"]).astype(np.float32)
    image[0, 0, 0] = np.nan
    np.save(tmp_path / "nan.npy", image)
    assert "holds NaN or infinity" in train(image=str(tmp_path / "nan.npy"))
    write_yaml(tmp_path / "bad.yaml", data_settings)
    line = refused("train", out, "--data", tmp_path / "bad.yaml", "--set", "window_size=128")
    assert "larger than the training part" in line
    assert not out.exists()
    assert "there is no file" in refused("train", out, "--data", tmp_path / "none.yaml")
    assert "is not a study" in refused("search", "run", tmp_path / "none")
    write_json(tmp_path / "net.json", {"blueprint": 7})
    assert "a blueprint is an object" in refused("tree", tmp_path / "net.json")


@contextlib.contextmanager
def tiny_disk(folder, megabytes):
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(folder)], capture_output=True
    )
    if done.returncode:
        pytest.skip("a small disk needs the right to mount one")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_work_goes_on_when_it_is_freed(tmp_path, data_file):
    command = ["train", "--data", data_file, "--steps", 6, "--batch-size", 2, *SMALL, "--set", "n_features=64"]
    command += ["--settings", tmp_path / "settings.yaml"]
    (tmp_path / "settings.yaml").write_text("validate_every: 2\ncheckpoint_every: 2\n")
    with tiny_disk(tmp_path / "disk", 60) as disk:
        (disk / "ballast").write_bytes(bytes(58 * 2**20))
        done = genenet(*command, disk / "net")
        assert done.returncode == 1
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert "No space left" in done.stderr
        assert not (disk / "net").exists()
        (disk / "ballast").unlink()
        fine(*command, disk / "net")
        assert gn.Network.open(disk / "net").scores


@pytest.mark.slow
def test_ctrl_c_stops_and_the_same_command_continues(tmp_path, data_file):
    command = ["train", tmp_path / "net", "--data", data_file, "--steps", 60, "--batch-size", 2, *SMALL]
    command += ["--settings", tmp_path / "settings.yaml"]
    (tmp_path / "settings.yaml").write_text("validate_every: 20\ncheckpoint_every: 2\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "genenet", *map(str, command)],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        # A background job of a shell ignores Ctrl-C, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    while not (tmp_path / "net.part" / "checkpoint.json").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert errors.strip().splitlines()[-1] == "genenet: stopped; the same command continues where it was"
    assert "Traceback" not in errors
    assert not (tmp_path / "net").exists()
    fine(*command)
    assert (tmp_path / "net" / "model.keras").exists()


@pytest.mark.slow
def test_kill_minus_nine_during_segmentation(tmp_path, data_file, data_settings):
    fine("train", tmp_path / "net", "--data", data_file, "--steps", 2, "--batch-size", 2, *SMALL)
    np.save(tmp_path / "large.npy", np.random.default_rng(0).integers(0, 255, (200, 256, 256), np.uint8))
    command = ["segment", tmp_path / "net", tmp_path / "large.npy", "--block", 1, "--precision", "float32"]
    fine(*command, tmp_path / "whole.ome.zarr")
    out = tmp_path / "out.ome.zarr"
    process = subprocess.Popen(
        [sys.executable, "-m", "genenet", *map(str, command), str(out)],
        stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    log = tmp_path / "out.part.ome.zarr.jsonl"
    while process.poll() is None and not (log.exists() and log.read_text().count("\n") > 2):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()
    told = json.loads(fine(*command, out, "--json"))
    assert told["n_kept"] >= 2
    box = tuple(slice(0, n) for n in (200, 256, 256))
    np.testing.assert_array_equal(open_volume(out).read(box), open_volume(tmp_path / "whole.ome.zarr").read(box))
