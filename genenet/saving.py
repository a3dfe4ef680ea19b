"""Keras models to files and back: always float32, always in safe mode."""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

import genenet.dense_evaluation  # noqa: F401  (a layer of ours, by which files name it)
from genenet.errors import InputError
from genenet.plan import Output


def count_parameters(model: keras.Model) -> int:
    """Trainable parameters."""
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)


def with_policy(model: keras.Model, policy: str) -> keras.Model:
    """The same network computing in another precision; itself where nothing changes.

    Heads, that is outputs, softmax and what they read, stay in float32: class scores need more than eight bits.

    Args:
        model: A functional model.
        policy: A Keras dtype policy.
    """
    head = set(model.output_names)
    for layer in model.layers:
        is_sigmoid = isinstance(layer, keras.layers.Activation) and layer.name in model.output_names
        if is_sigmoid or isinstance(layer, keras.layers.Softmax):
            head |= {layer.name, layer.input._keras_history.operation.name}

    def wanted(layer: keras.Layer) -> str:
        return "float32" if layer.name in head else policy

    if all(layer.dtype_policy.name == wanted(layer) for layer in model.layers[1:]):
        return model

    def clone(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config()
        if not isinstance(layer, keras.layers.InputLayer):
            config["dtype"] = wanted(layer)
        return layer.__class__.from_config(config)

    twin = keras.models.clone_model(model, clone_function=clone)
    twin.set_weights(model.get_weights())
    return twin


def copy_of(model: keras.Model) -> keras.Model:
    """A model of its own with the same layers and weights."""
    twin = keras.models.clone_model(model, clone_function=lambda layer: type(layer).from_config(layer.get_config()))
    twin.set_weights(model.get_weights())
    return twin


def trainer_of(model: keras.Model, heads: Sequence[Output]) -> keras.Model:
    """The model to train of a model to use: to a list of what the losses compare."""
    scores = [model.get_layer(head.scores).output for head in heads]
    return keras.Model(model.inputs[0], scores, name=f"{model.name}_training")


def save_model(model: keras.Model, path: Path) -> None:
    """Write a `.keras` file in float32, without the optimizer."""
    twin = with_policy(model, "float32")
    beside = path.with_suffix(".part.keras")
    twin.save(beside)
    beside.rename(path)


def load_model(path: Path) -> keras.Model:
    """Read a `.keras` file; no code in it runs.

    Raises:
        InputError: The file is missing or damaged.
    """
    if not path.exists():
        raise InputError(f"there is no file {path}")
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a readable Keras file: {' '.join(str(error).split())[:200]}") from None


def write_arrays(path: Path, arrays: list[np.ndarray]) -> None:
    """Write numbered arrays to an `.npz` file in one step."""
    from genenet.folder import writing

    with writing(path) as beside, beside.open("wb") as stream:
        np.savez(stream, *arrays)


def read_arrays(path: Path) -> list[np.ndarray]:
    """Read what `write_arrays` wrote.

    Raises:
        InputError: The file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return [archive[f"arr_{index}"] for index in range(len(archive.files))]
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise InputError(f"{path} is not a readable checkpoint: {error}") from None


def get_variables(variables: list[keras.Variable]) -> list[np.ndarray]:
    """Copies of the variables' values."""
    return [keras.ops.convert_to_numpy(variable.value).copy() for variable in variables]


def set_variables(variables: list[keras.Variable], values: list[np.ndarray]) -> None:
    """Assign values in order.

    Raises:
        InputError: Their number or shapes differ.
    """
    if [tuple(v.shape) for v in variables] != [v.shape for v in values]:
        raise InputError("the checkpoint belongs to another network")
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
