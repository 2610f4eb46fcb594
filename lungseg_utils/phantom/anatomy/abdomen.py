"""The organs under the diaphragm: signed distances and HU, in painting order."""

import numpy as np

from lungseg_utils.phantom.anatomy.frame import Frame
from lungseg_utils.phantom.fields import smooth_intersection

Layer = tuple[np.ndarray, float | np.ndarray]  # signed distance, HU


def abdomen(rng: np.random.Generator, f: Frame, wall: np.ndarray, above: np.ndarray) -> list[Layer]:
    """Return the layers to paint; `above` is the height above the diaphragm."""
    hu = f.person.tissue_hu
    cavity = smooth_intersection(above + 3, wall + 4, 6)
    folds = (0.75 - np.abs(f.bumps[6] + 0.7 * f.bumps[7])) * 22
    bowel = np.maximum(cavity, f.z - f.person.dome_mm[1] + 50)
    return [
        (cavity, hu["fat"]),
        (smooth_intersection(bowel, folds, 4), hu["hollow_organ"]),
        _liver(rng, f, cavity),
        _spleen(rng, f, above),
        *_kidneys(rng, f),
        *_stomach(rng, f, above),
        *_colon(rng, f, above),
    ]


def _liver(rng: np.random.Generator, f: Frame, cavity: np.ndarray) -> Layer:
    right = f.person.dome_mm[0]
    left_border = f.x - 0.55 * (f.z - right) - 30 - rng.normal(0, 8)
    liver = smooth_intersection(cavity, left_border * 0.8 - 0.25 * (f.y + 40), 14)
    lower_border = right - 165 + 0.5 * (f.x + 60) - f.z + rng.normal(0, 15)
    liver = smooth_intersection(liver, lower_border, 16)
    veins = np.clip(1 - 7 * np.abs(f.bumps[6] + 0.5 * f.bumps[7]), 0, 1) * rng.normal(8, 12)
    hu = f.person.tissue_hu["liver"] + rng.uniform(1, 5) * f.bumps[7] + veins
    return smooth_intersection(liver, f.y - 78, 12), hu


def _spleen(rng: np.random.Generator, f: Frame, above: np.ndarray) -> Layer:
    left = f.person.dome_mm[1]
    centre = (left - 62 + rng.normal(0, 8), 48 + rng.normal(0, 5), 92 + rng.normal(0, 4))
    return np.maximum(f.ellipsoid(centre, (48, 32, 26), 0.1), above + 3), f.person.tissue_hu[
        "spleen"
    ]


def _kidneys(rng: np.random.Generator, f: Frame) -> list[Layer]:
    layers: list[Layer] = []
    for side in (-1, 1):
        kidney = f.ellipsoid((-225 + rng.normal(0, 12), 48, 62 * side), (52, 26, 28), 0.06)
        layers += [(kidney, f.person.tissue_hu["kidney"]), (kidney + 13, 20.0)]
    return layers


def _stomach(rng: np.random.Generator, f: Frame, above: np.ndarray) -> list[Layer]:
    hu = f.person.tissue_hu
    z, y, x = (middle + rng.normal(0, 8) for middle in (f.person.dome_mm[1] - 60, -8, 58))
    radii = [radius + rng.normal(0, 8) for radius in (46, 44, 40)]
    stomach = smooth_intersection(f.ellipsoid((z, y, x), radii, 0.14), above + 3, 5)
    level = y + rng.uniform(-40, 25)  # gas above the fluid of a lying patient
    lumen = stomach + rng.uniform(3, 8)
    layers: list[Layer] = [
        (stomach, hu["hollow_organ"]),
        (lumen, hu["gastric_fluid"] + 12 * f.bumps[7]),
    ]
    if rng.random() < 0.85:
        layers.append((np.maximum(stomach + 6, f.y - level), -960.0))
    return layers


def _colon(rng: np.random.Generator, f: Frame, above: np.ndarray) -> list[Layer]:
    layers: list[Layer] = []
    left = f.person.dome_mm[1]
    for _ in range(rng.integers(1, 5)):
        centre = (left - rng.uniform(45, 150), rng.uniform(-70, 30), rng.uniform(-40, 105))
        colon = np.maximum(f.ellipsoid(centre, rng.uniform(14, 30, 3), 0.2, 7), above + 3)
        gas_or_stool = rng.choice([-950.0, -900.0, -200.0, 20.0])
        layers += [(colon, f.person.tissue_hu["hollow_organ"]), (colon + 4, gas_or_stool)]
    return layers
