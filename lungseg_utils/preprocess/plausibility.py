"""Whether the lungs that were found can be a human's: their size tells of wrong voxel sizes."""

from __future__ import annotations

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
USUAL_WITH_UNIT_VOXELS = (0.5, 1.8)
LARGEST_LITRES = 10.0
UPSIDE_DOWN = 1.25  # how much more the upper slices hold between the lungs than the lower ones
ADULT_MM = 150.0  # high
WHOLE = 0.3  # of the largest slice of lung: so much of it may the scan's outermost slices hold


def check_lungs(volume: Volume, lungs: LungRegion) -> None:
    """Refuse lungs of impossible size, and warn of doubtful ones: the voxel sizes are wrong.

    Of lungs that the scan's ends cut, as in slabs, only the width and the volume are weighed.
    """
    if not lungs.found:
        return
    spacing_mm = np.multiply(volume.spacing_mm, lungs.step)
    litres = float(lungs.lungs.sum() * np.prod(spacing_mm)) / 1e6
    depth_mm, width_mm = (
        (side.stop - side.start) * mm
        for side, mm in zip(bounding_box(lungs.lungs)[1:], spacing_mm[1:])
    )
    areas = lungs.lungs.sum(axis=(1, 2))
    height_mm = float(np.count_nonzero(areas >= 0.1 * areas.max()) * spacing_mm[0])
    inhabited = _slices_with_a_body(volume, lungs.step)
    is_whole = max(areas[inhabited][[0, 1, -2, -1]], default=0) <= WHOLE * areas.max()
    shape = height_mm / max(depth_mm, width_mm)
    cause = (
        f"lungs of {litres:.1f} L, {width_mm:.0f} mm wide, {depth_mm:.0f} mm deep and "
        f"{height_mm:.0f} mm high: {likely_cause(volume)}"
    )
    possible = USUAL_WITH_UNIT_VOXELS if has_unit_voxels(volume) else POSSIBLE_SHAPE
    if shape > possible[1] or (is_whole and shape < possible[0]):
        raise LungsegError(volume.source, cause, RESTORE)
    if shape > USUAL_SHAPE[1] or (is_whole and shape < USUAL_SHAPE[0]) or litres > LARGEST_LITRES:
        warn(f"{volume.source}: doubtful {cause}. {RESTORE}")
    elif is_whole and height_mm > ADULT_MM and _is_upside_down(lungs.lungs, areas):
        warn(
            f"{volume.source}: the lungs seem to lie upside down: the slices are in reverse order. "
            f"{RESTORE}"
        )


def _slices_with_a_body(volume: Volume, step: tuple[int, int, int]) -> slice:
    """Return the coarse slices from the first with a patient to the last: not those of padding."""
    depth, height, width = step
    share = (volume.hu[::depth, ::height, ::width] > BODY_ABOVE_HU).mean(axis=(1, 2))
    slices = np.flatnonzero((share > 0.02) & (share < 0.98))
    return slice(slices[0], slices[-1] + 1) if len(slices) else slice(None)


def _is_upside_down(lungs: np.ndarray, areas: np.ndarray) -> bool:
    """Return whether more lies between the lungs above than below, where liver and heart are."""
    (slices,) = np.nonzero(areas >= 0.1 * areas.max())
    count = max(1, len(slices) * 3 // 10)
    below, above = (
        np.count_nonzero(between(lungs[part])) / areas[part].sum()
        for part in (slices[:count], slices[-count:])
    )
    return bool(above > UPSIDE_DOWN * below)
