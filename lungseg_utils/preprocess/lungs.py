"""Where the lungs are: a box round them, and the region in which a lung tumour may lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lungseg_utils.components import FACE_NEIGHBOURS, Box, bounding_box, label_components
from lungseg_utils.runtime import warn
from lungseg_utils.volume import Volume

COARSE_MM = 4.0  # fine enough to tell the lungs, coarse enough to take a tenth of a second
AIR_BELOW_HU = -400  # between lung (about -850) and soft tissue (about 40)
BODY_ABOVE_HU = -200
LEAK_BELOW_ML = 1500.0  # fewer lungs than this are looked at twice
SMALLEST_LUNG_ML = 100.0  # bowel gas and the airways alone stay below
MARGIN_MM = 12.0  # round the lungs: pleura and inner chest wall, where tumours grow too
CUT_LUNG_FROM_HU = -960  # the air round a patient has -1000
GAS_BELOW_HU = -930  # a stomach may hold as much as a small lung, but nothing that is denser
GAS_FROM_ML = 10.0
GAS_FROM_LUNG_MM = 40.0  # its farthest point; the cavity of a tumour stays nearer to lung


@dataclass(frozen=True)
class LungRegion:
    """The lungs of one scan, found on a coarse copy.

    box: slices (d, h, w) on the scan's grid. lungs: aerated lung, bool, on the coarse grid of the
    whole scan. region: lungs, all between them and a margin, without the abdomen. found: False
    where the whole scan stands in.
    """

    box: Box
    lungs: np.ndarray
    region: np.ndarray
    step: tuple[int, int, int]
    found: bool

    def on_grid(self, mask: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """Return what the box holds of a coarse mask on a grid of `shape`, by nearest neighbour."""
        for axis, (side, step, size) in enumerate(zip(self.box, self.step, shape)):
            centres = side.start + (np.arange(size) + 0.5) * (side.stop - side.start) / size
            nearest = np.minimum((centres / step).astype(int), mask.shape[axis] - 1)
            mask = mask.take(nearest, axis=axis)
        return mask


def find_lungs(volume: Volume) -> LungRegion:
    """Find both lungs in `volume`: enclosed, lung-like air on a coarse copy.

    A mask of aerated lung alone would lose most of a large tumour, which is as dense as muscle. So
    the region takes in everything between the two lungs and a margin round them, but the stomach
    and bowel where their gas shows them; the box takes both sides of the body alike, should one
    lung be filled. Where there are no lungs the whole scan is searched, with a warning.
    """
    depth, height, width = (max(1, round(COARSE_MM / side)) for side in volume.spacing_mm)
    step = (depth, height, width)
    coarse = _block_means(volume.hu, step)
    coarse_mm = np.array(volume.spacing_mm) * step
    body = coarse > BODY_ABOVE_HU
    enclosed, lungs = _enclosed_air(coarse, body, float(np.prod(coarse_mm)) / 1000)
    if not lungs.any() or not body.any():
        warn(f"{volume.name}: no lungs found; the whole scan is searched")
        depth, height, width = volume.hu.shape
        whole = (slice(0, depth), slice(0, height), slice(0, width))
        air = coarse < AIR_BELOW_HU
        return LungRegion(whole, air, np.ones(body.shape, bool), step, found=False)
    lungs = _without_stomach(lungs, coarse)
    abdomen = _abdomen(enclosed & ~lungs, lungs, coarse_mm)
    region = _grow(_between(lungs), MARGIN_MM / coarse_mm) & ~abdomen
    return LungRegion(_box_on_scan(region, body, step, volume), lungs, region, step, found=True)


def _enclosed_air(
    coarse: np.ndarray, body: np.ndarray, voxel_ml: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return all air inside the body, and the parts of it that are as large as lungs."""
    # a slice without a patient, as in padding at the ends, would join the airways to the outside
    inhabited = body.mean(axis=(1, 2))
    is_inhabited = inhabited >= 0.05 * np.median(inhabited)
    air = (coarse < AIR_BELOW_HU) & is_inhabited[:, None, None]
    outside = _outside(air)
    cut_lungs = _cut_lungs(outside & (coarse > CUT_LUNG_FROM_HU), body)
    enclosed = air & ~outside | cut_lungs
    lungs = _large_parts(enclosed, voxel_ml)
    if lungs.sum() * voxel_ml >= LEAK_BELOW_ML:
        return enclosed, lungs
    # an airway that is cut obliquely joins the lungs to the air outside, but not in every slice
    by_slice = air & ~np.stack([_outside(plane) for plane in air])
    slices = _large_parts(by_slice, voxel_ml)
    if slices.sum() > 3 * lungs.sum():
        return by_slice, slices
    return enclosed, lungs


def _box_on_scan(
    region: np.ndarray, body: np.ndarray, step: tuple[int, int, int], volume: Volume
) -> Box:
    """Return the box of the coarse `region` on the scan, as wide left as right of the body."""
    depth, height, width = bounding_box(region)
    body_middle = np.nonzero(body.any(axis=(0, 1)))[0].mean()
    reach = max(body_middle - width.start, width.stop - 1 - body_middle)
    first = int(max(0, body_middle - reach))
    last = int(np.ceil(body_middle + reach))
    sides = []
    for side, scale, size in zip((depth, height, slice(first, last + 1)), step, volume.hu.shape):
        sides.append(slice(side.start * scale, min(size, side.stop * scale)))
    return sides[0], sides[1], sides[2]


