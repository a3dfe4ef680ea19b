"""How the learning rate falls."""

from typing import Any

import keras

from genenet.settings import TrainingSettings


def follows_the_clock(settings: TrainingSettings) -> bool:
    """Whether the learning rate falls with time and not with steps: a cosine needs to know where it ends."""
    return settings.seconds is not None and settings.schedule == "cosine"


def learning_rate_schedule(first: float, settings: TrainingSettings) -> Any:
    """The learning rate as a Keras schedule, or the number itself where it is constant."""
    schedules = keras.optimizers.schedules
    if settings.schedule == "exponential":
        return schedules.ExponentialDecay(first, settings.decay_steps, settings.decay_rate)
    if settings.schedule == "cosine" and not follows_the_clock(settings):
        return schedules.CosineDecay(first, settings.steps)
    return first
