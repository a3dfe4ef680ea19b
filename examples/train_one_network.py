"""Describe a network, train it on a synthetic volume, score it."""

import genenet as gn
from genenet.phantom_files import write_phantom
from genenet.settings import TrainingSettings

data = gn.Dataset.open(write_phantom("runs/phantom", (16, 256, 256), overwrite=True))

net = gn.EncoderDecoder(n_classes=data.n_classes, n_scales=2, n_features=8, window_size=96)
net["decode"].add(n_features=4)
print(net.tree(short=True))

network = gn.train_network(net, data, "runs/one-network", TrainingSettings(steps=100, validate_every=50))
scores = gn.evaluate(network, data)
print(f"adjusted Rand score {scores.adjusted_rand:.3f}, mean IoU {scores.mean_iou:.3f}")
for entry, iou in zip(data.classes, scores.iou, strict=True):
    print(f"{entry.name:24} IoU {iou:.3f}")
