"""Where the windows stand and how they are blended."""

from collections.abc import Sequence
from itertools import pairwise, product

import numpy as np
import torch
from torch import Tensor

from lungseg_utils.components import Box


def fit_window(
    shape: Sequence[int], multiple: Sequence[int], overlap: float, largest_voxels: float
) -> list[int]:
    """Return the largest window worth its memory: all of `shape` where that is small enough.

    Else the longest side is cut, again and again, into one window more. Cut sides are multiples of
    `multiple`.
    """
    counts = [1, 1, 1]
    window = list(shape)
    while np.prod(window, dtype=float) > largest_voxels:
        can_be_cut = [axis for axis in range(3) if window[axis] > multiple[axis]]
        if not can_be_cut:
            break
        axis = max(can_be_cut, key=lambda candidate: window[candidate])
        counts[axis] += 1
        side = shape[axis] / (counts[axis] * (1 - overlap) + overlap)
        window[axis] = int(np.ceil(side / multiple[axis])) * multiple[axis]
    return window


def window_positions(
    region: np.ndarray,
    shape: Sequence[int],
    window: Sequence[int],
    overlap: float,
    multiple: Sequence[int] = (1, 1, 1),
) -> list[Box]:
    """Return the windows of a regular grid over `shape` whose middle part holds any of `region`.

    The grid is spread evenly so that the last window ends at the border. Middle parts together
    cover everything. Windows start at multiples of `multiple`, so that all of them pool the same
    voxels together; `shape` less `window` has to be one as well.
    """
    along = (
        _along_axis(size, side, overlap, step) for size, side, step in zip(shape, window, multiple)
    )
    return [
        (d, h, w)
        for (d, own_d), (h, own_h), (w, own_w) in product(*along)
        if region[own_d, own_h, own_w].any()
    ]


def _along_axis(size: int, side: int, overlap: float, step: int) -> list[tuple[slice, slice]]:
    """Return the windows of one axis, each with its middle part: half-way to its neighbours."""
    count = 1
    if size > side:
        count += int(np.ceil((size - side) / (side * (1 - overlap)) - 1e-9))
    starts = np.round(np.linspace(0, (size - side) / step, count)).astype(int) * step
    halfway = (starts[1:] + starts[:-1] + side) // 2
    borders = [0, *halfway.tolist(), size]
    return [
        (slice(start, start + side), slice(first, last))
        for start, (first, last) in zip(starts.tolist(), pairwise(borders))
    ]


def blending_weight(window: Sequence[int]) -> Tensor:
    """Return the weight of each voxel of a window: a Gaussian, an eighth of the side wide.

    nnU-Net's is as wide.
    """
    depth, height, width = (
        torch.exp(-0.5 * ((torch.arange(side) - (side - 1) / 2) / (side / 8)) ** 2)
        for side in window
    )
    weight = depth[:, None, None] * height[:, None] * width
    return weight.clamp(min=1e-4)
