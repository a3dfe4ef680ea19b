"""Training: continued after a kill as if nothing had happened, stopped for stated reasons, refused in one line."""

import dataclasses
import os
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

import genenet as gn
from genenet.device import dtype_policy
from genenet.errors import TrainingError
from genenet.learning_rate import learning_rate_schedule
from genenet.saving import load_model, with_policy
from genenet.settings import TrainingSettings, WindowSettings
from genenet.train import train_network
from genenet.windows import Batch


class Dies(Exception):
    pass


def dying_at(step_of_death):
    def watch(step, seconds, record):
        if record is None and step == step_of_death:
            raise Dies

    return watch


def weights(folder):
    return load_model(folder / "model.keras").get_weights()


@pytest.mark.parametrize("step_of_death", [1, 3, 5, 6])
def test_a_killed_training_continues_as_if_nothing_had_happened(step_of_death, small_net, data_file, quick, tmp_path):
    small_net.add(dropout=0.2)  # its generator is part of what must be restored
    data = gn.Dataset.open(data_file)
    whole = train_network(small_net, data, tmp_path / "whole", quick)
    with pytest.raises(Dies):
        train_network(small_net, data, tmp_path / "net", quick, watch=dying_at(step_of_death))
    network = train_network(small_net, data, tmp_path / "net", quick)
    assert network.scores == pytest.approx(whole.scores, abs=1e-6)
    for mine, theirs in zip(weights(network.folder), weights(whole.folder), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)
    assert not (tmp_path / "net.part").exists()
    rows = (tmp_path / "net" / "history.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", "3", "6"]


@pytest.mark.slow
def test_kill_minus_nine_during_training(data_file, tmp_path):
    """The command line, killed by the system, and the same command again: scores within 1e-6, one thread, float32."""
    command = [
        sys.executable, "-m", "genenet", "train", "--data", str(data_file), "--precision", "float32", "--steps", "40",
        "--batch-size", "2", "--set", "window_size=32", "--set", "n_scales=1", "--set", "n_features=8",
        "--settings", str(tmp_path / "settings.yaml"),
    ]  # fmt: skip
    (tmp_path / "settings.yaml").write_text("validate_every: 20\ncheckpoint_every: 5\n")
    names = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, "1")}
    subprocess.run([*command, str(tmp_path / "whole")], env=environment, check=True, capture_output=True)
    process = subprocess.Popen([*command, str(tmp_path / "net")], env=environment, stderr=subprocess.DEVNULL)
    while not list((tmp_path / "net.part").glob("checkpoint-*1*.npz")) and process.poll() is None:
        time.sleep(0.02)
    assert process.poll() is None, "the training ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "net").exists()
    subprocess.run([*command, str(tmp_path / "net")], env=environment, check=True, capture_output=True)
    one, other = gn.Network.open(tmp_path / "whole"), gn.Network.open(tmp_path / "net")
    assert one.blueprint == other.blueprint
    assert one.scores == pytest.approx(other.scores, abs=1e-6)


def test_the_same_call_again_returns_what_is_there(small_net, data_file, quick, tmp_path):
    data = gn.Dataset.open(data_file)
    first = train_network(small_net, data, tmp_path / "net", quick)
    stamp = (tmp_path / "net" / "model.keras").stat().st_mtime_ns
    assert train_network(small_net, data, tmp_path / "net", quick) == first
    assert (tmp_path / "net" / "model.keras").stat().st_mtime_ns == stamp
    with pytest.raises(gn.InputError, match="net exists and is not this network with these settings"):
        train_network(small_net, data, tmp_path / "net", quick, seed=1)


def test_other_settings_do_not_continue_a_checkpoint(small_net, data_file, quick, tmp_path):
    data = gn.Dataset.open(data_file)
    with pytest.raises(Dies):
        train_network(small_net, data, tmp_path / "net", quick, watch=dying_at(4))
    with pytest.raises(gn.InputError, match="unfinished training with other settings"):
        train_network(small_net, data, tmp_path / "net", dataclasses.replace(quick, steps=7))


