"""What decides how a run turns out: its settings, and the learning rate they give at each step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lungseg_utils.runtime import LungsegError


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides how a run turns out; written to config.json and compared on resume."""

    epochs: int = 30
    steps_per_epoch: int = 12
    batch_size: int = 4  # of all processes together
    patch_size: tuple[int, int, int] = (40, 40, 40)
    spacing_mm: float = 3.0
    loss: str = "dice_ce"  # or "dice_ce_balanced", "tversky", "focal"
    deep_supervision: bool = False  # the coarser decoder stages learn to predict too
    optimiser: str = "adamw"  # or "sgd", with Nesterov's momentum of 0.99
    learning_rate: float = 3e-3
    schedule: str = (
        "constant"  # after the warm-up; "cosine" and "poly" fall to zero at the last epoch
    )
    warmup_steps: int = 20
    weight_decay: float = 1e-2
    gradient_clip: float = 5.0
    foreground_share: float = 0.67  # share of patches that are centred in a lesion
    hard_example_share: float = (
        0.0  # share of patches that are centred in a mistake of the first weights
    )
    ema_decay: float = (
        0.95  # the weights that are used are a running mean of those that are trained
    )
    frozen_norm_share: float = (
        0.0  # share of the run, at its end, in which batch norms keep their running statistics
    )
    validate_every: int = 1  # epochs
    channels: tuple[int, ...] = (8, 16, 32, 64)
    upsample: str = "unpool"
    skip: str = "concat"
    augment: bool = True
    elastic_voxels: float = 0.0  # largest shift of an elastic deformation
    low_resolution: float = 0.0  # probability of a patch as of thicker voxels
    field_of_view_crop: float = 0.0  # probability of a patch as of a scan that was cut to a part
    compile: bool = False  # torch.compile, on a GPU
    seed: int = 0

    def __post_init__(self) -> None:
        if self.foreground_share + self.hard_example_share > 1 + 1e-9:
            raise LungsegError(
                "foreground_share, hard_example_share",
                f"shares of {self.foreground_share:g} and {self.hard_example_share:g} of the patches are more than all",
                "let them be 1 together at most",
            )


def learning_rate_at(step: int, config: TrainingConfig) -> float:
    """Give the learning rate of `step`: a linear warm-up, then constant, a half cosine or nnU-Net's power to zero."""
    rate = config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup_steps))
    progress = step / (config.epochs * config.steps_per_epoch)
    if config.schedule == "cosine":
        rate *= 0.5 * (1 + math.cos(math.pi * progress))
    elif config.schedule == "poly":
        rate *= (1 - progress) ** 0.9
    return rate
