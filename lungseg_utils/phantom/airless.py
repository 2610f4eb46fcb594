"""Lung without air that is no tumour: collapsed beyond one, shrunken, scarred (never labelled)."""

from __future__ import annotations

import numpy as np

from lungseg_utils.phantom.distractors import blob, haze, pick
from lungseg_utils.phantom.fields import Canvas, coverage, noise


def paint_collapse(
    rng: np.random.Generator, canvas: Canvas, world, centre: np.ndarray, radius_mm: float
) -> None:
    """Paint lung that has collapsed or filled up beyond a central tumour, on the side away from the midline."""
    away = np.array([rng.normal(0, 0.6), rng.normal(0.1, 0.4), np.sign(centre[2])])
    middle = centre + away / np.linalg.norm(away) * (0.8 * radius_mm + 12)
    rise = rng.uniform(500, 900)
    haze(
        rng,
        canvas,
        world,
        middle,
        rng.uniform(0.6, 1.1, 3) * radius_mm + 10,
        0.3,
        rise,
        90,
        most=rng.uniform(10, 70),
    )


def paint_scars(rng: np.random.Generator, canvas: Canvas, world) -> list[tuple[tuple, np.ndarray]]:
    """Paint what lung has become that is airless for good: thickened pleura, fibrosis with cysts, a shrunken lobe.

    Returns box and coverage of each where bronchi stay open. Such scars are as dense as a tumour, but seldom round.
    """
    open_bronchi = []
    d = np.minimum(*world.lungs)
    for _ in range(rng.integers(1, 3)):
        kind = rng.choice(["cap", "fibrosis", "lobe"])
        dense, grain = rng.uniform(5, 65), rng.uniform(3, 25)
        centre, radii, rough, edge = _draw_scar(rng, kind, world, d)
        if centre is None:
            continue
        box, distance = blob(rng, canvas, centre, radii, rough)
        if distance is None:
            continue
        depth = world.sample(d, box)
        if kind == "cap":
            thick = rng.uniform(3, 9) * (1 + 0.4 * noise(rng, canvas.fine, 25, box))
            distance = np.maximum(distance, -depth - thick)
        cover = np.clip(0.5 - distance / np.float32(canvas.edge_mm + edge), 0, 1) * coverage(
            depth, canvas.edge_mm
        )
        if kind == "fibrosis":
            cysts = np.clip(
                2 * noise(rng, canvas.fine, rng.uniform(6, 14), box) - rng.uniform(1.5, 4), 0, 1
            )
            cover *= 1 - cysts
        target = canvas.hu[box]
        target += cover * np.maximum(dense + grain * noise(rng, canvas.fine, 7, box) - target, 0)
        if kind != "cap":
            open_bronchi.append((box, cover))
    return open_bronchi


def _draw_scar(rng, kind: str, world, d: np.ndarray) -> tuple:
    """Draw a scar's centre (world mm, or None), radii (mm), roughness and the width of its border beyond a voxel."""
    if kind == "cap":  # on the pleura, most often in the apex
        high = world.frame.z > (45 if rng.random() < 0.6 else -400)
        centre = pick(rng, world, (d > -4) & (d < 0) & (world.shell > -7) & high)
        return centre, rng.uniform(12, 40, 3), 0.3, 1.0
    if kind == "fibrosis":
        centre = pick(rng, world, (d > -22) & (d < -2))
        return centre, rng.uniform(7, 26, 3), 0.6, rng.uniform(0.5, 4)
    side = rng.integers(2)  # a lobe: a band or wedge from the hilum outwards
    radii, edge = rng.uniform((28, 20, 18), (60, 45, 40)), rng.uniform(0.5, 3)
    radii[rng.choice(3, p=[0.2, 0.5, 0.3])] = rng.uniform(5, 14)
    outwards = np.array([rng.uniform(-0.8, 0.6), rng.uniform(-0.6, 0.9), (-0.7, 0.7)[side]])
    return world.hila[side] + outwards * radii, radii, 0.25, edge
