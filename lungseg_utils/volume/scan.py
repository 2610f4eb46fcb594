"""A CT in memory: its voxels in HU, and where they lie in the patient."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lungseg_utils.volume.grid import Grid


@dataclass(frozen=True)
class Volume:
    """A CT in Hounsfield units, its axes towards the head, the back and the patient's left.

    `hu` (D, H, W) is int16, or float32 where its values are not integers; `affine` maps (d, h, w)
    to RAS+ mm; `grid` is how it is stored, for writing back; `slices` are the files of a DICOM
    series in stored order. `depths` are where its slices lie, in planes of `grid`, in a series of
    several spacings, which was resampled; empty where each plane is a slice.
    """

    hu: np.ndarray
    spacing_mm: tuple[float, float, float]
    affine: np.ndarray
    name: str
    source: Path
    grid: Grid
    slices: tuple[Path, ...] = ()
    depths: tuple[float, ...] = ()
