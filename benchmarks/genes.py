"""Gene trees: building a blueprint over building the same layers by hand; sampling; what a cost costs.

    python -m benchmarks.genes

Ends with JSON lines.
"""

import json
import statistics
import time
from collections.abc import Callable

from genenet.device import import_keras

keras = import_keras()

import numpy as np  # noqa: E402

from genenet.genes import NetworkRoot  # noqa: E402
from search.defaults import default_space  # noqa: E402
from search.space import Limits, problem  # noqa: E402

N_BUILT, ROUNDS, N_SAMPLED, N_COSTS = 6, 5, 10_000, 1_000

# What a person would write down for a layer: the arguments that matter, by kind.
ARGUMENTS = {
    "Conv2D": ("filters", "kernel_size", "padding", "dilation_rate", "use_bias"),
    "Conv2DTranspose": ("filters", "kernel_size", "strides"),
    "MaxPooling2D": ("pool_size",),
    "UpSampling2D": ("size",),
    "Cropping2D": ("cropping",),
    "Activation": ("activation",),
    "BatchNormalization": ("momentum",),
    "Concatenate": (),
    "Softmax": (),
}


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    started = time.monotonic()
    work()
    return time.monotonic() - started


def by_hand(net: NetworkRoot) -> Callable[[], object]:
    """A function that makes the same layers by calls alone."""
    calls = []
    for layer in net.build().layers[1:]:
        config = layer.get_config()
        arguments = {name: config[name] for name in ARGUMENTS[type(layer).__name__]}
        if isinstance(layer, keras.layers.Conv2D) and layer.strides != (1, 1):
            arguments["strides"] = layer.strides
        sources = layer.input if isinstance(layer.input, list) else [layer.input]
        calls.append((type(layer), layer.name, arguments, [source._keras_history.operation.name for source in sources]))

    def build() -> object:
        image = keras.Input((None, None, net.n_channels), name="image")
        tensors = {"image": image}
        for kind, name, arguments, sources in calls:
            inputs = [tensors[source] for source in sources]
            tensors[name] = kind(name=name, **arguments)(inputs if len(inputs) > 1 else inputs[0])
        return keras.Model(image, tensors[name])

    return build


def main() -> None:
    """Run all ratios."""
    space = default_space(5)
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(N_BUILT):
        net = space.sample(rng)
        hand = by_hand(net)
        ours = statistics.median(seconds(net.copy().build) for _ in range(ROUNDS))
        theirs = statistics.median(seconds(hand) for _ in range(ROUNDS))
        ratios.append(ours / theirs)
        print(f"{net.layers_per_stack()}: {ours:.3f} s, by hand {theirs:.3f} s")
    result = {"benchmark": "genes", "ratio": "build_over_by_hand", "value": round(statistics.median(ratios), 3)}
    print(json.dumps({**result, "target": 1.15, "spread": [round(ratio, 3) for ratio in ratios]}))
    kept: list[NetworkRoot] = []

    def sample() -> None:
        while len(kept) < N_SAMPLED:
            net = space.sample(rng)
            if problem(net, Limits(), 4) is None:
                kept.append(net if len(kept) < N_COSTS else None)  # type: ignore[arg-type]

    spent = time.process_time()
    sample()
    spent = time.process_time() - spent
    print(json.dumps({"benchmark": "genes", "ratio": "s_per_10000_samples_over_20", "value": round(spent / 20, 3)}))
    fresh = [net.copy() for net in kept[:N_COSTS]]
    spent = seconds(lambda: [net.cost() for net in fresh])  # type: ignore[attr-defined]
    print(json.dumps({"benchmark": "genes", "ratio": "s_per_1000_costs_over_10", "value": round(spent / 10, 3)}))


if __name__ == "__main__":
    main()
