"""Frames of 0 HU, with which tools pad by default: they enclose the air round the patient."""

from dataclasses import replace

import numpy as np

from lungseg_utils.components import FACE_NEIGHBOURS, add_neighbours, label_components
from lungseg_utils.runtime import warn
from lungseg_utils.volume import PADDING_HU, Volume

FRAME_SHARE = 0.15  # of a side of the scan; noise leaves 1 or 2 % of a body at exactly 0
BODY_ABOVE_HU = -200
OUTSIDE_BELOW_HU = -970  # the air round a patient; lung is denser
MOST_BLENDED = 4  # voxels beside a frame that was resampled


def without_frame(volume: Volume) -> Volume:
    """Return `volume` with air in place of a frame of exactly 0 HU, and warn; itself without one.

    A frame are voxels of 0 HU that reach the sides of the scan in one piece: whole planes, or the
    corners that a turn or a round field of view leaves.
    """
    if not any(np.mean(side == 0) > FRAME_SHARE for side in _sides(volume.hu)):
        return volume
    frame = _frame(volume.hu)
    if not _is_scan(volume.hu[~frame]):
        return volume
    warn(
        f"{volume.name}: {frame.mean():.0%} of it is a frame of 0 HU, as padding with zeros leaves "
        "it; taken for air"
    )
    hu = volume.hu.copy()
    hu[frame] = PADDING_HU
    return replace(volume, hu=hu)


def _is_scan(rest: np.ndarray) -> bool:
    """Return whether body or outside air is left, not lungs alone, cut out of a scan."""
    if not rest.size:
        return False
    return bool(np.mean(rest > BODY_ABOVE_HU) > 0.15 or np.mean(rest < OUTSIDE_BELOW_HU) > 0.3)


def _sides(array: np.ndarray) -> list[np.ndarray]:
    """Return views of the six sides of `array`."""
    return [np.take(array, end, axis) for axis in range(3) for end in (0, -1)]


def _frame(hu: np.ndarray) -> np.ndarray:
    """Mark the voxels of 0 HU that reach a side, and what a resampling has blended with them."""
    parts = label_components(hu == 0, neighbours=FACE_NEIGHBOURS)
    touching = np.zeros(int(parts.max()) + 1, bool)
    for side in _sides(parts):
        numbers, counts = np.unique(side, return_counts=True)
        touching[numbers[counts > FRAME_SHARE * side.size]] = True
    touching[0] = False
    frame = touching[parts]
    for _ in range(MOST_BLENDED):
        near = add_neighbours(frame)
        beside = hu[near & ~frame]
        beyond = hu[add_neighbours(near) & ~near]
        if not beyond.size or not 0.9 * np.median(beyond) < np.median(beside) < 0:
            break
        frame = near
    return frame
