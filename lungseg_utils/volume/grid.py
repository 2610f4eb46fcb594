"""How voxels lie in a file and in the patient: the stored grid, and the way to (D, H, W)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from nibabel.orientations import io_orientation

from lungseg_utils.runtime import LungsegError

T = TypeVar("T")

# Columns d, h, w: towards the head (+S), the back (-A) and the patient's left (-R), in RAS+ mm.
CANONICAL = np.array([[0, 0, -1, 0], [0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]], dtype=float)

SPACING_RANGE_MM = (0.05, 25.0)
RECONVERT = "Convert the scan again from its source (dcm2niix does it well)"
TOWARDS = {  # letter of a direction -> canonical axis, and whether it runs against that axis
    "S": (0, False),
    "I": (0, True),
    "P": (1, False),
    "A": (1, True),
    "L": (2, False),
    "R": (2, True),
}


@dataclass(frozen=True)
class Grid:
    """A stored grid: `shape` (i, j, k) in the file, i fastest; `affine` maps (i, j, k) to RAS+ mm.

    `axes[s]` is the canonical axis (0 = D, 1 = H, 2 = W) that stored axis s runs along, and
    `flips[s]` is True where it runs against it. `fields` are the header's own geometry fields
    (nothing else of it), for writing back.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    fields: dict | None = None

    @property
    def canonical_shape(self) -> tuple[int, int, int]:
        """Return (D, H, W)."""
        return triple(self.shape[self.axes.index(axis)] for axis in range(3))

    @property
    def canonical_affine(self) -> np.ndarray:
        """Return the map of (d, h, w) indices to RAS+ mm."""
        to_stored = np.zeros((4, 4))
        to_stored[range(3), self.axes] = np.where(self.flips, -1, 1)
        to_stored[:3, 3] = np.where(self.flips, np.subtract(self.shape, 1), 0)
        to_stored[3, 3] = 1
        return self.affine @ to_stored

    def on_disk(self, canonical: np.ndarray) -> np.ndarray:
        """Return a view of a (D, H, W) array in the file's order, (k, j, i).

        What is written to the view lands in the array.
        """
        directions = [slice(None, None, -1 if flip else 1) for flip in self.flips[::-1]]
        return canonical.transpose(self.axes[::-1])[tuple(directions)]


def triple(values: Iterable[T]) -> tuple[T, T, T]:
    """Return three values as a tuple of three."""
    first, second, third = values
    return first, second, third


def grid_of(
    shape: Sequence[int],
    affine: np.ndarray,
    *,
    towards: np.ndarray = CANONICAL,
    fields: dict | None = None,
) -> Grid:
    """Return the grid whose stored axes are matched to the closest of `towards`; no resampling."""
    orientation = io_orientation(np.linalg.inv(towards) @ affine)
    return Grid(
        triple(shape),
        affine,
        axes=triple(int(axis) for axis in orientation[:, 0]),
        flips=triple(bool(sign < 0) for sign in orientation[:, 1]),
        fields=fields,
    )


def grid_along(
    orientation: str, canonical_shape: Sequence[int], canonical_affine: np.ndarray
) -> Grid:
    """Return the grid on which a (D, H, W) array is stored along `orientation`, such as "LPS"."""
    axes = triple(TOWARDS[letter][0] for letter in orientation)
    flips = triple(TOWARDS[letter][1] for letter in orientation)
    shape = triple(canonical_shape[axis] for axis in axes)
    unplaced = Grid(shape, np.eye(4), axes, flips)
    return Grid(shape, canonical_affine @ np.linalg.inv(unplaced.canonical_affine), axes, flips)


def spacing_of(affine: np.ndarray) -> tuple[float, float, float]:
    """Return the voxel sizes in mm along the three index axes of `affine`."""
    return triple(float(size) for size in np.sqrt((affine[:3, :3] ** 2).sum(axis=0)))


def displacement_mm(shape: Sequence[int], one: np.ndarray, other: np.ndarray) -> float:
    """Return the largest distance in mm between where two affines put a corner of a grid."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], [1], indexing="ij")).reshape(4, -1)
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
