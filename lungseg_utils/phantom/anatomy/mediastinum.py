"""Heart, great vessels, airways, oesophagus, thyroid and hila as signed distances."""

from collections.abc import Sequence

import numpy as np

from lungseg_utils.phantom.anatomy.frame import Frame
from lungseg_utils.phantom.anatomy.great_arteries import aorta, pulmonary_arteries
from lungseg_utils.phantom.fields import FAR_MM, Point, smooth_union, union

# Organs made of tubes: the points (z, y, x) of each in body coordinates, and the radii there.
TUBES: dict[str, list[tuple[list[tuple[int, int, int]], float | list[float]]]] = {
    "superior_vena_cava": [
        ([(-38, -18, -28), (0, -14, -28), (40, -18, -27), (56, -28, -22)], [10, 9.5, 8.5, 8]),
    ],
    "brachiocephalic_veins": [
        ([(56, -28, -22), (88, -22, -38), (100, -20, -80)], [8, 7, 6]),
        ([(52, -30, -20), (62, -36, 12), (92, -24, 38), (100, -20, 80)], [8, 7, 7, 6]),
    ],
    "arch_branches": [
        ([(48, -12, -6), (76, -12, -18), (120, -4, -28), (240, -6, -30)], [6.5, 6, 4.5, 4]),
        ([(50, 2, 4), (85, 2, 18), (130, -2, 27), (240, -6, 30)], [4.5, 4, 4, 3.5]),
        ([(50, 14, 12), (88, 16, 25), (108, 6, 60), (104, 0, 110)], [5.5, 5, 5, 5]),
    ],
    "pulmonary_veins": [
        ([(-38, 10, 26), (-26, 4, 54)], [8, 6]),
        ([(-50, 20, 24), (-56, 30, 50)], [8, 6]),
        ([(-36, 8, -20), (-24, -2, -48)], [8, 6]),
        ([(-50, 18, -20), (-58, 28, -46)], [8, 6]),
    ],
    "inferior_vena_cava": [
        ([(-80, -8, -28), (-120, 0, -27), (-200, 14, -25), (-400, 22, -22)], [12, 12, 11, 10]),
    ],
    "azygos_vein": [
        ([(-200, 26, -8), (0, 28, -12), (18, 26, -14), (20, 6, -22), (20, -12, -27)], 4.0),
    ],
    "oesophagus": [
        (
            [(260, 10, 2), (90, 18, 4), (20, 18, 4), (-60, 22, 4), (-115, 14, 16), (-140, 0, 34)],
            [7, 8, 8.5, 9, 9.5, 10],
        ),
    ],
}
FAT_MM = {  # between these organs and the lungs, which keep clear of them
    "aorta": 3,
    "pulmonary_arteries": 2,
    "superior_vena_cava": 3,
    "brachiocephalic_veins": 3,
    "arch_branches": 4,
    "trachea": 3.5,
    "oesophagus": 2,
    "inferior_vena_cava": 2,
    "azygos_vein": 1.5,
}
TRACHEA = [(260, -8, 0), (110, -2, 0), (50, 2, -2), (0, 7, 0)]


def mediastinum(
    rng: np.random.Generator, f: Frame, *, easy: bool = False
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the organs by name and the hila, right and left, in world mm (2, 3).

    The hila of an `easy` patient hold vessels and bronchi alone, and the aorta is never wide.
    """
    variants = None if easy else rng.spawn(1)[0]  # a stream of its own: the rest stays the same

    def jitter(spread: float = 4.0) -> float:
        return rng.normal(0, spread)

    shift = jitter(5), jitter(6)
    size, width = rng.normal(1.0, 0.09), rng.normal(1.0, 0.12)
    right = -14 + jitter(), 14 + jitter(), -47 + jitter(3)
    left = -2 + jitter(), 20 + jitter(), 47 + jitter(3)
    apart = 26 + jitter(3)
    organs = {
        name: union(*(f.tube(points, radii) for points, radii in chains))
        for name, chains in TUBES.items()
    }
    organs |= _heart(f, shift, size)
    organs["aorta"] = aorta(f, variants, width, (jitter(), jitter()))
    organs["pulmonary_arteries"] = pulmonary_arteries(f, variants, width, (right, left))
    right_bronchus = [(2, 7, -1), (-20, 14, -apart), (-40, 22, -apart - 12)]
    left_bronchus = [(2, 7, 1), (-20, 16, apart + 4), (-34, 26, apart + 20)]
    organs["trachea"] = union(
        f.tube(TRACHEA, np.array([8.5, 9, 9, 9]) * width),
        f.tube(right_bronchus, np.array([8, 6.8, 5.4]) * width),
        f.tube(left_bronchus, np.array([7.5, 6.2, 5]) * width),
    )
    organs["thyroid"] = union(*(f.ellipsoid((128, -2, side * 16), (22, 10, 9)) for side in (-1, 1)))
    organs["hilar_tissue"] = _hilar_tissue(f, variants, (right, left))
    return organs, np.stack([f.locate(hilum) for hilum in (right, left)])


def _heart(f: Frame, shift: tuple[float, float], size: float) -> dict[str, np.ndarray]:
    """Return the four chambers and the heart as a whole."""
    x, z = shift
    chambers = {  # centre, radii, bump, turn
        "left_ventricle": ((-76 + z, -28, 44 + x), (40, 32, 30), 5, -0.7),
        "right_ventricle": ((-74 + z, -48, 6 + x), (36, 25, 36), 6, -0.4),
        "right_atrium": ((-60 + z, -22, -30 + x), (33, 26, 19), 5, 0.0),
        "left_atrium": ((-42 + z, 14, 4 + x), (23, 20, 33), 6, 0.0),
    }
    shapes = {
        name: f.ellipsoid(centre, [radius * size for radius in radii], 0.08, bump, turn)
        for name, (centre, radii, bump, turn) in chambers.items()
    }
    ventricles = smooth_union(shapes["left_ventricle"], shapes["right_ventricle"], 14)
    atria = smooth_union(shapes["right_atrium"], shapes["left_atrium"], 14)
    return {**shapes, "heart": smooth_union(ventricles, atria, 16)}


def _hilar_tissue(f: Frame, rng: np.random.Generator | None, hila: Sequence[Point]) -> np.ndarray:
    """Return lymph nodes and loose tissue between the vessels of the hila; none without `rng`."""
    tissue = np.full(f.grid.shape, FAR_MM, np.float32)
    if rng:
        for hilum in hila:
            for _ in range(rng.integers(1, 7)):
                centre = rng.normal(hilum, (14, 9, 6))
                tissue = union(tissue, f.ellipsoid(centre, rng.uniform(3, 8, 3), 0.15, 7))
    return tissue
