"""Whether probabilities mean what they say, and one number per network that mends them (Guo et al. 2017)."""

import numpy as np

from genenet.doubt import LEAST, sharpened

N_BINS = 15

# How far temperatures go.
COLDEST, HOTTEST = 0.1, 10.0


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, n_bins: int = N_BINS) -> float:
    """By how much the most probable class is right less often, or more often, than its probability says.

    Voxels are put into bins of equal width by the probability of their most probable class; the error is the mean over
    bins of |share of right ones - mean probability|, weighted by voxels (Guo et al. 2017, equation 3).

    Args:
        labels: Class indices, `(n,)`.
        probabilities: `(n, classes)`.
        n_bins: How many bins.

    Returns:
        0 to 1.

    >>> expected_calibration_error(np.array([0, 0, 1, 1]), np.array([[0.75, 0.25]] * 4)).__round__(6)
    0.25
    """
    confidence = probabilities.max(-1).astype(np.float64)
    right = probabilities.argmax(-1) == labels
    place = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    apart = np.bincount(place, right, n_bins) - np.bincount(place, confidence, n_bins)
    return float(abs(apart).sum() / len(labels))


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The mean negative logarithm of what the right classes were given."""
    given = np.take_along_axis(probabilities, labels[:, None].astype(np.intp), -1)
    return float(-np.log(np.maximum(given, LEAST)).mean())


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray, n_voxels: int = 2**18, seed: int = 0) -> float:
    """The temperature with which a network's probabilities give the least log loss.

    Args:
        labels: Class indices, `(n,)`.
        probabilities: `(n, classes)`.
        n_voxels: So many are enough; drawn at random where there are more.
        seed: Of the draw.

    Returns:
        0.1 to 10; above 1 for networks that are too sure of themselves.
    """
    from scipy.optimize import minimize_scalar

    if len(labels) > n_voxels:
        chosen = np.random.default_rng(seed).choice(len(labels), n_voxels, replace=False)
        labels, probabilities = labels[chosen], probabilities[chosen]
    logs = np.log(np.maximum(probabilities.astype(np.float64), LEAST))

    def loss(log_temperature: float) -> float:
        return log_loss(labels, sharpened(np.exp(logs), float(np.exp(log_temperature))))

    found = minimize_scalar(loss, bounds=(np.log(COLDEST), np.log(HOTTEST)), method="bounded")
    return float(np.exp(found.x))
