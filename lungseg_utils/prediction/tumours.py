"""From a mask to tumours: which components count, and how large they are."""

from __future__ import annotations

import numpy as np

from lungseg_utils.components import list_components
from lungseg_utils.volume import Volume


def measure_tumours(mask: np.ndarray, volume: Volume) -> list[dict]:
    """Give a row a tumour, largest first: volume in mL, longest diameter in mm (3D), centre in world mm (RAS+).

    A tumour is a component of `mask`. An empty mask gives no row.
    """
    tumours = []
    for voxels in list_components(mask):
        world = voxels @ volume.affine[:3, :3].T + volume.affine[:3, 3]
        tumours.append(
            {
                "volume_ml": round(len(voxels) * float(np.prod(volume.spacing_mm)) / 1000, 3),
                "longest_mm": round(_longest_mm(world) + min(volume.spacing_mm), 1),
                "centre_mm": [round(float(c), 1) for c in world.mean(axis=0)],
            }
        )
    return sorted(tumours, key=lambda tumour: -tumour["volume_ml"])


def _longest_mm(points: np.ndarray) -> float:
    """Give the largest distance between two of `points`; only corners of their hull can be that far apart."""
    from scipy.spatial import ConvexHull, QhullError
    from scipy.spatial.distance import pdist

    try:
        points = points[ConvexHull(points).vertices]
    except (QhullError, ValueError):
        points = points[:: max(1, len(points) // 2000)]  # flat or a line: few points, as a rule
    return float(pdist(points).max()) if len(points) > 1 else 0.0
