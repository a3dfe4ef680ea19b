"""Whether a study that exists was made by the settings that are asked for now."""

from pathlib import Path
from typing import Any

from genenet.errors import InputError

# What may change while a study goes on, or is only recorded.
FREE = ("n_trials", "trial_hours", "total_hours", "lease_s", "storage", "storage_name", "versions", "checksums")


def as_yaml(value: Any) -> Any:
    """What YAML gives back: tuples become lists."""
    if isinstance(value, dict):
        return {str(key): as_yaml(entry) for key, entry in value.items()}
    return [as_yaml(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def refuse_other_settings(old: Any, new: dict[str, Any], folder: Path) -> None:
    """Refuse to open a study whose study.yaml says something else than what is asked for now.

    Raises:
        InputError: Names the setting and both values.
    """
    kept, asked = _bound(old), _bound(new)
    found = _difference(kept, asked)
    if found:
        raise InputError(
            f"{folder} holds a study made by other settings: {found}; "
            "choose another folder, or continue it with `genenet search run`"
        )


def _bound(content: Any) -> Any:
    """Without what may change while a study goes on, and what was not asked for."""
    if not isinstance(content, dict):
        return content
    return {key: value for key, value in content.items() if key not in FREE and value not in (None, [])}


def _difference(old: Any, new: Any, path: str = "") -> str:
    """Where two settings first differ, in words; empty where they do not."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*new, *(key for key in old if key not in new)]:
            found = _difference(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
            if found:
                return found
        return ""
    return "" if old == new else f"`{path or 'study.yaml'}` is {_brief(old)} there and {_brief(new)} here"


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