def _outside(air: np.ndarray) -> np.ndarray:
    """Mark the air of a volume or slice that reaches one of its sides; top and bottom are none."""
    parts = label_components(air, neighbours=FACE_NEIGHBOURS if air.ndim == 3 else 4)
    is_outside = np.zeros(int(parts.max(initial=0)) + 1, bool)
    for side in (parts[..., 0, :], parts[..., -1, :], parts[..., 0], parts[..., -1]):
        is_outside[np.unique(side)] = True
    is_outside[0] = False
    return is_outside[parts]


def _cut_lungs(dense_air: np.ndarray, body: np.ndarray) -> np.ndarray:
    """Keep the part of a lung that a narrow field of view has opened to the outside, left or right.

    Nothing is kept where the trunk is cut in front or behind too: such a piece of a chest is better
    searched whole.
    """
    parts = label_components(body, neighbours=FACE_NEIGHBOURS)
    trunk = parts == np.bincount(parts[body], minlength=2).argmax()  # without the table
    if trunk[:, [0, -1]].mean() > 0.02:
        return np.zeros(body.shape, bool)
    in_trunk = dense_air & _between_ends(trunk, 1)
    parts = label_components(in_trunk, neighbours=FACE_NEIGHBOURS)
    at_side = np.unique(np.concatenate([parts[..., :2], parts[..., -2:]], axis=-1))
    return np.isin(parts, at_side[at_side > 0])


def _large_parts(enclosed: np.ndarray, voxel_ml: float) -> np.ndarray:
    """Keep the parts that are as large as a lung may be and not tiny beside the largest."""
    parts = label_components(enclosed, neighbours=FACE_NEIGHBOURS)
    sizes_ml = np.bincount(parts.ravel()) * voxel_ml
    sizes_ml[0] = 0
    return (sizes_ml >= max(SMALLEST_LUNG_ML, 0.1 * sizes_ml.max(initial=0)))[parts]


def _without_stomach(lungs: np.ndarray, coarse: np.ndarray) -> np.ndarray:
    """Leave out small parts that lie lower than the lungs' middle and hold nothing but gas."""
    parts = label_components(lungs, neighbours=FACE_NEIGHBOURS)
    sizes = np.bincount(parts[lungs])
    for number in np.nonzero((sizes > 0) & (sizes < 0.3 * sizes.max()))[0]:
        part = parts == number
        if np.median(coarse[part]) < GAS_BELOW_HU and _height(part) < _height(lungs):
            lungs = lungs & ~part
    return lungs


def _abdomen(air: np.ndarray, lungs: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
    """Mark what lies nearer to gas in the stomach or bowel than to `lungs`."""
    from scipy.ndimage import distance_transform_edt

    thin = (slice(None, None, 2),) * 3  # an eighth of the voxels is enough to tell organs apart
    parts = label_components(air, neighbours=FACE_NEIGHBOURS)
    large = np.nonzero(np.bincount(parts[air]) * np.prod(spacing_mm) / 1000 >= GAS_FROM_ML)[0]
    candidates = [parts == number for number in large]
    low = [part for part in candidates if _height(part) < _height(lungs)]
    if not low:
        return np.zeros(air.shape, bool)
    to_lung = distance_transform_edt(~lungs[thin], sampling=2 * spacing_mm)
    gas = np.zeros(air.shape, bool)
    for part in low:
        if to_lung[part[thin]].max(initial=0) > GAS_FROM_LUNG_MM:
            gas |= part
    if not gas[thin].any():
        return np.zeros(air.shape, bool)
    nearer = distance_transform_edt(~gas[thin], sampling=2 * spacing_mm) < to_lung
    for axis, size in enumerate(air.shape):
        nearer = nearer.repeat(2, axis).take(range(size), axis)
    return nearer & ~lungs


def _height(mask: np.ndarray) -> float:
    """Return the mean slice of `mask`, counted from the feet."""
    return float(np.argwhere(mask)[:, 0].mean())


def _block_means(hu: np.ndarray, step: tuple[int, int, int]) -> np.ndarray:
    """Average blocks of `step` voxels, the last ones possibly smaller.

    Of large blocks every other voxel is read.
    """
    places = []
    for size, side in zip(hu.shape, step):
        starts = np.arange(-(-size // side)) * side
        offsets = sorted({0, side // 2})
        places.append([np.minimum(starts + offset, size - 1) for offset in offsets])
    parts = [
        np.clip(hu[np.ix_(d, h, w)], -1024, 3000).astype(np.float32)
        for d in places[0]
        for h in places[1]
        for w in places[2]
    ]
    return sum(parts) / len(parts)


def _between(lungs: np.ndarray) -> np.ndarray:
    """Fill each row and each column of a slice between its first and last voxel of lung."""
    return lungs | _between_ends(lungs, 2) | _between_ends(lungs, 1)


def _between_ends(mask: np.ndarray, axis: int) -> np.ndarray:
    """Mark on each line along `axis` all from the first marked voxel to the last."""
    from_end = np.flip(np.logical_or.accumulate(np.flip(mask, axis), axis=axis), axis)
    return np.logical_or.accumulate(mask, axis=axis) & from_end


def _grow(mask: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Dilate by a box of `radius` voxels (d, h, w)."""
    for axis, steps in enumerate(np.ceil(radius).astype(int)):
        mask = np.moveaxis(mask, axis, 0)
        for _ in range(steps):
            grown = mask.copy()
            grown[1:] |= mask[:-1]
            grown[:-1] |= mask[1:]
            mask = grown
        mask = np.moveaxis(mask, 0, axis)
    return mask
