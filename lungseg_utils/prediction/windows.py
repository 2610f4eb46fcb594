"""Where the windows stand and how they are blended."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def window_positions(
    region: np.ndarray, shape: Sequence[int], window: Sequence[int], overlap: float
) -> list[tuple[slice, slice, slice]]:
    """Give the windows of a regular grid over `shape` whose own middle part holds any of `region`.

    The grid is spread evenly so that the last window ends at the border. Middle parts together cover everything.
    """
    starts = []
    for size, side in zip(shape, window):
        count = 1 + int(np.ceil((size - side) / (side * (1 - overlap)) - 1e-9)) if size > side else 1
        starts.append(np.round(np.linspace(0, size - side, count)).astype(int))
    # each window answers for the voxels up to half-way to its neighbours
    borders = [np.concatenate([[0], (s[1:] + s[:-1] + w) // 2, [n]]) for s, w, n in zip(starts, window, shape)]
    windows = []
    for i, d in enumerate(starts[0]):
        for j, h in enumerate(starts[1]):
            for k, w in enumerate(starts[2]):
                own = tuple(slice(b[n], b[n + 1]) for b, n in zip(borders, (i, j, k)))
                if region[own].any():
                    windows.append(tuple(slice(int(a), int(a) + n) for a, n in zip((d, h, w), window)))
    return windows


def blending_weight(window: Sequence[int]) -> Tensor:
    """Give the weight of each voxel of a window: a Gaussian, an eighth of the side wide, as nnU-Net's."""
    axes = [torch.exp(-0.5 * ((torch.arange(n) - (n - 1) / 2) / (n / 8)) ** 2) for n in window]
    weight = axes[0][:, None, None] * axes[1][:, None] * axes[2]
    return weight.clamp(min=1e-4)
