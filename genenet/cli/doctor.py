"""`genenet doctor`: what is installed, what will be used, what is missing and how to get it."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from typing import Any

import typer

from genenet.cli.options import AsJson
from genenet.cli.output import say, say_json

# Packages with what they are for and how to get them; the first group is required.
REQUIRED = {
    "keras": "networks",
    "optuna": "search",
    "zarr": "Zarr volumes",
    "tifffile": "TIFF volumes",
    "h5py": "HDF5 volumes",
}
OPTIONAL = {
    "tensorflow": ("backend", "pip install tensorflow-cpu"),
    "jax": ("backend", "pip install jax"),
    "torch": ("backend", "pip install torch"),
    "elasticdeform": ("elastic deformation", "pip install --no-binary elasticdeform elasticdeform"),
}


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(doctor)


def _version(package: str) -> str | None:
    for name in (package, f"{package}-cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "?" if importlib.util.find_spec(package) else None


def examine() -> dict[str, Any]:
    """Look at everything; `problems` lists what keeps genenet from working."""
    import genenet
    from genenet.augment import import_elasticdeform
    from genenet.device import dtype_policy, find_device
    from genenet.errors import InputError

    found: dict[str, Any] = {
        "genenet": genenet.__version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "free_disk_gb": round(shutil.disk_usage(".").free / 2**30, 1),
        "packages": {name: _version(name) for name in (*REQUIRED, *OPTIONAL)},
        "problems": [],
    }
    try:
        device = find_device()
        found |= {"backend": device.backend, "device": device.name, "precision": dtype_policy("auto")}
    except InputError as error:
        found["problems"].append(str(error))
    try:
        import_elasticdeform()
    except InputError as error:
        found["problems"].append(str(error))
    found["problems"] += [f"{name} is missing: pip install {name}" for name in REQUIRED if not found["packages"][name]]
    return found


def doctor(as_json: AsJson = False) -> None:
    """Say what is installed, which device and precision will be used, and what is missing."""
    found = examine()
    if as_json:
        say_json(found)
    else:
        for key in ("genenet", "python", "cores", "free_disk_gb", "backend", "device", "precision"):
            say(f"{key:15} {found.get(key, '-')}")
        for name, version in found["packages"].items():
            purpose, cure = OPTIONAL.get(name, (REQUIRED.get(name, ""), f"pip install {name}"))
            say(f"{name:15} {version or f'not installed ({purpose}): {cure}'}")
        for line in found["problems"]:
            say(f"PROBLEM: {line}")
        say("" if found["problems"] else "everything that is needed is here")
    if found["problems"]:
        raise typer.Exit(1)
