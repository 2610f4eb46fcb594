"""Where the lungs are: a box round them, and the region in which a lung tumour may lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lungseg_utils.runtime import warn
from lungseg_utils.volume import Volume

COARSE_MM = 4.0  # fine enough to tell the lungs, coarse enough to take a tenth of a second
AIR_BELOW_HU = -400  # between lung (about -850) and soft tissue (about 40)
LEAK_BELOW_ML = 1500.0  # fewer lungs than this are looked at twice
SMALLEST_LUNG_ML = 100.0  # bowel gas and the airways alone stay below
MARGIN_MM = 12.0  # round the lungs: pleura and the inner chest wall, where tumours grow too
CUT_LUNG_FROM_HU = -960  # the air round a patient has -1000
GAS_BELOW_HU = -930  # a stomach may hold as much as a small lung, but nothing that is denser
GAS_FROM_ML = 10.0
GAS_FROM_LUNG_MM = 40.0  # its farthest point; the cavity of a tumour stays nearer to lung


@dataclass(frozen=True)
class LungRegion:
    """The lungs of one scan, found on a coarse copy.

    box: slices (d, h, w) on the scan's grid. lungs: aerated lung, bool, on the coarse grid of the whole scan.
    region: lungs, all between them and a margin, without the belly. found: False where the whole scan stands in.
    """

    box: tuple[slice, slice, slice]
    lungs: np.ndarray
    region: np.ndarray
    step: tuple[int, int, int]
    found: bool

    def on_grid(self, mask: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """Give a coarse mask (`lungs` or `region`) inside the box on a grid of `shape`, by nearest neighbour."""
        for axis, (cut, step, size) in enumerate(zip(self.box, self.step, shape)):
            centres = cut.start + (np.arange(size) + 0.5) * (cut.stop - cut.start) / size
            mask = mask.take(
                np.minimum((centres / step).astype(int), mask.shape[axis] - 1), axis=axis
            )
        return mask


def find_lungs(volume: Volume) -> LungRegion:
    """Find both lungs in `volume`: enclosed, lung-like air on a coarse copy; the whole scan where there is none.

    A mask of aerated lung alone would lose most of a large tumour, which is as dense as muscle. So the region
    takes in everything between the two lungs and a margin round them, but the stomach and bowel where their gas
    shows them; the box takes both sides of the body alike, should one lung be filled.
    """
    step = tuple(max(1, round(COARSE_MM / spacing)) for spacing in volume.spacing_mm)
    coarse = _block_means(volume.hu, step)
    coarse_mm = np.array(volume.spacing_mm) * step
    body = coarse > -200
    # A slice without a patient, as padding leaves at the ends, would join the airways to the air outside.
    inhabited = body.mean(axis=(1, 2))
    air = (coarse < AIR_BELOW_HU) & (inhabited >= 0.05 * np.median(inhabited))[:, None, None]
    voxel_ml = float(np.prod(coarse_mm)) / 1000
    outside = _outside(air)
    enclosed = air & ~outside | _cut_lungs(outside & (coarse > CUT_LUNG_FROM_HU), body)
    lungs = _large_parts(enclosed, voxel_ml)
    if (
        lungs.sum() * voxel_ml < LEAK_BELOW_ML
    ):  # an airway cut slantwise joins the lungs to the air outside
        by_slice = air & ~np.stack([_outside(plane) for plane in air])
        slices = _large_parts(by_slice, voxel_ml)
        if slices.sum() > 3 * lungs.sum():
            enclosed, lungs = by_slice, slices
    if not lungs.any() or not body.any():
        warn(f"{volume.name}: no lungs found; the whole scan is searched")
        everything = np.ones(air.shape, bool)
        return LungRegion(
            tuple(slice(0, n) for n in volume.hu.shape), air, everything, step, found=False
        )

    lungs = _without_stomach(lungs, coarse)
    region = _grow(_between(lungs), MARGIN_MM / coarse_mm) & ~_belly(
        enclosed & ~lungs, lungs, coarse_mm
    )
    body_middle = np.nonzero(body.any(axis=(0, 1)))[0].mean()
    box = []
    for axis, size in enumerate(volume.hu.shape):
        inside = np.nonzero(region.any(axis=tuple(a for a in range(3) if a != axis)))[0]
        first, last = int(inside[0]), int(inside[-1])
        if axis == 2:  # as far on the one side of the body's middle as on the other
            reach = max(body_middle - first, last - body_middle)
            first, last = int(max(0, body_middle - reach)), int(np.ceil(body_middle + reach))
        box.append(slice(first * step[axis], min(size, (last + 1) * step[axis])))
    return LungRegion(tuple(box), lungs, region, step, found=True)


def _outside(air: np.ndarray) -> np.ndarray:
    """Mark the air of a volume or of a slice that reaches one of its sides; the top and the bottom are no sides."""
    import cc3d

    parts = cc3d.connected_components(air, connectivity=6 if air.ndim == 3 else 4)
    touched = np.zeros(int(parts.max(initial=0)) + 1, bool)
    for side in (parts[..., 0, :], parts[..., -1, :], parts[..., 0], parts[..., -1]):
        touched[np.unique(side)] = True
    touched[0] = False
    return touched[parts]


def _cut_lungs(dense_air: np.ndarray, body: np.ndarray) -> np.ndarray:
    """Keep of the air outside what a narrow field of view leaves of a lung: in the trunk, cut on the left or right.

    Nothing is kept where the trunk is cut in front or behind too: such a piece of a chest is better searched whole.
    """
    import cc3d

    parts = cc3d.connected_components(body, connectivity=6)
    trunk = parts == np.bincount(parts[body], minlength=2).argmax()  # without the table
    if trunk[:, [0, -1]].mean() > 0.02:
        return np.zeros(body.shape, bool)
    parts = cc3d.connected_components(dense_air & _between_ends(trunk, 1), connectivity=6)
    at_side = np.unique(np.concatenate([parts[..., :2], parts[..., -2:]], axis=-1))
    return np.isin(parts, at_side[at_side > 0])


def _large_parts(enclosed: np.ndarray, voxel_ml: float) -> np.ndarray:
    """Keep the parts of `enclosed` air that are as large as a lung may be and not tiny beside the largest."""
    import cc3d

    parts = cc3d.connected_components(enclosed, connectivity=6)
    sizes_ml = np.bincount(parts.ravel()) * voxel_ml
    sizes_ml[0] = 0
    return (sizes_ml >= max(SMALLEST_LUNG_ML, 0.1 * sizes_ml.max(initial=0)))[parts]


def _without_stomach(lungs: np.ndarray, coarse: np.ndarray) -> np.ndarray:
    """Leave out parts that are small beside the largest, lie lower than the lungs' middle and hold nothing but gas."""
    import cc3d

    parts = cc3d.connected_components(lungs, connectivity=6)
    sizes = np.bincount(parts[lungs])
    for number in np.nonzero((sizes > 0) & (sizes < 0.3 * sizes.max()))[0]:
        part = parts == number
        if np.median(coarse[part]) < GAS_BELOW_HU and _height(part) < _height(lungs):
            lungs = lungs & ~part
    return lungs


