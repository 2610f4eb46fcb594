"""From a scan to what the network sees: lung box, working spacing, clipped HU; the same for training and use."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lungseg_utils.preprocess.lungs import find_lungs
from lungseg_utils.preprocess.resample import resample
from lungseg_utils.runtime import LungsegError, warn
from lungseg_utils.volume import Volume

LARGEST_MM = (2500, 1000, 1000)  # (D, H, W) of a scan: the length of a table, the width of a gantry
CLIP_HU = (-1024, 400)  # below is padding, above is bone and metal: neither tells of tumours


@dataclass(frozen=True)
class Prepared:
    """A scan on the working grid: the lungs' box, resampled. All arrays are (D, H, W) and of one shape.

    hu: int16, clipped. region: uint8, where a lung tumour may lie. lungs: uint8, aerated lung.
    label: uint8 or None. box: the slices of the scan that the grid fills exactly. spacing_mm: the true one.
    """

    name: str
    hu: np.ndarray
    region: np.ndarray
    lungs: np.ndarray
    label: np.ndarray | None
    box: tuple[slice, slice, slice]
    spacing_mm: tuple[float, float, float]


def normalise(hu: Tensor) -> Tensor:
    """Map HU to about [-1, 1]: fixed numbers, since HU are absolute; a scan's own mean would throw that away."""
    low, high = CLIP_HU
    return (hu.clamp(low, high) - (high + low) / 2) / ((high - low) / 2)


def working_shape(extent_mm: np.ndarray, spacing_mm: float) -> tuple[int, int, int]:
    """Give the number of voxels a side that fill `extent_mm` at about `spacing_mm`, at least one."""
    return tuple(int(n) for n in np.maximum(1, np.round(np.asarray(extent_mm) / spacing_mm)))


def prepare(
    volume: Volume,
    *,
    label: np.ndarray | None = None,
    spacing_mm: float = 3.0,
    device: torch.device | str = "cpu",
) -> Prepared:
    """Crop `volume` to its lungs, resample to cubes of about `spacing_mm` and clip its HU; the label goes along.

    The grid fills the box exactly, so `Prepared.spacing_mm` differs from the wish by up to half a voxel in the
    whole box. A label is averaged and cut at one half: small ones lose a little of their corners (notebook 02).
    """
    if label is not None and label.shape != volume.hu.shape:
        raise LungsegError(
            volume.name,
            f"its label has the shape {label.shape}, the scan {volume.hu.shape}",
            "give the label of this scan",
        )
    sides_mm = np.array(volume.hu.shape) * volume.spacing_mm
    if (sides_mm > LARGEST_MM).any():
        raise LungsegError(
            volume.name,
            f"{' x '.join(f'{side:.0f}' for side in sides_mm)} mm large, which no CT is",
            "check the voxel sizes and their unit in the header",
        )
    lungs = find_lungs(volume)
    extent_mm = np.array([cut.stop - cut.start for cut in lungs.box]) * volume.spacing_mm
    shape = working_shape(extent_mm, spacing_mm)
    hu = (
        resample(volume.hu[lungs.box], shape, device)
        .clamp_(*CLIP_HU)
        .round_()
        .to(torch.int16)
        .cpu()
        .numpy()
    )
    if label is not None:
        marked, inside = np.count_nonzero(label), np.count_nonzero(label[lungs.box])
        if inside < marked:
            warn(
                f"{volume.name}: {1 - inside / marked:.0%} of its label lies outside the lungs' box and is left out"
            )
        label = (resample(label[lungs.box], shape, device) >= 0.5).to(torch.uint8).cpu().numpy()
    return Prepared(
        name=volume.name,
        hu=hu,
        region=lungs.on_grid(lungs.region, shape).astype(np.uint8),
        lungs=lungs.on_grid(lungs.lungs, shape).astype(np.uint8),
        label=label,
        box=lungs.box,
        spacing_mm=tuple(float(s) for s in extent_mm / shape),
    )
