"""Scans whose axes lean against the patient's: straightened before the network, which learnt on upright chests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lungseg_utils.volume import CANONICAL, Volume
from lungseg_utils.volume.grid import grid_along

LARGEST_TILT_DEGREES = 2.0  # less than patients themselves lie askew
AIR_HU = -1024


def tilt_degrees(volume: Volume) -> float:
    """Give the largest angle between an axis of `volume` and the patient's."""
    directions = volume.affine[:3, :3] / np.array(volume.spacing_mm)
    along = np.abs((directions * CANONICAL[:3, :3]).sum(axis=0))
    return float(np.degrees(np.arccos(np.clip(along.min(), -1, 1))))


def straighten(volume: Volume) -> Volume:
    """Give `volume` on a grid along the patient's axes that holds all of it, linearly; itself if it hardly leans."""
    if tilt_degrees(volume) <= LARGEST_TILT_DEGREES:
        return volume
    straight = CANONICAL @ np.diag([*volume.spacing_mm, 1.0])
    corners = np.array(
        np.meshgrid(*[(0, n - 1) for n in volume.hu.shape], [1], indexing="ij")
    ).reshape(4, -1)
    places = (np.linalg.inv(straight) @ volume.affine @ corners)[:3]
    low = np.floor(places.min(axis=1))
    shape = tuple(int(n) for n in np.ceil(places.max(axis=1)) - low + 1)
    affine = straight.copy()
    affine[:3, 3] = (straight @ [*low, 1])[:3]
    hu = _resampled(volume.hu, volume.affine, affine, shape, np.int16, AIR_HU)
    return replace(volume, hu=hu, affine=affine, grid=grid_along("LPS", shape, affine))


def put_back(array: np.ndarray, straight: Volume, volume: Volume) -> np.ndarray:
    """Bring a mask or a map on the grid of `straight` back to that of `volume`, which it was made from."""
    if straight is volume:
        return array
    if array.dtype != np.uint8:
        return _resampled(array, straight.affine, volume.affine, volume.hu.shape, array.dtype, 0)
    share = _resampled(
        array * np.uint8(200), straight.affine, volume.affine, volume.hu.shape, np.uint8, 0
    )
    return (share >= 100).astype(np.uint8)


def _resampled(
    array: np.ndarray, source: np.ndarray, target: np.ndarray, shape, dtype, outside: float
) -> np.ndarray:
    from scipy.ndimage import affine_transform

    matrix = np.linalg.inv(source) @ target
    return affine_transform(
        array, matrix[:3, :3], matrix[:3, 3], shape, dtype, order=1, cval=outside
    )
