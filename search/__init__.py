"""Search over blueprints: spaces, samplers, studies that any number of processes may work on."""

import importlib
from typing import Any

_WHERE = {
    "Choice": "space",
    "Levels": "space",
    "Range": "space",
    "Space": "space",
    "Limits": "space",
    "Study": "study",
}

__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'search' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"search.{_WHERE[name]}"), name)
    globals()[name] = value
    return value
