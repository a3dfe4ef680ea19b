"""The part of a trained network that is pruned, and the zeros in it."""

import contextlib
from collections.abc import Sequence

import keras
import numpy as np

import pruning
from genenet.dense_evaluation import DensePatches
from genenet.errors import InputError
from genenet.losses import DiceLoss
from genenet.network import Network
from genenet.saving import copy_of
from pruning.masks import kernels


class PrunablePart:
    """The part of a network's model that is pruned: the model, or the classifier within it that runs over patches.

    Args:
        model: As networks hold it.
        gives: What kinds of answers it gives, as `Network.gives`.

    Attributes:
        model: What is pruned.
    """

    def __init__(self, model: keras.Model, gives: Sequence[str]) -> None:
        self._whole, self.gives = model, tuple(gives)
        self._patches = next((layer for layer in model.layers if isinstance(layer, DensePatches)), None)
        self.model: keras.Model = model if self._patches is None else self._patches.classifier

    @classmethod
    def of(cls, network: Network) -> "PrunablePart":
        """Load a network's, in float32."""
        return cls(network.load("float32"), network.gives)

    @property
    def loss(self) -> keras.losses.Loss:
        """Of what it gives.

        Raises:
            InputError: It gives several things.
        """
        if len(self.gives) > 1:
            raise InputError(
                "networks with two heads cannot be pruned by their loss yet; prune them by norms or magnitude, or "
                "train two networks"
            )
        if self.gives == ("foreground",):
            return DiceLoss(from_logits=False)
        if self.gives == ("distance",):
            return keras.losses.MeanSquaredError()
        return keras.losses.SparseCategoricalCrossentropy(from_logits=self._patches is not None)

    def put_back(self, model: keras.Model) -> keras.Model:
        """The whole model around a pruned part."""
        if self._patches is None:
            return model
        whole = copy_of(self._whole)
        image = whole.inputs[0]
        scores = DensePatches(model, name=self._patches.name)(image)
        answer = whole.layers[-1]
        twin = type(answer).from_config(answer.get_config())
        return keras.Model(image, twin(scores), name=whole.name)


def nonzero(model: keras.Model) -> dict[str, np.ndarray]:
    """Which weights of the kernels are not zero."""
    return {name: keras.ops.convert_to_numpy(kernel) != 0 for name, kernel in kernels(model).items()}


def zeros_held(model: keras.Model) -> contextlib.AbstractContextManager[None]:
    """Within, weights that are zero stay so."""
    return pruning.held_at_zero(model, nonzero(model))
