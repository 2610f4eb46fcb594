"""From a mask to tumours: which components count, and how large they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lungseg_utils.volume import Volume

SMALLEST_TUMOUR_MM3 = 50.0  # smaller components are noise at the working spacing


def drop_small(
    mask: np.ndarray, spacing_mm: Sequence[float], smallest_mm3: float = SMALLEST_TUMOUR_MM3
) -> None:
    """Remove components below `smallest_mm3` from `mask`, in place."""
    import cc3d

    inside = mask[_box_of(mask)]
    if inside.size:
        parts = cc3d.connected_components(np.ascontiguousarray(inside), connectivity=26)
        small = np.bincount(parts.ravel()) * float(np.prod(spacing_mm)) < smallest_mm3
        inside[small[parts]] = 0


def drop_unsure(probability: np.ndarray, threshold: float, least_peak: float) -> None:
    """Set `probability` to 0, in place, in each component from `threshold` on that nowhere reaches `least_peak`.

    A tumour is sure somewhere, as a rule in its middle; a vessel taken for one seldom is.
    """
    import cc3d

    parts = cc3d.connected_components((probability >= threshold).astype(np.uint8), connectivity=26)
    marked = parts > 0
    peaks = np.zeros(int(parts.max(initial=0)) + 1, np.float32)
    np.maximum.at(peaks, parts[marked], probability[marked])
    unsure = peaks < least_peak
    unsure[0] = False
    probability[unsure[parts]] = 0


def list_components(mask: np.ndarray) -> list[np.ndarray]:
    """List the voxels (n, 3) of each component of `mask`, whose voxels touch by face, edge or corner."""
    import cc3d

    box = _box_of(mask)
    if not mask[box].size:
        return []
    parts = cc3d.connected_components(np.ascontiguousarray(mask[box]), connectivity=26)
    boxes = cc3d.statistics(parts)["bounding_boxes"]
    return [
        np.argwhere(parts[boxes[number]] == number)
        + [a.start + b.start for a, b in zip(box, boxes[number])]
        for number in range(1, int(parts.max(initial=0)) + 1)
    ]


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


def _box_of(mask: np.ndarray) -> tuple[slice, slice, slice]:
    """Give the slices of the smallest box round `mask`; empty ones for an empty mask. Scans hold mostly nothing."""
    box = []
    for axis in range(3):
        planes = np.flatnonzero(mask[tuple(box)].any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(int(planes[0]), int(planes[-1]) + 1) if len(planes) else slice(0, 0))
    return tuple(box)


def _longest_mm(points: np.ndarray) -> float:
    """Give the largest distance between two of `points`; only corners of their hull can be that far apart."""
    from scipy.spatial import ConvexHull, QhullError
    from scipy.spatial.distance import pdist

    try:
        points = points[ConvexHull(points).vertices]
    except (QhullError, ValueError):
        points = points[:: max(1, len(points) // 2000)]  # flat or a line: few points, as a rule
    return float(pdist(points).max()) if len(points) > 1 else 0.0
