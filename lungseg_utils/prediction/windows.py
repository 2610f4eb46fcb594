"""Where the windows stand and how they are blended."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def fit_window(
    shape: Sequence[int], multiple: Sequence[int], overlap: float, largest_voxels: float
) -> tuple[int, int, int]:
    """Give the largest window that is worth its memory: all of `shape` in one where that has few enough voxels.

    Else the longest side is cut, again and again, into one window more. Cut sides are whole multiples of `multiple`.
    """
    counts, window = [1, 1, 1], list(shape)
    while np.prod(window, dtype=float) > largest_voxels and any(
        w > m for w, m in zip(window, multiple)
    ):
        axis = max((a for a in range(3) if window[a] > multiple[a]), key=lambda a: window[a])
        counts[axis] += 1
        side = shape[axis] / (counts[axis] * (1 - overlap) + overlap)
        window[axis] = int(np.ceil(side / multiple[axis])) * multiple[axis]
    return tuple(window)


def window_positions(
    region: np.ndarray,
    shape: Sequence[int],
    window: Sequence[int],
    overlap: float,
    multiple: Sequence[int] = (1, 1, 1),
) -> list[tuple[slice, slice, slice]]:
    """Give the windows of a regular grid over `shape` whose own middle part holds any of `region`.

    The grid is spread evenly so that the last window ends at the border. Middle parts together cover everything.
    Windows start at multiples of `multiple`, so that all of them pool the same voxels together; see to it that
    `shape` less `window` is one as well.
    """
    starts = []
    for size, side, step in zip(shape, window, multiple):
        count = (
            1 + int(np.ceil((size - side) / (side * (1 - overlap)) - 1e-9)) if size > side else 1
        )
        starts.append(np.round(np.linspace(0, (size - side) / step, count)).astype(int) * step)
    # each window answers for the voxels up to half-way to its neighbours
    borders = [
        np.concatenate([[0], (s[1:] + s[:-1] + w) // 2, [n]])
        for s, w, n in zip(starts, window, shape)
    ]
    windows = []
    for i, d in enumerate(starts[0]):
        for j, h in enumerate(starts[1]):
            for k, w in enumerate(starts[2]):
                own = tuple(slice(b[n], b[n + 1]) for b, n in zip(borders, (i, j, k)))
                if region[own].any():
                    windows.append(
                        tuple(slice(int(a), int(a) + n) for a, n in zip((d, h, w), window))
                    )
    return windows


def blending_weight(window: Sequence[int]) -> Tensor:
    """Give the weight of each voxel of a window: a Gaussian, an eighth of the side wide, as nnU-Net's."""
    axes = [torch.exp(-0.5 * ((torch.arange(n) - (n - 1) / 2) / (n / 8)) ** 2) for n in window]
    weight = axes[0][:, None, None] * axes[1][:, None] * axes[2]
    return weight.clamp(min=1e-4)