@pytest.mark.slow
def test_it_learns(small_net, data_file, tmp_path):
    settings = TrainingSettings(
        steps=120, validate_every=60, checkpoint_every=60, windows=WindowSettings(batch_size=4), precision="float32"
    )
    small_net.set(n_features=8, n_convs=2)
    network = train_network(small_net, gn.Dataset.open(data_file), tmp_path / "net", settings)
    assert network.scores["adjusted_rand"] > 0.8
    assert network.scores["accuracy"] > 0.9


def test_the_best_weights_are_kept(small_net, data_file, quick, tmp_path):
    seen = []
    data = gn.Dataset.open(data_file)
    settings = dataclasses.replace(quick, steps=12, validate_every=2)
    network = train_network(
        small_net, data, tmp_path / "net", settings, watch=lambda s, t, record: record and seen.append(record) and None
    )
    assert network.scores["adjusted_rand"] == max(record.adjusted_rand for record in seen)
    assert gn.evaluate(network, data).adjusted_rand == pytest.approx(network.scores["adjusted_rand"], abs=0.01)


def test_reasons_to_stop(small_net, data_file, quick, tmp_path):
    data = gn.Dataset.open(data_file)
    long = dataclasses.replace(quick, steps=1000, validate_every=2)
    below = dataclasses.replace(long, stop_step=3, stop_below=2.0)
    found = train_network(small_net, data, tmp_path / "a", below).details
    assert (found["stopped"], found["steps"]) == ("adjusted Rand score below 2.0 at step 4", 4)
    small_net.set(log10_learning_rate=-7)  # nothing changes, so nothing gets better
    small_net.set(n_features=1)
    found = train_network(small_net, data, tmp_path / "b", dataclasses.replace(long, patience=2)).details
    assert found["stopped"].startswith("no better for 2 validations")
    found = train_network(small_net, data, tmp_path / "c", dataclasses.replace(long, seconds=0.5)).details
    assert found["steps"] < 1000
    asked = train_network(small_net, data, tmp_path / "d", long, watch=lambda s, t, record: record is not None).details
    assert (asked["stopped"], asked["steps"]) == ("asked to stop", 2)


def test_nan_ends_with_that_reason(small_net, data_file, quick, tmp_path, monkeypatch):
    def broken(self, step):
        shape = (2, *self.input_shape[1:])
        weights = np.full(shape, np.nan, np.float32)
        return Batch(np.zeros((*shape, 1), np.float32), np.zeros(shape, np.int32), weights)

    monkeypatch.setattr("genenet.windows.TrainingWindows.batch", broken)
    with pytest.raises(TrainingError, match="the loss became nan") as caught:
        train_network(small_net, gn.Dataset.open(data_file), tmp_path / "net", quick)
    assert caught.value.reason == "nan"
    assert not (tmp_path / "net").exists()


def test_out_of_memory_ends_with_that_reason(small_net, data_file, quick, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise MemoryError("OOM when allocating tensor")

    monkeypatch.setattr(keras.Model, "train_on_batch", full)
    with pytest.raises(TrainingError, match="memory ran out: choose a smaller batch_size") as caught:
        train_network(small_net, gn.Dataset.open(data_file), tmp_path / "net", quick)
    assert caught.value.reason == "memory"


def test_learning_rates_fall_as_asked():
    def rates(schedule, steps):
        settings = TrainingSettings(steps=100, schedule=schedule, decay_rate=0.5, decay_steps=10)
        rate = learning_rate_schedule(0.1, settings)
        return [float(rate(step)) if callable(rate) else rate for step in steps]

    assert rates("exponential", (0, 10, 20)) == pytest.approx([0.1, 0.05, 0.025])
    assert rates("cosine", (0, 50, 100)) == pytest.approx([0.1, 0.05, 0.0], abs=1e-6)
    assert rates("constant", (0, 50)) == [0.1, 0.1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"step": 5}, "training: unknown key `step`"),
        ({"windows": {"batch": 5}}, "training: unknown key `windows.batch`"),
        ({"windows": {"augmentation": {"elastics": 1}}}, "unknown key `windows.augmentation.elastics`"),
        ({"steps": "many"}, "training: `steps`"),
        ({"schedule": "linear"}, "training: `schedule`"),
        ({"steps": 0}, "`steps` must be at least 1"),
        ({"seconds": -1}, "`seconds` must be positive"),
        ({"windows": {"rare_class_share": 2}}, r"`rare_class_share` must lie in \[0, 1\], but got 2"),
        ({"windows": {"spacing": [1, 0, 4]}}, "`spacing` must be three positive distances"),
    ],
)
def test_settings_name_the_wrong_key(content, message):
    with pytest.raises(gn.InputError, match=message):
        TrainingSettings.from_dict(content)


