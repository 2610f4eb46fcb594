"""How a lung tumour is painted, and the label that a reader would draw round it."""

from dataclasses import dataclass

import numpy as np

from lungseg_utils.components import label_components
from lungseg_utils.phantom.anatomy import Anatomy
from lungseg_utils.phantom.anatomy.thorax import spine
from lungseg_utils.phantom.fields import (
    Box,
    Canvas,
    coverage,
    intersection,
    noise,
    round_cone,
    smooth_union,
)
from lungseg_utils.phantom.person import Person
from lungseg_utils.phantom.trees import Trees, rasterise
from lungseg_utils.phantom.tumours import Lesion

# The label ends a little beyond where a reader sees the tumour end, which is where it is denser
# than lung by less than this. Tuned so that border HU come near those of LIDC-IDRI's outlines.
OUTLINE_MM = 0.3
SEEN_HU = (100, 260)
WALL_MM = 2.5  # a tumour's cavity has a wall all round
LARGE_TUBE_MM = 1.2  # radius of the vessels and bronchi that may run on through a tumour
SPREAD_SHARE = 0.4  # of the central tumours: they spread along the tubes that they close round
LUMPS = {"round": 0.06, "lobulated": 0.24, "spiculated": 0.13}  # in radii


@dataclass(frozen=True)
class Shape:
    """A lesion's signed distances (mm) in a box of the fine grid."""

    box: Box
    body: np.ndarray  # what a reader outlines
    whole: np.ndarray  # with spicules, which no reader follows


def draw_shape(rng: np.random.Generator, canvas: Canvas, lesion: Lesion) -> Shape | None:
    """Draw the shape of a lesion round its centre; None where that lies outside the scan."""
    r = lesion.radius_mm
    reach = 1.9 * r + 8
    centre = np.array(lesion.centre_mm)
    box = canvas.fine.box(centre - reach, centre + reach)
    if min(side.stop - side.start for side in box) < 2:
        return None
    mesh = [axis - np.float32(c) for axis, c in zip(canvas.fine.mesh(box), centre)]
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0].astype(np.float32)
    axes = np.exp(rng.normal(0, 0.16, 3))
    axes = (axes / np.prod(axes) ** (1 / 3)).astype(np.float32)
    z, y, x = (
        (row[0] * mesh[0] + row[1] * mesh[1] + row[2] * mesh[2]) / axis
        for row, axis in zip(turn, axes)
    )
    body = np.sqrt(z**2 + y**2 + x**2) - np.float32(r)
    large, small = LUMPS[lesion.margin] * r, min(0.07 * r, 1.2)
    body += np.float32(large) * noise(rng, canvas.fine, max(1.1 * r, 6), box)
    body += np.float32(small) * noise(rng, canvas.fine, max(0.4 * r, 3.0), box)
    whole = body
    if lesion.margin == "spiculated":
        for _ in range(rng.integers(6, 22)):
            whole = np.minimum(whole, _spicule(rng, mesh, r))
    return Shape(box, body, whole)


def _spicule(rng: np.random.Generator, mesh: list[np.ndarray], r: float) -> np.ndarray:
    """Return the distance to a thread that runs outwards from the centre and tapers."""
    way = rng.standard_normal(3)
    way /= np.linalg.norm(way)
    z, y, x = mesh
    start = 0.7 * r
    length = 0.3 * r + (rng.uniform(0.25, 0.8) * min(r, 14) + 3)
    t = np.clip((z * way[0] + y * way[1] + x * way[2] - start) / length, 0, 1).astype(np.float32)
    along = start + t * length
    off_axis = np.sqrt(
        (z - along * way[0]) ** 2 + (y - along * way[1]) ** 2 + (x - along * way[2]) ** 2
    ).astype(np.float32)
    return off_axis - np.float32(rng.uniform(0.5, 1.3) + 0.03 * r) * (1.15 - t)


