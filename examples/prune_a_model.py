"""Make a Keras model that somebody else wrote smaller and faster: which channels go, what that costs, what it buys.

python examples/prune_a_model.py
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import pruning

# 1. Any functional or Sequential model. This one has random weights; yours would be trained.
model = keras.applications.MobileNetV2((96, 96, 3), weights=None, classes=10)

# 2. What is tied to what. A channel that is removed takes everything with it that depends on it.
graph = pruning.Graph(model)
print(graph.explain("block_3_expand"))
print(graph.explain("block_2_project"))
print(graph.explain("predictions"))

# 3. Which channels matter? The true loss without each of them, on your training batches; here random numbers.
rng = np.random.default_rng(0)
batches = [(rng.normal(size=(4, 96, 96, 3)).astype("float32"), rng.integers(0, 10, 4)) for _ in range(2)]
search = pruning.Search("first_order", n_batches=2, at_once=16)  # quick; leave it out for the true loss
ordering = pruning.loss_ordering(
    model, batches, "sparse_categorical_crossentropy", "block_3_expand", target=pruning.Target(n_maps=64), search=search
)
print(f"without {len(ordering)} of 144 channels: loss {ordering.loss:.4f} before, {ordering.losses[-1]:.4f} after")

# 4. The whole network, to half of its multiply-adds: quickly, by norms.
keep = pruning.select_channels(model, pruning.Target(multiply_adds=0.5), by="l1")
small = pruning.shrink(model, keep)

# 5. Train `small` as you trained `model`, at a lower rate; it is an ordinary Keras model.
small.compile(keras.optimizers.SGD(1e-3), "sparse_categorical_crossentropy")
small.fit(*batches[0], verbose=0)

# 6. What it bought, measured in turn.
models = {"before": model, "after": small}
run = {name: each.predict_on_batch for name, each in models.items()}
print(pruning.report(models, predict=run, batch=batches[0][0]))

# 7. Residual networks work the same way: channels that are added up stay or go together.
model = keras.applications.ResNet50(weights=None, input_shape=(64, 64, 3), classes=10)
print(pruning.Graph(model).explain("conv2_block1_3_conv"))
small = pruning.shrink(model, pruning.select_channels(model, pruning.Target(parameters=0.5)))
print(f"ResNet50: {model.count_params():,} parameters before, {small.count_params():,} after")
