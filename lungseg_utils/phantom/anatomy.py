"""The chest and upper belly as signed distances in body coordinates: carina at the origin, mm.

Every organ is simple in an undisturbed frame; `Frame` bends that frame (posture, size, smooth random displacement),
so that no organ is an ellipsoid and no two patients are alike.
"""

from __future__ import annotations

import numpy as np

from lungseg_utils.phantom.fields import FAR_MM, Grid, noise, smooth_max, smooth_min
from lungseg_utils.phantom.person import Person

# Inner chest wall: half width, half depth and centre (towards the back) over the height above the carina.
CAGE_Z = np.array([-400, -260, -180, -120, -60, 0, 45, 80, 100, 113, 122])
CAGE_WIDTH = np.array([134, 136, 139, 140, 137, 129, 110, 84, 62, 37, 12])
CAGE_DEPTH = np.array([94, 98, 102, 103, 100, 91, 78, 63, 50, 32, 12])
CAGE_CENTRE = np.array([-4, -4, -3, -1, 2, 6, 12, 19, 24, 28, 30])
SPINE_Z = np.array([-400, -250, -150, -60, 20, 90, 160, 260])
SPINE_Y = np.array([40, 42, 48, 53, 50, 44, 34, 22])  # centre of the vertebral bodies


class Frame:
    """Body coordinates of every voxel of the coarse grid, and shapes drawn in them."""

    def __init__(self, rng: np.random.Generator, person: Person, grid: Grid):
        self.grid, self.person = grid, person
        z, y, x = (np.broadcast_to(axis, grid.shape) for axis in grid.mesh())
        turn = np.float32(np.deg2rad(person.rotation_deg))
        self.bumps = [
            noise(rng, grid, wavelength) for wavelength in (130, 130, 130, 60, 60, 60, 38, 38)
        ]
        self.z = z / np.float32(person.height) + np.float32(person.tilt) * y + 5 * self.bumps[0]
        self.y = (y - turn * x) / np.float32(person.depth) + 4 * self.bumps[1] + 1.2 * self.bumps[3]
        self.x = (x + turn * y) / np.float32(person.width) + 5 * self.bumps[2] + 1.2 * self.bumps[4]

    def locate(self, point) -> np.ndarray:
        """Give the world position (mm) of a point in body coordinates."""
        far = (self.z - point[0]) ** 2 + (self.y - point[1]) ** 2 + (self.x - point[2]) ** 2
        index = np.unravel_index(int(np.argmin(far)), far.shape)
        return np.array(
            [self.grid.origin_mm[k] + self.grid.spacing_mm[k] * index[k] for k in range(3)]
        )

    def profile(self, heights, values) -> np.ndarray:
        """Interpolate a curve over the height at every voxel."""
        table = np.interp(np.arange(-420, 421, 2.0), heights, values).astype(np.float32)
        return table[np.clip((self.z + 420) * 0.5, 0, 420).astype(np.int16)]

    def box(self, low, high, margin: float = 34.0) -> tuple[slice, slice, slice]:
        """Give the coarse voxels that may lie between two corners of body coordinates."""
        scale = (self.person.height, self.person.depth, self.person.width)
        return self.grid.box(
            [a * s - margin for a, s in zip(low, scale)],
            [b * s + margin for b, s in zip(high, scale)],
        )

    def ellipsoid(
        self, centre, radii, bump: float = 0.12, which: int = 5, turn: float = 0.0
    ) -> np.ndarray:
        """Draw an ellipsoid (z, y, x), turned about the body's axis and dented by noise."""
        out = np.full(self.grid.shape, FAR_MM, np.float32)
        reach = max(radii) if turn else 0
        part = self.box(
            [c - max(r, reach) for c, r in zip(centre, radii)],
            [c + max(r, reach) for c, r in zip(centre, radii)],
        )
        z, y, x = self.z[part] - centre[0], self.y[part] - centre[1], self.x[part] - centre[2]
        if turn:
            c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
            y, x = c * y + s * x, c * x - s * y
        ratio = np.sqrt((z / radii[0]) ** 2 + (y / radii[1]) ** 2 + (x / radii[2]) ** 2)
        out[part] = (ratio - 1 + bump * self.bumps[which][part]) * np.float32(min(radii))
        return out

    def tube(self, points, radii) -> np.ndarray:
        """Draw a chain of round cones through points (z, y, x)."""
        points = np.asarray(points, np.float32)
        radii = np.broadcast_to(np.asarray(radii, np.float32), len(points))
        out = np.full(self.grid.shape, FAR_MM, np.float32)
        for a, b, ra, rb in zip(points[:-1], points[1:], radii[:-1], radii[1:]):
            reach = max(ra, rb)
            part = self.box(np.minimum(a, b) - reach, np.maximum(a, b) + reach, 26.0)
            d = b - a
            z, y, x = self.z[part] - a[0], self.y[part] - a[1], self.x[part] - a[2]
            t = np.clip((z * d[0] + y * d[1] + x * d[2]) / max(float(d @ d), 1e-3), 0, 1)
            distance = np.sqrt((z - t * d[0]) ** 2 + (y - t * d[1]) ** 2 + (x - t * d[2]) ** 2) - (
                ra + t * (rb - ra)
            )
            out[part] = np.minimum(out[part], distance)
        return out


