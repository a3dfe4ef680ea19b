"""What the machine has: the backend, its devices, and the precision that is fast on them."""

import contextlib
import dataclasses
import functools
import logging
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from genenet.errors import InputError

PRECISIONS = ("auto", "float32", "bfloat16", "float16")


@functools.cache
def cpu_flags() -> frozenset[str]:
    """The processor's features as Linux names them; empty elsewhere."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return frozenset()
    for line in info.read_text(errors="replace").splitlines():
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def cpu_name() -> str:
    """The processor's model as Linux names it; elsewhere what Python knows."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def cpu_likes_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 matrices faster than float32 ones."""
    return bool({"amx_bf16", "avx512_bf16"} & cpu_flags())


@dataclasses.dataclass(frozen=True)
class Device:
    """Where networks run.

    Attributes:
        backend: Keras' backend.
        kind: `cpu` or `gpu`.
        name: For people.
        fast_bfloat16: Whether bfloat16 is worth using.
    """

    backend: str
    kind: str
    name: str
    fast_bfloat16: bool


@functools.cache
def find_device() -> Device:
    """Look for an accelerator through Keras' backend."""
    backend = import_keras().backend.backend()
    finders = {"tensorflow": _tensorflow_gpus, "jax": _jax_gpus, "torch": _torch_gpus}
    gpus = finders[backend]() if backend in finders else []
    if gpus:
        return Device(backend, "gpu", gpus[0], fast_bfloat16=True)
    return Device(backend, "cpu", f"{os.cpu_count()} CPU cores", fast_bfloat16=cpu_likes_bfloat16())


@contextlib.contextmanager
def _nothing_on_stderr() -> Iterator[None]:
    """TensorFlow writes notes past Python while it is imported, whatever its settings say."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def import_keras() -> ModuleType:
    """Keras with its backend, without the notes that TensorFlow prints at start.

    Raises:
        InputError: The backend is missing; says how to get one.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    try:
        with _nothing_on_stderr():
            import keras
    except ImportError as error:
        backend = os.environ.get("KERAS_BACKEND", "tensorflow")
        raise InputError(
            f"Keras cannot load its backend {backend!r} ({error}); install one with pip install 'genenet[tensorflow]', "
            "'genenet[jax]' or 'genenet[torch]', and name it in KERAS_BACKEND"
        ) from error
    return keras


def _tensorflow_gpus() -> list[str]:
    import tensorflow

    return [device.name for device in tensorflow.config.list_physical_devices("GPU")]


def _jax_gpus() -> list[str]:
    import jax

    return [device.device_kind for device in jax.devices() if device.platform != "cpu"]


def _torch_gpus() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def dtype_policy(precision: str = "auto") -> str:
    """The Keras dtype policy for a precision.

    Args:
        precision: `auto` takes bfloat16 where the device gains from it; or `float32`, `bfloat16`, `float16`.

    Raises:
        InputError: Another word.
    """
    if precision not in PRECISIONS:
        raise InputError(f"`precision` must be one of {', '.join(PRECISIONS)}, but got {precision!r}")
    if precision == "auto":
        precision = "bfloat16" if find_device().fast_bfloat16 else "float32"
    return "float32" if precision == "float32" else f"mixed_{precision}"
