"""The learning rate of each step: a function of the step alone, so that a resumed run needs no state for it."""

import math

from forecache.pipeline import Training


def learning_rate(training: Training, step: int, num_steps: int) -> float:
    """The learning rate of optimizer step `step` (from 0) of the `num_steps` that all epochs have.

    It rises linearly to `training.learning_rate` during the warm-up, then follows the schedule; a decaying schedule
    would reach zero one step after the last.
    """
    warmup = round(training.warmup_share * num_steps)
    if step < warmup:
        return training.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, num_steps - warmup)
    if training.schedule == "cosine":
        return training.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
    if training.schedule == "linear":
        return training.learning_rate * (1 - done)
    return training.learning_rate