def cage(frame: Frame) -> np.ndarray:
    """Give the distance to the inner chest wall (negative inside), about in mm."""
    a, b = frame.profile(CAGE_Z, CAGE_WIDTH), frame.profile(CAGE_Z, CAGE_DEPTH)
    u, v = np.abs(frame.x) / a, np.abs(frame.y - frame.profile(CAGE_Z, CAGE_CENTRE)) / b
    oval = frame.profile([-120, 0, 80], [1.45, 1.6, 2.0])  # 2: an ellipse; less: squarer
    ratio = np.sqrt(np.sqrt(u**4 + v**4 + oval * u * u * v * v))
    side = (ratio - 1) * np.minimum(a, b)
    back = (
        frame.profile(SPINE_Z, SPINE_Y) + 42
    )  # the wall bends inward over the spine, the lungs fill the gutters beside it
    side = smooth_max(side, 37 - np.sqrt((frame.x / 0.92) ** 2 + (frame.y - back) ** 2), 26)
    return smooth_max(side, (frame.z - 119) * np.float32(0.7), 12)


def diaphragm(frame: Frame) -> np.ndarray:
    """Give the height of a voxel above the diaphragm in mm."""
    right, left = frame.person.dome_mm
    fall_r = ((frame.x + 62) / 88) ** 2 + ((frame.y + 8) / 92) ** 2
    fall_l = ((frame.x - 66) / 84) ** 2 + ((frame.y + 4) / 92) ** 2
    back = np.maximum(frame.y, 0) * np.float32(-0.28)
    dome_r = right - 62 * fall_r * np.sqrt(fall_r + 0.15) + back
    dome_l = left - 62 * fall_l * np.sqrt(fall_l + 0.15) + back
    dome = -smooth_min(-np.maximum(dome_r, right - 85), -np.maximum(dome_l, left - 85), 25)
    return (frame.z - dome) * np.float32(0.72)


