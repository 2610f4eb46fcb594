"""A tumour from one click: the network's own doubt near it, else what has the same HU."""

from collections.abc import Sequence

import numpy as np

from lungseg_utils.components import SMALLEST_LESION_MM3, Box, label_components
from lungseg_utils.runtime import LungsegError
from lungseg_utils.volume import Volume

NEAR_MM = 6.0  # so far from the click the network may have its peak
LEAST_PROBABILITY = 0.05  # a fainter peak says nothing
LUNG_HU = -850
DENSEST_HU = 200  # bone and contrast agent are above
VESSEL_SHARE = 0.5  # of the tumour's radius: what is thinner is cut off


def segment_at(
    scan: Volume,
    probability: np.ndarray,
    place: Sequence[int],
    *,
    threshold: float = 0.5,
    reach_mm: float = 30.0,
) -> tuple[np.ndarray, str]:
    """Return the flat indices of what lies at `place` (d, h, w), and which way found it.

    Where the network's probability has a peak near the click, it is cut at half the peak, or half
    the `threshold`; elsewhere voxels of about the same HU are joined. Nothing farther than
    `reach_mm` is taken. Raises LungsegError for a click outside the scan, into lung or air.
    """
    click = np.asarray(place, int)
    if click.shape != (3,) or (click < 0).any() or (click >= scan.hu.shape).any():
        raise LungsegError(
            "place",
            f"{list(place)} does not lie in a scan of {scan.hu.shape} voxels (D, H, W)",
            "Give a voxel (d, h, w)",
        )
    box, distance_mm = _surroundings(scan, click, reach_mm)
    inside = distance_mm <= reach_mm
    region, how = _by_network(probability[box], distance_mm, inside, threshold)
    if region is None or region.sum() * np.prod(scan.spacing_mm) < SMALLEST_LESION_MM3:
        region, how = _by_density(scan, box, click, inside)
    voxels = np.argwhere(region) + [side.start for side in box]
    return np.sort(np.ravel_multi_index(tuple(voxels.T), scan.hu.shape)), how


def _surroundings(scan: Volume, click: np.ndarray, reach_mm: float) -> tuple[Box, np.ndarray]:
    """Return the box round a click, and how far from it each of the box's voxels lies."""
    radius = np.ceil(reach_mm / np.array(scan.spacing_mm)).astype(int)
    first = np.maximum(click - radius, 0)
    last = np.minimum(click + radius + 1, scan.hu.shape)
    box = tuple(slice(int(a), int(b)) for a, b in zip(first, last))
    axes = [
        (np.arange(side.start, side.stop) - at) * mm
        for side, at, mm in zip(box, click, scan.spacing_mm)
    ]
    squares = [np.square(axis) for axis in np.ix_(*axes)]
    return box, np.sqrt(sum(squares))  # type: ignore[return-value]


def _by_network(
    probability: np.ndarray, distance_mm: np.ndarray, inside: np.ndarray, threshold: float
) -> tuple[np.ndarray | None, str]:
    near = np.where(inside & (distance_mm <= NEAR_MM), probability, 0)
    peak = float(near.max())
    if peak < LEAST_PROBABILITY:
        return None, ""
    cut = min(peak, threshold) / 2
    numbers = label_components(((probability >= cut) & inside).astype(np.uint8))
    number = numbers.ravel()[near.argmax()]
    return numbers == number, f"the network, from a probability of {cut:.2f}"


def _by_density(
    scan: Volume, box: Box, click: np.ndarray, inside: np.ndarray
) -> tuple[np.ndarray, str]:
    """Join voxels of about the HU at the click; cut off vessels and walls that it touches."""
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    hu = scan.hu[box].astype(np.float32)
    smooth = gaussian_filter(hu, [0.8 / mm for mm in scan.spacing_mm])
    at = tuple(int(index - side.start) for index, side in zip(click, box))
    seed = float(smooth[at])
    if seed < LUNG_HU + 150:
        raise LungsegError(
            "place",
            f"there are {seed:.0f} HU, which is lung or air",
            "Click on the tumour itself, or paint it with the brush",
        )
    low, high = (seed + LUNG_HU) / 2, max(DENSEST_HU, seed + 100)
    alike = _holding((smooth >= low) & (smooth <= high) & inside, at)
    depth_mm = distance_transform_edt(alike, sampling=scan.spacing_mm)
    middle, radius_mm = _climb(depth_mm, at)
    core = _holding(depth_mm >= VESSEL_SHARE * radius_mm, middle)
    grown_mm = distance_transform_edt(~core, sampling=scan.spacing_mm)
    region = _holding(alike & (grown_mm <= VESSEL_SHARE * radius_mm), middle)
    return region, f"region growing, from {low:.0f} to {high:.0f} HU"


def _holding(mask: np.ndarray, voxel: tuple[int, ...]) -> np.ndarray:
    """Return the component of `mask` that holds `voxel`."""
    numbers = label_components(mask.astype(np.uint8), neighbours=6)
    return (numbers == numbers[voxel]) & mask


def _climb(depth_mm: np.ndarray, start: tuple[int, ...]) -> tuple[tuple[int, ...], float]:
    """Walk uphill from `start` to the middle of the ball that it lies in; return it, its radius."""
    at = start
    while True:
        near = tuple(slice(max(index - 1, 0), index + 2) for index in at)
        block = depth_mm[near]
        step = np.unravel_index(block.argmax(), block.shape)
        if block[step] <= depth_mm[at]:
            return at, float(depth_mm[at])
        at = tuple(int(side.start + index) for side, index in zip(near, step))
