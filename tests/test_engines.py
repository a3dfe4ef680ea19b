"""Engines: each gives what Keras gives, for windows of any size, and is made once."""

import threading
import time

import numpy as np
import pytest

import genenet as gn
from genenet import engines, fastest
from genenet.engine_choice import most_varied
from genenet.ensemble import Ensemble
from genenet.network import save_network
from genenet.normalization import Normalization
from genenet.volume import open_volume

CLASSES = tuple(gn.SegmentationClass(value, f"class {value}", "#56b4e9") for value in range(3))
NETS = {
    "2d": {},
    "valid": {"padding": "valid", "upsampling": "resize"},
    "gated": {"merge": "gate", "normalization": "batch", "activation": "elu"},
    "3d": {"spatial_mode": "3d", "window_size": 16, "window_depth": 16, "n_scales": 1},
    "distances": {"distance_weight": 0.5},
    "dilated": {"dilation": 2},
    "dilated 3d": {"spatial_mode": "3d", "window_size": 16, "window_depth": 16, "n_scales": 1, "dilation": 2},
}


def network(tmp_path, name, seed=0):
    values = {"n_scales": 2, "n_features": 4, "n_convs": 1, "window_size": 64, **NETS[name]}
    net = gn.EncoderDecoder(n_classes=3, **values)
    scores, normal = {"adjusted_rand": 0.5}, Normalization((100.0,), (40.0,))
    return save_network(tmp_path / f"{name}{seed}", net.build(seed=seed), net, normal, CLASSES, scores, details={})


def image(shape=(3, 70, 90)):
    return np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)


@pytest.mark.parametrize("engine", ["openvino", "onnx"])
@pytest.mark.parametrize("name", sorted(NETS))
def test_engines_give_what_keras_gives(engine, name, tmp_path):
    if engines.missing(engine):
        pytest.skip(f"{engine} is not installed")
    made = network(tmp_path, name)
    ours = made.predictor("float32")
    theirs = engines.open_predictor(made, engine, "float32")
    for core in ((2, 16, 32), (3, 32, 16)):
        core = tuple(-(-n // s) * s for n, s in zip(core, ours.stride, strict=True))
        fit = ours.reach(core)
        batch = made.normalization(np.random.default_rng(1).integers(0, 255, (*fit.input, 1)))
        expected, found = ours.predict(batch, fit), theirs.predict(batch, fit)
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=2e-5)
        if expected.distances is not None:
            np.testing.assert_allclose(found.distances, expected.distances, atol=2e-5)
    (written,) = (made.folder / "engines").iterdir()
    before = written.stat().st_mtime_ns
    engines.open_predictor(made, engine, "float32")
    assert written.stat().st_mtime_ns == before


def test_what_openvino_compiled_is_kept_and_mended(tmp_path, monkeypatch):
    openvino = pytest.importorskip("openvino", reason="pip install openvino")
    made, batch = network(tmp_path, "2d"), np.random.default_rng(1).normal(size=(1, 64, 64, 1)).astype(np.float32)

    def run():
        return engines.open_predictor(made, "openvino", "float32").run(batch)[0]

    first = run()
    (kept,) = (made.folder / "engines" / "openvino" / "compiled").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(openvino.Core, "compile_model", None)
        np.testing.assert_array_equal(run(), first)
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2])
    np.testing.assert_array_equal(run(), first)
    assert len(kept.read_bytes()) > len(whole) - 100
    monkeypatch.setattr(engines, "MOST_KEPT_BYTES", 10)
    kept.unlink()
    np.testing.assert_array_equal(run(), first)
    assert not kept.exists()