def mediastinum(rng: np.random.Generator, f: Frame, *, kind: bool = False) -> dict[str, np.ndarray]:
    """Give heart, great vessels, airways, gullet and hilar tissue as signed distances; `kind` hila are empty."""
    lumps = None if kind else rng.spawn(1)[0]
    j = lambda spread=4.0: rng.normal(0, spread)  # noqa: E731
    hx, hz, big = j(5), j(6), rng.normal(1.0, 0.09)
    r = rng.normal(1.0, 0.12)
    hilum_r, hilum_l = (-14 + j(), 14 + j(), -47 + j(3)), (-2 + j(), 20 + j(), 47 + j(3))
    side = 26 + j(3)
    shapes = {
        "lv": f.ellipsoid((-76 + hz, -28, 44 + hx), (40 * big, 32 * big, 30 * big), 0.08, 5, -0.7),
        "rv": f.ellipsoid((-74 + hz, -48, 6 + hx), (36 * big, 25 * big, 36 * big), 0.08, 6, -0.4),
        "ra": f.ellipsoid((-60 + hz, -22, -30 + hx), (33 * big, 26 * big, 19 * big), 0.08, 5),
        "la": f.ellipsoid((-42 + hz, 14, 4 + hx), (23 * big, 20 * big, 33 * big), 0.08, 6),
        "aorta": _aorta(f, lumps.spawn(1)[0] if lumps else None, r, (j(), j())),
        "cava": f.tube(
            [(-38, -18, -28), (0, -14, -28), (40, -18, -27), (56, -28, -22)], [10, 9.5, 8.5, 8]
        ),
        "brachial": np.minimum(
            f.tube([(56, -28, -22), (88, -22, -38), (100, -20, -80)], [8, 7, 6]),
            f.tube([(52, -30, -20), (62, -36, 12), (92, -24, 38), (100, -20, 80)], [8, 7, 7, 6]),
        ),
        "arch_branches": np.minimum(
            np.minimum(
                f.tube(
                    [(48, -12, -6), (76, -12, -18), (120, -4, -28), (240, -6, -30)],
                    [6.5, 6, 4.5, 4],
                ),
                f.tube([(50, 2, 4), (85, 2, 18), (130, -2, 27), (240, -6, 30)], [4.5, 4, 4, 3.5]),
            ),
            f.tube([(50, 14, 12), (88, 16, 25), (108, 6, 60), (104, 0, 110)], [5.5, 5, 5, 5]),
        ),
        "pulmonary": np.minimum(
            np.minimum(
                f.tube(
                    [(-32, -44, 16), (-8, -32, 22), (2, -12, 24), (2, 12, 36), hilum_l],
                    np.array([15, 14, 13, 11, 9]) * r,
                ),
                f.tube([(-4, -20, 20), (-10, -6, -8), hilum_r], np.array([13, 11.5, 9]) * r),
            ),
            f.tube([hilum_l, (hilum_l[0] - 28, 28, 58)], [8.5, 6]),
        ),
        "veins": np.minimum(
            np.minimum(
                f.tube([(-38, 10, 26), (-26, 4, 54)], [8, 6]),
                f.tube([(-50, 20, 24), (-56, 30, 50)], [8, 6]),
            ),
            np.minimum(
                f.tube([(-36, 8, -20), (-24, -2, -48)], [8, 6]),
                f.tube([(-50, 18, -20), (-58, 28, -46)], [8, 6]),
            ),
        ),
        "lower_cava": f.tube(
            [(-80, -8, -28), (-120, 0, -27), (-200, 14, -25), (-400, 22, -22)], [12, 12, 11, 10]
        ),
        "azygos": f.tube(
            [(-200, 26, -8), (0, 28, -12), (18, 26, -14), (20, 6, -22), (20, -12, -27)], 4.0
        ),
        "gullet": f.tube(
            [(260, 10, 2), (90, 18, 4), (20, 18, 4), (-60, 22, 4), (-115, 14, 16), (-140, 0, 34)],
            [7, 8, 8.5, 9, 9.5, 10],
        ),
        "trachea": np.minimum(
            np.minimum(
                f.tube(
                    [(260, -8, 0), (110, -2, 0), (50, 2, -2), (0, 7, 0)],
                    np.array([8.5, 9, 9, 9]) * r,
                ),
                f.tube(
                    [(2, 7, -1), (-20, 14, -side), (-40, 22, -side - 12)],
                    np.array([8, 6.8, 5.4]) * r,
                ),
            ),
            f.tube(
                [(2, 7, 1), (-20, 16, side + 4), (-34, 26, side + 20)], np.array([7.5, 6.2, 5]) * r
            ),
        ),
        "thyroid": np.minimum(
            f.ellipsoid((128, -2, -16), (22, 10, 9)), f.ellipsoid((128, -2, 16), (22, 10, 9))
        ),
    }
    shapes["heart"] = smooth_min(
        smooth_min(shapes["lv"], shapes["rv"], 14), smooth_min(shapes["ra"], shapes["la"], 14), 16
    )
    shapes["hilar"] = np.full(
        f.grid.shape, FAR_MM, np.float32
    )  # nodes and loose tissue between a hilum's vessels
    if lumps:
        for hilum in (hilum_r, hilum_l):
            for _ in range(lumps.integers(1, 7)):
                lump = f.ellipsoid(lumps.normal(hilum, (14, 9, 6)), lumps.uniform(3, 8, 3), 0.15, 7)
                shapes["hilar"] = np.minimum(shapes["hilar"], lump)
    shapes["hila"] = np.stack([f.locate(hilum_r), f.locate(hilum_l)])  # world mm, (2, 3)
    return shapes


