"""How patches are cut out of cases: a whole batch at a time, on the device."""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lungseg_utils.patches.augmentation import UNKNOWN, to_device
from lungseg_utils.patches.cases import TrainingCase
from lungseg_utils.volume import PADDING_HU

WARP_POINTS = 5  # a side, of the coarse grid of random shifts
INSIDE = 0.99  # of a voxel that is interpolated from voxels of the crop alone


def cut_patches(
    cases: Sequence[TrainingCase],
    centres: Sequence[np.ndarray],
    patch_size: Sequence[int],
    matrices: Sequence[np.ndarray] | None = None,
    warps: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Cut HU and labels (B, d, h, w), a patch round each of `centres` (voxel); air outside.

    The label is UNKNOWN outside a crop; a patch of one may reach beyond it, so that the tumour in
    its middle is not in the middle of every patch.

    Without `matrices` they are plain crops. With them, each (3, 3), one trilinear resampling of the
    whole batch does flips, rotation and scale, and the elastic deformation too: `warps`
    (B, 3, n, n, n) are shifts in voxels on a coarse grid over the patch.
    """
    size = np.array(patch_size)
    low = (size - 1) / 2  # of a patch that begins with the scan
    turns = np.stack([np.eye(3)] * len(cases) if matrices is None else matrices)
    boxes = []
    offsets = []
    for number, (case, wanted) in enumerate(zip(cases, centres)):
        extent = np.array(case.hu.shape)
        # patches stay inside the scan where it is large enough: air beside the box is no anatomy
        high = extent - 1 - low
        nearest = np.clip(wanted, low, np.maximum(low, high))
        inside = np.where(high > low, nearest, (extent - 1) / 2)
        centre = wanted if case.is_crop else inside
        if matrices is None:
            centre = np.floor(centre - low + 0.5) + low  # whole voxels
        reach = np.ceil(np.abs(turns[number]) @ (size / 2)) + 1  # half the box of the turned patch
        if warps is not None:
            reach = reach + math.ceil(float(warps[number].abs().max()))
        start = np.clip(np.floor(centre - reach), 0, extent - 1).astype(int)
        stop = np.clip(np.ceil(centre + reach) + 1, start + 1, extent).astype(int)
        boxes.append(tuple(slice(*ends) for ends in zip(start.tolist(), stop.tolist())))
        offsets.append(centre - start + 0.5)
    both = _stack(cases, boxes)
    box = np.array(both.shape[2:])
    grid = _sampling_grid(turns, np.array(offsets), size, box, both.device)
    if warps is not None:
        grid = grid + _warp_grid(warps, size, box, both.device)
    both = F.grid_sample(both, grid, mode="bilinear", align_corners=False)
    label = (both[:, 1] >= 0.5).to(torch.uint8)
    for number, case in enumerate(cases):
        if case.is_crop:
            label[number][both[number, 2] < INSIDE] = UNKNOWN
    return both[:, 0] + PADDING_HU, label


def _stack(cases: Sequence[TrainingCase], boxes: Sequence[tuple[slice, ...]]) -> Tensor:
    """Return HU above air, labels and what is inside (B, 3, d, h, w) of a box of each case.

    All is 0 beyond the box; what is inside stands only where one of the cases is a crop.
    """
    sides = [[side.stop - side.start for side in box] for box in boxes]
    channels = 3 if any(case.is_crop for case in cases) else 2
    extent = np.max(sides, axis=0).tolist()
    both = torch.zeros((len(cases), channels, *extent), device=cases[0].hu.device)
    for pair, case, box, shape in zip(both, cases, boxes, sides):
        inside = tuple(slice(side) for side in shape)
        pair[0][inside] = case.hu[box] - PADDING_HU
        pair[1][inside] = case.label[box]
        if case.is_crop:
            pair[2][inside] = 1
    return both


def _sampling_grid(
    turns: np.ndarray,
    offsets: np.ndarray,
    size: np.ndarray,
    box: np.ndarray,
    device: torch.device,
) -> Tensor:
    """Return the grid (B, d, h, w, 3) of patches of `size`, turned, round `offsets` in `box`."""
    # grid_sample wants coordinates in [-1, 1], the last axis first
    linear = turns * (size / box[:, None])
    theta = np.concatenate([linear, (2 * offsets / box - 1)[:, :, None]], 2)
    theta = np.concatenate([theta[:, ::-1, 2::-1], theta[:, ::-1, 3:]], 2).astype(np.float32)
    shape = [len(turns), 1, *size.tolist()]
    return F.affine_grid(to_device(torch.from_numpy(theta), device), shape, align_corners=False)


def _warp_grid(warps: Tensor, size: np.ndarray, box: np.ndarray, device: torch.device) -> Tensor:
    """Return what the shifts `warps` (B, 3, n, n, n), in voxels, add to the sampling grid."""
    scale = torch.from_numpy(2 / box).float()[:, None, None, None]
    shifts = to_device((warps * scale).flip(1), device)
    shifts = F.interpolate(shifts, size.tolist(), mode="trilinear", align_corners=True)
    return shifts.movedim(1, -1)
