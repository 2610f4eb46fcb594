"""How good is a mask? Overlap, borders and whole lesions, each with its interval."""

from lungseg_utils.evaluation.metrics import (
    COLUMNS,
    case_metrics,
    dice,
    hd95,
    lesion_detection,
    surface_dice,
)
from lungseg_utils.evaluation.scoring import evaluate
from lungseg_utils.evaluation.statistics import bootstrap_interval, paired_difference, summarise

__all__ = [
    "COLUMNS",
    "bootstrap_interval",
    "case_metrics",
    "dice",
    "evaluate",
    "hd95",
    "lesion_detection",
    "paired_difference",
    "summarise",
    "surface_dice",
]
