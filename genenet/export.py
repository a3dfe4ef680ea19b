"""Write networks for programs without Keras: ONNX and OpenVINO, compared with Keras before they are called done."""

import contextlib
import dataclasses
import importlib
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from genenet.errors import InputError
from genenet.folder import partial_path, put_in_place, remove, write_json
from genenet.network import Network

# By suffix: the format, and what has to be installed.
FORMATS = {
    ".onnx": ("ONNX", ("onnx", "tf2onnx", "onnxruntime")),
    ".xml": ("OpenVINO", ("openvino",)),
}
PRECISIONS = ("float32", "float16")

# How far an exported network's class probabilities may lie from those of Keras, in float32; and the least share of
# voxels that get the same class in float16.
APART, AGREEMENT = 1e-4, 0.99


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: The file; beside it a `.json` that says what it reads and gives.
        window: What a call reads, voxels per axis.
        core: What it gives.
        apart: The largest difference of a class probability from that of Keras.
        agreement: The share of voxels that get the same class.
    """

    path: Path
    window: tuple[int, ...]
    core: tuple[int, ...]
    apart: float
    agreement: float


def export_network(
    network: Network | Path | str,
    path: Path | str,
    *,
    precision: str = "float32",
    window: int | tuple[int, ...] | None = None,
) -> Exported:
    """Write a network as ONNX (`.onnx`) or OpenVINO (`.xml`, with a `.bin`).

    What is written reads raw intensities, float32 `(batch, *window, channels)`, normalises them, and gives class
    probabilities `(batch, *core, classes)`. The batch is open, the window is not.

    Args:
        network: What to write.
        path: Where; the suffix names the format.
        precision: `float32`; or `float16`, which is then in the file: weights and, for ONNX, computation.
        window: Voxels per axis, or per side in y and x; the nearest that fits. The training window if left out.

    Raises:
        InputError: An unknown format or precision; a program that is missing; Keras not on TensorFlow; or a file that
            gives something else than Keras does, which is not kept.
    """
    network, path = Network.open(network), Path(path)
    if path.suffix not in FORMATS:
        raise InputError(f"networks are written as {' or '.join(FORMATS)}, but got {path}")
    if precision not in PRECISIONS:
        raise InputError(f"`precision` must be float32 or float16, but got {precision!r}")
    name, packages = FORMATS[path.suffix]
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise InputError(f"writing {name} needs {package}: pip install {' '.join(packages)}")
    if keras.backend.backend() != "tensorflow":
        raise InputError(f"writing {name} needs Keras on TensorFlow: KERAS_BACKEND=tensorflow genenet export ...")
    shape = network.blueprint.window_shape(window)
    model = with_normalization(network, shape.input)
    rng = np.random.default_rng(0)
    mean, std = np.array(network.normalization.mean), np.array(network.normalization.std)
    images = (rng.normal(size=(2, *shape.input, network.blueprint.n_channels)) * std + mean).astype(np.float32)
    expected = model.predict_on_batch(images)
    with _beside(path) as beside:
        run = (
            _write_onnx(model, beside, precision)
            if path.suffix == ".onnx"
            else _write_openvino(model, beside, precision)
        )
        found = run(images)
        apart = float(np.abs(found - expected).max())
        agreement = float((found.argmax(-1) == expected.argmax(-1)).mean())
        if not (apart <= APART if precision == "float32" else agreement >= AGREEMENT):
            raise InputError(
                f"{name} in {precision} gives something else than Keras: class probabilities differ by up to "
                f"{apart:.2g}, {agreement:.2%} of the voxels get the same class; nothing was written"
            )
    about = {
        "reads": ["batch", *shape.input, network.blueprint.n_channels],
        "gives": ["batch", *shape.output, network.blueprint.n_classes],
        "precision": precision,
        "classes": [dataclasses.asdict(entry) for entry in network.classes],
        "apart_from_keras": apart,
        "same_class": agreement,
        "network": str(network.folder),
    }
    write_json(path.with_suffix(".json"), json.loads(json.dumps(about)))
    return Exported(path, shape.input, shape.output, apart, agreement)


def with_normalization(network: Network, window: tuple[int, ...]) -> keras.Model:
    """The network's model for one window, from raw intensities to class probabilities."""
    model = network.load("float32")
    image = keras.Input((*window, network.blueprint.n_channels), name="image")
    mean, std = network.normalization.mean, network.normalization.std
    scale, offset = [1 / s for s in std], [-m / s for m, s in zip(mean, std, strict=True)]
    answer = model(keras.layers.Rescaling(scale, offset, name="normalized")(image))
    return keras.Model(image, answer[0] if isinstance(answer, list) else answer)


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A place beside for files of the same stem, put in place if all goes well."""
    beside = partial_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield beside
        for suffix in (".bin", path.suffix):
            if beside.with_suffix(suffix).exists():
                put_in_place(beside.with_suffix(suffix), path.with_suffix(suffix))
    finally:
        for suffix in (".bin", path.suffix):
            remove(beside.with_suffix(suffix))


def _signature(model: keras.Model) -> list[keras.InputSpec]:
    return [keras.InputSpec(shape=model.inputs[0].shape, dtype="float32", name="image")]


def _write_onnx(model: keras.Model, path: Path, precision: str) -> Callable[[np.ndarray], np.ndarray]:
    import onnx
    import onnxruntime

    model.export(str(path), format="onnx", input_signature=_signature(model), verbose=False)
    if precision == "float16":
        from onnxruntime.transformers.float16 import convert_float_to_float16

        onnx.save(convert_float_to_float16(onnx.load(str(path)), keep_io_types=True), str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: np.asarray(session.run(None, {name: images})[0])


def _write_openvino(model: keras.Model, path: Path, precision: str) -> Callable[[np.ndarray], np.ndarray]:
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, format="tf_saved_model", input_signature=_signature(model), verbose=False)
        converted = openvino.convert_model(folder)
    openvino.save_model(converted, str(path), compress_to_fp16=precision == "float16")
    # The .xml does not name the .bin: it is found by its own name.
    hint: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(path), "CPU", hint)
    return lambda images: np.asarray(compiled(images)[0])
