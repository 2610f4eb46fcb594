"""What looks like a tumour but is none, and is never labelled: nodes, opacities, pleural bulges."""

from dataclasses import dataclass

import numpy as np

from lungseg_utils.phantom.anatomy import Anatomy
from lungseg_utils.phantom.fields import Box, Canvas, coverage, noise

FADING_MM = 10.0  # infection fades into the lung over this much, where a tumour ends


@dataclass(frozen=True)
class Opacity:
    """A rough ellipsoid in which the lung is denser, by `rise_hu` and at most up to `most_hu`.

    `edge_mm` is how far it fades into the lung, `patchy` how far it varies from lobule to lobule.
    """

    radii_mm: np.ndarray
    rough: float
    rise_hu: float
    grain_hu: float
    most_hu: float = 10.0
    edge_mm: float = 3.0
    patchy: float = 0.0


@dataclass(frozen=True)
class Bulge:
    """What rises from the pleura by `height_mm`, and falls to nothing in `slope_mm` at its rim."""

    base_mm: np.ndarray
    height_mm: float
    slope_mm: float
    hu: float


def rough_ellipsoid(
    rng: np.random.Generator, canvas: Canvas, centre: np.ndarray, radii: np.ndarray, rough: float
) -> tuple[Box, np.ndarray | None]:
    """Return the box of an ellipsoid (world mm) and the signed distance there; None outside."""
    reach = radii * 1.6 + 3
    box = canvas.fine.box(centre - reach, centre + reach)
    if min(side.stop - side.start for side in box) < 2:
        return box, None
    z, y, x = (
        (axis - np.float32(middle)) / np.float32(radius)
        for axis, middle, radius in zip(canvas.fine.mesh(box), centre, radii)
    )
    smallest = min(radii)
    distance = (np.sqrt(z * z + y * y + x * x) - 1) * np.float32(smallest)
    lumps = noise(rng, canvas.fine, max(0.8 * smallest, 3), box)
    return box, distance + np.float32(rough * smallest) * lumps


def paint_opacity(
    rng: np.random.Generator,
    canvas: Canvas,
    anatomy: Anatomy,
    centre: np.ndarray | None,
    opacity: Opacity,
) -> tuple[Box, np.ndarray] | None:
    """Paint an opacity round `centre` (world mm), if there is one; return its box and coverage."""
    if centre is None:
        return None
    box, distance = rough_ellipsoid(rng, canvas, centre, opacity.radii_mm, opacity.rough)
    if distance is None:
        return None
    lung = canvas.coverage(anatomy.lung, box)
    cover = np.clip(0.5 - distance / (canvas.edge_mm + opacity.edge_mm), 0, 1) * lung
    if opacity.patchy:
        lobules = 0.5 + noise(rng, canvas.fine, 10, box)
        cover *= np.clip(1 - opacity.patchy * lobules, 0, 1)
    rise = opacity.rise_hu + opacity.grain_hu * noise(rng, canvas.fine, 9, box)
    rise = np.minimum(rise, opacity.most_hu - canvas.hu[box])
    canvas.hu[box] += cover * np.clip(rise, 0, None)
    return box, cover


def paint_opacities(
    rng: np.random.Generator, canvas: Canvas, anatomy: Anatomy, *, easy: bool
) -> tuple[Box, np.ndarray] | None:
    """Paint granulomas, scars, atelectatic bands, consolidation and ground glass.

    Returns the box and the coverage of the consolidation, or None: its bronchi still hold air.
    """
    near_wall = (anatomy.lung < -1) & (anatomy.lung > -9) & (anatomy.chest_wall > -16)
    deep = anatomy.lung < -5
    often = 0.2 if easy else 1.0
    fading_mm = 3.0 if easy else FADING_MM
    for _ in range(rng.poisson(1.2 * often)):  # calcified granulomas
        centre = anatomy.draw_point(rng, deep | near_wall)
        if centre is not None:
            radii = np.full(3, rng.uniform(1.0, 2.8))
            rise, most = rng.uniform(900, 1700), rng.uniform(250, 900)
            paint_opacity(rng, canvas, anatomy, centre, Opacity(radii, 0.1, rise, 0, most, 0.3))
    for _ in range(rng.poisson(1.5 * often)):  # scars and atelectatic bands
        radii = rng.uniform(8, 28, 3)
        radii[rng.integers(3)] = rng.uniform(0.8, 2.5)
        centre = anatomy.draw_point(rng, near_wall)
        band = Opacity(radii, 0.3, rng.uniform(200, 700), 80, edge_mm=1)
        paint_opacity(rng, canvas, anatomy, centre, band)
    if rng.random() < (0.05 if easy else 0.12):  # multifocal ground glass, as in viral pneumonia
        for _ in range(rng.integers(3, 14)):
            centre = anatomy.draw_point(rng, near_wall if rng.random() < 0.75 else deep)
            radii, rise = rng.uniform(8, 34, 3), rng.uniform(100, 420)
            glass = Opacity(radii, 0.3, rise, 90, most_hu=-300.0, edge_mm=fading_mm)
            paint_opacity(rng, canvas, anatomy, centre, glass)
    if rng.random() >= (0.04 if easy else 0.15):
        return None
    centre = anatomy.draw_point(rng, anatomy.lung < -2)
    radii, rise, patchy = rng.uniform(14, 48, 3), rng.uniform(600, 950), rng.uniform(0.1, 0.4)
    consolidation = Opacity(radii, 0.35, rise, 160, 45.0, 3 + fading_mm, patchy)
    return paint_opacity(rng, canvas, anatomy, centre, consolidation)