def _belly(air: np.ndarray, lungs: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
    """Mark what lies nearer to gas in the stomach or bowel than to `lungs`: organs that bulge up between them."""
    import cc3d
    from scipy.ndimage import distance_transform_edt

    thin = (slice(None, None, 2),) * 3  # an eighth of the voxels is enough to tell organs apart
    parts, to_lung = cc3d.connected_components(air, connectivity=6), None
    gas = np.zeros(air.shape, bool)
    for number in np.nonzero(np.bincount(parts[air]) * np.prod(spacing_mm) / 1000 >= GAS_FROM_ML)[
        0
    ]:
        part = parts == number
        if _height(part) < _height(lungs):
            if to_lung is None:
                to_lung = distance_transform_edt(~lungs[thin], sampling=2 * spacing_mm)
            if to_lung[part[thin]].max(initial=0) > GAS_FROM_LUNG_MM:
                gas |= part
    if not gas[thin].any():
        return np.zeros(air.shape, bool)
    nearer = distance_transform_edt(~gas[thin], sampling=2 * spacing_mm) < to_lung
    for axis, size in enumerate(air.shape):
        nearer = nearer.repeat(2, axis).take(range(size), axis)
    return nearer & ~lungs


def _height(mask: np.ndarray) -> float:
    """Give the mean slice of `mask`, counted from the feet."""
    return float(np.argwhere(mask)[:, 0].mean())


def _block_means(hu: np.ndarray, step: tuple[int, int, int]) -> np.ndarray:
    """Average blocks of `step` voxels, the last ones possibly smaller; reads every other voxel of large blocks."""
    total = None
    offsets = [sorted({0, s // 2}) for s in step]
    shape = [-(-n // s) for n, s in zip(hu.shape, step)]
    for d in offsets[0]:
        for h in offsets[1]:
            for w in offsets[2]:
                index = [
                    np.minimum(np.arange(n) * s + offset, size - 1)
                    for n, s, offset, size in zip(shape, step, (d, h, w), hu.shape)
                ]
                part = np.clip(hu[np.ix_(*index)], -1024, 3000).astype(np.float32)
                total = part if total is None else total + part
    return total / np.prod([len(o) for o in offsets])


def _between(lungs: np.ndarray) -> np.ndarray:
    """Fill each row (left to right) and each column (front to back) between its first and last voxel of lung."""
    filled = lungs.copy()
    for axis in (2, 1):
        filled |= _between_ends(lungs, axis)
    return filled


def _between_ends(mask: np.ndarray, axis: int) -> np.ndarray:
    """Mark on each line along `axis` all from the first marked voxel to the last."""
    from_end = np.flip(np.logical_or.accumulate(np.flip(mask, axis), axis=axis), axis)
    return np.logical_or.accumulate(mask, axis=axis) & from_end


def _grow(mask: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Dilate by a box of `radius` voxels (d, h, w)."""
    for axis, steps in enumerate(np.ceil(radius).astype(int)):
        for _ in range(steps):
            grown = mask.copy()
            front, back = [slice(None)] * 3, [slice(None)] * 3
            front[axis], back[axis] = slice(1, None), slice(None, -1)
            grown[tuple(front)] |= mask[tuple(back)]
            grown[tuple(back)] |= mask[tuple(front)]
            mask = grown
    return mask
