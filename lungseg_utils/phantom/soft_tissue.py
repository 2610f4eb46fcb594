"""Soft tissue of trunk, abdomen and mediastinum, painted from the skin inwards."""

import numpy as np

from lungseg_utils.phantom.anatomy import Anatomy
from lungseg_utils.phantom.anatomy.abdomen import abdomen
from lungseg_utils.phantom.fields import Canvas, intersection

# In painting order: the shape in `anatomy.organs`; its HU in `person.tissue_hu` or `blood_hu`.
CHAMBERS = {  # also the thickness of the wall in mm
    "right_ventricle": ("right_heart", 2),
    "right_atrium": ("right_heart", 1),
    "left_atrium": ("left_heart", 1),
    "left_ventricle": ("left_heart", 10),
}
PAINT_ORDER = {
    "oesophagus": "hollow_organ",
    "thyroid": "thyroid",
    "azygos_vein": "azygos_vein",
    "inferior_vena_cava": "inferior_vena_cava",
    "brachiocephalic_veins": "superior_vena_cava",
    "pulmonary_veins": "left_heart",
    "superior_vena_cava": "superior_vena_cava",
    "pulmonary_arteries": "right_heart",
    "arch_branches": "aorta",
    "aorta": "aorta",
}
WALLED = ("arch_branches", "aorta")  # arteries with a wall that may be calcified


def paint_soft_tissue(rng: np.random.Generator, canvas: Canvas, anatomy: Anatomy) -> None:
    """Paint trunk, abdomen and mediastinum, outside in."""
    f = anatomy.frame
    hu = anatomy.person.tissue_hu
    wall = anatomy.chest_wall
    _paint_trunk(rng, canvas, anatomy)
    canvas.paint(wall, hu["mediastinal_fat"] + 8 * f.bumps[6])
    canvas.paint(anatomy.organs["hilar_tissue"], hu["lymph_node"] + 8 * f.bumps[7])
    canvas.paint(np.maximum(anatomy.above_diaphragm - 1, wall), hu["muscle"])
    for distance, value in abdomen(rng, f, wall, anatomy.above_diaphragm):
        canvas.paint(distance, value)
    _paint_mediastinum(rng, canvas, anatomy)


def _paint_trunk(rng: np.random.Generator, canvas: Canvas, anatomy: Anatomy) -> None:
    """Paint skin, subcutaneous fat, muscles with fat between them, and sometimes clothes."""
    b = anatomy.frame.bumps
    hu = anatomy.person.tissue_hu
    skin = anatomy.skin
    canvas.paint(skin, rng.uniform(-20, 50))
    canvas.paint(skin + rng.uniform(1.5, 3), hu["fat"])
    canvas.paint(anatomy.muscle, hu["muscle"] + 6 * b[7])
    planes = np.abs(b[6] + 0.6 * b[7] - 0.3 * b[3]) * 11 - rng.uniform(0.5, 2.5)
    canvas.paint(intersection(planes, anatomy.muscle + 3, 9 - anatomy.chest_wall), hu["fat"])
    if rng.random() < 0.4:  # clothes or a blanket
        cloth = np.abs(skin - 9 - 5 * b[7] - 3 * b[3]) - 0.5
        canvas.paint(np.maximum(cloth, 2 - skin), rng.uniform(-900, -600))


def _paint_mediastinum(rng: np.random.Generator, canvas: Canvas, anatomy: Anatomy) -> None:
    """Paint heart, vessels, oesophagus, thyroid and airway."""
    b = anatomy.frame.bumps
    organs = anatomy.organs
    hu = {**anatomy.person.tissue_hu, **anatomy.person.blood_hu}
    canvas.paint(organs["heart"] - 2, hu["myocardium"] + 4 * b[7])
    for name, (blood, wall_mm) in CHAMBERS.items():
        canvas.paint(organs[name] + wall_mm, hu[blood] + 4 * b[7])
    arterial_wall: float | np.ndarray = 45.0
    if anatomy.person.calcified:
        arterial_wall = np.where(b[7] > 1.1, 500.0, 45.0).astype(np.float32)
    for name, content in PAINT_ORDER.items():
        if name in WALLED:
            canvas.paint(organs[name] - 1.3, arterial_wall)
        canvas.paint(organs[name], hu[content])
    canvas.paint(organs["trachea"] - rng.uniform(1.2, 2.2), hu["hollow_organ"])
    canvas.paint(organs["trachea"], -990.0)
    if rng.random() < 0.5:  # gas in the oesophagus
        canvas.paint(np.maximum(organs["oesophagus"] + 5, b[5] * 8), -700.0)
