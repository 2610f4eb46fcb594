"""Training: Dice and cross-entropy, a plain loop, a run folder that survives all but a lost disk."""

from lungseg_utils.training.config import TrainingConfig, learning_rate_at
from lungseg_utils.training.loop import fit, stop_on_sigterm, train_one_epoch, update_mean
from lungseg_utils.training.losses import make_loss
from lungseg_utils.training.run_folder import Run, describe_environment, restore, save, set_aside
from lungseg_utils.training.start import read_start, start_run, training_precision
from lungseg_utils.training.validation import validate

__all__ = [
    "Run",
    "TrainingConfig",
    "describe_environment",
    "fit",
    "learning_rate_at",
    "make_loss",
    "read_start",
    "restore",
    "save",
    "set_aside",
    "start_run",
    "stop_on_sigterm",
    "train_one_epoch",
    "training_precision",
    "update_mean",
    "validate",
]
