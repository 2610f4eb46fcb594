"""Small operations on the coarse masks (D, H, W) in which the lungs are searched."""

import numpy as np

from lungseg_utils.components import add_neighbours


def block_means(hu: np.ndarray, step: tuple[int, int, int]) -> np.ndarray:
    """Average blocks of `step` voxels, the last ones possibly smaller.

    Of large blocks every other voxel is read.
    """
    places = []
    for size, side in zip(hu.shape, step):
        starts = np.arange(-(-size // side)) * side
        offsets = sorted({0, side // 2})
        places.append([np.minimum(starts + offset, size - 1) for offset in offsets])
    parts = [
        np.clip(hu[np.ix_(d, h, w)], -1024, 3000).astype(np.float32)
        for d in places[0]
        for h in places[1]
        for w in places[2]
    ]
    return sum(parts) / len(parts)


def between_ends(mask: np.ndarray, axis: int) -> np.ndarray:
    """Mark on each line along `axis` all from the first marked voxel to the last."""
    from_end = np.flip(np.logical_or.accumulate(np.flip(mask, axis), axis=axis), axis)
    return np.logical_or.accumulate(mask, axis=axis) & from_end


def between(lungs: np.ndarray) -> np.ndarray:
    """Fill each row and each column of a slice between its first and last voxel of lung."""
    return lungs | between_ends(lungs, 2) | between_ends(lungs, 1)


def grow(mask: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Dilate by a box of `radius` voxels (d, h, w)."""
    for axis, steps in enumerate(np.ceil(radius).astype(int)):
        mask = np.moveaxis(mask, axis, 0)
        for _ in range(steps):
            grown = mask.copy()
            grown[1:] |= mask[:-1]
            grown[:-1] |= mask[1:]
            mask = grown
        mask = np.moveaxis(mask, 0, axis)
    return mask


def core(mask: np.ndarray) -> np.ndarray:
    """Keep the voxels whose six neighbours are marked too; what lies outside counts as marked."""
    return ~add_neighbours(~mask)


def height(mask: np.ndarray) -> float:
    """Return the mean slice of `mask`, counted from the feet."""
    return float(np.argwhere(mask)[:, 0].mean())