def paint_lesion(
    rng: np.random.Generator,
    canvas: Canvas,
    lesion: Lesion,
    anatomy: Anatomy,
    trees: Trees,
) -> tuple[Box, np.ndarray] | None:
    """Paint a lesion at its centre.

    Returns its box and its coverage there (the label before thresholding); None outside the scan.
    """
    shape = draw_shape(rng, canvas, lesion)
    if shape is None:
        return None
    if lesion.site == "central" and rng.random() < SPREAD_SHARE:
        shape = _spread(rng, canvas, lesion, shape, trees)
    r, box = lesion.radius_mm, shape.box
    room = coverage(_room(rng, canvas, lesion, anatomy, box), canvas.edge_mm)
    soft_mm = rng.uniform(0.6, 4.2)
    rise_hu = rng.uniform(350, 620) if lesion.is_subsolid else 850.0  # at the border
    seen_mm = OUTLINE_MM + (0.5 - rng.uniform(*SEEN_HU) / rise_hu) * soft_mm
    cover = np.clip(0.5 - shape.whole / (canvas.edge_mm + soft_mm), 0, 1) * room
    outline = np.clip(0.5 - (shape.body - np.float32(seen_mm)) / canvas.edge_mm, 0, 1) * room
    grain = noise(rng, canvas.fine, max(0.5 * r, 4), box)
    solid = _solid_hu(rng, lesion, anatomy.person, grain)
    if lesion.is_subsolid:
        glass = rise_hu + rng.uniform(20, 90) * grain
        canvas.hu[box] += cover * np.minimum(glass, np.maximum(20 - canvas.hu[box], 0))
    if lesion.texture == "part-solid":
        depth = rng.uniform(0.2, 0.65) * r + rng.uniform(0.1, 0.35) * r * grain
        core = cover * np.clip(0.5 - (shape.whole + depth) / canvas.edge_mm, 0, 1)
        canvas.blend(box, core, solid)
    elif lesion.texture != "ground-glass":
        canvas.blend(box, cover, solid)
        _paint_inside(rng, canvas, lesion, shape, cover, grain)
    if lesion.site == "central":
        _spare_tubes(rng, canvas, anatomy.person, trees, box, cover)
    return box, _largest_part(outline)


def _spread(
    rng: np.random.Generator, canvas: Canvas, lesion: Lesion, shape: Shape, trees: Trees
) -> Shape:
    """Return the shape of a tumour that also grows as a sleeve round the large tubes near it."""
    r = lesion.radius_mm
    centre = np.array(lesion.centre_mm)
    mesh = canvas.fine.mesh(shape.box)
    sleeve_mm = rng.uniform(0.15, 0.4) * r
    tubes = np.concatenate([trees.vessels, trees.airways])
    middle = (tubes[:, :3] + tubes[:, 3:6]) / 2
    near = np.linalg.norm(middle - centre, axis=1) < 1.5 * r
    body = shape.body
    for tube in tubes[near & (tubes[:, 7] > LARGE_TUBE_MM)]:
        sleeve = round_cone(mesh, tube[:3], tube[3:6], tube[6:] + sleeve_mm)
        body = smooth_union(body, sleeve, 0.2 * r)
    ball = np.sqrt(sum((axis - place) ** 2 for axis, place in zip(mesh, centre.astype(np.float32))))
    body = intersection(body, ball - np.float32(1.5 * r))
    return Shape(shape.box, body, np.minimum(body, shape.whole))


def _room(
    rng: np.random.Generator, canvas: Canvas, lesion: Lesion, anatomy: Anatomy, box: Box
) -> np.ndarray:
    """Return the signed distance to where the lesion may grow: lung, and for some sites beyond."""
    lung = canvas.interpolate(anatomy.lung, box)
    if lesion.site in ("lung", "pleura", "vessel"):
        return lung
    # it grows past the pleura, but not into heart, great vessels and spine
    share = (0.375, 1.5) if lesion.site == "central" else (0.15, 0.6)
    beyond_mm = rng.uniform(*share) * lesion.radius_mm
    if lesion.site in ("hilum", "central"):
        beyond_mm += 2
    spared = [anatomy.spared, anatomy.above_diaphragm]
    if lesion.site == "central":
        spared.append(spine(anatomy.frame))
    return intersection(lung - beyond_mm, *(-canvas.interpolate(part, box) for part in spared))


