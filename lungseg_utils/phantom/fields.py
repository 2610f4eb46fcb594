"""Grids, smooth noise, signed distances and painting: the drawing tools of the synthetic chest.

Shapes are signed distances in mm (negative inside) on a coarse grid. Interpolated linearly onto the
scan's own grid and turned into coverage there, they have smooth surfaces with partial volume at
little cost. Large arrays see mostly additions, multiplications and square roots, to keep the bytes
of a seed the same from one processor to the next.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import starmap
from operator import iadd

import numpy as np

from lungseg_utils.components import bounding_box

Box = tuple[slice, ...]
Point = Sequence[float] | np.ndarray  # z, y, x
WHOLE: Box = (slice(None),) * 3
FAR_MM = 60.0  # the distance written where a shape was not evaluated: clearly outside
SLAB_VOXELS = 1_000_000  # painted at a time, so that temporaries stay in the processor's cache


@dataclass(frozen=True)
class VoxelGrid:
    """A regular grid in world mm: axes (z to the head, y to the back, x to the patient's left)."""

    origin_mm: Sequence[float]  # centre of voxel (0, 0, 0)
    spacing_mm: Sequence[float]
    shape: Sequence[int]

    def axis(self, number: int, part: slice = slice(None)) -> np.ndarray:
        """Return the voxel centres along one axis in mm."""
        steps = np.arange(self.shape[number])[part]
        return (self.origin_mm[number] + self.spacing_mm[number] * steps).astype(np.float32)

    def mesh(self, box: Box = WHOLE) -> tuple[np.ndarray, ...]:
        """Return broadcastable z, y, x coordinates in mm of the voxels in `box`."""
        return np.ix_(*(self.axis(number, part) for number, part in enumerate(box)))

    def crop(self, box: Box) -> "VoxelGrid":
        """Return the grid of the voxels in `box`."""
        sides = zip(self.origin_mm, self.spacing_mm, box)
        origin = [start + step * side.start for start, step, side in sides]
        return VoxelGrid(origin, self.spacing_mm, [side.stop - side.start for side in box])

    def box(self, low_mm: Point, high_mm: Point) -> Box:
        """Return the slices of the voxels between two corners in mm (clipped; perhaps empty)."""
        slices = []
        for low, high, origin, step, size in zip(
            low_mm, high_mm, self.origin_mm, self.spacing_mm, self.shape
        ):
            start = min(max(int(np.floor((low - origin) / step)), 0), size)
            stop = max(min(int(np.ceil((high - origin) / step)) + 1, size), start)
            slices.append(slice(start, stop))
        return tuple(slices)

    def position(self, number: int) -> np.ndarray:
        """Return the world position (3,) in mm of a voxel, from its number in the flat array."""
        index = np.unravel_index(number, tuple(self.shape))
        sides = zip(self.origin_mm, self.spacing_mm, index)
        return np.array([origin + step * place for origin, step, place in sides])


def _along(field: np.ndarray, position: np.ndarray, axis: int, cubic: bool) -> np.ndarray:
    """Interpolate `field` at fractional indices along one axis."""
    last = field.shape[axis] - 1
    base = np.clip(np.floor(position), 0, max(last - 1, 0)).astype(int)
    t = np.clip(position - base, 0, 1).astype(np.float32)
    weights = {0: 1 - t, 1: t}
    if cubic:  # uniform B-spline: smooth to the second derivative
        weights = {
            -1: (1 - t) ** 3 / 6,
            0: (3 * t**3 - 6 * t**2 + 4) / 6,
            1: (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
            2: t**3 / 6,
        }
    shape = [-1 if other == axis else 1 for other in range(3)]

    def tap(offset: int, weight: np.ndarray) -> np.ndarray:
        part = np.take(field, np.clip(base + offset, 0, last), axis)
        part *= weight.reshape(shape)  # in place, as the sum: this is where the time goes
        return part

    return reduce(iadd, starmap(tap, weights.items()))


def interpolate(
    field: np.ndarray,
    source: VoxelGrid,
    target: VoxelGrid,
    box: Box = WHOLE,
    *,
    cubic: bool = False,
) -> np.ndarray:
    """Interpolate a field of one grid at the voxels in `box` of another (float32)."""
    positions = []
    needed = []
    for axis, part in enumerate(box):
        position = (target.axis(axis, part) - source.origin_mm[axis]) / source.spacing_mm[axis]
        last = source.shape[axis] - 1
        start = int(np.clip(np.floor(position[0]) - 1, 0, max(last - 3, 0)))
        stop = int(np.clip(np.floor(position[-1]) + 3, start + 4, last + 1))
        needed.append(slice(start, stop))
        positions.append(position - start)
    field = field[tuple(needed)]
    for axis in (2, 1, 0):  # the axis of whole rows last: it is the largest, and the fastest
        field = _along(field, positions[axis], axis, cubic)
    return field


def noise(
    rng: np.random.Generator, grid: VoxelGrid, wavelength_mm: float, box: Box = WHOLE
) -> np.ndarray:
    """Draw smooth random noise of about unit deviation whose features are `wavelength_mm` apart."""
    step = wavelength_mm / 2
    low = [grid.axis(k, part)[0] - step * (1 + rng.random()) for k, part in enumerate(box)]
    high = [grid.axis(k, part)[-1] + 2 * step for k, part in enumerate(box)]
    shape = [int((b - a) / step) + 2 for a, b in zip(low, high)]
    # B-splines average: 3 brings the deviation back to 1
    values = rng.standard_normal(shape, dtype=np.float32) * np.float32(3)
    return interpolate(values, VoxelGrid(low, (step,) * 3, shape), grid, box, cubic=True)


def union(*distances_mm: np.ndarray) -> np.ndarray:
    """Unite signed distances."""
    return reduce(np.minimum, distances_mm)


def intersection(*distances_mm: np.ndarray) -> np.ndarray:
    """Intersect signed distances."""
    return reduce(np.maximum, distances_mm)


def smooth_union(a: np.ndarray, b: np.ndarray, width_mm: float) -> np.ndarray:
    """Unite two signed distances with a fillet of `width_mm` (Quilez's smooth minimum)."""
    h = np.maximum(width_mm - np.abs(a - b), 0) / width_mm
    return np.minimum(a, b) - h * h * (width_mm / 4)


def smooth_intersection(a: np.ndarray, b: np.ndarray, width_mm: float) -> np.ndarray:
    """Intersect two signed distances with a rounded edge of `width_mm`."""
    return -smooth_union(-a, -b, width_mm)


def round_cone(
    mesh: Sequence[np.ndarray], start: np.ndarray, end: np.ndarray, radii_mm: Point
) -> np.ndarray:
    """Return the signed distance to a cone with round ends, of one radius at either end."""
    way = (end - start).astype(np.float32)
    z, y, x = (axis - np.float32(first) for axis, first in zip(mesh, start))
    length2 = np.float32(max(float(way @ way), 1e-3))
    t = np.clip((z * way[0] + y * way[1] + x * way[2]) / length2, 0, 1)
    off_axis = np.sqrt((z - t * way[0]) ** 2 + (y - t * way[1]) ** 2 + (x - t * way[2]) ** 2)
    return off_axis - (np.float32(radii_mm[0]) + t * np.float32(radii_mm[1] - radii_mm[0]))


def coverage(distance_mm: np.ndarray, edge_mm: float) -> np.ndarray:
    """Turn signed distance into the covered share of a voxel: a ramp `edge_mm` wide."""
    return np.clip(distance_mm * np.float32(-1 / edge_mm) + np.float32(0.5), 0, 1)


def slabs(box: Box) -> Iterator[Box]:
    """Cut a box into runs of slices of about SLAB_VOXELS each; none of an empty box."""
    slices, rows, columns = box
    plane = (rows.stop - rows.start) * (columns.stop - columns.start)
    if plane:
        step = max(SLAB_VOXELS // plane, 2)
        for start in range(slices.start, slices.stop, step):
            yield slice(start, min(start + step, slices.stop)), rows, columns


class Canvas:
    """A CT being painted: HU on the fine grid, from signed distances on the coarse one."""

    def __init__(self, fine: VoxelGrid, coarse: VoxelGrid, background_hu: float):
        self.fine = fine
        self.coarse = coarse
        self.hu = np.full(fine.shape, background_hu, np.float32)
        self.edge_mm = float(np.mean(fine.spacing_mm))  # partial volume spreads over one voxel

    def extent(self, distance_mm: np.ndarray, margin_mm: float = 0.0) -> Box:
        """Return the fine box in which a coarse shape lies."""
        found = bounding_box(distance_mm < self.edge_mm + margin_mm)
        sides = list(zip(self.coarse.origin_mm, self.coarse.spacing_mm, found))
        low = [origin + step * (side.start - 1) for origin, step, side in sides]
        return self.fine.box(low, [origin + step * side.stop for origin, step, side in sides])

    def interpolate(self, field: np.ndarray, box: Box = WHOLE) -> np.ndarray:
        """Return a coarse field at the voxels in `box` of the fine grid."""
        return interpolate(field, self.coarse, self.fine, box)

    def coverage(self, distance_mm: np.ndarray, box: Box = WHOLE) -> np.ndarray:
        """Return the coverage of a coarse shape in `box` of the fine grid."""
        return coverage(self.interpolate(distance_mm, box), self.edge_mm)

    def blend(self, box: Box, cover: np.ndarray, hu: float | np.ndarray | np.float32) -> None:
        """Bring the voxels in `box` towards a value in HU, by the share that `cover` says."""
        self.hu[box] += cover * (hu - self.hu[box])

    def paint(self, distance_mm: np.ndarray, hu: float | np.ndarray) -> None:
        """Fill a coarse shape with a value in HU, or with a coarse field of values."""
        for part in slabs(self.extent(distance_mm)):
            value = self.interpolate(hu, part) if isinstance(hu, np.ndarray) else np.float32(hu)
            self.blend(part, self.coverage(distance_mm, part), value)
