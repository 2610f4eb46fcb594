"""The true tumours of a scan, where they are known, and how right a mask is."""

from collections.abc import Sequence

import numpy as np

from lungseg_utils import evaluation
from lungseg_utils.components import Box, list_components
from lungseg_utils.evaluation.metrics import MINIMUM_OVERLAP


def parts_of(mask: np.ndarray) -> list[np.ndarray]:
    """Return the tumours of a mask as ascending flat indices, the largest first."""
    parts = sorted(list_components(np.asarray(mask) != 0), key=len, reverse=True)
    return [np.ravel_multi_index(tuple(part.T), np.shape(mask)) for part in parts]


def middle_of(part: np.ndarray, shape: Sequence[int]) -> tuple[int, int, int]:
    """Return the voxel (d, h, w) of a tumour that lies nearest to its centre of gravity."""
    voxels = np.stack(np.unravel_index(part, tuple(shape)), axis=1)
    nearest = np.square(voxels - voxels.mean(axis=0)).sum(axis=1).argmin()
    depth, height, width = map(int, voxels[nearest])
    return depth, height, width


def box_of(parts: Sequence[np.ndarray], shape: Sequence[int]) -> Box:
    """Return the smallest box round some lists of flat indices; an empty one round none."""
    places = [np.unravel_index(part, tuple(shape)) for part in parts if len(part)]
    sides = [
        slice(min(int(low.min()) for low in axis), max(int(high.max()) for high in axis) + 1)
        for axis in zip(*places)
    ]
    return tuple(sides) if sides else (slice(0), slice(0), slice(0))  # type: ignore[return-value]


class Truth:
    """The true tumours: `parts` are ascending flat indices, the largest first."""

    def __init__(self, mask: np.ndarray, spacing_mm: Sequence[float]):
        self.mask = mask
        self.spacing_mm = spacing_mm
        self.parts = parts_of(mask)
        self.middles = [middle_of(part, mask.shape) for part in self.parts]

    def missed(self, mask: np.ndarray) -> list[tuple[int, int, int]]:
        """Return the middles of the tumours of which `mask` covers too little to count as found."""
        return [
            middle
            for middle, part in zip(self.middles, self.parts)
            if mask.ravel()[part].sum() < MINIMUM_OVERLAP * len(part)
        ]

    def scores(self, mask: np.ndarray, kept: Sequence[np.ndarray]) -> dict[str, float | int]:
        """Return dice, lesions_true, lesions_found and false_positives, as notebook 05 has them.

        `kept` are the flat indices of what `mask` holds, in parts.
        """
        box = box_of([*kept, *self.parts], mask.shape)
        truth, mask = self.mask[box], mask[box]
        detection = evaluation.lesion_detection(truth, mask, self.spacing_mm)
        counts = ("lesions_true", "lesions_found", "false_positives")
        return {"dice": evaluation.dice(truth, mask)} | {name: detection[name] for name in counts}
