"""Lung tumours: of what size, site and looks they are, and where in a chest there is such a place."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

# Task06_Lung (Antonelli et al. 2022): 0.74 - 370 mL, quartiles 2.7 / 5.2 / 17.6: a log-normal of this width.
MEDIAN_ML, LOG_SD, SMALLEST_ML, LARGEST_ML = 5.2, 1.39, 0.74, 370.0
SITES = ("lung", "pleura", "vessel", "hilum", "wall", "mediastinum", "central")
SITE_SHARES = {  # small, large; "central": to half in the mediastinum, among tissue of its own brightness
    "task06": ([0.4, 0.22, 0.13, 0.12, 0.06, 0.07, 0], [0.22, 0.12, 0.08, 0.26, 0.12, 0.2, 0]),
    "kind": ([0.7, 0.3, 0, 0, 0, 0, 0], [0.7, 0.3, 0, 0, 0, 0, 0]),
    "broad": ([0.33, 0.2, 0.12, 0.13, 0.05, 0.06, 0.11], [0.17, 0.1, 0.06, 0.16, 0.09, 0.12, 0.3]),
}
TEXTURES = (
    "solid",
    "part-solid",
    "ground-glass",
    "necrotic",
    "cavitated",
    "thin-walled",
    "calcified",
)
TEXTURE_SHARES = {  # small, large
    "task06": ([0.66, 0.12, 0.1, 0.04, 0.04, 0.02, 0.02], [0.57, 0.05, 0.02, 0.26, 0.10, 0, 0]),
    "kind": ([0.68, 0.12, 0.1, 0.04, 0.06, 0, 0], [0.55, 0.05, 0.02, 0.26, 0.12, 0, 0]),
    "broad": ([0.5, 0.15, 0.13, 0.04, 0.07, 0.06, 0.05], [0.53, 0.08, 0.05, 0.2, 0.1, 0.04, 0]),
}
OUTLINES = ("round", "lobulated", "spiculated")
# What is smaller, in the hilum or across a bronchus or large vessel, nobody tells from a node or a branching.
SMALL_ML, WIDE_AIRWAY_MM, WIDE_VESSEL_MM = 1.767, 1.2, 2.5  # a ball of 15 mm; radii
MIXES = {
    "task06": (0.72, 0.2, 0.08),
    "kind": (0.72, 0.2, 0.08),
    "broad": (0.25, 0.35, 0.25, 0.15),
}  # 1, 2, … a case


@dataclass(frozen=True)
class Lesion:
    """The facts of one tumour: what was asked for, and its place (world mm: z, y, x)."""

    site: str
    texture: str
    outline: str
    volume_ml: float
    centre_mm: tuple[float, float, float] = field(default=(0.0, 0.0, 0.0))

    @property
    def radius_mm(self) -> float:
        """The radius of the ball of the same volume."""
        return float((self.volume_ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3))


def draw_lesion(rng: np.random.Generator, mix: str = "task06", *, first: bool = True) -> Lesion:
    """Draw size, site and looks by the mix: "task06", "kind" (what 3 mm voxels show) or "broad" (to train on).

    As in Task06 the `first` lesion of a scan is a tumour; half of the others are small nodules.
    """
    if mix == "kind":
        volume = float(np.clip(2.5 * MEDIAN_ML * np.exp(LOG_SD * rng.standard_normal()), 6, 60))
    elif mix == "broad":  # every size as often as any other, from a nodule of 6 mm on
        volume = np.pi / 6 * np.exp(rng.uniform(np.log(6), np.log(75))) ** 3 / 1000
    elif not first and rng.random() < 0.5:
        volume = np.pi / 6 * rng.uniform(6, 12) ** 3 / 1000  # a nodule
    else:
        volume = float(
            np.clip(MEDIAN_ML * np.exp(LOG_SD * rng.standard_normal()), SMALLEST_ML, LARGEST_ML)
        )
    large = volume > (8 if mix == "broad" else 12)
    site = rng.choice(SITES, p=SITE_SHARES[mix][int(large)])
    texture = rng.choice(TEXTURES, p=TEXTURE_SHARES[mix][int(large)])
    if volume < SMALL_ML:
        site = {"wall": "pleura", "mediastinum": "lung", "hilum": "lung", "central": "lung"}.get(
            site, site
        )
    if (mix == "kind" or site == "central") and texture in (
        "ground-glass",
        "part-solid",
        "thin-walled",
    ):
        texture = "solid"
    return Lesion(
        str(site), str(texture), str(rng.choice(OUTLINES, p=[0.3, 0.4, 0.3])), float(volume)
    )


def place(
    rng: np.random.Generator, lesion: Lesion, world, mix: str = "task06"
) -> np.ndarray | None:
    """Find a centre in world mm for the lesion's site, or None when the lungs have no such place.

    By the mix "broad" a pleural tumour may also lie on the diaphragm, where thick voxels hardly tell it from the belly.
    """
    grid, r = world.coarse, lesion.radius_mm
    d = np.minimum(*world.lungs)
    reach_hilum = rng.uniform(8, 30)
    on_pleura = world.shell > -1.2 * r - 6
    if mix == "broad":
        on_pleura = on_pleura | (world.dome < 1.2 * r + 6)
    wall = world.shell > d - 8  # the nearest surface is the chest wall, not the mediastinum
    wanted = {
        "lung": d < -max(min(1.15 * r, 30), 6),
        "pleura": (np.abs(d + 0.75 * r) < 3) & on_pleura,
        "wall": (np.abs(d + 0.3 * r) < 3) & (world.shell > -r - 8),
        "mediastinum": (np.abs(d + 0.35 * r) < 3) & ~wall & (world.dome > r),
        "hilum": d
        < -0.25
        * r,  # most of it in the lung: what lies wholly in the mediastinum nobody could outline
        "vessel": d < -max(0.9 * min(r, 25), 6),
        "central": (d > -0.5 * r) & (d < 0.15 * r),  # about half of it in the lung
    }[lesion.site]
    if lesion.site in ("hilum", "central"):
        z, y, x = grid.mesh()
        hilum = world.hila[rng.integers(2)]
        wanted = wanted & (
            (z - hilum[0]) ** 2 + (y - hilum[1]) ** 2 + (x - hilum[2]) ** 2
            < (reach_hilum + 0.8 * r) ** 2
        )
    wanted = wanted & world.in_view
    choices = np.flatnonzero(wanted.ravel())
    if not len(choices):
        choices = np.flatnonzero(((d < -0.5 * min(r, 20)) & world.in_view).ravel())
    if not len(choices):
        return None
    ends = world.vessels[world.vessels[:, 7] > 0.8] if lesion.site == "vessel" else ()
    for _ in range(20):  # where all is crowded the last try counts
        index = np.unravel_index(choices[rng.integers(len(choices))], d.shape)
        centre = np.array([o + s * i for o, s, i in zip(grid.origin_mm, grid.spacing_mm, index)])
        if len(ends):
            near = ends[np.argmin(((ends[:, 3:6] - centre) ** 2).sum(1)), 3:6]
            centre = near + rng.normal(0, 0.4 * min(r, 12), 3)
        if lesion.volume_ml >= SMALL_ML or _is_clear(centre, r + 1, world):
            break
    return centre


def _is_clear(centre: np.ndarray, reach_mm: float, world) -> bool:
    """Tell whether no bronchus and no large vessel comes within `reach_mm` of a point."""
    for segments, wide_mm in ((world.airways, WIDE_AIRWAY_MM), (world.vessels, WIDE_VESSEL_MM)):
        segments = segments[segments[:, 7] > wide_mm]
        start, way = segments[:, :3], segments[:, 3:6] - segments[:, :3]
        share = ((centre - start) * way).sum(1) / np.maximum((way**2).sum(1), 1e-6)
        nearest = start + np.clip(share, 0, 1)[:, None] * way
        if (np.linalg.norm(centre - nearest, axis=1) < segments[:, 7] + reach_mm).any():
            return False
    return True
