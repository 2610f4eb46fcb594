"""What lies below the lungs and is not searched: organs beside gas, organs under their bases."""

import numpy as np

from lungseg_utils.components import FACE_NEIGHBOURS, label_components
from lungseg_utils.preprocess.lungs.masks import height
from lungseg_utils.preprocess.lungs.tissue import GAS_FROM_ML

GAS_FROM_LUNG_MM = 40.0  # its farthest point; the cavity of a tumour stays nearer to lung
LARGEST_BASES_ML = 1000.0


def nearer_to_gas(air: np.ndarray, lungs: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
    """Mark what lies nearer to gas in the stomach or bowel than to `lungs`."""
    from scipy.ndimage import distance_transform_edt

    thin = (slice(None, None, 2),) * 3  # an eighth of the voxels is enough to tell organs apart
    parts = label_components(air, neighbours=FACE_NEIGHBOURS)
    large = np.nonzero(np.bincount(parts[air]) * np.prod(spacing_mm) / 1000 >= GAS_FROM_ML)[0]
    candidates = [parts == number for number in large]
    low = [part for part in candidates if height(part) < height(lungs)]
    if not low:
        return np.zeros(air.shape, bool)
    to_lung = distance_transform_edt(~lungs[thin], sampling=2 * spacing_mm)
    gas = np.zeros(air.shape, bool)
    for part in low:
        if to_lung[part[thin]].max(initial=0) > GAS_FROM_LUNG_MM:
            gas |= part
    if not gas[thin].any():
        return np.zeros(air.shape, bool)
    nearer = distance_transform_edt(~gas[thin], sampling=2 * spacing_mm) < to_lung
    for axis, size in enumerate(air.shape):
        nearer = nearer.repeat(2, axis).take(range(size), axis)
    return nearer & ~lungs


def are_bases(lungs: np.ndarray, inhabited: np.ndarray, voxel_ml: float) -> bool:
    """Return whether `lungs` are but their bases, at the upper end of a scan of the abdomen."""
    areas = lungs.sum(axis=(1, 2))
    is_at_top = areas[-1] >= 0.8 * areas.max()
    is_short = np.count_nonzero(areas) < 0.5 * np.count_nonzero(inhabited)
    return bool(is_at_top and is_short and lungs.sum() * voxel_ml < LARGEST_BASES_ML)


def under(lungs: np.ndarray) -> np.ndarray:
    """Mark what has lung above it and none below: liver, spleen and bowel under the diaphragm."""
    at_or_below = np.logical_or.accumulate(lungs, axis=0)
    above = np.flip(np.logical_or.accumulate(np.flip(lungs, 0), axis=0), 0)
    return above & ~at_or_below
