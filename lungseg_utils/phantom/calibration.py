"""What is measured on real chests, measured on synthetic ones: the calibration of the phantom.

The reference ranges were measured on public CTs: three whole chests (lungs) and 439 nodules of
LIDC-IDRI of 300 mm³ or more (percentiles 5, 25, 50, 75, 95); tumour sizes are those of Task06_Lung.
Voxel size and the definition of core and border may differ from those used here, so compare ranges,
not decimals.
"""

import numpy as np

from lungseg_utils.components import label_components
from lungseg_utils.phantom.chest import Chest

PERCENTILES = (5, 25, 50, 75, 95)
REAL = {
    "lung volume (L)": (3.7, 5.2),
    "lung HU, deep inspiration": (-960, -906, -864, -809, -613),
    "lung HU, shallow inspiration": (-861, -799, -732, -612, -318),
    "lung above -500 HU (%)": (3.0, 14.0),
    "lung above -200 HU (%)": (0.7, 2.7),
    "nodule core (HU)": (-528, -92, 2, 44, 311),
    "nodule SD (HU)": (49, 99, 157, 201, 416),
    "inside border (HU)": (-742, -594, -495, -397, -223),
    "outside border (HU)": (-855, -797, -726, -645, -521),
    "tumour volume (mL)": (0.74, 2.7, 5.2, 17.6, 370.0),  # smallest, quartiles, largest
}
SMALLEST_MM3 = 300


def measure_lungs(chest: Chest) -> dict[str, float | np.ndarray]:
    """Return volume, HU percentiles and vessel share of the lungs without their tumours."""
    hu = chest.hu[(chest.lungs > 0) & (chest.label == 0)]
    volume_mm3 = float(chest.lungs.sum(dtype=np.int64) * np.prod(chest.spacing_mm))
    return {
        "lung volume (L)": volume_mm3 / 1e6,
        "lung HU": np.percentile(hu, PERCENTILES),
        "lung above -500 HU (%)": 100 * float((hu > -500).mean()),
        "lung above -200 HU (%)": 100 * float((hu > -200).mean()),
    }


def measure_nodules(chest: Chest) -> list[dict[str, float]]:
    """Return volume, core, spread, and HU on both sides of the border with lung of each tumour."""
    from scipy.ndimage import binary_dilation, binary_erosion, find_objects

    numbers = label_components(chest.label)
    rows = []
    for number, box in enumerate(find_objects(numbers), 1):
        near = tuple(slice(max(side.start - 3, 0), side.stop + 3) for side in box)
        mask = numbers[near] == number
        hu = chest.hu[near].astype(np.float32)
        inner = binary_erosion(mask)
        rim = binary_dilation(mask) & (chest.label[near] == 0) & (chest.lungs[near] > 0)
        edge = mask & ~inner & binary_dilation(rim)  # only where it borders on lung
        volume_mm3 = float(mask.sum() * np.prod(chest.spacing_mm))
        if volume_mm3 >= SMALLEST_MM3 and inner.any() and rim.sum() >= 10:
            rows.append(
                {
                    "tumour volume (mL)": volume_mm3 / 1000,
                    "nodule core (HU)": float(np.median(hu[inner])),
                    "nodule SD (HU)": float(hu[mask].std()),
                    "inside border (HU)": float(hu[edge].mean()),
                    "outside border (HU)": float(hu[rim].mean()),
                }
            )
    return rows
