"""What is written opens in napari, the viewer that most users have: in a real window on a display without a screen."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil
import pytest
from databases import install

import genenet
import genenet as gn
from genenet.averaging import MeanPredictor
from genenet.blocks import BlockPredictor
from genenet.corrections.session import Session
from genenet.corrections.store import Corrections
from genenet.normalization import Normalization
from genenet.segment import segment_volume
from genenet.volume import create_volume

CLASSES = gn.SegmentationClass(0, "background", "#000000"), gn.SegmentationClass(7, "cell", "#56b4e9")
SHAPE = (6, 400, 500)

# What Qt and its OpenGL need on Debian.
LIBRARIES = ("xvfb", "xauth", "libgl1", "libegl1", "libgl1-mesa-dri", "libxkbcommon-x11-0", "libxcb-cursor0",
             "libxcb-icccm4", "libxcb-keysyms1", "libxcb-shape0", "libxcb-image0", "libxcb-render-util0",
             "libxcb-xinerama0", "libdbus-1-3", "libfontconfig1")  # fmt: skip


@pytest.fixture(scope="module")
def display():
    """The command that runs another one on a display of its own."""
    for name in ("napari", "napari_ome_zarr", "PyQt6"):
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    if not shutil.which("xvfb-run"):
        install(*LIBRARIES)
    if not shutil.which("xvfb-run"):
        pytest.skip("there is no xvfb-run; on Debian: apt-get install xvfb")
    return ["xvfb-run", "--auto-servernum", "--server-args", "-screen 0 1400x900x24"]


@pytest.mark.slow
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_segmentation_opens_in_napari(display, tmp_path, version):
    net = gn.EncoderDecoder(n_classes=2, n_scales=1, n_features=2, n_convs=1, window_size=64)
    member = BlockPredictor(net.build(seed=0), net.plan_layers(), Normalization((0.0,), (1.0,)), net.window_shape())
    image = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    with create_volume(tmp_path / "image.ome.zarr", SHAPE, np.float32, voxel_size_nm=(40, 10, 10)) as writer:
        writer.write(tuple(slice(0, n) for n in SHAPE), image)
    segment_volume(
        MeanPredictor((member,)), CLASSES, tmp_path / "image.ome.zarr", tmp_path / "out.ome.zarr", identity="a",
        extras={"entropy": tmp_path / "entropy.ome.zarr"}, ome_version=version,
    )  # fmt: skip
    picture = tmp_path / "napari.png"
    script = Path(__file__).parent / "napari_viewer.py"
    opened = [tmp_path / f"{name}.ome.zarr" for name in ("image", "entropy", "out")]
    done = subprocess.run(
        [*display, sys.executable, script, picture, *opened], capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "QT_QPA_PLATFORM": "xcb", "LIBGL_ALWAYS_SOFTWARE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    raw, entropy, labels = json.loads(done.stdout.splitlines()[-1])
    assert [each["kind"] for each in (raw, entropy, labels)] == ["Image", "Image", "Labels"]
    assert labels["shapes"] == entropy["shapes"] == [list(SHAPE), [6, 200, 250]]
    for each in (raw, entropy, labels):
        assert each["scale"] == [40, 10, 10] and set(each["units"]) == {"nanometer"}
    assert labels["colors"]["7"] == pytest.approx([86 / 255, 180 / 255, 233 / 255, 1], abs=0.01)
    from PIL import Image

    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    is_blue = (pixels[..., 2] > pixels[..., 0] + 40).mean()  # cells, drawn over the image
    assert pixels.shape[0] > 300 and is_blue > 0.02


OLDEST = "0.6.6"


def run_script(display, *arguments, path=""):
    """Run the script that corrects, on a display of its own."""
    command = [*display, sys.executable, Path(__file__).parent / "napari_correct.py", *map(str, arguments)]
    where = os.pathsep.join(filter(None, [str(path), os.environ.get("PYTHONPATH", "")]))
    env = {**os.environ, "QT_QPA_PLATFORM": "xcb", "LIBGL_ALWAYS_SOFTWARE": "1", "PYTHONPATH": where}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


@pytest.fixture(params=["installed", OLDEST])
def napari_path(request, tmp_path_factory):
    """Where napari is imported from: as it is installed, or an older one in a folder of its own."""
    if request.param == "installed":
        return ""
    folder = tmp_path_factory.mktemp("napari") / "site-packages"  # under another name it takes itself for a clone
    asked = ["--quiet", "--no-deps", "--target", str(folder), f"napari=={OLDEST}", "appdirs", "numpydoc"]
    done = subprocess.run([sys.executable, "-m", "pip", "install", *asked], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"napari {OLDEST} cannot be had: {done.stderr[-200:]}")
    return folder


def to_correct(folder):
    """A volume with classes, an image and a map of doubt that is highest in slice 4."""
    rng = np.random.default_rng(0)
    names = ("background", "#000000"), ("cell", "#56b4e9"), ("nucleus", "#e69f00"), ("gap", "#009e73")
    classes = [gn.SegmentationClass(value, *named) for value, named in enumerate(names)]
    labels = np.ones(SHAPE, np.uint8)
    labels[:, 180:230, 180:230] = 2
    image = (60 * labels + rng.integers(0, 40, SHAPE)).astype(np.uint8)
    doubt = np.zeros(SHAPE, np.float16)
    doubt[4, 20:100, 270:350] = 0.9
    whole = tuple(slice(0, n) for n in SHAPE)
    for name, array, known in (("cells", labels, classes), ("image", image, None), ("doubt", doubt, None)):
        with create_volume(
            folder / f"{name}.ome.zarr", SHAPE, array.dtype, voxel_size_nm=(40, 10, 10), classes=known
        ) as out:
            out.write(whole, array)
    paths = {name: folder / f"{name}.ome.zarr" for name in ("image", "doubt")}
    return Corrections.create(folder / "cells.corrections", segmentation=folder / "cells.ome.zarr", **paths), labels


@pytest.mark.slow
def test_a_person_corrects_in_napari(display, tmp_path, napari_path):
    kept, labels = to_correct(tmp_path)
    process = run_script(display, "work", kept.folder, tmp_path / "panel.png", path=napari_path)
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    found = json.loads(said.splitlines()[-1])
    assert found["napari"] == (OLDEST if napari_path else importlib.metadata.version("napari"))
    assert found["painted"] == found["redone"] > 300 and found["undone"] == 0
    assert found["chosen"] == 0 and found["row"] == "gap (3)"
    assert found["slice"] == 4 and found["region"][0] == 4 and found["next"] != found["region"]
    assert found["next_s"] < 5 and found["done"] == [found["next"][0]] and found["paused"]
    assert "regions left" in found["said"][1] and "min" in found["said"][0]
    events = kept.events("anna")
    passed = [e.kind for e in events if e.kind not in ("active", "focus", "focus_lost") and "part" not in e.fields]
    assert passed[:7] == ["open", "start", "stroke", "undo", "redo", "stroke", "stroke"]
    edits = [event for event in events if event.kind in ("stroke", "undo", "redo")]
    undone = next(event for event in edits if event.kind == "undo")
    assert undone.fields["voxels"] == found["painted"]
    filled = next(event for event in edits if "3" in event.fields["after"])
    assert filled.fields["after"] == {"3": 50 * 50} and filled.fields["before"] == {"2": 50 * 50}
    assert any(list(event.fields["after"]) == ["0"] for event in edits) and edits[-1].fields["slice"] == 4
    assert [event.fields["text"] for event in events if event.kind == "note"] == ["unsure here"]
    assert passed[-2:] == ["pause", "close"]
    from PIL import Image

    assert np.asarray(Image.open(tmp_path / "panel.png")).shape[1] > 1000
    whole = tuple(slice(0, n) for n in SHAPE)
    np.testing.assert_array_equal(gn.open_volume(kept.segmentation).read(whole), labels)


@pytest.mark.slow
def test_a_kill_while_painting_costs_a_second_at_most(display, tmp_path):
    kept, labels = to_correct(tmp_path)
    process = run_script(display, "kill", kept.folder)
    lines = [json.loads(process.stdout.readline()) for _ in range(40)]
    (script,) = [
        p
        for p in psutil.Process(process.pid).children(recursive=True)
        if "napari_correct.py" in " ".join(p.cmdline()) and "python" in p.name()
    ]
    script.kill()
    process.communicate(timeout=60)
    killed_at = max(line["at"] for line in lines)
    session = Session(kept, "anna")
    for row in range(3):
        assert (session.labels[0, 50 + 20 * row, 50:90] == 2).all()
    kept_until = max(line["x"] for line in lines if line["at"] < killed_at - 1)
    assert (session.labels[0, 150, 50:kept_until] == 2).all()
    session.close()


def test_the_plugin_is_valid():
    npe2 = pytest.importorskip("npe2", reason="pip install 'genenet[napari]'")
    manifest = npe2.PluginManifest.from_file(Path(genenet.__file__).parent / "napari" / "napari.yaml")
    manifest.validate_imports()
    assert [widget.display_name for widget in manifest.contributions.widgets] == ["Correct a segmentation"]