def _aorta(
    f: Frame, aged: np.random.Generator | None, r: float, sway: tuple[float, float]
) -> np.ndarray:
    """Give the aorta of relative width `r`; drawn from `aged`, three in ten are wide and bulge into the left lung."""
    points = np.array(
        [
            (-42, -25, 6),
            (-12, -30, -14),
            (25, -26, -16),
            (44, -10, -2),
            (46, 8, 12),
            (34, 26, 24),
            (0, 32, 26),
            (-60, 34, 22 + sway[0]),
            (-140, 26, 10 + sway[1]),
            (-250, 16, 6),
            (-400, 14, 4),
        ],
        float,
    )
    radii = np.array([17, 17, 16, 14, 13.5, 13, 12.5, 12, 11, 10.5, 9]) * r
    if aged and aged.random() < 0.3:
        share = np.array([0, 0, 0.3, 0.8, 1, 1, 1, 1, 0.7, 0.3, 0])
        arch = np.array([0, 0, 0.4, 1, 1, 0.7, 0, 0, 0, 0, 0])
        up, back, left = aged.uniform(0, (14, 8, 16))
        points += np.stack([up * arch, back * share, left * share], 1)
        radii *= 1 + aged.uniform(0.05, 0.5) * share
    return f.tube(points, radii)


def spine(f: Frame) -> np.ndarray:
    """Give the distance to the vertebral bodies and what holds them, about in mm."""
    return np.sqrt((f.x / 1.15) ** 2 + (f.y - f.profile(SPINE_Z, SPINE_Y)) ** 2) - 21


def lungs(
    rng: np.random.Generator, f: Frame, shell: np.ndarray, dome: np.ndarray, m: dict
) -> tuple[np.ndarray, np.ndarray]:
    """Give right and left lung: what chest wall, diaphragm, heart and vessels leave over."""
    middle = f.profile([-400, -100, -40, 10, 45, 80, 110], [12, 9, 4, 4, 13, 25, 30])
    septum = np.abs(f.x - 6 * f.bumps[2]) - middle - 2 * f.bumps[6]
    keep_out = smooth_min(septum, m["heart"] - rng.uniform(2, 9) - 4 * np.clip(-f.y / 60, 0, 1), 14)
    for name, fat_mm in (
        ("aorta", 3),
        ("pulmonary", 2),
        ("cava", 3),
        ("brachial", 3),
        ("arch_branches", 4),
        ("trachea", 3.5),
        ("gullet", 2),
        ("lower_cava", 2),
    ):
        keep_out = smooth_min(keep_out, m[name] - fat_mm, 9)
    keep_out = np.minimum(
        keep_out, np.maximum(m["hilar"], keep_out - 3)
    )  # hilar tissue bulges by 3 mm, no more
    keep_out = smooth_min(keep_out, spine(f), 10)
    inside = smooth_max(smooth_max(shell + 2.5, -dome, 5), -keep_out, 5)
    return np.maximum(inside, f.x - 2), np.maximum(inside, 2 - f.x)
