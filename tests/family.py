"""Every kind of network, small: what the family tests run over."""

import importlib.util
from pathlib import Path

import genenet as gn
from genenet.genes import DilatedNet, EncoderDecoder, Hybrid2D3D, PyramidNet, UNet3D

SMALL = {"n_features": 4, "n_convs": 1}
RESNET = {"depth": 18, "n_channels": 1, "n_features": 8, "activation": "elu", "window_size": 32}
# Kinds with values that make them small; between them they hold every hyperparameter that changes the layers.
FAMILY = {
    "unet": (gn.UNet, {"n_scales": 2, "window_size": 44}),
    "unet-same": (gn.UNet, {"n_scales": 2, "padding": "same", "window_size": 32}),
    "unet3d": (UNet3D, {"n_scales": 2, "window_size": 46, "window_depth": 30}),
    "unet3d-same": (UNet3D, {"n_scales": 2, "padding": "same", "window_size": 32, "window_depth": 8}),
    "residual": (gn.ResidualUNet, {"activation": "elu", "n_scales": 2, "n_convs": 2, "window_size": 32}),
    "residual-valid": (
        gn.ResidualUNet,
        {"activation": "elu", "n_scales": 2, "n_convs": 2, "padding": "valid", "window_size": 60},
    ),
    "residual-sum": (gn.ResidualUNet, {"n_scales": 1, "merge": "sum", "window_size": 32}),
    "dense": (EncoderDecoder, {"n_scales": 1, "n_convs": 4, "shortcut": "dense", "window_size": 32}),
    "dense-valid": (
        EncoderDecoder,
        {"n_scales": 1, "n_convs": 4, "shortcut": "dense", "padding": "valid", "window_size": 60},
    ),
    "dilated": (DilatedNet, {"n_scales": 3, "window_size": 32}),
    "dilated-valid": (DilatedNet, {"n_scales": 3, "padding": "valid", "window_size": 40}),
    "dilated-3d": (DilatedNet, {"n_scales": 2, "spatial_mode": "3d", "window_size": 24, "window_depth": 4}),
    "pyramid": (PyramidNet, {"window_size": 32}),
    "pyramid-valid": (PyramidNet, {"padding": "valid", "window_size": 48}),
    "pyramid-planar": (PyramidNet, {"spatial_mode": "planar", "window_size": 32, "window_depth": 3}),
    "hybrid": (Hybrid2D3D, {"n_scales": 2, "window_size": 32}),
    "hybrid-valid": (Hybrid2D3D, {"n_scales": 1, "padding": "valid", "window_size": 60, "window_depth": 24}),
    "sum": (EncoderDecoder, {"n_scales": 2, "merge": "sum", "activation": "crelu", "window_size": 32}),
    "gate": (EncoderDecoder, {"n_scales": 2, "merge": "gate", "padding": "valid", "window_size": 60}),
    "no-skips": (EncoderDecoder, {"n_scales": 2, "merge": "none", "window_size": 32}),
    "separable": (EncoderDecoder, {"n_scales": 1, "convolution": "separable", "window_size": 32}),
    "separable-3d": (
        EncoderDecoder,
        {"n_scales": 1, "convolution": "separable", "spatial_mode": "3d", "window_size": 16, "window_depth": 4},
    ),
    "squeeze": (EncoderDecoder, {"n_scales": 1, "squeeze_excitation": "on", "window_size": 32}),
    "supervised": (EncoderDecoder, {"n_scales": 2, "supervision": 0.5, "window_size": 32}),
    "supervised-valid": (EncoderDecoder, {"n_scales": 2, "supervision": 0.5, "padding": "valid", "window_size": 60}),
    "distance": (EncoderDecoder, {"n_scales": 1, "distance_weight": 1.0, "window_size": 32}),
    "context": (EncoderDecoder, {"n_scales": 2, "context_scale": 2, "context_margin": 8, "window_size": 48}),
    "context-deep": (
        EncoderDecoder,
        {"n_scales": 1, "context_scale": 3, "context_margin": 6, "padding": "valid", "window_size": 60},
    ),
    "resnet": (gn.ResNetUNet, {**RESNET, "distance_weight": 1.0, "branches": "decoders"}),
    "resnet-planar": (gn.ResNetUNet, {**RESNET, "spatial_mode": "planar", "pool_z": "never", "window_depth": 3}),
    "anisotropic": (
        EncoderDecoder,
        {"n_scales": 3, "spatial_mode": "3d", "anisotropy": 4.0, "window_size": 32, "window_depth": 4},
    ),
}

ROOT = Path(__file__).parent.parent


def own_kind():
    """The root of `examples/own_gene.py`."""
    spec = importlib.util.spec_from_file_location("own_gene", ROOT / "examples" / "own_gene.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.StemNet


FAMILY["own-gene"] = (own_kind(), {"n_scales": 1, "stem_size": 5, "window_size": 32})


def make(name, n_classes=3, **values):
    kind, own = FAMILY[name]
    return kind(n_classes, **{**SMALL, **own, **values})
