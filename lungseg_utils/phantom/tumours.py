"""Lung tumours: of what size, site, texture and margin they are, and where in a chest they lie."""

from dataclasses import dataclass

import numpy as np

from lungseg_utils.phantom.anatomy import Anatomy
from lungseg_utils.phantom.trees import Trees

# Task06_Lung (Antonelli et al. 2022): 0.74 to 370 mL, quartiles 2.7, 5.2, 17.6: about log-normal.
MEDIAN_ML = 5.2
LOG_SD = 1.39
RANGE_ML = (0.74, 370.0)
SMALL_ML = 1.767  # a ball of 15 mm

# Shares by mix: "task06" as in Task06_Lung, "easy" what voxels of 3 mm show, "broad" to train on.
COUNT_SHARES = {  # of 1, 2, … lesions in a scan
    "task06": (0.72, 0.2, 0.08),
    "easy": (0.72, 0.2, 0.08),
    "broad": (0.25, 0.35, 0.25, 0.15),
}
SITES = ("lung", "pleura", "vessel", "hilum", "wall", "mediastinum", "central")
SITE_SHARES = {  # small, large; "central": half in the mediastinum, among tissue of its own HU
    "task06": ([0.4, 0.22, 0.13, 0.12, 0.06, 0.07, 0], [0.22, 0.12, 0.08, 0.26, 0.12, 0.2, 0]),
    "easy": ([0.7, 0.3, 0, 0, 0, 0, 0], [0.7, 0.3, 0, 0, 0, 0, 0]),
    "broad": ([0.33, 0.2, 0.12, 0.13, 0.05, 0.06, 0.11], [0.17, 0.1, 0.06, 0.16, 0.09, 0.12, 0.3]),
}
# Elsewhere a lesion below SMALL_ML looks like a lymph node or a branching vessel.
SITE_OF_SMALL = {"wall": "pleura", "mediastinum": "lung", "hilum": "lung", "central": "lung"}
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
    "easy": ([0.68, 0.12, 0.1, 0.04, 0.06, 0, 0], [0.55, 0.05, 0.02, 0.26, 0.12, 0, 0]),
    "broad": ([0.5, 0.15, 0.13, 0.04, 0.07, 0.06, 0.05], [0.53, 0.08, 0.05, 0.2, 0.1, 0.04, 0]),
}
FAINT = ("part-solid", "ground-glass", "thin-walled")  # hardly seen in voxels of 3 mm
MARGINS = ("round", "lobulated", "spiculated")

# Radii: a small lesion across such a bronchus or vessel looks like a branching.
WIDE_AIRWAY_MM = 1.2
WIDE_VESSEL_MM = 2.5
TRIES = 20


@dataclass(frozen=True)
class Lesion:
    """The facts of one tumour: what was asked for, and its place (world mm: z, y, x)."""

    site: str
    texture: str
    margin: str
    volume_ml: float
    centre_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def radius_mm(self) -> float:
        """The radius of the ball of the same volume."""
        return float((self.volume_ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3))

    @property
    def is_subsolid(self) -> bool:
        """Whether ground glass is all or a part of it."""
        return self.texture in ("ground-glass", "part-solid")


def draw_lesion(rng: np.random.Generator, mix: str = "task06", *, first: bool = True) -> Lesion:
    """Draw size, site, texture and margin by the mix.

    As in Task06 the `first` lesion of a scan is a tumour; half of the others are small nodules.
    """
    volume_ml = _draw_volume_ml(rng, mix, first)
    large = volume_ml > (8 if mix == "broad" else 12)
    site = str(rng.choice(SITES, p=SITE_SHARES[mix][int(large)]))
    texture = str(rng.choice(TEXTURES, p=TEXTURE_SHARES[mix][int(large)]))
    if volume_ml < SMALL_ML:
        site = SITE_OF_SMALL.get(site, site)
    if site == "central" and texture in FAINT:  # faint among soft tissue nobody could outline it
        texture = "cavitated"
    elif mix == "easy" and texture in FAINT:
        texture = "solid"
    return Lesion(site, texture, str(rng.choice(MARGINS, p=[0.3, 0.4, 0.3])), volume_ml)