def test_settings_survive_yaml():
    settings = TrainingSettings(steps=7, windows=WindowSettings(batch_size=3, spacing=(1, 80, 80)))
    assert TrainingSettings.from_dict(settings.to_dict()) == settings


def test_blueprints_must_fit_the_data(data_file, quick, tmp_path):
    data = gn.Dataset.open(data_file)
    with pytest.raises(gn.InputError, match="for 2 classes and 1 channels, but .* has 3 and 1"):
        train_network(gn.EncoderDecoder(n_classes=2), data, tmp_path / "net", quick)
    with pytest.raises(
        gn.InputError, match=r"window that writes 1x192x192 voxels is larger than the training part 4x64x64"
    ):
        train_network(gn.EncoderDecoder(n_classes=3), data, tmp_path / "net", quick)


def test_networks_load_in_any_precision(small_net, data_file, quick, tmp_path):
    network = train_network(small_net, gn.Dataset.open(data_file), tmp_path / "net", quick)
    image = np.random.default_rng(0).normal(size=(1, 32, 32, 1)).astype(np.float32)
    exact = network.load("float32")
    rough = network.load("bfloat16")
    assert exact.layers[1].compute_dtype == "float32"
    assert rough.layers[1].compute_dtype == "bfloat16"
    assert rough.layers[-1].compute_dtype == "float32"
    np.testing.assert_allclose(rough.predict_on_batch(image), exact.predict_on_batch(image), atol=0.05)
    assert with_policy(exact, "float32") is exact
    assert dtype_policy("float16") == "mixed_float16"
    with pytest.raises(gn.InputError, match="`precision` must be one of auto, float32"):
        network.load("double")


def test_damaged_networks_are_refused(small_net, data_file, quick, tmp_path):
    network = train_network(small_net, gn.Dataset.open(data_file), tmp_path / "net", quick)
    (tmp_path / "net" / "model.keras").write_bytes(b"not a zip")
    with pytest.raises(gn.InputError, match="model.keras is not a readable Keras file"):
        network.load()
    (tmp_path / "net" / "network.json").write_text("{}")
    with pytest.raises(gn.InputError, match="network.json is damaged"):
        gn.Network.open(tmp_path / "net")


def test_a_single_colour_picture_is_enough(small_net, quick, tmp_path):
    """2-D, three channels, uint16, split along y: from training to a segmentation."""
    from conftest import blobs

    grey, labels = blobs((1, 96, 64))
    picture = np.stack([grey[0].astype(np.uint16) * 200 + 1000 * channel for channel in range(3)], -1)
    np.save(tmp_path / "picture.npy", picture[None])
    np.save(tmp_path / "labels.npy", labels)
    data = gn.Dataset.open(
        {
            "image": str(tmp_path / "picture.npy"),
            "labels": str(tmp_path / "labels.npy"),
            "classes": [{"value": value, "name": str(value)} for value in range(3)],
            "training": {"y": [0, 64]},
            "validation": {"y": [64, 96]},
        }
    )
    net = gn.EncoderDecoder(3, 3, n_scales=1, n_features=4, n_convs=1, window_size=32)
    network = train_network(net, data, tmp_path / "net", quick)
    assert len(network.normalization.mean) == 3
    gn.Ensemble((network,)).segment(tmp_path / "picture.npy", tmp_path / "out.tif")
    assert gn.open_volume(tmp_path / "out.tif").shape == (1, 96, 64)
    with pytest.raises(gn.InputError, match="has 1 channel, but the network was trained on 3"):
        gn.Ensemble((network,)).segment(tmp_path / "labels.npy", tmp_path / "other.tif")
