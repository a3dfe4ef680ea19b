"""The kinds of genes: one family of networks per file."""

from typing import Any

from genenet.errors import InputError
from genenet.gene import Root
from genenet.genes.encoder_decoder import EncoderDecoder, UNet
from genenet.wording import known_instead

ROOTS: dict[str, type[EncoderDecoder]] = {"EncoderDecoder": EncoderDecoder, "UNet": UNet}


def from_dict(blueprint: dict[str, Any]) -> EncoderDecoder:
    """The gene tree of a blueprint, as `to_dict` gave it.

    Raises:
        InputError: Not a blueprint, an unknown kind or hyperparameter, or a value out of bounds.
    """
    if not isinstance(blueprint, dict) or blueprint.get("blueprint") != 1:
        raise InputError('a blueprint is an object with "blueprint": 1, but this is not one')
    if blueprint.get("kind") not in ROOTS:
        raise InputError(f"a blueprint's kind must be one of {', '.join(ROOTS)}, but got {blueprint.get('kind')!r}")
    deltas = blueprint.get("deltas")
    if not isinstance(deltas, dict) or not all(isinstance(entry, dict) for entry in deltas.values()):
        raise InputError('a blueprint\'s "deltas" must map paths to objects of numbers')
    below = {path: entry for path, entry in deltas.items() if path}
    kind = ROOTS[blueprint["kind"]]
    root = kind(blueprint.get("n_classes", 0), blueprint.get("n_channels", 1))
    first = {}
    for name, value in deltas.get("", {}).items():
        first[name] = root._checked(name, value, "total")
    checked = {
        path: {name: _delta(root, path, name, delta) for name, delta in entry.items()} for path, entry in below.items()
    }
    root.update({"": first, **checked})
    return root


def _delta(root: Root, path: str, name: str, delta: Any) -> float:
    if name not in root.vocabulary:
        raise InputError(f"{path} knows no hyperparameter `{name}`; {known_instead(name, root.vocabulary)}")
    try:
        return root.vocabulary[name].delta(delta)
    except InputError as error:
        raise InputError(f"{error} at {path}") from None


__all__ = ["ROOTS", "EncoderDecoder", "UNet", "from_dict"]
