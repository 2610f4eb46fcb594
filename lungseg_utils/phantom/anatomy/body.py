"""The body round the chest: neck, shoulders, arms and breasts."""

import numpy as np

from lungseg_utils.phantom.anatomy.frame import Frame, on_side
from lungseg_utils.phantom.anatomy.thorax import behind_spine
from lungseg_utils.phantom.fields import smooth_intersection, smooth_union, union

# z, y, x of shoulder, elbow and wrist of the left arm
ARM_UP = [(82, 20, 150), (150, -10, 165), (300, -40, 150)]
ARM_DOWN = [(82, 20, 160), (-100, 30, 192), (-330, 10, 205)]


def torso(f: Frame, wall: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the surfaces of the skin and of the muscles."""
    left, right = (f.ellipsoid((72, 22, side * 105), (44, 40, 68), 0.05) for side in (1, -1))
    low_neck = f.tube([(60, 22, 0), (140, 12, 0), (260, 0, 0)], [62, 56, 54])
    arm = ARM_UP if f.person.arms_up else ARM_DOWN
    arms = union(*(f.tube(on_side(arm, side), [46, 40, 36]) for side in (-1, 1)))
    muscle = smooth_union(_trunk_muscle(f, wall), smooth_union(left, right, 5), 30)
    muscle = smooth_union(smooth_union(muscle, low_neck, 40), arms, 25)
    front = np.clip(-f.y / 90, 0, 1)
    skin = muscle - f.person.fat_mm * (0.75 + 0.35 * front + 0.25 * f.bumps[1]).clip(0.3)
    breast_mm = f.person.breasts_mm
    if breast_mm:
        for side in (-1, 1):
            centre = (-45, -92 - 0.3 * breast_mm, 80 * side)
            skin = smooth_union(skin, f.ellipsoid(centre, (62, breast_mm * 0.75, 66), 0.06), 40)
    # a shape that ends inside the grid, however stout the patient
    _, y, x = f.grid.mesh()
    limit = (np.sqrt((x / 282) ** 2 + ((y + 15) / 198) ** 2) - 1) * 198
    skin = smooth_intersection(skin, limit, 30)
    return skin, np.maximum(muscle, skin + 3)


def _trunk_muscle(f: Frame, wall: np.ndarray) -> np.ndarray:
    thick = f.person.muscle_mm
    front = np.clip(-f.y / 90, 0, 1)
    back = np.clip(f.y / 90, 0, 1)
    upper = np.clip((f.z + 60) / 120, 0, 1)
    share = 0.3 + 0.45 * upper * (front + back) + 0.2 * back
    muscle = wall - (9 + thick * share + 1.2 * f.bumps[6])
    radii = (88, 34 + thick, 44 + 0.6 * thick)
    for side in (-1, 1):  # round the scapula
        scapular = f.ellipsoid((30, 56, 104 * side), radii, 0.06, 3, -0.55 * side)
        muscle = smooth_union(muscle, scapular, 24)
    beside_spine = np.sqrt((f.x / 1.5) ** 2 + (behind_spine(f) - 40) ** 2) - 26 - 0.5 * thick
    return smooth_union(muscle, beside_spine, 24)
