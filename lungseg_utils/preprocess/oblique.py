"""Scans whose axes are oblique to the patient's: the network has learnt on axis-aligned chests."""

from dataclasses import replace

import numpy as np
from numpy.typing import DTypeLike

from lungseg_utils.volume import CANONICAL, PADDING_HU, Volume
from lungseg_utils.volume.grid import grid_along

LARGEST_TILT_DEGREES = 2.0  # less than patients themselves lie askew


def tilt_degrees(volume: Volume) -> float:
    """Return the largest angle between an axis of `volume` and the patient's."""
    directions = volume.affine[:3, :3] / np.array(volume.spacing_mm)
    cosines = np.abs((directions * CANONICAL[:3, :3]).sum(axis=0))
    return float(np.degrees(np.arccos(np.clip(cosines.min(), -1, 1))))


def align(volume: Volume) -> Volume:
    """Return `volume` on a grid along the patient's axes that holds all of it, linearly.

    The very same volume where its axes hardly differ from the patient's.
    """
    if tilt_degrees(volume) <= LARGEST_TILT_DEGREES:
        return volume
    straight = CANONICAL @ np.diag([*volume.spacing_mm, 1.0])
    sides = [(0, n - 1) for n in volume.hu.shape]
    corners = np.array(np.meshgrid(*sides, [1], indexing="ij")).reshape(4, -1)
    places = (np.linalg.inv(straight) @ volume.affine @ corners)[:3]
    low = np.floor(places.min(axis=1))
    shape = tuple(int(n) for n in np.ceil(places.max(axis=1)) - low + 1)
    affine = straight.copy()
    affine[:3, 3] = (straight @ [*low, 1])[:3]
    hu = _interpolate(volume.hu, volume.affine, affine, shape, np.int16, PADDING_HU)
    return replace(volume, hu=hu, affine=affine, grid=grid_along("LPS", shape, affine))


def resample_back(array: np.ndarray, aligned: Volume, scan: Volume) -> np.ndarray:
    """Return a uint8 mask or a float map on the grid of `aligned` on that of `scan`."""
    if aligned is scan:
        return array
    target = (aligned.affine, scan.affine, scan.hu.shape)
    if array.dtype != np.uint8:
        return _interpolate(array, *target, array.dtype)
    share = _interpolate(array * np.uint8(200), *target, np.uint8)
    return (share >= 100).astype(np.uint8)


def _interpolate(
    array: np.ndarray,
    source: np.ndarray,
    target: np.ndarray,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    outside: float = 0,
) -> np.ndarray:
    """Resample `array` from the affine `source` to `target`, linearly."""
    from scipy.ndimage import affine_transform

    matrix = np.linalg.inv(source) @ target
    offset = matrix[:3, 3]
    return affine_transform(array, matrix[:3, :3], offset, shape, dtype, order=1, cval=outside)
