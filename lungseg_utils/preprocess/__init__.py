"""From a scan to what the network sees, and back: lung box, working spacing, clipped HU."""

from lungseg_utils.preprocess.lungs import LungRegion, find_lungs
from lungseg_utils.preprocess.prepared import CLIP_HU, Prepared, normalise, prepare
from lungseg_utils.preprocess.resample import axis_weights, resample, resampled_slabs

__all__ = [
    "CLIP_HU",
    "LungRegion",
    "Prepared",
    "axis_weights",
    "find_lungs",
    "normalise",
    "prepare",
    "resample",
    "resampled_slabs",
]