def paint_bulges(rng: np.random.Generator, canvas: Canvas, anatomy: Anatomy, *, easy: bool) -> None:
    """Paint what bulges into the lungs: pleural plaques, osteophytes, spurs of the first ribs.

    All rise from the pleura far less than they are wide, as no tumour does. An `easy` patient has
    no spurs.
    """
    f = anatomy.frame
    on_wall = (np.abs(anatomy.lung) < 2.5) & (anatomy.chest_wall > -7)
    if rng.random() < (0.04 if easy else 0.2):  # plaques, partly calcified
        for _ in range(rng.integers(1, 6)):
            hu = rng.choice([60.0, 250.0, 500.0])
            centre = anatomy.draw_point(rng, on_wall)
            plaque = Bulge(rng.uniform(6, 24, 3), rng.uniform(1.5, 4), 2.0, hu)
            paint_bulge(rng, canvas, anatomy, centre, plaque)
    if easy:
        return
    beside_spine = on_wall & (f.y > 25) & (np.abs(f.x) < 50)
    behind_sternum = on_wall & (f.y < -20) & (f.z > 0) & (np.abs(f.x) < 60)
    for place, many in ((beside_spine, 1.5), (behind_sternum, 0.8)):
        for _ in range(rng.poisson(many)):
            base = rng.uniform(7, 16, 3)
            height = rng.uniform(0.3, 0.6) * base.min()
            centre = anatomy.draw_point(rng, place)
            spur = Bulge(base, height, base.min(), rng.uniform(20, 350))
            paint_bulge(rng, canvas, anatomy, centre, spur)


def paint_bulge(
    rng: np.random.Generator,
    canvas: Canvas,
    anatomy: Anatomy,
    centre: np.ndarray | None,
    bulge: Bulge,
) -> None:
    """Thicken the pleura round a point on it (world mm), if there is one."""
    if centre is None:
        return
    box, distance = rough_ellipsoid(rng, canvas, centre, bulge.base_mm, 0.2)
    if distance is None:
        return
    depth = canvas.interpolate(anatomy.lung, box)
    fall = 1 - np.clip(-distance / np.float32(bulge.slope_mm), 0, 1)
    height = np.float32(bulge.height_mm) * (1 - fall * fall)
    cover = coverage(-depth - height, canvas.edge_mm) * (fall < 1)
    cover *= coverage(depth - 2, canvas.edge_mm)  # it lies on the wall, not in it
    canvas.hu[box] += cover * np.maximum(np.float32(bulge.hu) - canvas.hu[box], 0)


def draw_effusion(rng: np.random.Generator, anatomy: Anatomy) -> np.ndarray | None:
    """Return the region of a pleural effusion, lowest in a lung of a supine patient, or None."""
    if rng.random() > 0.12:
        return None
    f = anatomy.frame
    lung = anatomy.lungs[rng.integers(2)]
    level = np.float32(rng.uniform(38, 85))
    return np.maximum(lung, level - f.y - 0.12 * np.minimum(-f.z, 100) + 3 * f.bumps[6])


def paint_nodes(rng: np.random.Generator, canvas: Canvas, anatomy: Anatomy) -> None:
    """Paint lymph nodes round trachea, hila and aortic arch (some calcified)."""
    f = anatomy.frame
    for _ in range(rng.integers(4, 16)):
        centre = (rng.uniform(-50, 80), rng.uniform(-30, 30), rng.uniform(-45, 45))
        radii = rng.uniform(2.5, 7.5, 3) * (1.6 if rng.random() < 0.12 else 1)
        node = np.maximum(f.ellipsoid(centre, radii, 0.15, 7), -anatomy.spared)
        hu = anatomy.person.tissue_hu["lymph_node"]
        canvas.paint(node, 400.0 if rng.random() < 0.06 else hu + rng.uniform(-10, 15))
