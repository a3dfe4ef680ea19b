"""Weights that a ResNet learned elsewhere, for the encoders of a `ResNetUNet`.

Files hold what torchvision calls a state dict: `conv1.weight`, `bn1.running_mean`, `layer1.0.conv1.weight` and so on.
None of them is fetched here, and none can run code.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genenet.errors import InputError
from genenet.normalization import Normalization

if TYPE_CHECKING:
    import keras

# What torchvision's weights expect of 8-bit RGB images: mean and deviation of ImageNet, given there for 0 to 1.
IMAGENET = Normalization(
    tuple(255 * mean for mean in (0.485, 0.456, 0.406)), tuple(255 * std for std in (0.229, 0.224, 0.225))
)
# The same for grey images: the means over the three channels.
IMAGENET_GREY = Normalization((sum(IMAGENET.mean) / 3,), (sum(IMAGENET.std) / 3,))

# Of Keras and of torchvision.
NORMALIZATION = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
IGNORED = re.compile(r"fc\.(weight|bias)|.*\.num_batches_tracked")

STEM = "encode__stem"

WHAT_FITS = (
    "weights fit 2-D encoders of the same `encoder_depth` for 3 channels or 1, with 64 features in the stem and batch "
    "normalization"
)
OTHER_FUNCTION = (
    "Keras' ResNet50 is another function than torchvision's: its bottlenecks have biases, and the stride in the 1x1 "
    "convolution, and it normalises with an epsilon of 1.001e-5. Use weights of torchvision"
)


def load_encoder(model: "keras.Model", path: Path | str) -> None:
    """Give a `ResNetUNet`'s encoder, or both where it has two, weights of torchvision's ResNet of the same depth.

    The image is to be normalised as the weights expect, by `IMAGENET`. For images of one channel the first kernel is
    summed over its three, so that a grey image gets what three equal channels would; use `IMAGENET_GREY`.

    Args:
        model: What `ResNetUNet.build` or `make` gave, with 64 features in the stem; changed only if everything fits.
        path: `.safetensors`, `.npz` with an array per name, or `.pth` and `.pt`, which need PyTorch; no code in them
            runs.

    Raises:
        InputError: No such file, one that cannot be read, or weights that do not fit; names the first that does not.

    Example:
        >>> from genenet.genes import ResNetUNet
        >>> load_encoder(ResNetUNet(depth=18).build(), "resnet18.npz")
        Traceback (most recent call last):
        ...
        genenet.errors.InputError: there is no file resnet18.npz
    """
    path = Path(path)
    weights = {name: values for name, values in read_weights(path).items() if not IGNORED.fullmatch(name)}
    prefixes = [layer.name.removesuffix(STEM) for layer in model.layers if layer.name.endswith(STEM)]
    if not prefixes:
        raise InputError(f"{model.name} has no ResNet as encoder; weights can be loaded into a ResNetUNet")
    for variable, values in [pair for prefix in prefixes for pair in _fitted(model, prefix, weights, path)]:
        variable.assign(values)


def _fitted(
    model: "keras.Model", prefix: str, weights: dict[str, np.ndarray], path: Path
) -> list[tuple[Any, np.ndarray]]:
    """The variables of the encoder whose layers' names begin so, each with its values."""
    found = []
    left = dict(weights)
    for layer in model.layers:
        if not layer.name.startswith(f"{prefix}encode__"):
            continue
        for variable, name in variables_of(layer, torchvision_name(layer.name.removeprefix(prefix))):
            if name not in left:
                raise InputError(f"{path} has no {name}; {WHAT_FITS}")
            given, shape = left.pop(name), tuple(variable.shape)
            values = as_keras(given, shape)
            if values.shape != shape:
                what = f"{path} has {name} of shape {given.shape}, which does not fit {layer.name} of shape {shape}"
                raise InputError(f"{what}; {WHAT_FITS}")
            found.append((variable, values))
    if left:
        raise InputError(f"{path} has {min(left)}, for which {prefix}encode has no place; {WHAT_FITS}")
    return found


def torchvision_name(layer: str) -> str:
    """What torchvision calls a layer of the encoder.

    >>> torchvision_name("encode__stem__norm"), torchvision_name("encode__stage1__block0__conv0")
    ('bn1', 'layer2.0.conv1')
    >>> torchvision_name("encode__stage1__block0__project_norm")
    'layer2.0.downsample.1'
    """
    name = layer.removeprefix("encode__").replace("stem", "conv0")
    name = re.sub(r"stage(\d+)__block(\d+)__", lambda m: f"layer{int(m[1]) + 1}.{m[2]}.", name)
    name = name.replace("project_norm", "downsample.1").replace("project", "downsample.0")
    name = re.sub(r"conv(\d+)__norm", r"bn\1", name)
    return re.sub(r"(conv|bn)(\d+)", lambda m: f"{m[1]}{int(m[2]) + 1}", name)


def variables_of(layer: "keras.Layer", name: str) -> list[tuple[Any, str]]:
    """The variables of a convolution or a normalisation, each with the name of what belongs there."""
    if hasattr(layer, "moving_mean"):
        return [(getattr(layer, ours), f"{name}.{theirs}") for ours, theirs in NORMALIZATION.items()]
    return [
        (variable, f"{name}.{part}")
        for variable, part in ((getattr(layer, "kernel", None), "weight"), (getattr(layer, "bias", None), "bias"))
        if variable is not None
    ]


def as_keras(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A kernel `(out, in, y, x)` as `(y, x, in, out)`, summed over `in` where one channel is asked for."""
    if values.ndim != 4:
        return values
    kernel = values.transpose(2, 3, 1, 0)
    return kernel.sum(2, keepdims=True) if kernel.shape[2] == 3 and shape[2:3] == (1,) else kernel


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """Read a file of arrays by name; no code in it runs.

    Raises:
        InputError: There is no such file, it cannot be read, it is one of Keras', or PyTorch is missing.
    """
    if path.suffix in (".h5", ".hdf5", ".keras"):
        raise InputError(f"{path} is a file of Keras; {OTHER_FUNCTION}")
    if path.suffix not in READERS:
        raise InputError(f"weights are read from {', '.join(READERS)}, but got {path}")
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        weights = READERS[path.suffix](path)
    except ImportError as error:
        raise InputError(
            f"{path.suffix} needs the package {error.name}, which is not installed: pip install {error.name}"
        ) from None
    except Exception as error:  # every library has errors of its own for damaged files
        raise InputError(f"{path} is not a readable file of weights: {' '.join(str(error).split())[:200]}") from None
    if any(re.search(r"conv\d+_block\d+_\d+_(conv|bn)", name) for name in weights):
        raise InputError(f"{path} has the names of Keras' ResNet50; {OTHER_FUNCTION}")
    return weights


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(path)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    import torch

    found = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(found, Mapping) or not all(isinstance(values, torch.Tensor) for values in found.values()):
        raise ValueError("it is no state dict, that is tensors by name")
    return {name: values.detach().numpy() for name, values in found.items()}


READERS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
    ".safetensors": _read_safetensors,
    ".npz": _read_npz,
    ".pth": _read_torch,
    ".pt": _read_torch,
}
