"""The learning rate of each step."""

import math

from lungseg_utils.parameters import TrainingConfig


def learning_rate_at(step: int, config: TrainingConfig) -> float:
    """Return the learning rate of `step`: a linear warm-up, then the schedule.

    That is constant, half a cosine, or nnU-Net's polynomial decay; the last two end at zero.
    """
    rate = config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup_steps))
    progress = step / (config.epochs * config.steps_per_epoch)
    if config.schedule == "cosine":
        rate *= 0.5 * (1 + math.cos(math.pi * progress))
    elif config.schedule == "poly":
        rate *= (1 - progress) ** 0.9
    return rate
