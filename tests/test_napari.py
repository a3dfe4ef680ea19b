"""What is written opens in napari, the viewer that most users have: in a real window on a display without a screen."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from databases import install

import genenet as gn
from genenet.averaging import MeanPredictor
from genenet.blocks import BlockPredictor
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
