"""The body round the chest: neck, shoulders, arms and breasts; the organs under the diaphragm."""

from __future__ import annotations

import numpy as np

from lungseg_utils.phantom.anatomy import SPINE_Y, SPINE_Z, Frame
from lungseg_utils.phantom.fields import FAR_MM, smooth_max, smooth_min


def torso(frame: Frame, shell: np.ndarray) -> dict[str, np.ndarray]:
    """Give skin and muscle surfaces of trunk, neck, shoulders, arms and breasts."""
    p, f = frame.person, frame
    front = np.clip(-f.y / 90, 0, 1)
    back = np.clip(f.y / 90, 0, 1)
    upper = np.clip((f.z + 60) / 120, 0, 1)
    muscle = shell - (
        9 + p.muscle_mm * (0.3 + 0.45 * upper * (front + back) + 0.2 * back) + 1.2 * f.bumps[6]
    )
    for side in (-1, 1):  # the muscles round the shoulder blade, and those beside the spine
        muscle = smooth_min(
            muscle,
            f.ellipsoid(
                (30, 56, 104 * side),
                (88, 34 + p.muscle_mm, 44 + 0.6 * p.muscle_mm),
                0.06,
                3,
                -0.55 * side,
            ),
            24,
        )
    muscle = smooth_min(
        muscle,
        np.sqrt((f.x / 1.5) ** 2 + (f.y - f.profile(SPINE_Z, SPINE_Y) - 40) ** 2)
        - 26
        - 0.5 * p.muscle_mm,
        24,
    )
    shoulders = smooth_min(
        f.ellipsoid((72, 22, 105), (44, 40, 68), 0.05),
        f.ellipsoid((72, 22, -105), (44, 40, 68), 0.05),
        5,
    )
    low_neck = f.tube([(60, 22, 0), (140, 12, 0), (260, 0, 0)], [62, 56, 54])
    muscle = smooth_min(smooth_min(muscle, shoulders, 30), low_neck, 40)
    arms = np.full_like(muscle, FAR_MM)
    for side in (-1, 1):
        path = (
            [(82, 20, 150 * side), (150, -10, 165 * side), (300, -40, 150 * side)]
            if p.arms_up
            else [(82, 20, 160 * side), (-100, 30, 192 * side), (-330, 10, 205 * side)]
        )
        arms = np.minimum(arms, f.tube(path, [46, 40, 36]))
    muscle = smooth_min(muscle, arms, 25)
    skin = muscle - p.fat_mm * (0.75 + 0.35 * front + 0.25 * f.bumps[1]).clip(0.3)
    if p.breasts_mm:
        for side in (-1, 1):
            skin = smooth_min(
                skin,
                f.ellipsoid(
                    (-45, -92 - 0.3 * p.breasts_mm, 80 * side), (62, p.breasts_mm * 0.75, 66), 0.06
                ),
                40,
            )
    # a shape that ends inside the grid, however stout the patient
    y, x = f.grid.mesh()[1:]
    skin = smooth_max(skin, (np.sqrt((x / 282) ** 2 + ((y + 15) / 198) ** 2) - 1) * 198, 30)
    muscle = np.maximum(muscle, skin + 3)
    return {"skin": skin, "muscle": muscle}


def belly(
    rng: np.random.Generator, f: Frame, shell: np.ndarray, dome: np.ndarray
) -> list[tuple[np.ndarray, object]]:
    """Give organs under the diaphragm as (signed distance, HU), in painting order."""
    hu, j = f.person.organs, (lambda spread=8.0: rng.normal(0, spread))
    under = smooth_max(dome + 3, shell + 4, 6)  # the peritoneal cavity
    right, left = f.person.dome_mm
    loops = smooth_max(
        np.maximum(under, f.z - left + 50), (0.75 - np.abs(f.bumps[6] + 0.7 * f.bumps[7])) * 22, 4
    )
    steps = [(under, hu["fat"]), (loops, hu["wall"])]
    liver = smooth_max(under, (f.x - 0.55 * (f.z - right) - 30 - j()) * 0.8 - 0.25 * (f.y + 40), 14)
    liver = smooth_max(liver, right - 165 + 0.5 * (f.x + 60) - f.z + j(15), 16)
    veins = np.clip(1 - 7 * np.abs(f.bumps[6] + 0.5 * f.bumps[7]), 0, 1) * rng.normal(8, 12)
    steps.append(
        (smooth_max(liver, f.y - 78, 12), hu["liver"] + rng.uniform(1, 5) * f.bumps[7] + veins)
    )
    spleen = f.ellipsoid((left - 62 + j(), 48 + j(5), 92 + j(4)), (48, 32, 26), 0.1)
    steps.append((np.maximum(spleen, dome + 3), hu["spleen"]))
    for side in (-1, 1):
        kidney = f.ellipsoid((-225 + j(12), 48, 62 * side), (52, 26, 28), 0.06)
        steps += [(kidney, hu["kidney"]), (kidney + 13, 20.0)]
    centre = (left - 60 + j(), -8 + j(), 58 + j())
    stomach = smooth_max(f.ellipsoid(centre, (46 + j(), 44 + j(), 40 + j()), 0.14), dome + 3, 5)
    level = centre[1] + rng.uniform(-40, 25)  # gas above the fluid of a lying patient
    steps += [(stomach, hu["wall"]), (stomach + rng.uniform(3, 8), hu["content"] + 12 * f.bumps[7])]
    if rng.random() < 0.85:
        steps.append((np.maximum(stomach + 6, f.y - level), -960.0))
    for _ in range(rng.integers(1, 5)):  # colon, with gas and stool
        at = (left - rng.uniform(45, 150), rng.uniform(-70, 30), rng.uniform(-40, 105))
        colon = np.maximum(f.ellipsoid(at, rng.uniform(14, 30, 3), 0.2, 7), dome + 3)
        steps += [(colon, hu["wall"]), (colon + 4, rng.choice([-950.0, -900.0, -200.0, 20.0]))]
    return steps
