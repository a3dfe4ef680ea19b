"""The kinds of genes: one family of networks per file."""

from typing import Any

from genenet.errors import InputError
from genenet.genes.encoder_decoder import EncoderDecoder, ResidualUNet, UNet, UNet3D
from genenet.genes.hybrid import Hybrid2D3D
from genenet.genes.network_root import NetworkRoot
from genenet.genes.patch_net import PatchNet
from genenet.genes.pyramid import DilatedNet, PyramidNet
from genenet.genes.resnet_unet import ResNetUNet
from genenet.root import Root
from genenet.wording import known_instead

PRESETS: tuple[type[NetworkRoot], ...] = (
    UNet,
    UNet3D,
    ResidualUNet,
    DilatedNet,
    PyramidNet,
    Hybrid2D3D,
    PatchNet,
    ResNetUNet,
)

KINDS: tuple[type[NetworkRoot], ...] = (EncoderDecoder, *PRESETS)

# By name; `register` adds others.
ROOTS: dict[str, type[NetworkRoot]] = {kind.__name__: kind for kind in KINDS}


def register(kind: type[NetworkRoot]) -> type[NetworkRoot]:
    """Let blueprints name a root of one's own; to be used as a decorator.

    Raises:
        InputError: Another root has that name.
    """
    if ROOTS.get(kind.__name__, kind).__qualname__ != kind.__qualname__:
        raise InputError(f"there is a root {kind.__name__} already; choose another name")
    ROOTS[kind.__name__] = kind
    return kind


def from_dict(blueprint: dict[str, Any]) -> NetworkRoot:
    """The gene tree of a blueprint, as `to_dict` gave it.

    Raises:
        InputError: Not a blueprint, an unknown kind or hyperparameter, or a value out of bounds.
    """
    if not isinstance(blueprint, dict) or blueprint.get("blueprint") != 1:
        raise InputError('a blueprint is an object with "blueprint": 1, but this is not one')
    if blueprint.get("kind") not in ROOTS:
        raise InputError(
            f"a blueprint's kind must be one of {', '.join(ROOTS)}, but got {blueprint.get('kind')!r}; "
            "if it is your own, import the module that registers it first"
        )
    deltas = blueprint.get("deltas")
    if not isinstance(deltas, dict) or not all(isinstance(entry, dict) for entry in deltas.values()):
        raise InputError('a blueprint\'s "deltas" must map paths to objects of numbers')
    below = {path: entry for path, entry in deltas.items() if path}
    kind = ROOTS[blueprint["kind"]]
    root = kind(blueprint.get("n_classes", 0), blueprint.get("n_channels", 1))
    root.forget_below()
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


__all__ = [
    "KINDS",
    "PRESETS",
    "ROOTS",
    "DilatedNet",
    "EncoderDecoder",
    "Hybrid2D3D",
    "NetworkRoot",
    "PatchNet",
    "PyramidNet",
    "ResNetUNet",
    "ResidualUNet",
    "UNet",
    "UNet3D",
    "from_dict",
    "register",
]
