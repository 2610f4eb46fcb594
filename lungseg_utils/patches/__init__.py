"""Patches for training: where they are drawn, and how they are varied, a whole batch at a time."""

from lungseg_utils.patches.augmentation import (
    NO_AUGMENTATION,
    UNKNOWN,
    USUAL_AUGMENTATION,
    Augmentation,
)
from lungseg_utils.patches.cases import TrainingCase, make_training_case
from lungseg_utils.patches.cutting import cut_patches
from lungseg_utils.patches.prefetch import prefetch
from lungseg_utils.patches.sampling import draw_batch

__all__ = [
    "NO_AUGMENTATION",
    "UNKNOWN",
    "USUAL_AUGMENTATION",
    "Augmentation",
    "TrainingCase",
    "cut_patches",
    "draw_batch",
    "make_training_case",
    "prefetch",
]
