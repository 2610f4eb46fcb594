"""Connected components of masks, and the boxes round them: here a lesion is what touches.

Two voxels of a lesion touch by a face, an edge or a corner: 26 neighbours. Masks are (D, H, W).
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

Box = tuple[slice, slice, slice]
Neighbours = Literal[4, 6, 8, 26]

LESION_NEIGHBOURS: Neighbours = 26
FACE_NEIGHBOURS: Neighbours = 6
SMALLEST_LESION_MM3 = 50.0  # smaller components are noise at the working spacing


def label_components(mask: np.ndarray, *, neighbours: Neighbours = LESION_NEIGHBOURS) -> np.ndarray:
    """Return an array like `mask` with the number of each voxel's component, from 1; 0 outside.

    `neighbours` is 26 or 6, and for a single slice 8 or 4.
    """
    import cc3d

    return cc3d.connected_components(np.ascontiguousarray(mask), connectivity=neighbours)


def bounding_box(mask: np.ndarray) -> Box:
    """Return the slices of the smallest box round what is marked; empty ones for an empty mask."""
    box: list[slice] = []
    for axis in range(mask.ndim):  # each axis looks only inside what the earlier ones have left
        others = tuple(other for other in range(mask.ndim) if other != axis)
        marked = np.flatnonzero(mask[tuple(box)].any(axis=others))
        box.append(slice(int(marked[0]), int(marked[-1]) + 1) if len(marked) else slice(0, 0))
    return tuple(box)  # type: ignore[return-value]


def add_neighbours(mask: np.ndarray) -> np.ndarray:
    """Return `mask` with all that touches it by a face: dilated by one voxel along each axis."""
    grown = mask.copy()
    for axis in range(mask.ndim):
        source = np.moveaxis(mask, axis, 0)
        target = np.moveaxis(grown, axis, 0)
        target[1:] |= source[:-1]
        target[:-1] |= source[1:]
    return grown


def list_components(mask: np.ndarray) -> list[np.ndarray]:
    """Return the voxels (n, 3) of each lesion of `mask`; an empty list for an empty mask."""
    import cc3d

    box = bounding_box(mask)
    if not mask[box].size:
        return []
    numbers = label_components(mask[box])
    boxes = cc3d.statistics(numbers)["bounding_boxes"]
    offset = [side.start for side in box]
    return [
        np.argwhere(numbers[own] == number) + [side.start for side in own] + offset
        for number, own in enumerate(boxes)
        if number
    ]


def drop_small(
    mask: np.ndarray, spacing_mm: Sequence[float], smallest_mm3: float = SMALLEST_LESION_MM3
) -> None:
    """Remove lesions below `smallest_mm3` from `mask`, in place."""
    inside = mask[bounding_box(mask)]
    numbers = label_components(inside)
    sizes_mm3 = np.bincount(numbers.ravel()) * float(np.prod(spacing_mm))
    is_small = sizes_mm3 < smallest_mm3
    inside[is_small[numbers]] = 0


def drop_below_peak(probability: np.ndarray, threshold: float, min_peak: float) -> None:
    """Set `probability` to 0, in place, in each lesion that nowhere reaches `min_peak`.

    A lesion is a component of what reaches `threshold`. A tumour is certain somewhere, as a rule
    in its middle; a vessel taken for one seldom is.
    """
    is_uncertain = component_peaks(probability, threshold) < min_peak
    probability[is_uncertain & (probability >= threshold)] = 0


def component_peaks(probability: np.ndarray, threshold: float) -> np.ndarray:
    """Return at each voxel that reaches `threshold` the peak of its component; 0 elsewhere."""
    numbers = label_components((probability >= threshold).astype(np.uint8))
    marked = numbers > 0
    peaks = np.zeros(int(numbers.max(initial=0)) + 1, np.float32)
    np.maximum.at(peaks, numbers[marked], probability[marked])
    return peaks[numbers]