def _draw_volume_ml(rng: np.random.Generator, mix: str, first: bool) -> float:
    if mix == "broad":  # every size as often as any other, from a nodule of 6 mm on
        diameter_mm = np.exp(rng.uniform(np.log(6), np.log(75)))
    elif mix == "task06" and not first and rng.random() < 0.5:  # a nodule
        diameter_mm = rng.uniform(6, 12)
    else:
        median_ml, range_ml = (2.5 * MEDIAN_ML, (6, 60)) if mix == "easy" else (MEDIAN_ML, RANGE_ML)
        return float(np.clip(median_ml * np.exp(LOG_SD * rng.standard_normal()), *range_ml))
    return float(np.pi / 6 * diameter_mm**3 / 1000)


def place_lesion(
    rng: np.random.Generator,
    lesion: Lesion,
    anatomy: Anatomy,
    trees: Trees,
    mix: str = "task06",
) -> np.ndarray | None:
    """Return a centre (world mm) for the lesion's site, or None when the lungs have no such place.

    By the mix "broad" a pleural tumour may also lie on the diaphragm, where thick voxels hardly
    tell it from the abdomen.
    """
    wanted = _possible_centres(rng, lesion, anatomy, mix)
    if not (wanted & anatomy.in_view).any():
        wanted = anatomy.lung < -0.5 * min(lesion.radius_mm, 20)
    branchings = trees.vessels[trees.vessels[:, 7] > 0.8, 3:6]
    centre = None
    for _ in range(TRIES):  # where all is crowded the last try counts
        centre = anatomy.draw_point(rng, wanted)
        if centre is None:
            break
        if lesion.site == "vessel" and len(branchings):
            nearest = branchings[np.argmin(((branchings - centre) ** 2).sum(1))]
            centre = nearest + rng.normal(0, 0.4 * min(lesion.radius_mm, 12), 3)
        if lesion.volume_ml >= SMALL_ML or _is_clear(centre, lesion.radius_mm + 1, trees):
            break
    return centre


def _possible_centres(
    rng: np.random.Generator, lesion: Lesion, anatomy: Anatomy, mix: str
) -> np.ndarray:
    """Mark the coarse voxels in which a lesion of this site and size may have its centre."""
    r = lesion.radius_mm
    lung = anatomy.lung
    wall = anatomy.chest_wall
    above = anatomy.above_diaphragm
    reach_mm = rng.uniform(8, 30) + 0.8 * r  # round a hilum
    on_pleura = wall > -1.2 * r - 6
    if mix == "broad":
        on_pleura = on_pleura | (above < 1.2 * r + 6)
    near_wall = wall > lung - 8  # the nearest surface is the chest wall, not the mediastinum
    wanted = {
        "lung": lung < -max(min(1.15 * r, 30), 6),
        "pleura": (np.abs(lung + 0.75 * r) < 3) & on_pleura,
        "wall": (np.abs(lung + 0.3 * r) < 3) & (wall > -r - 8),
        "mediastinum": (np.abs(lung + 0.35 * r) < 3) & ~near_wall & (above > r),
        # most of it in the lung: what lies wholly in the mediastinum nobody could outline
        "hilum": lung < -0.25 * r,
        "vessel": lung < -max(0.9 * min(r, 25), 6),
        "central": (lung > -0.5 * r) & (lung < 0.15 * r),  # about half of it in the lung
    }[lesion.site]
    if lesion.site in ("hilum", "central"):
        z, y, x = anatomy.frame.grid.mesh()
        hilum = anatomy.hila[rng.integers(2)]
        distance2 = (z - hilum[0]) ** 2 + (y - hilum[1]) ** 2 + (x - hilum[2]) ** 2
        wanted = wanted & (distance2 < reach_mm**2)
    return wanted


def _is_clear(centre: np.ndarray, reach_mm: float, trees: Trees) -> bool:
    """Check that no bronchus and no large vessel comes within `reach_mm` of a point."""
    for segments, wide_mm in ((trees.airways, WIDE_AIRWAY_MM), (trees.vessels, WIDE_VESSEL_MM)):
        segments = segments[segments[:, 7] > wide_mm]
        start = segments[:, :3]
        way = segments[:, 3:6] - start
        share = ((centre - start) * way).sum(1) / np.maximum((way**2).sum(1), 1e-6)
        nearest = start + np.clip(share, 0, 1)[:, None] * way
        if (np.linalg.norm(centre - nearest, axis=1) < segments[:, 7] + reach_mm).any():
            return False
    return True
