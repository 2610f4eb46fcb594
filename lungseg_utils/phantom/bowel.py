"""Bowel and stomach that are full of gas, stool or contrast medium, right under the diaphragm.

The colon is 3 to 9 cm wide, its transverse part and cecum most (Horton et al., RadioGraphics 2000);
small bowel up to 3 cm. A colon between liver and diaphragm (Chilaiditi's sign) is rare.
"""

import numpy as np

from lungseg_utils.phantom.anatomy import Anatomy
from lungseg_utils.phantom.anatomy.thorax import spine
from lungseg_utils.phantom.fields import Canvas, noise, smooth_intersection, union

GAS_HU = -960.0
WALL_MM = 2.5
HAUSTRA_MM = 14.0  # from one narrow part of the colon to the next wide one


def paint_bowel(rng: np.random.Generator, canvas: Canvas, anatomy: Anatomy) -> None:
    """Paint colon, small bowel and in some patients a stomach full of gas; nothing is labelled."""
    grain = noise(rng, canvas.coarse, 13)
    if rng.random() < 0.7:
        path, radius_mm = _draw_colon(rng, anatomy)
        _paint_loop(rng, canvas, anatomy, _haustrated(anatomy, path, radius_mm), grain)
    if rng.random() < 0.3:  # a stomach that reaches the diaphragm
        left = anatomy.frame.person.dome_mm[1]
        centre = (left - rng.uniform(30, 48), rng.uniform(-45, 5), rng.uniform(45, 80))
        stomach = anatomy.frame.ellipsoid(centre, rng.uniform(30, 48, 3), 0.12)
        _paint_loop(rng, canvas, anatomy, stomach, grain)
    low = min(anatomy.frame.person.dome_mm)
    for _ in range(rng.integers(0, 8)):
        centre = (low - rng.uniform(110, 260), rng.uniform(-75, 0), rng.uniform(-80, 90))
        loop = anatomy.frame.ellipsoid(centre, rng.uniform(9, 26, 3), 0.2, 7)
        _paint_loop(rng, canvas, anatomy, loop, grain)


def _draw_colon(
    rng: np.random.Generator, anatomy: Anatomy
) -> tuple[list[tuple[float, float, float]], float]:
    """Draw the colon's path from flexure to flexure (body z, y, x) and its radius (mm)."""
    right, left = anatomy.frame.person.dome_mm
    under = rng.uniform(5, 30) if rng.random() < 0.06 else rng.uniform(120, 170)
    flexure_mm = rng.uniform(6, 70)  # the left one often lies right under the diaphragm
    path = [
        (right - under - 60, rng.uniform(-20, 20), -88.0),
        (right - under, rng.uniform(-60, -20), -72 + rng.normal(0, 10)),
        (right - rng.uniform(110, 190), -72.0, -20.0),
        (left - rng.uniform(60, 150), -70.0, 35.0),
        (left - flexure_mm - 18, rng.uniform(-50, -10), 72 + rng.normal(0, 8)),
        (left - flexure_mm - 45, rng.uniform(0, 30), 98.0),
        (left - 190, 30.0, 98.0),
    ]
    return path, rng.uniform(15, 30)


def _haustrated(
    anatomy: Anatomy, path: list[tuple[float, float, float]], radius_mm: float
) -> np.ndarray:
    """Return the distance to a tube that is wide and narrow in turn."""
    corners = np.array(path)
    way = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(corners, axis=0), axis=1))])
    steps = np.arange(0, way[-1], HAUSTRA_MM)
    points = np.stack([np.interp(steps, way, corners[:, axis]) for axis in range(3)], 1)
    radii = radius_mm * np.where(np.arange(len(steps)) % 2, 1.0, 0.72)
    return anatomy.frame.tube(points, radii)


def _paint_loop(
    rng: np.random.Generator,
    canvas: Canvas,
    anatomy: Anatomy,
    loop: np.ndarray,
    grain: np.ndarray,
) -> None:
    """Paint the wall, the contents, and the gas in front of them in a patient on the back."""
    f = anatomy.frame
    room = smooth_intersection(anatomy.above_diaphragm + 2.5, anatomy.chest_wall + 3, 4)
    organs = anatomy.organs
    spared = union(organs["aorta"], organs["inferior_vena_cava"], spine(f)) - 3
    loop = np.maximum(smooth_intersection(loop, room, 4), -spared)
    inside = loop < 0
    if not inside.any():
        return
    canvas.paint(loop, anatomy.person.tissue_hu["hollow_organ"])
    kind = rng.choice(["stool", "fluid", "contrast"], p=[0.5, 0.35, 0.15])
    middle = {"stool": rng.uniform(-120, 60), "fluid": rng.uniform(0, 35)}
    spread = {"stool": rng.uniform(60, 260), "fluid": 5.0, "contrast": 30.0}
    hu = middle.get(kind, rng.uniform(120, 450)) + spread[kind] * grain
    canvas.paint(loop + WALL_MM, np.clip(hu, -900, 600).astype(np.float32))
    if rng.random() < 0.75:
        level = np.median(f.y[inside]) + np.float32(rng.uniform(-20, 40))
        canvas.paint(np.maximum(loop + WALL_MM, f.y - level), GAS_HU)
