"""Run code in a fresh process on another Keras backend."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

OTHERS = {"jax": "jax", "torch": "torch"}


def skip_where_missing(backend):
    if importlib.util.find_spec(OTHERS[backend]) is None:
        pytest.skip(f"{backend} is not installed: pip install {backend}")


def on(backend, code, *arguments):
    """What the code printed."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, "KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), environment.get("PYTHONPATH", "")])
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
