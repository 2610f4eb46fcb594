"""Body coordinates, in mm with the carina at the origin, and simple shapes drawn in them.

Every organ is simple in an undisturbed frame. `Frame` bends that frame (posture, size, smooth
random displacement), so that no organ is an ellipsoid and no two patients are alike.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from lungseg_utils.phantom.fields import FAR_MM, Box, Point, VoxelGrid, noise, round_cone
from lungseg_utils.phantom.person import Person

BUMP_WAVELENGTHS_MM = (130, 130, 130, 60, 60, 60, 38, 38)


def on_side(path: Sequence[Point], side: int) -> list[Point]:
    """Return points (z, y, x) of the left side as they are (1) or mirrored to the right (-1)."""
    return [(z, y, x * side) for z, y, x in path]


class Frame:
    """Body coordinates of every voxel of the coarse grid, and shapes drawn in them.

    `bumps` are smooth random fields of unit deviation, from the longest wavelength to the shortest.
    """

    def __init__(self, rng: np.random.Generator, person: Person, grid: VoxelGrid):
        self.grid = grid
        self.person = person
        self.bumps = [noise(rng, grid, wavelength) for wavelength in BUMP_WAVELENGTHS_MM]
        z, y, x = (np.broadcast_to(axis, grid.shape) for axis in grid.mesh())
        turn = np.float32(np.deg2rad(person.rotation_deg))
        self.z = z / np.float32(person.height) + np.float32(person.tilt) * y + 5 * self.bumps[0]
        self.y = (y - turn * x) / np.float32(person.depth) + 4 * self.bumps[1] + 1.2 * self.bumps[3]
        self.x = (x + turn * y) / np.float32(person.width) + 5 * self.bumps[2] + 1.2 * self.bumps[4]

    def locate(self, point: Point) -> np.ndarray:
        """Return the world position (mm) of a point in body coordinates."""
        far = (self.z - point[0]) ** 2 + (self.y - point[1]) ** 2 + (self.x - point[2]) ** 2
        return self.grid.position(int(np.argmin(far)))

    def profile(self, heights: Point, values: Point) -> np.ndarray:
        """Interpolate a curve over the height at every voxel."""
        table = np.interp(np.arange(-420, 421, 2.0), heights, values).astype(np.float32)
        return table[np.clip((self.z + 420) * 0.5, 0, 420).astype(np.int16)]

    def box(self, low: Point, high: Point, margin: float = 34.0) -> Box:
        """Return the coarse voxels that may lie between two corners of body coordinates."""
        scale = (self.person.height, self.person.depth, self.person.width)
        return self.grid.box(
            [a * s - margin for a, s in zip(low, scale)],
            [b * s + margin for b, s in zip(high, scale)],
        )

    def ellipsoid(
        self, centre: Point, radii: Point, rough: float = 0.12, bump: int = 5, turn: float = 0.0
    ) -> np.ndarray:
        """Draw an ellipsoid (z, y, x), turned about the body's axis; `bumps[bump]` roughens it."""
        reach = [max(radii) if turn else radius for radius in radii]
        part = self.box(
            [c - r for c, r in zip(centre, reach)], [c + r for c, r in zip(centre, reach)]
        )
        z, y, x = (axis[part] - c for axis, c in zip((self.z, self.y, self.x), centre))
        if turn:
            cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
            y, x = cos * y + sin * x, cos * x - sin * y
        ratio = np.sqrt((z / radii[0]) ** 2 + (y / radii[1]) ** 2 + (x / radii[2]) ** 2)
        out = np.full(self.grid.shape, FAR_MM, np.float32)
        out[part] = (ratio - 1 + rough * self.bumps[bump][part]) * np.float32(min(radii))
        return out

    def tube(self, points: Sequence[Point] | np.ndarray, radii: float | Point) -> np.ndarray:
        """Draw a chain of round cones through points (z, y, x)."""
        path = np.asarray(points, np.float32)
        widths = np.broadcast_to(np.asarray(radii, np.float32), len(path))
        out = np.full(self.grid.shape, FAR_MM, np.float32)
        for (start, end), ends in zip(pairwise(path), pairwise(widths)):
            reach = max(ends)
            part = self.box(np.minimum(start, end) - reach, np.maximum(start, end) + reach, 26.0)
            mesh = (self.z[part], self.y[part], self.x[part])
            out[part] = np.minimum(out[part], round_cone(mesh, start, end, ends))
        return out
