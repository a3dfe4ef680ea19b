"""How long a network takes on this machine."""

import math
import statistics
import time

from genenet.averaging import MeanPredictor
from genenet.dataset import Dataset
from genenet.network import Network


def seconds_per_megavoxel(network: Network, data: Dataset, precision: str = "auto", n_rounds: int = 5) -> float:
    """How long a network takes for a million voxels: the median of some rounds over a block of the validation part."""
    predictor, part = MeanPredictor((network.predictor(precision),)), data.validation[0]
    core = predictor.choose_core(part.shape)
    reach = predictor.reach(core)
    images = predictor.read(part.read_image, (0, 0, 0), reach)
    predictor.predict(images, reach)  # traces graphs
    found = []
    for _ in range(n_rounds):
        started = time.perf_counter()
        predictor.predict(images, reach)
        found.append(time.perf_counter() - started)
    return 1e6 * statistics.median(found) / math.prod(core)
