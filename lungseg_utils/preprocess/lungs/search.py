"""The search for the lungs on a coarse copy of a scan, and the region round them."""

from dataclasses import dataclass

import numpy as np

from lungseg_utils.components import Box, bounding_box
from lungseg_utils.preprocess.lungs.abdomen import are_bases, nearer_to_gas, under
from lungseg_utils.preprocess.lungs.air import (
    AIR_BELOW_HU,
    enclosed_air,
    enclosed_air_by_slice,
    find_air,
    inhabited_slices,
    is_cut_in_front,
    leaked_air,
)
from lungseg_utils.preprocess.lungs.masks import between, block_means, grow
from lungseg_utils.preprocess.lungs.tissue import (
    SMALLEST_LUNG_ML,
    find_bases,
    find_gas,
    find_lung_tissue,
)
from lungseg_utils.preprocess.padding import without_frame
from lungseg_utils.runtime import warn
from lungseg_utils.volume import Volume
from lungseg_utils.volume.grid import triple

COARSE_MM = 4.0  # fine enough to tell the lungs, coarse enough to take a tenth of a second
BODY_ABOVE_HU = -200
LEAK_BELOW_ML = 1500.0  # fewer lungs than this are looked at twice,
LEAK_SHARE = 0.03  # and those beside which as much looks like lung, but is open to the outside
USUAL_LUNG_BELOW_HU = -650  # the median of lungs at shallow breath
MARGIN_MM = 12.0  # round the lungs: pleura and inner chest wall, where tumours grow too
DIAPHRAGM_MM = 4.0  # beside its dome, where voxels are half lung as in ground glass
ROUND_GAS_MM = 30.0  # bowel with its folds and content


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
    """Find both lungs in `volume`: enclosed air on a coarse copy that is as dense as lung.

    A mask of aerated lung alone would lose most of a large tumour, which is as dense as muscle. So
    the region takes in everything between the two lungs and a margin round them, but the stomach
    and bowel where their gas shows them; the box takes both sides of the body alike, should one
    lung be filled. Where there are no lungs the whole scan is searched, but for bowel, with a
    warning.
    """
    volume = without_frame(volume)
    step = triple(max(1, round(COARSE_MM / side)) for side in volume.spacing_mm)
    coarse = block_means(volume.hu, step)
    coarse_mm = np.array(volume.spacing_mm) * step
    voxel_ml = float(np.prod(coarse_mm)) / 1000
    body = coarse > BODY_ABOVE_HU
    enclosed, lungs = _search(coarse, body, voxel_ml)
    if not lungs.any() or not body.any():
        return _whole_scan(volume, coarse, enclosed, step)
    region = grow(between(lungs), MARGIN_MM / coarse_mm)
    region &= ~nearer_to_gas(enclosed & ~lungs, lungs, coarse_mm)
    median_hu = float(np.median(coarse[lungs]))
    if median_hu > USUAL_LUNG_BELOW_HU:
        warn(
            f"{volume.name}: what was taken for lungs has a median of {median_hu:.0f} HU; lung has "
            "about -800, bowel full of stool -500"
        )
    if are_bases(lungs, inhabited_slices(body), voxel_ml):
        region &= ~grow(under(lungs), DIAPHRAGM_MM / coarse_mm)
        warn(
            f"{volume.name}: a scan of the abdomen, with only the bases of the lungs "
            f"({lungs.sum() * voxel_ml:.0f} mL) at its upper end; what lies under them is not "
            "searched"
        )
    return LungRegion(_box_on_scan(region, body, step, volume), lungs, region, step, found=True)


def whole_crop(volume: Volume) -> LungRegion:
    """Return all of a piece of a chest as the region: tumours may lie anywhere in it."""
    whole = triple(slice(0, size) for size in volume.hu.shape)
    return LungRegion(
        whole, volume.hu < AIR_BELOW_HU, np.ones(volume.hu.shape, bool), (1, 1, 1), found=False
    )


def _search(coarse: np.ndarray, body: np.ndarray, voxel_ml: float) -> tuple[np.ndarray, np.ndarray]:
    """Return all air inside the body, and the lungs in it."""
    found = find_air(coarse, body)
    enclosed = enclosed_air(found)
    _, rows, columns = np.nonzero(found.trunk)
    middle = (float(rows.mean()), float(columns.mean())) if len(rows) else (0.0, 0.0)
    lungs = find_lung_tissue(enclosed, coarse, voxel_ml, middle)
    leaked = leaked_air(found) & ~enclosed
    is_open = leaked.sum() > LEAK_SHARE * lungs.sum()
    if is_open or lungs.sum() * voxel_ml < LEAK_BELOW_ML:
        by_slice = enclosed | leaked | enclosed_air_by_slice(found)
        slices = find_lung_tissue(by_slice, coarse, voxel_ml, middle)
        if slices.sum() > (1.1 if is_open else 3) * lungs.sum():
            return by_slice, slices
    if not lungs.any() and not is_cut_in_front(found.trunk):
        lungs = find_bases(enclosed, coarse, voxel_ml)
    return enclosed, lungs


def _whole_scan(
    volume: Volume, coarse: np.ndarray, enclosed: np.ndarray, step: tuple[int, int, int]
) -> LungRegion:
    """Return the whole scan as the region, without the bowel where its gas shows it, and warn."""
    coarse_mm = np.array(volume.spacing_mm) * step
    voxel_ml = float(np.prod(coarse_mm)) / 1000
    gas = find_gas(enclosed, coarse, voxel_ml)
    gas_ml = gas.sum() * voxel_ml
    searched = "the whole scan is searched"
    region = np.ones(coarse.shape, bool)
    if gas_ml >= SMALLEST_LUNG_ML:
        searched += (
            f", but for what lies round {gas_ml / 1000:.1f} L of gas (median "
            f"{np.median(coarse[gas]):.0f} HU), as a bowel holds it"
        )
        region = ~grow(gas, ROUND_GAS_MM / coarse_mm)
    warn(f"{volume.name}: no lungs found; {searched}")
    whole = triple(slice(0, size) for size in volume.hu.shape)
    return LungRegion(whole, coarse < AIR_BELOW_HU, region, step, found=False)


def _box_on_scan(
    region: np.ndarray, body: np.ndarray, step: tuple[int, int, int], volume: Volume
) -> Box:
    """Return the box of the coarse `region` on the scan, as wide left as right of the body."""
    depth, height, width = bounding_box(region)
    body_middle = np.nonzero(body.any(axis=(0, 1)))[0].mean()
    reach = max(body_middle - width.start, width.stop - 1 - body_middle)
    first = int(max(0, body_middle - reach))
    last = int(np.ceil(body_middle + reach))
    box = (depth, height, slice(first, last + 1))
    return triple(
        slice(side.start * scale, min(size, side.stop * scale))
        for side, scale, size in zip(box, step, volume.hu.shape)
    )
