"""From a scan to what the network sees, and back: the same way for training and for prediction.

scan → along the patient's axes → the lungs' box → cubic voxels → clipped HU
mask or probabilities on those voxels → the scan's own grid (`Prepared.back`)
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lungseg_utils.components import Box
from lungseg_utils.preprocess.lungs import find_lungs, whole_crop
from lungseg_utils.preprocess.oblique import align, resample_back
from lungseg_utils.preprocess.padding import without_frame
from lungseg_utils.preprocess.plausibility import check_lungs
from lungseg_utils.preprocess.resample import resample, resampled_slabs
from lungseg_utils.runtime import LungsegError, warn
from lungseg_utils.volume import Volume
from lungseg_utils.volume.grid import triple
from lungseg_utils.volume.plausibility import check_geometry

LARGEST_MM = (2500, 1000, 1000)  # (D, H, W): the length of a table, the width of a gantry
CLIP_HU = (-1024, 400)  # below is padding, above is bone and metal: neither tells of tumours


@dataclass(frozen=True)
class Prepared:
    """A scan on the working grid: the lungs' box, resampled. Arrays are (D, H, W), of one shape.

    hu: int16, clipped. region: uint8, where a lung tumour may lie. lungs: uint8, aerated lung.
    label: uint8 or None. box: the slices of the axis-aligned scan that the grid fills exactly.
    spacing_mm: the true one. aligned, scan: the axis-aligned scan and the one as read, the same
    where its axes are the patient's; None from the cache, which has no way back. is_crop: it is a
    piece of a chest, and nobody knows what is beside it.
    """

    name: str
    hu: np.ndarray
    region: np.ndarray
    lungs: np.ndarray
    label: np.ndarray | None
    box: Box
    spacing_mm: tuple[float, float, float]
    aligned: Volume | None = None
    scan: Volume | None = None
    is_crop: bool = False

    def back(self, array: Tensor | np.ndarray, threshold: float | None = None) -> np.ndarray:
        """Return `array` (D, H, W) of the working grid on the grid of the scan; 0 outside the box.

        Probabilities come back as float32, or with `threshold` as the uint8 mask of what reaches
        it; a mask (bool or integers) comes back as a mask, cut at one half.
        """
        assert self.aligned is not None and self.scan is not None, "a cached scan has no way back"
        values = torch.as_tensor(array)
        if threshold is None and not values.is_floating_point():
            threshold = 0.5
        full = np.zeros(self.aligned.hu.shape, np.float32 if threshold is None else np.uint8)
        inside = full[self.box]
        for planes, piece in resampled_slabs(values, inside.shape):
            if threshold is not None:
                piece = (piece >= threshold).to(torch.uint8)
            inside[planes] = piece.cpu().numpy()
        return resample_back(full, self.aligned, self.scan)


def normalise(hu: Tensor) -> Tensor:
    """Map HU to about [-1, 1] by fixed numbers: HU are absolute, so no scan needs its own."""
    low, high = CLIP_HU
    return (hu.clamp(low, high) - (high + low) / 2) / ((high - low) / 2)


def prepare(
    volume: Volume,
    *,
    label: np.ndarray | None = None,
    spacing_mm: float = 3.0,
    device: torch.device | str = "cpu",
    is_crop: bool = False,
) -> Prepared:
    """Crop `volume` to its lungs, resample to cubes of about `spacing_mm` and clip its HU.

    A scan whose axes are oblique to the patient's is first resampled along them. The label takes
    the same way. The grid fills the box exactly, so `Prepared.spacing_mm` differs from the wish by
    up to half a voxel in the whole box. A label is averaged and cut at one half: small ones lose a
    little of their corners (notebook 02). A crop, in which no lungs can be found, is taken whole.
    """
    _check(volume, label)
    if not is_crop:
        check_geometry(volume)
    volume = without_frame(volume)
    aligned = align(volume)
    if label is not None and aligned is not volume:
        label = (align(replace(volume, hu=label * np.int16(1000))).hu >= 500).astype(np.uint8)
    lungs = whole_crop(aligned) if is_crop else find_lungs(aligned)
    if not is_crop:
        check_lungs(aligned, lungs)
    box = lungs.box
    extent_mm = np.array([side.stop - side.start for side in box]) * aligned.spacing_mm
    shape = triple(max(1, round(float(side) / spacing_mm)) for side in extent_mm)
    hu = resample(aligned.hu[box], shape, device).clamp_(*CLIP_HU).round_().to(torch.int16)
    if label is not None:
        label = _resample_label(label, box, shape, device, volume.name)
    return Prepared(
        name=volume.name,
        hu=hu.cpu().numpy(),
        region=lungs.on_grid(lungs.region, shape).astype(np.uint8),
        lungs=lungs.on_grid(lungs.lungs, shape).astype(np.uint8),
        label=label,
        box=box,
        spacing_mm=triple(float(side) for side in extent_mm / shape),
        aligned=aligned,
        scan=volume,
        is_crop=is_crop,
    )


def _check(volume: Volume, label: np.ndarray | None) -> None:
    """Raise LungsegError for a label of another shape, or a scan larger than any scanner."""
    if label is not None and label.shape != volume.hu.shape:
        raise LungsegError(
            volume.name,
            f"its label has the shape {label.shape}, the scan {volume.hu.shape}",
            "Give the label of this scan",
        )
    sides_mm = np.array(volume.hu.shape) * volume.spacing_mm
    if (sides_mm > LARGEST_MM).any():
        written = " x ".join(f"{side:.0f}" for side in sides_mm)
        raise LungsegError(
            volume.name,
            f"{written} mm large, which no CT is",
            "Check the voxel sizes and their unit in the header",
        )


def _resample_label(
    label: np.ndarray, box: Box, shape: tuple[int, int, int], device: torch.device | str, name: str
) -> np.ndarray:
    """Return `label` on the working grid; warn where some of it lies outside the lungs' box."""
    marked = np.count_nonzero(label)
    inside = np.count_nonzero(label[box])
    if inside < marked:
        lost = 1 - inside / marked
        warn(f"{name}: {lost:.0%} of its label lies outside the lungs' box and is left out")
    return (resample(label[box], shape, device) >= 0.5).to(torch.uint8).cpu().numpy()
