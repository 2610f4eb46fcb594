"""The lungs, and all that is in them but tumours, in painting order."""

from dataclasses import replace

import numpy as np

from lungseg_utils.phantom import atelectasis, infection, mimics
from lungseg_utils.phantom.anatomy import Anatomy
from lungseg_utils.phantom.fields import Box, Canvas, noise
from lungseg_utils.phantom.person import Person
from lungseg_utils.phantom.trees import Trees, bronchi, draw_hilar_branches, grow_vessels, rasterise

BRONCHOGRAM_MM = 0.75  # radius of the thinnest artery whose bronchus is seen in consolidated lung
AIRWAY_HU = np.float32(-975)
BRONCHIAL_WALL_HU = np.float32(30)


def paint_lungs(
    rng: np.random.Generator, canvas: Canvas, anatomy: Anatomy, mix: str
) -> tuple[Anatomy, Trees]:
    """Paint the lungs with their trees, fissures and opacities.

    Returns the trees, and the anatomy with what a pleural effusion leaves of the lungs.
    """
    whole = anatomy.lung
    box = canvas.extent(whole)
    lung = canvas.coverage(whole, box)
    _paint_parenchyma(rng, canvas, anatomy)
    arteries, veins = grow_vessels(rng, anatomy, canvas.edge_mm)
    if mix != "easy":
        more_arteries, more_veins = draw_hilar_branches(rng.spawn(1)[0], anatomy)
        arteries = np.concatenate([arteries, more_arteries])
        veins = np.concatenate([veins, more_veins])
    _paint_texture(rng, canvas, lung, box)
    _paint_fissures(rng, canvas, anatomy, lung, box)
    fluid = mimics.draw_effusion(rng, anatomy)
    if fluid is not None:
        canvas.paint(fluid, rng.uniform(-5, 25))
        right, left = (np.maximum(side, -fluid) for side in anatomy.lungs)
        anatomy = replace(anatomy, lungs=(right, left))
    consolidation = mimics.paint_opacities(rng, canvas, anatomy, easy=mix == "easy")
    mimics.paint_bulges(rng, canvas, anatomy, easy=mix == "easy")
    open_bronchi = [] if consolidation is None else [(*consolidation, 0.0)]
    if mix != "easy" and rng.random() < 0.25:
        infected = infection.paint_infection(rng.spawn(1)[0], canvas, anatomy)
        open_bronchi += [(*part, rng.uniform(0, 1)) for part in infected]
    if mix != "easy" and rng.random() < 0.3:
        scars = atelectasis.paint_scars(rng, canvas, anatomy)
        open_bronchi += [(*scar, rng.uniform(0, 1)) for scar in scars]
    trees = Trees(arteries, veins, bronchi(arteries, rng.uniform(1.7, 2.3)))
    _paint_trees(rng, canvas, trees, anatomy.person, canvas.coverage(whole - 6, box), box)
    for part, cover, wider_mm in open_bronchi:  # air bronchograms: the small bronchi stand out too
        air = rasterise(canvas, bronchi(arteries, BRONCHOGRAM_MM), wider_mm)[part] * cover
        canvas.blend(part, air, AIRWAY_HU)
    return anatomy, trees


def _paint_parenchyma(rng: np.random.Generator, canvas: Canvas, anatomy: Anatomy) -> None:
    """Paint aerated lung: dorsal gradient, emphysema, dependent density."""
    person = anatomy.person
    y, z, b = anatomy.frame.y, anatomy.frame.z, anatomy.frame.bumps
    tissue = person.lung_hu + person.dorsal_gradient_hu * y / 80
    tissue = tissue + 14 * b[3] + 10 * b[6] + 8 * b[7]
    if person.emphysema > 0:
        spread = noise(rng, canvas.coarse, 22) + 0.004 * z - 1.5 + 1.3 * person.emphysema
        tissue = tissue + np.clip(spread, 0, 1) * (-965 - tissue)
    if rng.random() < 0.5:  # tissue collapsed by its own weight along the back
        near_wall = np.clip((anatomy.chest_wall + rng.uniform(5, 16)) / 8, 0, 1)
        dorsal = np.clip((y - 35 + 10 * b[6]) / 25, 0, 1)
        tissue = tissue + near_wall * dorsal * rng.uniform(60, 380)
    canvas.paint(anatomy.lung, np.minimum(tissue, 30).astype(np.float32))


def _paint_texture(rng: np.random.Generator, canvas: Canvas, lung: np.ndarray, box: Box) -> None:
    """Add the fine grain of vessels and lobules too small to draw."""
    for wavelength_mm, depth_hu in ((5.0, rng.uniform(4, 14)), (10.0, rng.uniform(4, 12))):
        grain = noise(rng, canvas.fine, wavelength_mm, box)
        canvas.hu[box] += lung * np.float32(depth_hu) * grain


def _paint_fissures(
    rng: np.random.Generator, canvas: Canvas, anatomy: Anatomy, lung: np.ndarray, box: Box
) -> None:
    """Paint the oblique fissures of both lungs and the right one's horizontal fissure."""
    f = anatomy.frame
    thick_mm = rng.uniform(0.4, 1.1) * (2.2 if rng.random() < 0.1 else 1)
    share = np.float32(min(thick_mm / canvas.edge_mm, 1))
    right, left = ((f.z + rng.normal(12, 10) + 0.95 * f.y + 7 * f.bumps[3]) * 0.7 for _ in range(2))
    horizontal = (f.z + rng.normal(18, 8) - 0.12 * f.y + 7 * f.bumps[4]) * 0.97
    x = canvas.fine.mesh(box)[2]
    above_oblique = canvas.interpolate(right, box) > 0
    for surface, where in (
        (right, x < 0),
        (left, x > 0),
        (horizontal, (x < 0) & above_oblique),
    ):
        distance = np.abs(canvas.interpolate(surface, box))
        cover = np.clip(1 - distance / canvas.edge_mm, 0, 1) * share * lung * where
        canvas.hu[box] += cover * np.clip(0 - canvas.hu[box], 0, 800)


def _paint_trees(
    rng: np.random.Generator,
    canvas: Canvas,
    trees: Trees,
    person: Person,
    near_lung: np.ndarray,
    box: Box,
) -> None:
    """Paint veins, arteries and bronchi in and a little round the lungs."""
    for segments, hu in (
        (trees.veins, person.blood_hu["left_heart"]),
        (trees.arteries, person.blood_hu["right_heart"]),
    ):
        canvas.blend(box, rasterise(canvas, segments)[box] * near_lung, np.float32(hu))
    wall = rasterise(canvas, trees.airways, rng.uniform(0.5, 0.9))[box] * near_lung
    canvas.hu[box] += wall * np.maximum(BRONCHIAL_WALL_HU - canvas.hu[box], 0)
    canvas.blend(box, rasterise(canvas, trees.airways)[box] * near_lung, AIRWAY_HU)
