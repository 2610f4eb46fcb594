"""Patches for training: where they are drawn, and how they are varied, a whole batch at a time."""

from lungseg_utils.patches.augmentation import (
    AIR_HU,
    NO_AUGMENTATION,
    USUAL_AUGMENTATION,
    Augmentation,
)
from lungseg_utils.patches.sampling import Source, cut_patches, draw_batch, make_source

__all__ = [
    "AIR_HU",
    "NO_AUGMENTATION",
    "USUAL_AUGMENTATION",
    "Augmentation",
    "Source",
    "cut_patches",
    "draw_batch",
    "make_source",
]
