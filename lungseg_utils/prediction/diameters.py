"""The diameters of a tumour: the longest in 3D, and the two that RECIST measures on an axial slice.

Voxels count as points, and a voxel's smallest side is added, so that a single voxel has its size.
"""

from dataclasses import dataclass

import numpy as np

from lungseg_utils.preprocess.oblique import LARGEST_TILT_DEGREES, tilt_degrees
from lungseg_utils.volume import Volume


@dataclass(frozen=True)
class Diameters:
    """Two diameters at right angles; their ends are voxels (2, 3)."""

    long_mm: float
    short_mm: float
    long_ends: np.ndarray
    short_ends: np.ndarray


def longest_mm(voxels: np.ndarray, volume: Volume) -> float:
    """Return the longest diameter in 3D of a tumour of `voxels` (n, 3)."""
    points = voxels * np.array(volume.spacing_mm)
    return _distance(points[_farthest(points)]) + min(volume.spacing_mm)


def axial_diameters(voxels: np.ndarray, volume: Volume) -> Diameters:
    """Return the longest diameter on the largest axial slice, and the longest at right angles.

    Axial is the patient's axial plane: where the axes of the scan are oblique to it, a slice is a
    slab as thick as the scan's. Both are measured as RECIST 1.1 does (Eisenhauer et al., European
    Journal of Cancer 2009).
    """
    if tilt_degrees(volume) > LARGEST_TILT_DEGREES:
        world = voxels @ volume.affine[:3, :3].T  # (n, 3): x, y, z
        heights = (world[:, 2] - world[:, 2].min()) / volume.spacing_mm[0]
        plane = world[:, :2]
    else:
        heights = voxels[:, 0] - voxels[:, 0].min()
        plane = voxels[:, 1:] * np.array(volume.spacing_mm[1:])
    levels = np.floor(heights).astype(int)
    counts = np.bincount(levels)
    largest = np.flatnonzero(counts == counts.max())
    level = largest[np.abs(largest - levels.mean()).argmin()]  # the middle one of equals
    chosen = np.flatnonzero(levels == level)
    long = chosen[_farthest(plane[chosen])]
    short = chosen[_farthest_across(plane[chosen], plane[long], min(volume.spacing_mm[1:]))]
    voxel_mm = min(volume.spacing_mm)
    return Diameters(
        long_mm=_distance(plane[long]) + voxel_mm,
        short_mm=_distance(plane[short]) + voxel_mm,
        long_ends=voxels[long],
        short_ends=voxels[short],
    )


def _distance(ends: np.ndarray) -> float:
    return float(np.linalg.norm(ends[1] - ends[0]))


def _farthest(points: np.ndarray) -> np.ndarray:
    """Return the indices of the two of `points` that are farthest apart: corners of their hull."""
    from scipy.spatial import ConvexHull, QhullError
    from scipy.spatial.distance import cdist

    try:
        corners = ConvexHull(points).vertices
    except (QhullError, ValueError):  # flat or a line: few points, as a rule
        corners = np.arange(0, len(points), max(1, len(points) // 2000))
    distances = cdist(points[corners], points[corners])
    return corners[list(np.unravel_index(distances.argmax(), distances.shape))]


def _farthest_across(points: np.ndarray, ends: np.ndarray, width: float) -> np.ndarray:
    """Return the indices of the two of `points` (n, 2) that are farthest apart across a line.

    Both lie in one strip, `width` mm wide, at right angles to the line from one of `ends` to the
    other.
    """
    along = ends[1] - ends[0]
    along = along / np.linalg.norm(along) if along.any() else np.array([1.0, 0.0])
    strips = np.round((points - ends[0]) @ along / width).astype(int)
    across = points @ np.array([-along[1], along[0]])
    order = np.lexsort((across, strips))  # by strip, and in it from one side to the other
    firsts = np.flatnonzero(np.diff(strips[order], prepend=-1))
    lasts = np.append(firsts[1:], len(order)) - 1
    widest = (across[order[lasts]] - across[order[firsts]]).argmax()
    return order[[firsts[widest], lasts[widest]]]
