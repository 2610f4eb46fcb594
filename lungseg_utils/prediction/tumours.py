"""From a mask to tumours: which there are, where they lie, and how large they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lungseg_utils.components import list_components
from lungseg_utils.prediction.diameters import axial_diameters, longest_mm
from lungseg_utils.preprocess.resample import axis_weights
from lungseg_utils.volume import Volume

if TYPE_CHECKING:
    from lungseg_utils.prediction.predictor import Segmentation


def measure_tumours(
    mask: np.ndarray, volume: Volume, segmentation: Segmentation | None = None
) -> list[dict]:
    """Return a row a tumour, largest first. An empty mask has no row.

    A tumour is a component of `mask` (D, H, W). volume_ml; longest_mm: in 3D; axial_diameter_mm
    and short_axis_mm: on its largest axial slice, the second at right angles to the first;
    centre_mm: world, RAS+; centre_voxel: (i, j, k) into the stored array, from 0; slice: the axial
    one of the centre, in stored order, from 1; confidence, where the `segmentation` is given: the
    highest probability in it.
    """
    voxel_ml = float(np.prod(volume.spacing_mm)) / 1000
    axial = volume.grid.axes.index(0)
    tumours = []
    for voxels in largest_first(mask):
        centre_mm = (volume.affine @ [*voxels.mean(axis=0), 1])[:3]
        stored = np.linalg.solve(volume.grid.affine, [*centre_mm, 1])[:3]
        centre = [round(float(index)) for index in stored]
        diameters = axial_diameters(voxels, volume)
        tumour = {
            "volume_ml": round(len(voxels) * voxel_ml, 3),
            "longest_mm": round(longest_mm(voxels, volume), 1),
            "axial_diameter_mm": round(diameters.long_mm, 1),
            "short_axis_mm": round(diameters.short_mm, 1),
            "centre_mm": [round(float(c), 1) for c in centre_mm],
            "centre_voxel": centre,
            "slice": centre[axial] + 1,
        }
        if segmentation is not None:
            tumour["confidence"] = round(highest_probability(voxels, segmentation), 3)
        tumours.append(tumour)
    return tumours


def largest_first(mask: np.ndarray) -> list[np.ndarray]:
    """Return the voxels (n, 3) of each tumour of `mask`, the largest tumour first."""
    return sorted(list_components(mask), key=len, reverse=True)


def highest_probability(voxels: np.ndarray, segmentation: Segmentation) -> float:
    """Return the highest probability at `voxels` (n, 3), which are those of the scan's own grid.

    It is that of `Prepared.back`, computed round the voxels alone.
    """
    from scipy.ndimage import map_coordinates

    prepared = segmentation.prepared
    assert prepared.aligned is not None and prepared.scan is not None
    to_aligned = np.linalg.inv(prepared.aligned.affine) @ prepared.scan.affine
    places = voxels @ to_aligned[:3, :3].T + to_aligned[:3, 3]
    block = segmentation.probability.float()  # (D, H, W)
    # each axis in turn goes to the aligned grid
    for axis, side in enumerate(prepared.box):
        places[:, axis] -= side.start
        size = side.stop - side.start
        first = int(np.clip(np.floor(places[:, axis].min()), 0, size - 1))
        last = int(np.clip(np.ceil(places[:, axis].max()), 0, size - 1))
        places[:, axis] -= first
        weights = axis_weights(block.shape[0], size)[first : last + 1].to(block.device)
        block = (weights @ block.flatten(1)).view(len(weights), *block.shape[1:]).movedim(0, -1)
    values = map_coordinates(block.cpu().numpy(), places.T, order=1, mode="nearest")
    return float(values.max())
