"""Whether a label marks something: one that was mirrored or shifted marks lung or air, mostly.

A tumour stands out from the lung round it, ground glass too: 320 real ones by 100 HU or more each.
"""

from dataclasses import dataclass

import numpy as np

from lungseg_utils.components import Box
from lungseg_utils.volume import Volume

LUNG_BELOW_HU = -500.0
TUMOUR_HU = (-870.0, 300.0)  # Task06's tumours have means of -840 to 10 HU
SHELL_MM = (2.0, 7.0)  # from the label: nearer, voxels are partly tumour
LIKE_LUNG_HU = 60.0  # between the medians of what is marked and of the lung round it
SOLID_SHARE = 0.1  # of the label above LUNG_BELOW_HU; a cavity's wall is more, small vessels less
CLEAR_HU = 250.0  # a mirrored label is so much denser, and stands out so much
MIRRORS = ("upside down", "front to back", "left to right")


@dataclass(frozen=True)
class Contrast:
    """HU of what a label marks and of the shell round it."""

    median: float
    mean: float
    solid: float  # share of the label that is denser than lung
    shell_mean: float
    lung_median: float  # of the shell's lung or air; NaN without any


def doubt_place(ct: Volume, label: np.ndarray, box: Box) -> str:
    """Return why what `label` marks in `box` is hardly a tumour, as a predicate; "" if it may be.

    A ground-glass nodule is denser than the lung round it, and a cavity has a wall: both pass.
    """
    marked = ct.hu[box][label[box] > 0]
    if np.median(marked) < LUNG_BELOW_HU and (doubt := _lies_in_lung(ct, label, box)):
        return doubt
    mean_hu = float(marked.mean())
    if TUMOUR_HU[0] <= mean_hu <= TUMOUR_HU[1]:
        return ""
    return f"has a mean of {mean_hu:.0f} HU, unlike a tumour: the label of another scan perhaps"


def _lies_in_lung(ct: Volume, label: np.ndarray, box: Box) -> str:
    own = _contrast(ct, label, box)
    if not abs(own.median - own.lung_median) < LIKE_LUNG_HU:  # NaN: no lung near it
        return ""
    mirrored = [_mirrored(ct, label, box, axis) for axis in range(3)]
    likely = [
        name
        for name, other in zip(MIRRORS, mirrored)
        if min(other.mean - own.mean, other.mean - other.shell_mean) > CLEAR_HU
    ]
    if own.solid > SOLID_SHARE and not likely:
        return ""
    where = f"lies in lung or air (median {own.median:.0f} HU, {own.lung_median:.0f} HU around it)"
    if not likely:
        return f"{where}: shifted, or the label of another scan perhaps"
    return (
        f"{where}; mirrored {' or '.join(likely)} it would mark a tumour: it was probably flipped"
    )


def _mirrored(ct: Volume, label: np.ndarray, box: Box, axis: int) -> Contrast:
    """Return the contrast of `label` flipped along `axis`."""
    sides = list(box)
    size = label.shape[axis]
    sides[axis] = slice(size - box[axis].stop, size - box[axis].start)
    return _contrast(ct, np.flip(label, axis), (sides[0], sides[1], sides[2]))


def _contrast(ct: Volume, label: np.ndarray, box: Box) -> Contrast:
    """Return the contrast of `label`, looked at in `box` and a margin."""
    from scipy.ndimage import distance_transform_edt

    margins = [int(np.ceil(SHELL_MM[1] / side)) for side in ct.spacing_mm]
    wider = tuple(
        slice(max(0, side.start - margin), side.stop + margin) for side, margin in zip(box, margins)
    )
    hu = ct.hu[wider]
    marked = label[wider] > 0
    distance_mm = distance_transform_edt(~marked, sampling=ct.spacing_mm)
    inside = hu[marked]
    shell = hu[(distance_mm > SHELL_MM[0]) & (distance_mm <= SHELL_MM[1])]
    lung = shell[shell < LUNG_BELOW_HU]
    return Contrast(
        median=float(np.median(inside)),
        mean=float(inside.mean()),
        solid=float((inside > LUNG_BELOW_HU).mean()),
        shell_mean=float(shell.mean()) if len(shell) else np.nan,
        lung_median=float(np.median(lung)) if len(lung) else np.nan,
    )
