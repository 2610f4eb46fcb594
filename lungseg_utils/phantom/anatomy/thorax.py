"""The inner chest wall, the diaphragm, the spine, and the lungs that fill what is left."""

import numpy as np

from lungseg_utils.phantom.anatomy.frame import Frame
from lungseg_utils.phantom.anatomy.mediastinum import FAT_MM
from lungseg_utils.phantom.fields import intersection, smooth_intersection, smooth_union

# Inner chest wall: half width, half depth and centre (towards the back), over the height in mm.
WALL_Z = np.array([-400, -260, -180, -120, -60, 0, 45, 80, 100, 113, 122])
WALL_WIDTH = np.array([134, 136, 139, 140, 137, 129, 110, 84, 62, 37, 12])
WALL_DEPTH = np.array([94, 98, 102, 103, 100, 91, 78, 63, 50, 32, 12])
WALL_CENTRE = np.array([-4, -4, -3, -1, 2, 6, 12, 19, 24, 28, 30])
SPINE_Z = np.array([-400, -250, -150, -60, 20, 90, 160, 260])
SPINE_Y = np.array([40, 42, 48, 53, 50, 44, 34, 22])  # centre of the vertebral bodies


def wall_coordinates(frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Return |x| and y from the centre of the chest as shares of its half width and half depth."""
    y = frame.y - frame.profile(WALL_Z, WALL_CENTRE)
    return (
        np.abs(frame.x) / frame.profile(WALL_Z, WALL_WIDTH),
        y / frame.profile(WALL_Z, WALL_DEPTH),
    )


def behind_spine(frame: Frame) -> np.ndarray:
    """Return how far a voxel lies behind the centre of the vertebral bodies, in mm."""
    return frame.y - frame.profile(SPINE_Z, SPINE_Y)


def chest_wall(frame: Frame) -> np.ndarray:
    """Return the distance to the inner chest wall (negative inside), about in mm."""
    u, v = wall_coordinates(frame)
    oval = frame.profile([-120, 0, 80], [1.45, 1.6, 2.0])  # 2: an ellipse; less: squarer
    ratio = np.sqrt(np.sqrt(u**4 + np.abs(v) ** 4 + oval * u * u * v * v))
    half = np.minimum(frame.profile(WALL_Z, WALL_WIDTH), frame.profile(WALL_Z, WALL_DEPTH))
    side = (ratio - 1) * half
    # the wall bends inward over the spine, the lungs fill the gutters beside it
    back = frame.profile(SPINE_Z, SPINE_Y) + 42
    bend = 37 - np.sqrt((frame.x / 0.92) ** 2 + (frame.y - back) ** 2)
    side = smooth_intersection(side, bend, 26)
    return smooth_intersection(side, (frame.z - 119) * np.float32(0.7), 12)


def _dome(
    frame: Frame, top_mm: float, centre: tuple[float, float], half_width: float
) -> np.ndarray:
    """Return the height of one side's dome, round `centre` (y, x)."""
    fall = ((frame.x - centre[1]) / half_width) ** 2 + ((frame.y - centre[0]) / 92) ** 2
    back = np.maximum(frame.y, 0) * np.float32(-0.28)
    return np.maximum(top_mm - 62 * fall * np.sqrt(fall + 0.15) + back, top_mm - 85)


def diaphragm(frame: Frame) -> np.ndarray:
    """Return the height of a voxel above the diaphragm in mm."""
    top_right, top_left = frame.person.dome_mm
    right = _dome(frame, top_right, (-8, -62), 88)
    left = _dome(frame, top_left, (-4, 66), 84)
    return (frame.z - smooth_intersection(right, left, 25)) * np.float32(0.72)


def spine(frame: Frame) -> np.ndarray:
    """Return the distance to the vertebral bodies and what holds them, about in mm."""
    return np.sqrt((frame.x / 1.15) ** 2 + behind_spine(frame) ** 2) - 21


def lungs(
    rng: np.random.Generator,
    frame: Frame,
    wall: np.ndarray,
    above: np.ndarray,
    organs: dict[str, np.ndarray],
    *,
    easy: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return right and left lung: what chest wall, diaphragm, heart and vessels leave over.

    An `easy` patient has all the fat of FAT_MM round the vessels, but none round the azygos vein.
    """
    half = frame.profile([-400, -100, -40, 10, 45, 80, 110], [12, 9, 4, 4, 13, 25, 30])
    septum = np.abs(frame.x - 6 * frame.bumps[2]) - half - 2 * frame.bumps[6]
    heart = organs["heart"] - rng.uniform(2, 9) - 4 * np.clip(-frame.y / 60, 0, 1)
    keep_out = smooth_union(septum, heart, 14)
    lean = 1.0 if easy else rng.spawn(1)[0].uniform(0.3, 1.0)
    for name, fat_mm in FAT_MM.items():
        if not (easy and name == "azygos_vein"):
            keep_out = smooth_union(keep_out, organs[name] - lean * fat_mm, 9)
    if not easy:  # fat fills the aortopulmonary window
        keep_out = smooth_union(keep_out, frame.ellipsoid((16, 4, 14), (26, 20, 15), 0.08), 9)
    hilar = intersection(organs["hilar_tissue"], keep_out - 3)  # it bulges by 3 mm, no more
    keep_out = smooth_union(np.minimum(keep_out, hilar), spine(frame), 10)
    inside = smooth_intersection(wall + 2.5, -above, 5)
    inside = smooth_intersection(inside, -keep_out, 5)
    return np.maximum(inside, frame.x - 2), np.maximum(inside, 2 - frame.x)
