"""Whether the lungs that were found can be a human's: their size tells of wrong voxel sizes."""

import numpy as np

from lungseg_utils.components import bounding_box
from lungseg_utils.preprocess.lungs import LungRegion
from lungseg_utils.preprocess.lungs.masks import between
from lungseg_utils.runtime import LungsegError, warn
from lungseg_utils.volume import Volume
from lungseg_utils.volume.plausibility import BODY_ABOVE_HU, RESTORE, has_unit_voxels, likely_cause

# Height of whole lungs by their width or depth, whichever is larger: 0.75 to 1.2 in adults,
# about 0.7 in infants.
USUAL_SHAPE = (0.35, 1.8)
POSSIBLE_SHAPE = (0.25, 2.5)
POSSIBLE_WITH_UNIT_VOXELS = (0.5, 1.8)
LARGEST_LITRES = 10.0
TALLEST_MM = 450.0
ADULT_MM = 150.0  # high
UPSIDE_DOWN = 1.25  # how much more the upper slices hold between the lungs than the lower ones
WHOLE = 0.3  # of the largest slice of lung: so much of it may the scan's outermost slices hold


def check_lungs(volume: Volume, lungs: LungRegion) -> None:
    """Refuse lungs of impossible size, and warn of doubtful ones: the voxel sizes are wrong.

    Lungs that a side of the scan cuts, as in slabs and pieces, are not judged in that direction.
    """
    if not lungs.found:
        return
    spacing_mm = np.multiply(volume.spacing_mm, lungs.step)
    litres = float(lungs.lungs.sum() * np.prod(spacing_mm)) / 1e6
    rows, columns = bounding_box(lungs.lungs)[1:]
    depth_mm = (rows.stop - rows.start) * spacing_mm[1]
    width_mm = (columns.stop - columns.start) * spacing_mm[2]
    areas = lungs.lungs.sum(axis=(1, 2))
    height_mm = float(np.count_nonzero(areas >= 0.1 * areas.max()) * spacing_mm[0])
    shape = height_mm / max(depth_mm, width_mm)
    ends = areas[_slices_with_a_body(volume, lungs.step)][[0, 1, -2, -1]]
    is_whole = bool(ends.max() <= WHOLE * areas.max())
    sides = zip((rows, columns), lungs.lungs.shape[1:])
    is_cut = any(side.start == 0 or side.stop == size for side, size in sides)

    def is_within(limits: tuple[float, float]) -> bool:
        return (not is_whole or shape >= limits[0]) and (is_cut or shape <= limits[1])

    cause = (
        f"lungs of {litres:.1f} L, {width_mm:.0f} mm wide, {depth_mm:.0f} mm deep and "
        f"{height_mm:.0f} mm high: {likely_cause(volume)}"
    )
    possible = POSSIBLE_WITH_UNIT_VOXELS if has_unit_voxels(volume) else POSSIBLE_SHAPE
    if not is_within(possible) or height_mm > TALLEST_MM:
        raise LungsegError(volume.source, cause, RESTORE)
    if not is_within(USUAL_SHAPE) or litres > LARGEST_LITRES:
        warn(f"{volume.source}: doubtful {cause}. {RESTORE}")
    elif is_whole and height_mm > ADULT_MM and _is_upside_down(lungs.lungs, areas):
        warn(
            f"{volume.source}: the lungs seem to lie upside down: the slices are in reverse order. "
            f"{RESTORE}"
        )


def _slices_with_a_body(volume: Volume, step: tuple[int, int, int]) -> np.ndarray:
    """Return the numbers of the coarse slices between the first with a patient and the last.

    Slices of padding hold none, or are full. At least two are returned.
    """
    depth, height, width = step
    share = (volume.hu[::depth, ::height, ::width] > BODY_ABOVE_HU).mean(axis=(1, 2))
    slices = np.flatnonzero((share > 0.02) & (share < 0.98))
    first, last = (slices[0], slices[-1]) if len(slices) else (0, len(share) - 1)
    return np.arange(first, max(last, first + 1) + 1).clip(0, len(share) - 1)


def _is_upside_down(lungs: np.ndarray, areas: np.ndarray) -> bool:
    """Return whether more lies between the lungs above than below, where liver and heart are."""
    (slices,) = np.nonzero(areas >= 0.1 * areas.max())
    count = max(1, len(slices) * 3 // 10)
    below, above = (
        np.count_nonzero(between(lungs[part])) / areas[part].sum()
        for part in (slices[:count], slices[-count:])
    )
    return bool(above > UPSIDE_DOWN * below)
