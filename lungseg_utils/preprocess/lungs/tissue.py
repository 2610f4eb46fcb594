"""Lung or gas: lung is denser than air and holds vessels; bowel, stomach and blankets hold air.

Masks and `coarse` (HU) are (D, H, W), on the coarse grid; `voxel_ml` is the size of its voxels.
"""

import numpy as np

from lungseg_utils.components import FACE_NEIGHBOURS, bounding_box, label_components
from lungseg_utils.preprocess.lungs.masks import core, grow

GAS_BELOW_HU = -930  # a lung has this in bullae, but not in three quarters of it
GAS_FROM_ML = 10.0
SMALLEST_LUNG_ML = 100.0  # bowel gas and the airways alone stay below
SMALLEST_BASE_ML = 15.0
TOUCHING_VOXELS = 2.0  # a bulla or a pneumothorax has no more between itself and lung


def find_lung_tissue(
    air: np.ndarray, coarse: np.ndarray, voxel_ml: float, middle: tuple[float, float]
) -> np.ndarray:
    """Keep the parts of the enclosed `air` that are lungs, with bullae and airways in them.

    `middle` is the row and the column of the body's centre.
    """
    lungs = np.zeros(air.shape, bool)
    box = bounding_box(air)
    inside = air[box]
    if not inside.size:
        return lungs
    row, column = middle[0] - box[1].start, middle[1] - box[2].start
    gas = find_gas(inside, coarse[box], voxel_ml)
    tissue = _in_place(_large_parts(inside & ~gas, voxel_ml), row)
    if gas.any() and tissue.any():
        tissue = _large_parts(inside & ~_foreign(gas, tissue, column), voxel_ml)
        tissue = _in_place(tissue, row)
    lungs[box] = tissue
    return lungs


def find_bases(air: np.ndarray, coarse: np.ndarray, voxel_ml: float) -> np.ndarray:
    """Keep the parts of `air` that may be the bases of lungs that the scan's upper end cuts.

    They are small, and largest in the uppermost slice.
    """
    tissue = air & ~find_gas(air, coarse, voxel_ml)
    parts = label_components(tissue, neighbours=FACE_NEIGHBOURS)
    sizes_ml = np.bincount(parts.ravel()) * voxel_ml
    bases = np.zeros(air.shape, bool)
    for number in np.unique(parts[-1]):
        part = parts == number
        areas = part.sum(axis=(1, 2))
        if number and sizes_ml[number] >= SMALLEST_BASE_ML and areas[-1] >= 0.8 * areas.max():
            bases |= part
    return bases


def find_gas(air: np.ndarray, coarse: np.ndarray, voxel_ml: float) -> np.ndarray:
    """Mark what is nothing but gas: parts of `air` of which hardly a voxel is as dense as lung.

    The border of a part is left aside, as it holds wall; so parts that only touch fall apart.
    """
    inner = core(air)
    parts = label_components(inner, neighbours=FACE_NEIGHBOURS)
    sizes = np.bincount(parts.ravel())
    dense = np.bincount(parts[inner & (coarse > GAS_BELOW_HU)], minlength=len(sizes))
    is_gas = (dense < 0.25 * sizes) & (sizes * voxel_ml >= GAS_FROM_ML / 2)
    is_gas[0] = False
    if not is_gas.any():
        return np.zeros(air.shape, bool)
    gas = is_gas[parts]
    one = np.ones(3)
    return air & grow(gas, one) & ~grow(inner & ~gas, one)


def _large_parts(air: np.ndarray, voxel_ml: float) -> np.ndarray:
    """Keep the parts that are as large as a lung may be and not tiny beside the largest."""
    parts = label_components(air, neighbours=FACE_NEIGHBOURS)
    sizes_ml = np.bincount(parts.ravel()) * voxel_ml
    sizes_ml[0] = 0
    return (sizes_ml >= max(SMALLEST_LUNG_ML, 0.1 * sizes_ml.max(initial=0)))[parts]


def _in_place(lungs: np.ndarray, row: float) -> np.ndarray:
    """Keep the largest part of `lungs` round the body's middle `row`, and what lies beside it.

    Parts wholly behind it, as a table's foam, or below it, as bowel full of stool, are left out.
    """
    parts = label_components(lungs, neighbours=FACE_NEIGHBOURS)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    extents = [np.nonzero((parts == number).any(axis=(0, 2)))[0] for number in range(len(sizes))]
    central = [n for n, rows in enumerate(extents) if sizes[n] and rows[0] <= row <= rows[-1]]
    if len(sizes) == 2 or not central:
        return lungs
    main = max(central, key=lambda number: sizes[number])
    low = np.percentile(np.nonzero(parts == main)[0], 10)
    kept = np.zeros(len(sizes), bool)
    for number, rows in enumerate(extents):
        is_beside = np.isin(rows, extents[main]).mean() > 0.2 if sizes[number] else False
        kept[number] = is_beside and np.nonzero(parts == number)[0].mean() > low
    return kept[parts]


def _foreign(gas: np.ndarray, lungs: np.ndarray, column: float) -> np.ndarray:
    """Keep the parts of `gas` that are neither bulla, airway nor pneumothorax.

    They lie below `lungs`, small ones below the middle of them; or neither beside `lungs` nor where
    the other lung would be, mirrored at the body's middle `column`.
    """
    slices = np.nonzero(lungs)[0]
    low = np.percentile(slices, 25)
    largest = np.bincount(label_components(lungs, neighbours=FACE_NEIGHBOURS)[lungs]).max()
    parts = label_components(gas, neighbours=FACE_NEIGHBOURS)
    sizes = np.bincount(parts.ravel())
    heights = np.bincount(parts[gas], np.nonzero(gas)[0], minlength=len(sizes)) / sizes
    is_low = heights < np.where(sizes < 0.3 * largest, slices.mean(), low)
    touching = np.unique(parts[grow(lungs, np.full(3, TOUCHING_VOXELS))])
    mirrored = np.bincount(parts[_mirrored(lungs, column)], minlength=len(sizes)) > 0.5 * sizes
    is_beside = np.isin(np.arange(len(sizes)), touching) | mirrored
    is_foreign = is_low | ~is_beside
    is_foreign[0] = False
    return is_foreign[parts]


def _mirrored(mask: np.ndarray, column: float) -> np.ndarray:
    """Return `mask` mirrored left for right at `column`."""
    width = mask.shape[2]
    sources = np.round(2 * column - np.arange(width)).astype(int)
    inside = (sources >= 0) & (sources < width)
    mirrored = np.zeros(mask.shape, bool)
    mirrored[..., inside] = mask[..., sources[inside]]
    return mirrored
