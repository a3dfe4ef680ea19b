"""Networks for programs without Keras give what Keras gives."""

import importlib.util
import json

import numpy as np
import pytest
from backends import OTHERS, on, skip_where_missing
from test_cli import fine, refused

import genenet as gn
from genenet.errors import InputError
from genenet.export import FORMATS, export_network, with_normalization


def skip_without(suffix):
    missing = [name for name in FORMATS[suffix][1] if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: pip install {' '.join(FORMATS[suffix][1])}")


@pytest.fixture
def network(data_settings, quick, tmp_path):
    net = gn.EncoderDecoder(3, n_scales=1, n_features=6, n_convs=1, normalization="batch", window_size=32)
    return gn.train_network(net, gn.Dataset.open(data_settings), tmp_path / "network", quick)


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("suffix", FORMATS)
def test_the_file_gives_what_keras_gives(suffix, precision, network, tmp_path):
    skip_without(suffix)
    done = export_network(network, tmp_path / "out" / f"model{suffix}", precision=precision, window=48)
    assert done.window == done.core == (48, 48)
    assert done.apart < (1e-5 if precision == "float32" else 0.05)
    assert done.agreement > 0.99
    image = np.random.default_rng(1).integers(0, 255, (3, 48, 48, 1)).astype(np.float32)
    expected = with_normalization(network, (48, 48)).predict_on_batch(image)
    if suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(done.path), providers=["CPUExecutionProvider"])
        found = session.run(None, {session.get_inputs()[0].name: image})[0]
    else:
        import openvino

        found = openvino.Core().compile_model(str(done.path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(image)[0]
    np.testing.assert_allclose(found, expected, atol=1e-4 if precision == "float32" else 0.05)
    about = json.loads(done.path.with_suffix(".json").read_text())
    assert about["reads"] == ["batch", 48, 48, 1]
    assert [entry["name"] for entry in about["classes"]] == ["background", "disc", "core"]
    assert not list((tmp_path / "out").glob("*.part*"))
    if suffix == ".onnx":
        import onnx

        kinds = {entry.data_type for entry in onnx.load(done.path).graph.initializer if len(entry.dims) > 1}
        assert kinds == {onnx.TensorProto.FLOAT16 if precision == "float16" else onnx.TensorProto.FLOAT}


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("kind", ["patches", "distances", "valid"])
def test_other_networks_are_written_too(kind, suffix, data_settings, quick, tmp_path):
    skip_without(suffix)
    net = {
        "patches": gn.PatchNet(3, maps=(5, 4, 3, 6)),
        "distances": gn.EncoderDecoder(3, n_scales=1, n_features=4, n_convs=1, window_size=32, distance_weight=0.5),
        "valid": gn.UNet(3, n_scales=1, n_features=4, n_convs=1, window_size=36),
    }[kind]
    network = gn.train_network(net, gn.Dataset.open(data_settings), tmp_path / "network", quick)
    done = export_network(network, tmp_path / f"model{suffix}", window=40)
    assert done.apart < 1e-5
    assert done.core < done.window or kind == "distances"


def test_what_cannot_be_is_refused(network, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"networks are written as .onnx or .xml, but got .*model.pt"):
        export_network(network, tmp_path / "model.pt")
    with pytest.raises(InputError, match="`precision` must be float32 or float16, but got 'int8'"):
        export_network(network, tmp_path / "model.onnx", precision="int8")
    monkeypatch.setitem(FORMATS, ".onnx", ("ONNX", ("a_package_that_is_not_there",)))
    with pytest.raises(InputError, match="writing ONNX needs a_package_that_is_not_there: pip install"):
        export_network(network, tmp_path / "model.onnx")


def test_a_file_that_differs_is_not_kept(network, tmp_path, monkeypatch):
    skip_without(".onnx")
    monkeypatch.setattr("genenet.export.APART", -1.0)
    with pytest.raises(InputError, match="ONNX in float32 gives something else than Keras.*nothing was written"):
        export_network(network, tmp_path / "model.onnx")
    assert not list(tmp_path.glob("model*"))


@pytest.mark.slow
@pytest.mark.parametrize("backend", OTHERS)
def test_other_backends_are_refused(backend, network, tmp_path):
    skip_where_missing(backend)
    skip_without(".onnx")
    code = "import sys; from genenet.export import export_network; export_network(sys.argv[1], sys.argv[2])"
    with pytest.raises(AssertionError, match="writing ONNX needs Keras on TensorFlow"):
        on(backend, code, network.folder, tmp_path / "model.onnx")


def test_the_program_exports(network, data_file, tmp_path):
    skip_without(".onnx")
    said = fine("export", network.folder, tmp_path / "model.onnx", "--window", 40)
    assert "40x40 to 40x40; differs from Keras by" in said
    assert "exists; choose another name" in refused("export", network.folder, tmp_path / "model.onnx")
    small = tmp_path / "small"
    call = ("prune", network.folder, small, "--data", data_file, "--method", "structured", "--target", "share=0.3")
    assert "--export takes onnx or openvino" in refused(*call, "--export", "tensorrt")
    assert f"wrote {small / 'model.onnx'}" in fine(*call, "--retrain-steps", 1, "--export", "onnx")
