"""`genenet segment`, `ensemble` and `components` as people type them: every option, and what a run says."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tifffile
import zarr
from test_cli import fine, refused

import genenet as gn
from genenet.ensemble import Ensemble
from genenet.folder import write_yaml
from genenet.network import save_network
from genenet.normalization import Normalization
from genenet.volume import create_volume, open_volume

CLASSES = gn.SegmentationClass(0, "background", "#000000"), gn.SegmentationClass(7, "cell", "#56b4e9")
NORMAL = Normalization((100.0,), (40.0,))
ALL = slice(0, 4), slice(0, 70), slice(0, 90)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("segment")


@pytest.fixture(scope="module")
def members(folder):
    """An ensemble of two small networks."""
    made = []
    for seed in range(2):
        net = gn.EncoderDecoder(n_classes=2, n_scales=1, n_features=4, n_convs=1, window_size=32)
        model = net.build(seed=seed)
        made.append(save_network(folder / f"n{seed}", model, net, NORMAL, CLASSES, {"adjusted_rand": 0.5}, details={}))
    Ensemble(tuple(made)).save(folder / "ensemble")
    return folder / "ensemble"


@pytest.fixture(scope="module")
def volume(folder):
    values = np.random.default_rng(0).integers(0, 255, (4, 70, 90)).astype(np.uint8)
    with create_volume(folder / "i.ome.zarr", values.shape, np.uint8, voxel_size_nm=(50, 10, 10)) as writer:
        writer.write(ALL, values)
    return folder / "i.ome.zarr"


@pytest.fixture(scope="module")
def expected(members, volume, folder):
    """Labels of the plain run."""
    fine("segment", members, volume, folder / "plain.npy", "--precision", "float32")
    return np.load(folder / "plain.npy")


def test_a_summary_for_scripts(members, volume, expected, tmp_path):
    done = json.loads(
        fine(
            "segment", members, volume, tmp_path / "o.ome.zarr", "--precision", "float32", "--json",
            "--entropy", tmp_path / "e.ome.zarr", "--disagreement", tmp_path / "d.ome.zarr", "--margin",
            tmp_path / "m.ome.zarr", "--probabilities", tmp_path / "p.ome.zarr", "--maps-dtype", "uint8",
            "--ome-zarr", "0.4", "--block", "0.002",
        )
    )  # fmt: skip
    assert done["n_voxels"] == 4 * 70 * 90 and done["n_kept"] == 0 and done["n_blocks"] > 4
    assert done["engines"] == ["keras/float32"] * 2
    assert 0 < done["network_seconds"] <= done["seconds"] and done["voxels_per_s"] > 0
    assert 2**26 < done["peak_bytes"] < 2**34
    assert done["n_bytes_read"] >= 4 * 70 * 90 and done["n_bytes_written"] == 4 * 70 * 90 * (1 + 3 + 2)
    assert sum(done["fractions"]) == pytest.approx(1)
    np.testing.assert_array_equal(open_volume(tmp_path / "o.ome.zarr").read(ALL), expected)
    for name, shape in (("e", (4, 70, 90)), ("p", (2, 4, 70, 90))):
        group = zarr.open_group(tmp_path / f"{name}.ome.zarr", mode="r")
        assert group.metadata.zarr_format == 2 and group["0"].dtype == np.uint8 and group["0"].shape == shape


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("--engine", "onnx"),
        ("--engine", "openvino"),
        ("--engine", "auto"),
        ("--memory", "1G"),
        ("--no-pyramid",),
        ("--cluster", "local", "--workers", "2"),
        ("--cluster", "local", "--workers", "1", "--engine", "onnx"),
    ],
    ids=" ".join,
)
def test_options_that_change_nothing(options, members, volume, expected, tmp_path):
    fine("segment", members, volume, tmp_path / "o.ome.zarr", "--precision", "float32", *options)
    assert (open_volume(tmp_path / "o.ome.zarr").read(ALL) == expected).mean() > 0.999


@pytest.mark.slow
@pytest.mark.parametrize("options", [("--axes", "zyx"), ("--overlap", "0.25"), ("--tta", "flips")], ids=" ".join)
def test_options_that_look_otherwise(options, members, volume, expected, tmp_path):
    fine("segment", members, volume, tmp_path / "o.npy", "--precision", "float32", *options)
    found = np.load(tmp_path / "o.npy")
    assert (found == expected).mean() > 0.5 and set(np.unique(found)) <= {0, 7}


def test_a_run_begins_anew_where_one_asks(members, volume, expected, tmp_path):
    manifest = tmp_path / "o.part.npy.jsonl"
    manifest.write_text('{"settings": {"a": 1}, "chosen": {}}\n{"block": 0, "counts": [1]}\n')
    said = refused("segment", members, volume, tmp_path / "o.npy", "--precision", "float32")
    assert "an unfinished segmentation is there, begun with other settings" in said and "--restart" in said
    fine("segment", members, volume, tmp_path / "o.npy", "--precision", "float32", "--restart")
    np.testing.assert_array_equal(np.load(tmp_path / "o.npy"), expected)


def test_a_preview_refuses_what_a_run_would(members, volume, tmp_path):
    dry = ("--dry-run", "--json")
    plan = json.loads(fine("segment", members, volume, tmp_path / "o.ome.zarr", *dry))
    assert len(plan["members"]) == 2 and plan["n_blocks"] >= 1
    assert "several processes write one OME-Zarr" in refused(
        "segment", members, volume, tmp_path / "o.npy", *dry, "--cluster", "local"
    )
    assert "--maps-dtype uint8" in refused(
        "segment", members, volume, tmp_path / "o.npy", *dry, "--entropy", tmp_path / "e.tif"
    )
    tifffile.imwrite(tmp_path / "rgb.tif", np.zeros((64, 64, 3), np.uint8), photometric="rgb")
    assert "has 3 channels" in refused("segment", members, tmp_path / "rgb.tif", tmp_path / "o.npy", *dry)
    assert "is what is read" in refused("segment", members, volume, volume, *dry, "--overwrite")
    assert {path.name for path in tmp_path.iterdir()} == {"rgb.tif"}


@pytest.mark.slow
def test_a_full_disk_is_one_line_with_hdf5_too(members, volume, expected, tmp_path):
    words = [
        sys.executable, "-m", "genenet", "segment", str(members), str(volume), "o.h5", "--entropy", "e.h5",
        "--precision", "float32",
    ]  # fmt: skip
    limited = ["bash", "-c", 'ulimit -f 8; exec "$@"', "limited", *words]
    done = subprocess.run(limited, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 2
    *_, last = done.stderr.strip().split("\n")
    assert last.startswith("genenet: cannot write") and "free some space or choose another folder" in last
    assert "Exception ignored" not in done.stderr
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(open_volume(tmp_path / "o.h5").read(ALL), expected)


@pytest.mark.slow
def test_a_volume_by_url(members, volume, expected, folder, tmp_path):
    pytest.importorskip("aiohttp", reason="pip install 'genenet[remote]'")
    pytest.importorskip("upath", reason="pip install 'genenet[remote]'")
    from test_cli import served

    with served(folder) as url:
        fine("segment", members, f"{url}/{volume.name}", tmp_path / "o.npy", "--precision", "float32")
    np.testing.assert_array_equal(np.load(tmp_path / "o.npy"), expected)


@pytest.mark.slow
def test_progress_in_a_log_has_speed_and_time_left(members, volume, tmp_path):
    script = (
        "import sys\nfrom genenet.cli import output\noutput.LOG_EVERY_S = 0.0\nfrom genenet.cli import main\n"
        f"sys.argv = ['genenet', 'segment', {str(members)!r}, {str(volume)!r}, {str(tmp_path / 'o.npy')!r}, "
        "'--block', '0.002']\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "voxels/s" in done.stderr and " s left" in done.stderr


def test_components_keep_what_is_large(folder, tmp_path):
    values = np.zeros((4, 30, 30), np.uint8)
    values[1, 2:8, 2:8] = 7
    values[2, 8:14, 8:14] = 7  # shares a corner with the first
    values[3, 20, 20] = 7
    with create_volume(tmp_path / "s.ome.zarr", values.shape, np.uint8, classes=CLASSES) as writer:
        writer.write((slice(0, 4), slice(0, 30), slice(0, 30)), values)
    counts = []
    for connectivity in ("1", "3"):
        out = tmp_path / f"o{connectivity}.npy"
        fine(
            "components", tmp_path / "s.ome.zarr", out, "--connectivity", connectivity, "--min-voxels", "2",
            "--cleaned", tmp_path / f"c{connectivity}.npy", "--table", tmp_path / f"t{connectivity}.csv",
        )  # fmt: skip
        counts.append(np.load(out).max())
        cleaned = np.load(tmp_path / f"c{connectivity}.npy")
        assert cleaned[3, 20, 20] == 0 and cleaned.sum() == values.sum() - 7
    assert counts == [2, 1]
    assert "is what is read" in refused("components", tmp_path / "s.ome.zarr", tmp_path / "s.ome.zarr", "--overwrite")


@pytest.mark.slow
def test_members_are_chosen_as_one_asks_and_stay_so(data_file, tmp_path):
    study = tmp_path / "study"
    (tmp_path / "settings.yaml").write_text("validate_every: 4\ncheckpoint_every: 4\nprecision: float32\n")
    write_yaml(tmp_path / "space.yaml", {"n_scales": {"range": [1, 1]}, "n_features": {"range": [3, 6]}})
    fine(
        "search", "init", study, "--data", data_file, "--trials", "3", "--steps", "4", "--batch-size", "2",
        "--settings", tmp_path / "settings.yaml", "--space", tmp_path / "space.yaml", "--window", "32", "--no-baseline",
    )  # fmt: skip
    fine("search", "run", study)
    found = json.loads(fine("ensemble", study, "--rule", "greedy_with_replacement", "--calibrate", "--json"))
    assert found["calibration_error"]["after"] >= 0 and len(found["curve"]) >= found["n_members"]
    assert "expected calibration error: 0." in fine("ensemble", study, "--max-members", "2", "--calibrate")
    before = (study / "ensemble" / "members.json").read_text()
    assert json.loads(before)["chosen_by"] == {"rule": "best", "max_members": 2, "calibrate": True}
    fine("search", "run", study)
    assert (study / "ensemble" / "members.json").read_text() == before
    assert "members.json" in os.listdir(study / "ensemble")
    fine("ensemble", study, "--vote")
    assert json.loads((study / "ensemble" / "members.json").read_text())["vote"] is True
    assert "no network keeps the limit of 1e-09 s" in refused(
        "ensemble", study, "--rule", "per_second", "--limit", "1e-9"
    )
    fine("ensemble", study, "--rule", "per_second", "--limit", "1000")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_volume(members, tmp_path):
    peaks = []
    for depth in (8, 96):
        path = tmp_path / f"{depth}.ome.zarr"
        with create_volume(path, (depth, 600, 600), np.uint8, chunks=(1, 300, 300)) as writer:
            for z in range(depth):
                slab = np.random.default_rng(z).integers(0, 255, (1, 600, 600)).astype(np.uint8)
                writer.write((slice(z, z + 1), slice(0, 600), slice(0, 600)), slab)
        outputs = tmp_path / f"o{depth}.ome.zarr", "--entropy", tmp_path / f"e{depth}.ome.zarr"
        peaks.append(json.loads(fine("segment", members, path, *outputs, "--json", "--block", "0.1"))["peak_bytes"])
    # The second volume has 36 MB, its entropy twice that.
    assert peaks[1] < 1.1 * peaks[0]
