"""From a mask to tumours: which there are, and how large they are."""

from __future__ import annotations

import numpy as np

from lungseg_utils.components import list_components
from lungseg_utils.volume import Volume


def measure_tumours(mask: np.ndarray, volume: Volume) -> list[dict]:
    """Return a row a tumour, largest first: volume_ml, longest_mm (3D), centre_mm (world, RAS+).

    A tumour is a component of `mask`. An empty mask has no row.
    """
    voxel_ml = float(np.prod(volume.spacing_mm)) / 1000
    tumours = []
    for voxels in list_components(mask):
        world = voxels @ volume.affine[:3, :3].T + volume.affine[:3, 3]
        tumour = {
            "volume_ml": round(len(voxels) * voxel_ml, 3),
            "longest_mm": round(_longest_mm(world) + min(volume.spacing_mm), 1),
            "centre_mm": [round(float(c), 1) for c in world.mean(axis=0)],
        }
        tumours.append(tumour)
    return sorted(tumours, key=lambda tumour: -tumour["volume_ml"])


def _longest_mm(points: np.ndarray) -> float:
    """Return the largest distance between two of `points`, which are corners of their hull."""
    from scipy.spatial import ConvexHull, QhullError
    from scipy.spatial.distance import pdist

    try:
        points = points[ConvexHull(points).vertices]
    except (QhullError, ValueError):
        points = points[:: max(1, len(points) // 2000)]  # flat or a line: few points, as a rule
    return float(pdist(points).max()) if len(points) > 1 else 0.0