def _largest_part(outline: np.ndarray) -> np.ndarray:
    """Drop from a label's coverage the pieces that pleura or heart cut off: a tumour is one."""
    numbers = label_components(outline > 0.5)
    sizes = np.bincount(numbers.ravel())
    if len(sizes) < 3:
        return outline
    largest = 1 + sizes[1:].argmax()
    return np.where((numbers > 0) & (numbers != largest), 0, outline)


def _solid_hu(
    rng: np.random.Generator, lesion: Lesion, person: Person, grain: np.ndarray
) -> np.ndarray:
    """Draw the HU of the lesion's solid part, which contrast agent brightens."""
    enhanced = 0.25 * max(person.blood_hu["aorta"] - 40, 0) * rng.uniform(0, 1)
    solid = rng.uniform(5, 55) + min(enhanced, 60) + rng.uniform(3, 22) * grain
    if lesion.site == "central" and rng.random() < 0.6:
        # as bright as the nodes and tissue that it grows among
        solid = person.tissue_hu["lymph_node"] + rng.normal(0, 8) + rng.uniform(0, 12) * grain
    return solid


def _paint_inside(
    rng: np.random.Generator,
    canvas: Canvas,
    lesion: Lesion,
    shape: Shape,
    cover: np.ndarray,
    grain: np.ndarray,
) -> None:
    """Paint necrosis, calcification or a cavity into a solid lesion."""
    r, box = lesion.radius_mm, shape.box
    wall_mm = rng.uniform(2, 4) if lesion.texture == "thin-walled" else rng.uniform(0.2, 0.5) * r
    uneven_mm = rng.uniform(0.2, 0.5) * r if lesion.site == "central" else 0.2 * r
    depth = shape.whole + np.maximum(wall_mm + uneven_mm * grain, WALL_MM)
    inner = np.clip(0.5 - depth / (canvas.edge_mm + 2), 0, 1) * cover
    if lesion.texture == "necrotic":
        canvas.blend(box, inner, rng.uniform(0, 25))
    elif lesion.texture == "calcified":
        canvas.blend(box, cover, rng.uniform(100, 900) + 60 * grain)
    elif lesion.texture in ("cavitated", "thin-walled"):
        # fluid below, air above, for a patient on the back
        level = np.float32(rng.uniform(-0.3, 1.2) * r)
        is_air = canvas.fine.mesh(box)[1] - np.float32(lesion.centre_mm[1]) < level
        air_hu = np.float32(rng.uniform(-980, -850))
        canvas.blend(box, inner, np.where(is_air, air_hu, np.float32(10)))
    elif rng.random() < 0.15:  # specks of calcium
        specks = np.clip(noise(rng, canvas.fine, 4, box) - rng.uniform(0, 2), 0, 1)
        canvas.hu[box] += specks * cover * rng.uniform(150, 500)


def _spare_tubes(
    rng: np.random.Generator,
    canvas: Canvas,
    person: Person,
    trees: Trees,
    box: Box,
    cover: np.ndarray,
) -> None:
    """Let large vessels and bronchi run on through a tumour, or close them."""
    part = Canvas(canvas.fine.crop(box), canvas.coarse, 0.0)
    for segments, hu in ((trees.vessels, person.blood_hu["right_heart"]), (trees.airways, -975.0)):
        if rng.random() < 0.5:
            tubes = rasterise(part, segments[segments[:, 7] > LARGE_TUBE_MM])
            canvas.blend(box, tubes * cover, np.float32(hu))
