"""What surrounds an optimiser step: learning rate, running mean, and a stop where it diverges."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lungseg_utils.acceleration import freeze_batch_norms
from lungseg_utils.parameters import TrainingConfig
from lungseg_utils.runtime import LungsegError
from lungseg_utils.training.run import Run

LARGEST_LOSS = 20.0  # Dice + cross-entropy starts near 1.5


def set_training_mode(run: Run, config: TrainingConfig) -> None:
    """Let batch norms learn, but for the last `frozen_norm_share` of the run."""
    run.network.train()
    if run.epoch >= (1 - config.frozen_norm_share) * config.epochs:
        freeze_batch_norms(run.model, run.ema)


def set_learning_rate(optimiser: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of all weights."""
    for group in optimiser.param_groups:
        group["lr"] = learning_rate


def stop_if_diverged(step: int, loss: Tensor, grad_norm: Tensor, names: Sequence[str]) -> None:
    """Raise LungsegError where loss or gradient are not finite, or the loss is beyond reason."""
    is_sound = torch.isfinite(loss + grad_norm) & (loss <= LARGEST_LOSS)
    if not is_sound:  # one question: on a GPU each waits for the answer
        raise LungsegError(
            f"step {step}",
            f"loss {loss.item():.3g}, grad_norm {grad_norm.item():.3g} on {', '.join(names)}",
            "The last checkpoint is kept: lower the learning rate, or check these cases",
        )


def ema_decay_at(step: int, config: TrainingConfig) -> float:
    """Return the memory of the running mean: short at first, so that it forgets random weights."""
    return min(config.ema_decay, (1 + step) / (10 + step))


@torch.no_grad()
def update_ema(ema: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the exponential mean of weights and batch-norm statistics a little towards `model`."""
    means = ema.state_dict()
    values = model.state_dict()
    moving = [name for name, mean in means.items() if mean.is_floating_point()]
    torch._foreach_lerp_(  # on a GPU one call instead of a hundred
        [means[name] for name in moving], [values[name] for name in moving], 1 - decay
    )
    for name in means.keys() - set(moving):
        means[name].copy_(values[name])
