"""What tests share: real data where there is some, a tiny annotated volume, a tiny network."""

import gc
import os
import sys
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

NO_REAL_DATA = "GENENET_DATA is not set"


@pytest.fixture
def real_data() -> Path:
    folder = os.environ.get("GENENET_DATA")
    if not folder:
        pytest.skip(NO_REAL_DATA)
    return Path(folder)


def pytest_terminal_summary(terminalreporter):
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if NO_REAL_DATA in str(report.longrepr)]
    terminalreporter.write_line(f"real-data tests skipped: {len(skipped)}")


def blobs(shape=(6, 64, 64), seed=0):
    """Three classes that brightness tells apart: background, discs, and their cores."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices(shape)
    labels = np.zeros(shape, np.uint8)
    for _ in range(max(3, shape[1] * shape[2] // 700)):
        cy, cx, radius = rng.uniform(0, shape[1]), rng.uniform(0, shape[2]), rng.uniform(5, 9)
        distance = np.hypot(y - cy - 0.5 * z, x - cx)
        labels[distance < radius] = 1
        labels[distance < radius / 2] = 2
    image = np.array([60, 120, 180])[labels] + rng.normal(0, 12, shape)
    return np.clip(image, 0, 255).astype(np.uint8), labels


@pytest.fixture
def data_settings(tmp_path):
    """The content of a data file of a tiny volume, validated on its last two slices."""
    image, labels = blobs()
    np.save(tmp_path / "image.npy", image)
    np.save(tmp_path / "labels.npy", labels)
    return {
        "image": str(tmp_path / "image.npy"),
        "labels": str(tmp_path / "labels.npy"),
        "voxel_size_nm": [50, 10, 10],
        "classes": [
            {"value": 0, "name": "background", "color": "#000000"},
            {"value": 1, "name": "disc", "color": "#56b4e9"},
            {"value": 2, "name": "core", "color": "#d55e00"},
        ],
        "training": {"z": [0, 4]},
        "validation": {"z": [4, 6]},
    }


@pytest.fixture
def data_file(tmp_path, data_settings):
    from genenet.folder import write_yaml

    write_yaml(tmp_path / "data.yaml", data_settings)
    return tmp_path / "data.yaml"


@pytest.fixture
def small_net():
    from genenet.genes import EncoderDecoder

    return EncoderDecoder(n_classes=3, n_scales=1, n_features=4, n_convs=1, window_size=32, log10_learning_rate=-2.0)


@pytest.fixture
def quick():
    """Training settings for a few steps."""
    from genenet.augment import Augmentation
    from genenet.settings import TrainingSettings, WindowSettings

    windows = WindowSettings(batch_size=2, augmentation=Augmentation.off())
    return TrainingSettings(steps=6, validate_every=3, checkpoint_every=2, precision="float32", windows=windows)


@pytest.fixture(autouse=True, scope="module")
def without_old_graphs():
    """Let go of what Keras traced, file by file: a process that runs all tests would end up with many gigabytes."""
    yield
    if "keras" in sys.modules:
        sys.modules["keras"].backend.clear_session()
        gc.collect()
