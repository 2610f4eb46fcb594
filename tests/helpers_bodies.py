"""Bodies of simple shapes to search for lungs: a chest, an abdomen with a colon; 4 mm voxels."""

from __future__ import annotations

import numpy as np
from helpers_cases import make_scan

from lungseg_utils.volume import Volume

SHAPE = (64, 76, 100)  # 256 mm high, 304 mm deep, 400 mm wide
SPACING_MM = (4.0, 4.0, 4.0)
MIDDLE = (SHAPE[1] / 2, SHAPE[2] / 2)


def ellipse(centre, radii, shape=SHAPE) -> np.ndarray:
    """Return a bool array (D, H, W), True in an ellipsoid; an endless radius makes a cylinder."""
    axes = np.ogrid[tuple(slice(side) for side in shape)]
    return sum(((axis - c) / r) ** 2 for axis, c, r in zip(axes, centre, radii)) <= 1


def make_body(seed=0) -> np.ndarray:
    """Return HU of a trunk in air: fat, muscle, a spine, noise."""
    hu = np.random.default_rng(seed).normal(0, 12, SHAPE) - 1000
    hu[ellipse((0, *MIDDLE), (np.inf, 27, 40))] += 910
    hu[ellipse((0, *MIDDLE), (np.inf, 24, 37))] += 130
    hu[ellipse((0, MIDDLE[0] + 16, MIDDLE[1]), (np.inf, 5, 5))] += 210
    return hu


def lung_masks(middle=30.0, height=28.0) -> tuple[np.ndarray, np.ndarray]:
    """Return where the right and the left lung lie: flat below, round above."""
    lungs = []
    for side in (-1, 1):
        lung = ellipse((middle, MIDDLE[0], MIDDLE[1] + 19 * side), (height, 19, 14))
        lung[: max(0, int(middle - height / 2))] = False
        lungs.append(lung)
    return lungs[0], lungs[1]


def fill(hu: np.ndarray, mask: np.ndarray, value: float, spread: float = 12, seed=1) -> None:
    """Set `mask` to `value` with noise, in place."""
    hu[mask] = np.random.default_rng(seed).normal(value, spread, int(mask.sum()))


def make_chest(seed=0, **place) -> np.ndarray:
    """Return HU of a chest with two lungs of -850 HU and vessels in them, and a heart."""
    hu = make_body(seed)
    rng = np.random.default_rng(seed + 1)
    for lung in lung_masks(**place):
        fill(hu, lung, -850, 25)
        vessels = lung & (rng.random(SHAPE) < 0.03)
        hu[vessels] += 500
    return hu


def scan_of(hu: np.ndarray, spacing_mm=SPACING_MM) -> Volume:
    """Return `hu` as a reader would, clipped and in integers."""
    return make_scan(np.clip(np.rint(hu), -1024, 3071).astype(np.int16), spacing_mm)


def make_colon(hu: np.ndarray, gas_hu=-990, lowest=4, highest=50) -> np.ndarray:
    """Fill a frame of large bowel with gas, in place, and return where it lies."""
    top = highest - 7
    colon = np.zeros(SHAPE, bool)
    for side in (-26, 26):
        limb = ellipse((0, MIDDLE[0] + 4, MIDDLE[1] + side), (np.inf, 7, 7))
        limb[:lowest] = limb[top:] = False
        colon |= limb
    colon |= ellipse((top, MIDDLE[0] - 8, 0), (7, 7, np.inf)) & (
        np.abs(np.arange(SHAPE[2]) - MIDDLE[1]) < 28
    )
    fill(hu, colon, gas_hu, 15)
    return colon
