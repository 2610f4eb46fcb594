"""Lung without air that is no tumour and is never labelled: collapsed, shrunken or scarred."""

import numpy as np

from lungseg_utils.phantom.anatomy import Anatomy
from lungseg_utils.phantom.fields import Box, Canvas, coverage, noise
from lungseg_utils.phantom.mimics import Opacity, paint_opacity, rough_ellipsoid


def paint_collapse(
    rng: np.random.Generator,
    canvas: Canvas,
    anatomy: Anatomy,
    centre: np.ndarray,
    radius_mm: float,
) -> None:
    """Paint lung that has collapsed beyond a central tumour, on the side away from the midline."""
    away = np.array([rng.normal(0, 0.6), rng.normal(0.1, 0.4), np.sign(centre[2])])
    middle = centre + away / np.linalg.norm(away) * (0.8 * radius_mm + 12)
    rise = rng.uniform(500, 900)
    radii = rng.uniform(0.6, 1.1, 3) * radius_mm + 10
    collapsed = Opacity(radii, 0.3, rise, 90, most_hu=rng.uniform(10, 70))
    paint_opacity(rng, canvas, anatomy, middle, collapsed)


def paint_scars(
    rng: np.random.Generator, canvas: Canvas, anatomy: Anatomy
) -> list[tuple[Box, np.ndarray]]:
    """Paint apical caps, fibrosis with cysts and shrunken lobes: dense as tumours, seldom round.

    Returns box and coverage of each where bronchi stay open.
    """
    open_bronchi = []
    for _ in range(rng.integers(1, 3)):
        scar = rng.choice(["cap", "fibrosis", "lobe"])
        dense, grain = rng.uniform(5, 65), rng.uniform(3, 25)
        centre, radii, rough, edge_mm = _draw_scar(rng, anatomy, scar)
        if centre is None:
            continue
        box, distance = rough_ellipsoid(rng, canvas, centre, radii, rough)
        if distance is None:
            continue
        depth = canvas.interpolate(anatomy.lung, box)
        if scar == "cap":
            thick = rng.uniform(3, 9) * (1 + 0.4 * noise(rng, canvas.fine, 25, box))
            distance = np.maximum(distance, -depth - thick)
        cover = np.clip(0.5 - distance / np.float32(canvas.edge_mm + edge_mm), 0, 1)
        cover *= coverage(depth, canvas.edge_mm)
        if scar == "fibrosis":
            cysts = 2 * noise(rng, canvas.fine, rng.uniform(6, 14), box) - rng.uniform(1.5, 4)
            cover *= 1 - np.clip(cysts, 0, 1)
        hu = dense + grain * noise(rng, canvas.fine, 7, box)
        canvas.hu[box] += cover * np.maximum(hu - canvas.hu[box], 0)
        if scar != "cap":
            open_bronchi.append((box, cover))
    return open_bronchi


def _draw_scar(
    rng: np.random.Generator, anatomy: Anatomy, scar: str
) -> tuple[np.ndarray | None, np.ndarray, float, float]:
    """Draw centre (world mm, or None), radii (mm), roughness and the border's width (mm)."""
    lung = anatomy.lung
    if scar == "cap":  # on the pleura, most often in the apex
        high = anatomy.frame.z > (45 if rng.random() < 0.6 else -400)
        pleura = (lung > -4) & (lung < 0) & (anatomy.chest_wall > -7)
        return anatomy.draw_point(rng, pleura & high), rng.uniform(12, 40, 3), 0.3, 1.0
    if scar == "fibrosis":
        centre = anatomy.draw_point(rng, (lung > -22) & (lung < -2))
        return centre, rng.uniform(7, 26, 3), 0.6, rng.uniform(0.5, 4)
    side = rng.integers(2)  # a lobe: a band or wedge from the hilum outwards
    radii, edge_mm = rng.uniform((28, 20, 18), (60, 45, 40)), rng.uniform(0.5, 3)
    radii[rng.choice(3, p=[0.2, 0.5, 0.3])] = rng.uniform(5, 14)
    outwards = np.array([rng.uniform(-0.8, 0.6), rng.uniform(-0.6, 0.9), (-0.7, 0.7)[side]])
    return anatomy.hila[side] + outwards * radii, radii, 0.25, edge_mm