def test_the_fastest_engine_that_agrees_is_taken(tmp_path, caplog):
    members = Ensemble((network(tmp_path, "2d", 0), network(tmp_path, "2d", 1)))
    for engine in ("keras", "auto"):
        members.segment(image(), tmp_path / f"{engine}.npy", precision="float32", engine=engine, max_voxels=5000)
    labels = [np.load(tmp_path / f"{engine}.npy") for engine in ("keras", "auto")]
    assert (labels[0] == labels[1]).mean() > 0.999
    core = (1, 32, 32)
    alone = members.members[0]
    fit = alone.predictor("float32").reach(core)
    block = np.random.default_rng(1).integers(0, 255, (*fit.input, 1)).astype(np.uint8)
    _, tried = fastest.fastest(alone, ["float32"], lambda: block, core)
    assert [trial.seconds for trial in tried] == sorted(trial.seconds for trial in tried)
    assert {trial.engine for trial in tried} == {"keras", *(e for e in ("openvino", "onnx") if not engines.missing(e))}
    assert all(trial.agreement > 0.999 for trial in tried)


def test_what_is_far_behind_is_timed_once():
    calls = []
    for limit, n_calls in ((0, 1), (60, fastest.N_ROUNDS)):
        calls.clear()
        assert fastest._time(lambda: calls.append(1), limit) >= 0
        assert len(calls) == n_calls


