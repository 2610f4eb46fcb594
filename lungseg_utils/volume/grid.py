"""How voxels lie in a file and in the patient: the stored grid, and the way to (D, H, W) and back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lungseg_utils.runtime import LungsegError

# Columns d, h, w: towards the head (+S), the back (-A) and the patient's left (-R), in RAS+ millimetres.
CANONICAL = np.array([[0, 0, -1, 0], [0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]], dtype=float)

SPACING_RANGE_MM = (0.05, 25.0)
RECONVERT = "Convert the scan again from its source (dcm2niix does it well)"


@dataclass(frozen=True)
class Grid:
    """A stored grid: `shape` (i, j, k) as in the file, i fastest on disk; `affine` index (i, j, k) -> RAS+ mm.

    `axes[s]` is the canonical axis (0 = D, 1 = H, 2 = W) that stored axis s runs along, `flips[s]` is True where
    it runs against it. `fields` are the header's own geometry fields (nothing else of it), for writing back.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    fields: dict | None = None

    @property
    def canonical_shape(self) -> tuple[int, int, int]:
        return tuple(self.shape[self.axes.index(axis)] for axis in range(3))

    @property
    def canonical_affine(self) -> np.ndarray:
        """Give the map of (d, h, w) indices to RAS+ mm."""
        to_stored = np.zeros((4, 4))
        to_stored[3, 3] = 1
        for stored, (axis, flip) in enumerate(zip(self.axes, self.flips, strict=True)):
            to_stored[stored, axis] = -1 if flip else 1
            to_stored[stored, 3] = self.shape[stored] - 1 if flip else 0
        return self.affine @ to_stored

    def on_disk(self, canonical: np.ndarray) -> np.ndarray:
        """View a (D, H, W) array in the file's order, (k, j, i): what is written to the view lands in the array."""
        flipped = canonical[
            tuple(slice(None, None, -1 if self.flips[self.axes.index(a)] else 1) for a in range(3))
        ]
        return flipped.transpose(self.axes[::-1])


def grid_of(
    shape, affine: np.ndarray, *, towards: np.ndarray = CANONICAL, fields: dict | None = None
) -> Grid:
    """Find how stored axes run along those of `towards`: the closest ones, nothing is resampled."""
    from nibabel.orientations import io_orientation

    orientation = io_orientation(np.linalg.inv(towards) @ affine)
    axes = tuple(int(axis) for axis in orientation[:, 0])
    return Grid(
        tuple(shape), affine, axes, tuple(bool(sign < 0) for sign in orientation[:, 1]), fields
    )


def grid_along(codes: str, canonical_shape, canonical_affine: np.ndarray) -> Grid:
    """Give the grid on which a (D, H, W) array is stored along `codes`, such as "LPS" or "RAS"."""
    along = {
        "S": (0, False),
        "I": (0, True),
        "P": (1, False),
        "A": (1, True),
        "L": (2, False),
        "R": (2, True),
    }
    axes, flips = zip(*(along[code] for code in codes), strict=True)
    shape = tuple(canonical_shape[axis] for axis in axes)
    unplaced = Grid(shape, np.eye(4), axes, flips)
    return Grid(shape, canonical_affine @ np.linalg.inv(unplaced.canonical_affine), axes, flips)


def spacing_of(affine: np.ndarray) -> tuple[float, float, float]:
    """Give the voxel sizes in mm along the three index axes of `affine`."""
    return tuple(float(size) for size in np.sqrt((affine[:3, :3] ** 2).sum(axis=0)))


def displacement_mm(shape, one: np.ndarray, other: np.ndarray) -> float:
    """Give how far apart two affines put the farthest corner of a grid of `shape`, in mm."""
    corners = np.array(np.meshgrid(*[(0, size - 1) for size in shape], [1], indexing="ij")).reshape(
        4, -1
    )
    return float(np.linalg.norm(((one - other) @ corners)[:3], axis=0).max())


def check_affine(path: Path, affine: np.ndarray) -> None:
    """Refuse an affine that spans no volume, has no voxels of a chest CT, or is sheared."""
    if not np.isfinite(affine).all():
        raise LungsegError(path, "the affine holds NaN or infinity", RECONVERT)
    sizes = spacing_of(affine)
    written = " x ".join(f"{size:.4g}" for size in sizes)
    low, high = SPACING_RANGE_MM
    if min(sizes) == 0 or abs(np.linalg.det(affine[:3, :3] / sizes)) < 1e-3:
        raise LungsegError(
            path, f"the affine is singular (voxels of {written} mm): it spans no volume", RECONVERT
        )
    if min(sizes) < low or max(sizes) > high:
        raise LungsegError(
            path,
            f"implausible voxels of {written} mm (a chest CT has {low:g} to {high:g})",
            "Check the voxel sizes and their unit in the header",
        )
    directions = affine[:3, :3] / sizes
    if np.abs(directions.T @ directions - np.eye(3)).max() > 0.01:
        raise LungsegError(
            path,
            "a sheared grid (gantry tilt?): its axes are not at right angles",
            "Resample it to a straight grid first",
        )
