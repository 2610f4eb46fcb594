"""Patches for training: where they are drawn, and how they are varied, a whole batch at a time."""

from lungseg_utils.patches.augmentation import NO_AUGMENTATION, USUAL_AUGMENTATION, Augmentation
from lungseg_utils.patches.prefetch import prefetch
from lungseg_utils.patches.sampling import (
    TrainingCase,
    cut_patches,
    draw_batch,
    make_training_case,
)

__all__ = [
    "NO_AUGMENTATION",
    "USUAL_AUGMENTATION",
    "Augmentation",
    "TrainingCase",
    "cut_patches",
    "draw_batch",
    "make_training_case",
    "prefetch",
]
