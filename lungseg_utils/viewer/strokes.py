"""The brush: which voxels a stroke covers."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from lungseg_utils.plotting.slices import PLANES


def stroke_voxels(
    points: Sequence[Sequence[float]],
    radius_mm: float,
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    plane: str | None = None,
) -> np.ndarray:
    """Return the flat indices of a stroke along `points` (d, h, w), ascending.

    In a `plane` it is as thick as one slice, without one as a ball. The voxels of the points
    themselves belong to it, however small the radius.
    """
    from scipy.ndimage import distance_transform_edt

    path = _joined(np.asarray(points, float).reshape(-1, 3))
    path = path[((path >= 0) & (path < shape)).all(axis=1)]
    if not len(path):
        return np.zeros(0, np.int64)
    margin = np.ceil(radius_mm / np.array(spacing_mm)).astype(int)
    if plane is not None:
        margin[PLANES[plane].across] = 0
    first = np.maximum(path.min(axis=0) - margin, 0)
    last = np.minimum(path.max(axis=0) + margin + 1, shape)
    off_path = np.ones(last - first, bool)
    off_path[tuple((path - first).T)] = False
    covered = distance_transform_edt(off_path, sampling=spacing_mm) <= radius_mm
    voxels = np.argwhere(covered) + first
    return np.ravel_multi_index(tuple(voxels.T), tuple(shape))


def _joined(points: np.ndarray) -> np.ndarray:
    """Return the voxels (n, 3) on the straight lines from each point to the next."""
    pieces = [points[:1]]
    for start, end in pairwise(points):
        steps = max(1, int(np.ceil(np.abs(end - start).max())))
        pieces.append(start + np.linspace(0, 1, steps + 1)[1:, None] * (end - start))
    return np.unique(np.rint(np.concatenate(pieces)).astype(int), axis=0)
