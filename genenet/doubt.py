"""How sure networks are of a voxel, and whether they agree: maps that say where a person should look."""

import numpy as np

# What stands for a probability of zero under a logarithm.
LEAST = 1e-12


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """Shannon's entropy as a share of the most there can be: 0 where one class is certain, 1 where all are as likely.

    Args:
        probabilities: `(..., classes)`, two classes or more.

    >>> entropy(np.array([[0.9, 0.1], [0.5, 0.5]])).round(3).tolist()
    [0.469, 1.0]
    """
    logs = np.log(np.maximum(probabilities, LEAST))
    return -np.einsum("...c,...c->...", probabilities, logs) / np.log(probabilities.shape[-1])


def margin(probabilities: np.ndarray) -> np.ndarray:
    """By how much the most probable class is ahead of the next: 0 where two are as likely, 1 where one is certain.

    >>> margin(np.array([0.7, 0.1, 0.2])).round(6)
    np.float64(0.5)
    """
    ordered = np.partition(probabilities, -2, axis=-1)
    return ordered[..., -1] - ordered[..., -2]


def disagreement(mean: np.ndarray, member_entropy: np.ndarray | None) -> np.ndarray:
    """The mutual information of class and member: the entropy of the mean less the members' own (Houlsby et al. 2011).

    0 where members agree, however unsure each is; 1 where each is certain of another class, all as often.

    Args:
        mean: The members' mean probabilities, `(..., classes)`.
        member_entropy: The mean of their entropies, `(...)`.

    Raises:
        ValueError: The members' entropies are not known.

    >>> disagreement(np.array([0.5, 0.5]), np.array(0.0)).round(6), disagreement(np.array([0.5, 0.5]), np.array(1.0))
    (np.float64(1.0), np.float64(0.0))
    """
    if member_entropy is None:
        raise ValueError("the members' entropies are needed")
    return np.maximum(entropy(mean) - member_entropy, 0)


def sharpened(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities as if the logits behind them had been divided by a temperature (Guo et al. 2017).

    Above 1 they come nearer to each other, below 1 they part; which is the largest stays.

    >>> sharpened(np.array([0.2, 0.8]), 0.5).round(4).tolist()
    [0.0588, 0.9412]
    """
    if temperature == 1:
        return probabilities
    powers = np.maximum(probabilities, LEAST) ** (1 / temperature)
    return powers / powers.sum(-1, keepdims=True)
