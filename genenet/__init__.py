"""Architecture search, ensembles and pruning for the segmentation of microscope volumes.

Public names load on first use, and Keras only when something is built.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "EncoderDecoder": "genes",
    "UNet": "genes",
    "UNet3D": "genes",
    "ResidualUNet": "genes",
    "DilatedNet": "genes",
    "PyramidNet": "genes",
    "Hybrid2D3D": "genes",
    "PatchNet": "genes",
    "ResNetUNet": "genes",
    "from_dict": "genes",
    "register": "genes",
    "adjusted_rand_score": "metrics",
    "dice": "metrics",
    "mean_iou": "metrics",
    "aggregated_jaccard_index": "instance_metrics",
    "panoptic_quality": "instance_metrics",
    "instance_scores": "instance_metrics",
    "InputError": "errors",
    "SegmentationClass": "classes",
    "open_volume": "volume",
    "create_volume": "volume",
    "Augmentation": "augment",
    "Dataset": "dataset",
    "Network": "network",
    "train_network": "train",
    "Ensemble": "ensemble",
    "segment_volume": "segment",
    "evaluate": "evaluation",
    "dense": "dense_evaluation",
}

__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'genenet' has no attribute {name!r}")

    value = getattr(importlib.import_module(f"genenet.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
