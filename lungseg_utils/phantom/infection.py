"""Infection, old and new, that is never labelled: tuberculosis, pneumonia, bronchiolitis, abscess.

Sizes as in the Fleischner Society's glossary (Bankier et al., Radiology 2024): buds of a
tree-in-bud pattern are 2 to 4 mm wide and some millimetres apart; a cavity's wall may be 1 mm thin
or more than 1 cm thick. Most of post-primary tuberculosis lies in the apex and towards the back.
"""

import numpy as np

from lungseg_utils.phantom.anatomy import Anatomy
from lungseg_utils.phantom.fields import Box, Canvas, coverage, noise
from lungseg_utils.phantom.mimics import Opacity, paint_opacity, rough_ellipsoid
from lungseg_utils.phantom.trees import grow, rasterise

Part = tuple[Box, np.ndarray]  # a box and the coverage of what was painted there
KINDS = {
    "tuberculosis": 0.3,
    "scar": 0.25,
    "bronchiolitis": 0.2,
    "pneumonia": 0.18,
    "abscess": 0.07,
}


def paint_infection(rng: np.random.Generator, canvas: Canvas, anatomy: Anatomy) -> list[Part]:
    """Paint one kind of infection; return the parts in which bronchi stay open."""
    kind = rng.choice(list(KINDS), p=list(KINDS.values()))
    paint = {
        "tuberculosis": _paint_tuberculosis,
        "scar": _paint_apical_scar,
        "bronchiolitis": _paint_bronchiolitis,
        "pneumonia": _paint_pneumonia,
        "abscess": _paint_abscess,
    }[str(kind)]
    return [part for part in paint(rng, canvas, anatomy) if part is not None]


def _high(rng: np.random.Generator, anatomy: Anatomy) -> np.ndarray | None:
    """Draw a point (world mm) in an apex, or where the lower lobes are highest, at the back."""
    f = anatomy.frame
    apex = (f.z > 30) & (f.y > -25)
    superior_segment = (f.z > -30) & (f.z < 25) & (f.y > 20)
    place = apex if rng.random() < 0.8 else superior_segment
    return anatomy.draw_point(rng, (anatomy.lung < -4) & place)


def _paint_tuberculosis(
    rng: np.random.Generator, canvas: Canvas, anatomy: Anatomy
) -> list[Part | None]:
    """Paint patchy consolidation with cavities, and the buds it has spread to."""
    parts: list[Part | None] = []
    for _ in range(rng.integers(1, 4)):
        centre = _high(rng, anatomy)
        if centre is None:
            return parts
        radii, patchy = rng.uniform(6, 26, 3), rng.uniform(0.1, 0.6)
        rise, most = rng.uniform(550, 950), rng.uniform(0, 60)
        patch = Opacity(radii, 0.5, rise, 120, most, rng.uniform(3, 10), patchy)
        parts.append(paint_opacity(rng, canvas, anatomy, centre, patch))
        for _ in range(rng.integers(0, 3)):
            spread = rng.normal(0, 0.5 * radii.mean(), 3)
            _paint_cavity(rng, canvas, anatomy, centre + spread, rng.uniform(5, 17))
        for _ in range(rng.integers(1, 5)):
            _paint_buds(rng, canvas, anatomy, centre + rng.normal(0, 22, 3))
    return parts


def _paint_apical_scar(
    rng: np.random.Generator, canvas: Canvas, anatomy: Anatomy
) -> list[Part | None]:
    """Paint an apical cap and the strands that draw the hilum up to it, some of them calcified."""
    f = anatomy.frame
    near_wall = (anatomy.lung < -1) & (anatomy.lung > -8) & (anatomy.chest_wall > -12)
    apex = anatomy.draw_point(rng, near_wall & (f.z > 55))
    if apex is None:
        return []
    cap = Opacity(rng.uniform(10, 30, 3), 0.4, 850, 60, rng.uniform(10, 60), 1.0)
    parts = [paint_opacity(rng, canvas, anatomy, apex, cap)]
    hilum = anatomy.hila[int(apex[2] > anatomy.hila[:, 2].mean())]
    for _ in range(rng.integers(1, 4)):
        start = apex + rng.normal(0, 8, 3)
        for share in np.arange(0, rng.uniform(0.5, 1), 0.09):
            centre = start + share * (hilum - start) + rng.normal(0, 2.5, 3)
            radii = rng.uniform(2, 7, 3) * (1.3 - 0.5 * share) + np.array([3, 0, 0])
            strand = Opacity(radii, 0.5, rng.uniform(500, 900), 80, rng.uniform(0, 60), 1.5)
            parts.append(paint_opacity(rng, canvas, anatomy, centre, strand))
    for _ in range(rng.integers(0, 6)):
        radii = rng.uniform(0.8, 3, 3)
        calcified = Opacity(radii, 0.2, 1700, 0, rng.uniform(200, 900), 0.3)
        paint_opacity(rng, canvas, anatomy, apex + rng.normal(0, 12, 3), calcified)
    return parts


