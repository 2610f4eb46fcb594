"""Grids, smooth noise, signed distances and painting: the drawing tools of the synthetic chest.

Shapes are signed distances in mm (negative inside) on a coarse grid; interpolated linearly onto the scan's own
grid and turned into coverage there, they give smooth surfaces with partial volume at little cost. Large arrays see
mostly additions, multiplications and square roots, to keep the bytes of a seed the same from one processor to the next.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FAR_MM = 60.0  # the distance written where a shape was not evaluated: clearly outside
SLAB_VOXELS = 1_000_000  # painted at a time, so that temporaries stay in the processor's cache


@dataclass(frozen=True)
class Grid:
    """A regular grid in world mm: axes (z to the head, y to the back, x to the patient's left)."""

    origin_mm: tuple[float, float, float]  # centre of voxel (0, 0, 0)
    spacing_mm: tuple[float, float, float]
    shape: tuple[int, int, int]

    def axis(self, number: int, part: slice = slice(None)) -> np.ndarray:
        """Give the voxel centres along one axis in mm."""
        return (
            self.origin_mm[number] + self.spacing_mm[number] * np.arange(self.shape[number])[part]
        ).astype(np.float32)

    def mesh(
        self, box: tuple[slice, slice, slice] = (slice(None),) * 3
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Give broadcastable z, y, x coordinates in mm of the voxels in `box`."""
        return (
            self.axis(0, box[0])[:, None, None],
            self.axis(1, box[1])[None, :, None],
            self.axis(2, box[2])[None, None, :],
        )

    def cut(self, box: tuple[slice, slice, slice]) -> Grid:
        """Give the grid of the voxels in `box`."""
        origin = tuple(
            o + s * part.start for o, s, part in zip(self.origin_mm, self.spacing_mm, box)
        )
        return Grid(origin, self.spacing_mm, tuple(part.stop - part.start for part in box))

    def box(self, low_mm, high_mm) -> tuple[slice, slice, slice]:
        """Give the slices of the voxels between two corners in mm (clipped; perhaps empty)."""
        slices = []
        for low, high, origin, step, size in zip(
            low_mm, high_mm, self.origin_mm, self.spacing_mm, self.shape
        ):
            start = min(max(int(np.floor((low - origin) / step)), 0), size)
            stop = max(min(int(np.ceil((high - origin) / step)) + 1, size), start)
            slices.append(slice(start, stop))
        return tuple(slices)


WHOLE = (slice(None),) * 3


def _along(field: np.ndarray, position: np.ndarray, axis: int, cubic: bool) -> np.ndarray:
    """Interpolate `field` at fractional indices along one axis."""
    size, shape = field.shape[axis], [1, 1, 1]
    shape[axis] = len(position)
    base = np.clip(np.floor(position), 0, max(size - 2, 0)).astype(int)
    t = np.clip(position - base, 0, 1).astype(np.float32)
    if cubic:  # uniform B-spline weights: smooth to the second derivative
        weights = (
            (1 - t) ** 3 / 6,
            (3 * t**3 - 6 * t**2 + 4) / 6,
            (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
            t**3 / 6,
        )
        taps = [(np.clip(base + k, 0, size - 1), w) for k, w in zip((-1, 0, 1, 2), weights)]
    else:
        taps = [(base, 1 - t), (np.minimum(base + 1, size - 1), t)]
    out = np.take(field, taps[0][0], axis)
    out *= taps[0][1].reshape(shape)
    for index, weight in taps[1:]:
        part = np.take(field, index, axis)
        part *= weight.reshape(shape)
        out += part
    return out


def resample(
    field: np.ndarray, source: Grid, target: Grid, box=WHOLE, *, cubic: bool = False
) -> np.ndarray:
    """Interpolate a field of one grid at the voxels in `box` of another (float32)."""
    positions, needed = [], []
    for axis in range(3):
        position = (target.axis(axis, box[axis]) - source.origin_mm[axis]) / source.spacing_mm[axis]
        last = source.shape[axis] - 1
        first = int(np.clip(np.floor(position[0]) - 1, 0, max(last - 3, 0))) if len(position) else 0
        stop = int(np.clip(np.floor(position[-1]) + 3, first + 4, last + 1)) if len(position) else 1
        needed.append(slice(first, stop))
        positions.append(position - first)
    field = field[tuple(needed)]
    for axis in (2, 1, 0):  # the axis of whole rows last: it is the largest, and the fastest
        field = _along(field, positions[axis], axis, cubic)
    return field


def noise(rng: np.random.Generator, grid: Grid, wavelength_mm: float, box=WHOLE) -> np.ndarray:
    """Draw smooth random noise of about unit deviation whose features are `wavelength_mm` apart."""
    step = wavelength_mm / 2
    low = [grid.axis(k, box[k])[0] - step * (1 + rng.random()) for k in range(3)]
    high = [grid.axis(k, box[k])[-1] + 2 * step for k in range(3)]
    lattice = Grid(
        tuple(low), (step,) * 3, tuple(int((b - a) / step) + 2 for a, b in zip(low, high))
    )
    values = rng.standard_normal(lattice.shape, dtype=np.float32) * np.float32(
        3.0
    )  # B-splines average: regain sd 1
    return resample(values, lattice, grid, box, cubic=True)


def smooth_min(a: np.ndarray, b: np.ndarray, width_mm: float) -> np.ndarray:
    """Unite two signed distances with a fillet of `width_mm` (polynomial smooth minimum, Quilez)."""
    h = np.maximum(width_mm - np.abs(a - b), 0) / width_mm
    return np.minimum(a, b) - h * h * (width_mm / 4)


def smooth_max(a: np.ndarray, b: np.ndarray, width_mm: float) -> np.ndarray:
    """Intersect two signed distances with a rounded edge of `width_mm`."""
    return -smooth_min(-a, -b, width_mm)


def coverage(distance_mm: np.ndarray, edge_mm: float) -> np.ndarray:
    """Turn signed distance into the covered share of a voxel: a ramp `edge_mm` wide round the surface."""
    out = distance_mm * np.float32(-1 / edge_mm)
    out += np.float32(0.5)
    return np.clip(out, 0, 1, out=out)


def slabs(box: tuple[slice, slice, slice]):
    """Cut a box into runs of slices of about SLAB_VOXELS each."""
    plane = max((box[1].stop - box[1].start) * (box[2].stop - box[2].start), 1)
    step = max(SLAB_VOXELS // plane, 2)
    for start in range(box[0].start, box[0].stop, step):
        yield slice(start, min(start + step, box[0].stop)), box[1], box[2]


class Canvas:
    """A CT being painted: HU on the fine grid, from signed distances on the coarse one."""

    def __init__(self, fine: Grid, coarse: Grid, background_hu: float):
        self.fine, self.coarse = fine, coarse
        self.hu = np.full(fine.shape, background_hu, np.float32)
        self.edge_mm = float(
            np.mean(fine.spacing_mm)
        )  # a surface's partial volume spreads over one voxel

    def extent(self, distance_mm: np.ndarray, margin_mm: float = 0.0) -> tuple[slice, slice, slice]:
        """Give the fine box in which a coarse shape lies (empty slices when it lies nowhere)."""
        near = distance_mm < self.edge_mm + margin_mm
        low, high = [], []
        for axis in range(3):
            hits = np.flatnonzero(near.any(axis=tuple(k for k in range(3) if k != axis)))
            if not len(hits):
                return (slice(0, 0),) * 3
            step, origin = self.coarse.spacing_mm[axis], self.coarse.origin_mm[axis]
            low.append(origin + step * (hits[0] - 1))
            high.append(origin + step * (hits[-1] + 1))
        return self.fine.box(low, high)

    def paint(self, distance_mm: np.ndarray, hu) -> None:
        """Fill a coarse shape with a value in HU, or with a coarse field of values."""
        box = self.extent(distance_mm)
        if box[0].start == box[0].stop:
            return
        for part in slabs(box):
            cover = coverage(resample(distance_mm, self.coarse, self.fine, part), self.edge_mm)
            target = self.hu[part]
            value = (
                resample(hu, self.coarse, self.fine, part)
                if isinstance(hu, np.ndarray)
                else np.float32(hu)
            )
            cover *= value - target
            target += cover

    def sample(self, distance_mm: np.ndarray, box=WHOLE) -> np.ndarray:
        """Give the coverage of a coarse shape on the fine grid."""
        return coverage(resample(distance_mm, self.coarse, self.fine, box), self.edge_mm)