def test_what_was_measured_is_kept_for_such_a_machine_and_block(tmp_path, caplog, monkeypatch):
    made, core = network(tmp_path, "2d"), (1, 32, 32)
    block = np.random.default_rng(1).integers(0, 255, (*made.geometry().reach(core).input, 1)).astype(np.uint8)
    first, tried = fastest.fastest(made, ["float32"], lambda: block, core)
    caplog.set_level("INFO", "genenet")
    again, kept = fastest.fastest(made, ["float32"], lambda: pytest.fail("measured again"), core)
    assert (again.engine, kept) == (first.engine, tried) and "as measured on 20" in caplog.text
    with pytest.raises(ZeroDivisionError):
        fastest.fastest(made, ["float32"], lambda: np.zeros(1 // 0), (1, 16, 32))
    with monkeypatch.context() as elsewhere, pytest.raises(ZeroDivisionError):
        elsewhere.setattr(fastest, "cpu_name", lambda: "another")
        fastest.fastest(made, ["float32"], lambda: np.zeros(1 // 0), core)
    path = made.folder / fastest.MEASURED
    path.write_text("[{}]")
    with pytest.raises(gn.InputError, match="measured.json is damaged; delete it, and the engines are measured again"):
        fastest.fastest(made, ["float32"], lambda: block, core)


def test_an_engine_that_fails_or_disagrees_is_told_of(tmp_path, caplog, monkeypatch):
    made, core = network(tmp_path, "2d"), (1, 32, 32)
    block = np.random.default_rng(1).integers(0, 255, (*made.geometry().reach(core).input, 1)).astype(np.uint8)
    real = engines.open_predictor

    def broken(network, engine, precision):
        if engine != "keras":
            raise RuntimeError("cannot convert\nmore")
        return real(network, engine, precision)

    monkeypatch.setattr(fastest, "open_predictor", broken)
    monkeypatch.setattr(fastest, "AGREEMENT", 1.1)
    monkeypatch.setattr(fastest, "missing", lambda engine: [])
    monkeypatch.setattr(fastest, "_where", lambda *_: {})
    caplog.set_level("INFO", "genenet")
    chosen, tried = fastest.fastest(made, ["float32"], lambda: block, core)
    assert chosen.engine == ("keras", "float32") and len(tried) == 1
    assert "openvino in float32 is passed over: cannot convert\n" in caplog.text + "\n"
    assert "no engine gives what Keras gives" in caplog.text
    (made.folder / fastest.MEASURED).unlink()
    caplog.clear()
    fastest.fastest(made, ["float32"], lambda: np.full_like(block, 7), core)
    assert "one value everywhere" in caplog.text and not (made.folder / fastest.MEASURED).exists()


def test_engines_are_measured_where_the_volume_varies_most():
    volume = np.zeros((5, 200, 300), np.uint8)
    assert most_varied(open_volume(volume), (1, 32, 32)) == [2, 64, 128]
    volume[2, 100:120, 195:220] = image((1, 20, 25))[0]
    assert most_varied(open_volume(volume), (1, 32, 32)) == [2, 96, 192]
    # A volume smaller than a block.
    assert most_varied(open_volume(volume), (8, 256, 512)) == [0, 0, 0]
    deep = np.full((3, 64, 64, 2), np.nan, np.float32)
    assert most_varied(open_volume(deep), (1, 32, 32)) == [1, 0, 0]


@pytest.mark.parametrize("engine", ["openvino", "onnx"])
def test_what_engines_read_is_made_once_by_many_at_once(engine, tmp_path, monkeypatch):
    made, calls = network(tmp_path, "2d"), []

    def slow(model, engine, beside):
        calls.append(engine)
        time.sleep(0.3)
        (beside / "model.xml" if engine == "openvino" else beside).write_text("x")

    monkeypatch.setattr(engines, "_write", slow)

    def ask():
        with engines._written(made, engine) as path:
            assert path.read_text() == "x"

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [engine]
    assert [path.name for path in (made.folder / "engines").iterdir()] == [engines.FILES[engine].split("/")[0]]


def test_bfloat16_by_openvino_nearly_agrees(tmp_path):
    if engines.missing("openvino"):
        pytest.skip("pip install openvino")
    import openvino

    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no bfloat16")
    made = network(tmp_path, "2d")
    fit = made.geometry().reach((1, 64, 64))
    batch = made.normalization(np.random.default_rng(1).integers(0, 255, (*fit.input, 1)))
    exact, found = (
        engines.open_predictor(made, "openvino", precision).predict(batch, fit).probabilities
        for precision in ("float32", "bfloat16")
    )
    assert 0 < abs(exact - found).max() < 0.05


def test_engines_that_cannot_be_are_named(tmp_path, monkeypatch):
    made = network(tmp_path, "2d")
    with pytest.raises(gn.InputError, match="`engine` must be one of auto, keras, openvino, onnx, but got 'tensorrt'"):
        engines.open_predictor(made, "tensorrt")
    if not engines.missing("onnx"):
        with pytest.raises(gn.InputError, match="in float32 here, but bfloat16 is asked for"):
            engines.open_predictor(made, "onnx", "bfloat16")
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(gn.InputError, match="the engine openvino needs openvino: pip install openvino"):
        engines.open_predictor(made, "openvino")


@pytest.mark.slow
def test_whole_numbers_nearly_agree(tmp_path):
    pytest.importorskip("nncf", reason="pip install 'genenet[int8]'")
    made = network(tmp_path, "2d")
    with pytest.raises(gn.InputError, match="was not calibrated for int8; segment a volume with --precision int8"):
        engines.open_predictor(made, "openvino", "int8")
    members = Ensemble((made,))
    for precision in ("float32", "int8"):
        done = members.segment(
            image(), tmp_path / f"{precision}.npy", engine="openvino", precision=precision,
            extras={"probabilities": tmp_path / f"{precision}-p.npy"},
        )  # fmt: skip
        assert done.engines == (f"openvino/{precision}",)
    exact, whole = (np.load(tmp_path / f"{precision}-p.npy").astype(np.float32) for precision in ("float32", "int8"))
    assert abs(exact - whole).max() > 0 and abs(exact - whole).mean() < 0.02
    kept = made.folder / "engines" / engines.FILES["int8"]
    before = kept.stat().st_mtime_ns
    members.segment(image(), tmp_path / "again.npy", engine="openvino", precision="int8")
    assert kept.stat().st_mtime_ns == before
    with pytest.raises(gn.InputError, match="float32 here, but int8 is asked for"):
        members.segment(image(), tmp_path / "o.npy", engine="onnx", precision="int8")
    with pytest.raises(gn.InputError, match="`precision` must be one of"):
        members.segment(image(), tmp_path / "k.npy", engine="keras", precision="int8")