def _paint_bronchiolitis(
    rng: np.random.Generator, canvas: Canvas, anatomy: Anatomy
) -> list[Part | None]:
    """Paint tree-in-bud patterns here and there, and in some patients patches round them."""
    is_patchy = rng.random() < 0.4
    for _ in range(rng.integers(2, 9)):
        centre = anatomy.draw_point(rng, (anatomy.lung < -4) & (anatomy.lung > -30))
        if centre is None:
            continue
        _paint_buds(rng, canvas, anatomy, centre)
        if is_patchy and rng.random() < 0.5:
            patch = Opacity(rng.uniform(5, 16, 3), 0.5, rng.uniform(200, 800), 120, 20, 6, 0.5)
            paint_opacity(rng, canvas, anatomy, centre, patch)
    return []


def _paint_pneumonia(
    rng: np.random.Generator, canvas: Canvas, anatomy: Anatomy
) -> list[Part | None]:
    """Paint consolidation of a large part of a lobe, most often low and at the back."""
    f = anatomy.frame
    where = (f.y > 0) & (f.z < 0) if rng.random() < 0.65 else anatomy.lung < 0
    centre = anatomy.draw_point(rng, (anatomy.lung < -5) & where)
    patchy, edge_mm = rng.uniform(0, 0.3), rng.uniform(5, 14)
    radii, most = rng.uniform(22, 65, 3), rng.uniform(15, 75)
    whole = Opacity(radii, 0.3, rng.uniform(750, 1000), 60, most, edge_mm, patchy)
    parts = [paint_opacity(rng, canvas, anatomy, centre, whole)]
    if centre is not None:
        halo = Opacity(radii + 14, 0.3, rng.uniform(80, 300), 90, -300, 12, 0.3)
        paint_opacity(rng, canvas, anatomy, centre, halo)
    return parts


def _paint_abscess(rng: np.random.Generator, canvas: Canvas, anatomy: Anatomy) -> list[Part | None]:
    """Paint a cavity with a level of fluid in consolidated lung."""
    centre = anatomy.draw_point(rng, (anatomy.lung < -8) & (anatomy.frame.y > -10))
    if centre is None:
        return []
    radius = rng.uniform(10, 26)
    round_it = Opacity(radius + rng.uniform(6, 20, 3), 0.35, 900, 80, 40, 8, 0.2)
    parts = [paint_opacity(rng, canvas, anatomy, centre, round_it)]
    _paint_cavity(rng, canvas, anatomy, centre, radius, fluid=True)
    return parts


def _paint_cavity(
    rng: np.random.Generator,
    canvas: Canvas,
    anatomy: Anatomy,
    centre: np.ndarray,
    radius_mm: float,
    *,
    fluid: bool = False,
) -> None:
    """Paint a cavity with a thin wall, and fluid in it or none."""
    radii = radius_mm * rng.uniform(0.75, 1.25, 3)
    box, distance = rough_ellipsoid(rng, canvas, centre, radii, 0.2)
    if distance is None:
        return
    lung = canvas.coverage(anatomy.lung + 1, box)
    wall_mm = rng.uniform(1.2, 4.5)
    canvas.blend(box, coverage(distance, canvas.edge_mm) * lung, rng.uniform(5, 55))
    inside = coverage(distance + np.float32(wall_mm), canvas.edge_mm) * lung
    air_hu = np.float32(rng.uniform(-990, -880))
    below = centre[1] + (rng.uniform(-0.3, 0.7) * radius_mm if fluid else 99.0)
    is_air = canvas.fine.mesh(box)[1] < below
    canvas.blend(box, inside, np.where(is_air, air_hu, np.float32(15)))


def _paint_buds(
    rng: np.random.Generator, canvas: Canvas, anatomy: Anatomy, centre: np.ndarray
) -> None:
    """Paint one tree-in-bud pattern: small branching lines that end in buds."""
    reach = rng.uniform(6, 18)
    box = canvas.fine.box(centre - reach - 4, centre + reach + 4)
    if min(side.stop - side.start for side in box) < 2:
        return
    buds = centre + rng.uniform(-0.8, 0.8, (int(rng.integers(8, 36)), 3)) * reach
    twigs = grow(rng, centre, buds, tip_mm=0.5, stem_mm=1.1)
    radius = rng.uniform(0.9, 2.0, (len(buds), 1))
    way = rng.normal(0, 1, buds.shape)
    way *= 4 / 3 * radius / np.linalg.norm(way, axis=1, keepdims=True)  # as large as a ball
    ends = np.concatenate([buds, buds + way, radius, radius], axis=1)
    part = Canvas(canvas.fine.crop(box), canvas.coarse, 0.0)
    cover = rasterise(part, np.concatenate([twigs, ends])) * canvas.coverage(anatomy.lung + 2, box)
    hu = rng.uniform(-350, 40) + 30 * noise(rng, canvas.fine, 8, box)
    canvas.hu[box] += cover * np.maximum(hu - canvas.hu[box], 0)
