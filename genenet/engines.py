"""Programs that run a network on a batch of windows: Keras, OpenVINO, ONNX Runtime.

An engine is a function from normalised windows, float32 `(batch, *space, channels)`, to what the network gives, one
array per output. What OpenVINO and ONNX Runtime read is written once, beside the network, and used again; so is what
OpenVINO makes of small networks.
"""

import contextlib
import dataclasses
import gc
import hashlib
import importlib.util
import io
import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import numpy as np

from genenet.blocks import BlockPredictor
from genenet.device import cpu_name
from genenet.errors import InputError
from genenet.folder import writing
from genenet.network import Network

if TYPE_CHECKING:
    import keras

ENGINES = ("auto", "keras", "openvino", "onnx")
PACKAGES = {"openvino": ("openvino",), "onnx": ("onnx", "tf2onnx", "onnxruntime")}

# Where what an engine reads is kept, in the network's folder.
FILES = {"openvino": "openvino/model.xml", "onnx": "model.onnx", "int8": "openvino-int8/model.xml"}

# Networks compiled for windows of one shape are kept up to so many bytes of weights, which each holds again: to take it
# from there needs half the time, 0.05 s less for half a million parameters and 0.1 s for 31 million.
MOST_KEPT_BYTES = 2**24

# Whole numbers are fitted to what the layers give on so many windows.
N_CALIBRATION = 16

# Batches that take so long leave no memory for layers behind in OpenVINO: of the original U-Net a gigabyte. To take it
# anew costs these nothing that can be measured, but small networks a third of their time.
SLOW_S = 2.0

# Which ONNX Runtime providers may be asked for; only the CPU's was seen at work.
PROVIDERS_VARIABLE = "GENENET_ONNX_PROVIDERS"


def missing(engine: str) -> list[str]:
    """Packages that an engine needs and that are not installed."""
    return [name for name in PACKAGES.get(engine, ()) if importlib.util.find_spec(name) is None]


def open_predictor(network: Network, engine: str = "keras", precision: str = "auto") -> BlockPredictor:
    """Load a network to run by an engine.

    Args:
        network: Which.
        engine: `keras`, `openvino` or `onnx`.
        precision: `auto`, `float32`, `bfloat16` or `float16`; for OpenVINO also `int8`, once `calibrate` made it; ONNX
            Runtime computes in float32.

    Raises:
        InputError: An unknown engine, one that is not installed, or a precision that it does not have.
    """
    if engine not in ENGINES[1:]:
        raise InputError(f"`engine` must be one of {', '.join(ENGINES)}, but got {engine!r}")
    if engine == "keras":
        return network.predictor(precision)
    if missing(engine):
        raise InputError(f"the engine {engine} needs {missing(engine)[0]}: pip install {' '.join(PACKAGES[engine])}")
    if precision == "int8" and engine == "openvino":
        path = network.folder / "engines" / FILES["int8"]
        if not path.exists():
            raise InputError(f"{network.folder} was not calibrated for int8; segment a volume with --precision int8")
        run, used = _openvino(path, "int8")
    else:
        with _written(network, engine) as path:
            run, used = _openvino(path, precision) if engine == "openvino" else _onnx(path, precision)
    return dataclasses.replace(network.geometry(), run=run, engine=(engine, used))


@contextlib.contextmanager
def _written(network: Network, engine: str) -> Iterator[Path]:
    """What an engine reads, for windows of any size: made once, and kept in the network's folder where that may be."""
    path = network.folder / "engines" / FILES[engine]
    if path.exists():
        yield path
    elif os.access(network.folder, os.W_OK):
        (network.folder / "engines").mkdir(exist_ok=True)
        lock = network.folder / "engines" / f"{engine}.lock"
        with filelock.FileLock(lock):
            if not path.exists():  # another process may have made it meanwhile
                _convert(network, engine, path)
        lock.unlink(missing_ok=True)
        yield path
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / FILES[engine]
            _convert(network, engine, path)
            yield path


def _convert(network: Network, engine: str, path: Path) -> None:
    """Write what an engine reads."""
    import keras

    if keras.backend.backend() != "tensorflow":
        raise InputError(
            f"what {engine} reads is made by Keras on TensorFlow; segment once with KERAS_BACKEND=tensorflow"
        )
    model = network.load("float32")
    with writing(path.parent if engine == "openvino" else path) as beside:
        if engine == "openvino":
            beside.mkdir()
        _write(model, engine, beside)


def _write(model: "keras.Model", engine: str, beside: Path) -> None:
    import keras

    shape = (None, *model.inputs[0].shape[1:])
    signature = [keras.InputSpec(shape=shape, dtype="float32", name="image")]
    if engine == "onnx":
        # The folder is there since Keras asks for a name with this suffix.
        with tempfile.TemporaryDirectory() as folder, _without_garbage():
            model.export(f"{folder}/model.onnx", format="onnx", input_signature=signature, verbose=False)
            (Path(folder) / "model.onnx").replace(beside)
        return
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, format="tf_saved_model", input_signature=signature, verbose=False)
        openvino.save_model(openvino.convert_model(folder), str(beside / "model.xml"), compress_to_fp16=False)


