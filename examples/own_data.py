"""Bring volumes of your own: here an HDF5 image and TIFF labels, annotated in a few boxes only."""

from pathlib import Path

import h5py
import numpy as np
import tifffile

import genenet as gn
from genenet.augment import Augmentation
from genenet.phantom import CLASSES, phantom
from genenet.settings import TrainingSettings, WindowSettings

# Stand-ins for your files; 255 marks voxels that nobody annotated.
folder = Path("runs/own-data")
folder.mkdir(parents=True, exist_ok=True)
image, labels = phantom((12, 256, 256), seed=5)
labels[1:8, :128] = 255
with h5py.File(folder / "em.h5", "w") as file:
    file.create_dataset("volumes/raw", data=image, chunks=(4, 64, 64))
tifffile.imwrite(folder / "labels.tif", labels)

data = gn.Dataset.open(
    {
        "image": str(folder / "em.h5") + ":/volumes/raw",
        "labels": str(folder / "labels.tif"),
        "voxel_size_nm": [50, 10, 10],
        "classes": [{"value": entry.value, "name": entry.name, "color": entry.color} for entry in CLASSES],
        "ignore": 255,
        "training": {"z": [0, 9]},
        "validation": {"z": [9, 12]},
    }
)
settings = TrainingSettings(
    steps=60,
    validate_every=30,
    windows=WindowSettings(batch_size=4, rare_class_share=0.3, augmentation=Augmentation(elastic=3.0, noise=0.1)),
)
net = gn.EncoderDecoder(data.n_classes, n_scales=2, n_features=8, window_size=96)
network = gn.train_network(net, data, folder / "network", settings)
print(f"adjusted Rand score {network.scores['adjusted_rand']:.3f}")

summary = gn.Ensemble((network,)).segment(
    str(folder / "em.h5") + ":/volumes/raw", folder / "segmentation.tif", overwrite=True
)
print(
    f"{summary.voxels_per_s:,.0f} voxels per second; classes {np.unique(tifffile.imread(folder / 'segmentation.tif'))}"
)
