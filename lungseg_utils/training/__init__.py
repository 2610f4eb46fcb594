"""Training: a plain loop, and a run folder that survives anything but losing the disk."""

from lungseg_utils.parameters import TrainingConfig
from lungseg_utils.training.batches import epoch_batches
from lungseg_utils.training.crossvalidation import crossvalidate
from lungseg_utils.training.loop import fit, train_one_epoch
from lungseg_utils.training.losses import make_loss
from lungseg_utils.training.recipe import resume, train, training_config, unseen_cases
from lungseg_utils.training.resume import restore
from lungseg_utils.training.run import Run, read_start, start_run, training_precision
from lungseg_utils.training.run_folder import save, set_aside
from lungseg_utils.training.schedule import learning_rate_at
from lungseg_utils.training.step import update_ema
from lungseg_utils.training.stopping import Stopped, stop_on_sigterm
from lungseg_utils.training.validation import validate

__all__ = [
    "Run",
    "Stopped",
    "TrainingConfig",
    "crossvalidate",
    "epoch_batches",
    "fit",
    "learning_rate_at",
    "make_loss",
    "read_start",
    "restore",
    "resume",
    "save",
    "set_aside",
    "start_run",
    "stop_on_sigterm",
    "train",
    "train_one_epoch",
    "training_config",
    "training_precision",
    "unseen_cases",
    "update_ema",
    "validate",
]