@contextlib.contextmanager
def _without_garbage() -> Iterator[None]:
    """tf2onnx leaves copies of the network behind, 10 GB of a large one, in cycles that Python seldom looks for."""
    over = threading.Event()

    def collect() -> None:
        while not over.wait(0.1):
            gc.collect()

    gc.collect()
    gc.freeze()  # what was there before need not be looked through again and again
    collector = threading.Thread(target=collect, daemon=True)
    collector.start()
    try:
        yield
    finally:
        over.set()
        collector.join()
        gc.unfreeze()
        gc.collect()


Run = Callable[[np.ndarray], list[np.ndarray]]


def _openvino(path: Path, precision: str) -> tuple[Run, str]:
    """What runs a network, and in which precision."""
    import openvino

    core = openvino.Core()
    able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    names = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "int8": "f32"}
    needed = {"bfloat16": "BF16", "float16": "FP16", "int8": "INT8"}
    if precision == "auto":
        precision = "bfloat16" if "BF16" in able else "float32"
    if precision != "float32" and needed[precision] not in able:
        raise InputError(f"this CPU has no {precision} for OpenVINO; it has {', '.join(able)}")
    model = core.read_model(str(path))
    hints: dict[str, Any] = {"INFERENCE_PRECISION_HINT": names[precision], "PERFORMANCE_HINT": "LATENCY"}
    if n_threads():
        hints["INFERENCE_NUM_THREADS"] = n_threads()
    compiled: dict[tuple[int, ...], Any] = {}

    def run(batch: np.ndarray) -> list[np.ndarray]:
        if batch.shape not in compiled:
            compiled[batch.shape] = _compiled(core, model, path, batch.shape, hints)
        started = time.perf_counter()
        found = compiled[batch.shape](batch)
        answers = [np.asarray(found[number]) for number in range(len(found))]
        if time.perf_counter() - started >= SLOW_S:
            compiled[batch.shape].release_memory()  # else members together would hold what each needs for itself
        return answers

    return run, precision


def _compiled(core: Any, model: Any, path: Path, shape: tuple[int, ...], hints: dict[str, Any]) -> Any:
    """A network made ready for windows of one shape; that of a small one is kept beside what it is made from."""
    import openvino

    made_for = [openvino.__version__, core.get_property("CPU", "FULL_DEVICE_NAME"), cpu_name(), list(shape), hints]
    name = hashlib.blake2b(json.dumps(made_for).encode(), digest_size=8).hexdigest()
    kept = path.parent / "compiled" / f"{name}.blob"
    if kept.exists():
        with contextlib.suppress(RuntimeError):  # damaged
            return core.import_model(io.BytesIO(kept.read_bytes()), "CPU", hints)
    model.reshape(list(shape))
    compiled = core.compile_model(model, "CPU", hints)
    weights = path.with_suffix(".bin")
    if weights.exists() and weights.stat().st_size <= MOST_KEPT_BYTES and os.access(path.parent, os.W_OK):
        content = io.BytesIO()
        compiled.export_model(content)
        with contextlib.suppress(OSError), writing(kept) as beside:  # a disk may be full
            beside.write_bytes(content.getvalue())
    return compiled


def _onnx(path: Path, precision: str) -> tuple[Run, str]:
    """What runs a network, and in which precision."""
    import onnxruntime

    if precision not in ("auto", "float32"):
        raise InputError(f"ONNX Runtime computes networks in float32 here, but {precision} is asked for")
    providers = [name.strip() for name in os.environ.get(PROVIDERS_VARIABLE, "CPUExecutionProvider").split(",")]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads()
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=providers)
    name = session.get_inputs()[0].name
    return lambda batch: [np.asarray(found) for found in session.run(None, {name: batch})], "float32"


def calibrate(network: Network, windows: Sequence[np.ndarray]) -> None:
    """Make a network of whole numbers for OpenVINO, by NNCF: 8 bits per weight and value, kept in the network's folder.

    Args:
        network: Which; nothing is done if it was calibrated before.
        windows: Normalised, `(batch, *space, channels)`, by which the ranges of values are found.

    Raises:
        InputError: NNCF or OpenVINO is not installed, or the folder may not be written to.
    """
    path = network.folder / "engines" / FILES["int8"]
    if path.exists():
        return
    absent = [name for name in ("openvino", "nncf") if importlib.util.find_spec(name) is None]
    if absent:
        raise InputError(f"int8 needs {absent[0]}: pip install 'genenet[int8]'")
    if not os.access(network.folder, os.W_OK):
        raise InputError(f"{network.folder} may not be written to, but int8 is made once and kept there")
    # Imported before NNCF, whose parts for PyTorch and TensorFlow are not needed.
    import openvino

    with contextlib.redirect_stdout(io.StringIO()):
        import nncf

        nncf.set_log_level(logging.ERROR)
        with _written(network, "openvino") as source:
            model = openvino.Core().read_model(str(source))
            whole = nncf.quantize(model, nncf.Dataset(list(windows)), subset_size=len(windows))
    with writing(path.parent) as beside:
        beside.mkdir()
        openvino.save_model(whole, str(beside / path.name), compress_to_fp16=False)


def n_threads() -> int:
    """As OMP_NUM_THREADS says, by which local workers are given their share; 0 for as many as there are cores."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdecimal() else 0
