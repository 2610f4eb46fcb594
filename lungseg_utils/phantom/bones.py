"""Ribs, sternum, scapulae, spine, clavicles and humeri, drawn in coordinates of the chest wall.

In the coordinates (depth in the chest wall, height minus the ribs' descent, way round from the
back) all ribs are parallel bars, so one formula draws them all; the spine is periodic in height.
Both are evaluated at full resolution.
"""

import numpy as np

from lungseg_utils.phantom.anatomy import Anatomy, Frame
from lungseg_utils.phantom.anatomy.frame import on_side
from lungseg_utils.phantom.anatomy.thorax import behind_spine, wall_coordinates
from lungseg_utils.phantom.fields import Box, Canvas, coverage, intersection, slabs, union

RIB_PITCH_MM = 23.0  # height between ribs
RIB_TOP_MM = 92.0  # height of the first one at the spine
VERTEBRA_MM = 22.5
RIB_ENDS = np.array(  # where each rib turns into cartilage, on the way round from the back (0 to 1)
    [0.93, 0.9, 0.88, 0.86, 0.84, 0.82, 0.8, 0.76, 0.72, 0.68, 0.5, 0.34], np.float32
)
# The left side's bones in body coordinates (z, y, x).
CLAVICLE = [(62, -34, 24), (72, -38, 60), (88, -8, 110), (98, 10, 142)]
HUMERUS_UP = [(84, 12, 152), (300, -40, 150)]
HUMERUS_DOWN = [(84, 14, 158), (-330, 10, 205)]


def _lay(canvas: Canvas, part: Box, near: np.ndarray, distance_mm: np.ndarray, hu: float) -> None:
    """Paint a shape that was evaluated in the voxels of `part` chosen by `near` alone."""
    target = canvas.hu[part]
    old = target[near]
    target[near] = old + coverage(distance_mm, canvas.edge_mm) * (hu - old)


def paint_ribs(rng: np.random.Generator, canvas: Canvas, anatomy: Anatomy) -> None:
    """Paint ribs with cortex, marrow and cartilage, the sternum and the scapulae."""
    f = anatomy.frame
    cortex, marrow = anatomy.person.tissue_hu["cortex"], anatomy.person.tissue_hu["marrow"]
    u, v = wall_coordinates(f)
    round_ = np.arctan2(u, v) / np.float32(np.pi)
    slope = rng.uniform(62, 92)
    height = f.z + np.float32(slope) * round_
    height = height - np.float32(1.9 * slope) * np.maximum(round_ - 0.8, 0) + 1.5 * f.bumps[7]
    half_mm = rng.uniform(5.2, 6.8), rng.uniform(3.2, 4.3)  # half a rib's height and thickness
    cartilage_hu = rng.uniform(70, 160)
    scapula_mm = rng.uniform(20, 30)
    band = np.maximum(np.abs(anatomy.chest_wall - 18) - 30, f.z - 112)
    for part in slabs(canvas.extent(band, 4)):
        depth, high, way, x, z, flesh = (
            canvas.interpolate(field, part)
            for field in (anatomy.chest_wall, height, round_, f.x, f.z, anatomy.muscle)
        )
        near = np.abs(depth - 6) < 6 + canvas.edge_mm
        bone, cartilage = _ribs(depth[near], high[near], way[near], *half_mm)
        _lay(canvas, part, near, cartilage, cartilage_hu)
        _lay(canvas, part, near, bone, cortex)
        _lay(canvas, part, near, bone + 1.3, marrow * 0.8)
        near = (np.abs(depth - 10) < 9 + canvas.edge_mm) & (way > 0.8) & (np.abs(x) < 34)
        if near.any():
            sternum = _sternum(depth[near], np.abs(x[near]), z[near])
            _lay(canvas, part, near, sternum, cortex * 0.7)
            _lay(canvas, part, near, sternum + 1.4, marrow * 0.75)
        depth = depth - scapula_mm
        near = (np.abs(depth - 8) < 26) & (way > 0.1) & (way < 0.52) & (flesh < -2)
        if near.any():
            scapula = _scapula(depth[near], way[near], z[near])
            _lay(canvas, part, near, np.maximum(scapula, flesh[near] + 4), cortex * 0.75)


def _ribs(
    depth: np.ndarray, height: np.ndarray, way: np.ndarray, tall_mm: float, thick_mm: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distances to the ribs and to the cartilage that prolongs them."""
    number = (height - np.float32(RIB_TOP_MM)) / np.float32(-RIB_PITCH_MM)
    nearest = np.clip(np.rint(number), 0, 11).astype(np.int8)
    off_axis = (number - nearest) * (RIB_PITCH_MM / tall_mm)
    bar = (np.sqrt(off_axis**2 + ((depth - 6) / thick_mm) ** 2) - 1) * thick_mm
    bar = np.maximum(bar, (0.055 - way) * 200)
    ends = (way - RIB_ENDS[nearest]) * 200
    floating = np.where(nearest > 9, 9.0, 0.0)  # without cartilage
    return np.maximum(bar, ends), intersection(bar + 0.5, -ends, floating)


def _sternum(depth: np.ndarray, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return the distance to the sternum, wider at its upper end."""
    half_width = 15 + 11 * np.clip((z - 22) / 14, 0, 1)
    return intersection(np.abs(depth - 9) - 5.5, x - half_width, z - 58, -112 - z)


def _scapula(depth: np.ndarray, way: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return the distance to the plate of the scapulae, with a thick rim, and to their spine."""
    medial, lateral = 0.18 + (z - 10) * 0.0004 - way, way - 0.40 - z * 0.0006
    outline = intersection(z - 84, -72 - z, np.maximum(medial, lateral) * 180)
    rim = np.clip(1 + outline / 14, 0, 1)
    plate = np.maximum(np.abs(depth) - 1.9 - 2.6 * rim, outline)
    across = np.maximum(np.abs(z - 30 - 80 * (way - 0.2)) - 3, np.abs(depth - 9) - 10)
    ridge = np.maximum(across, np.maximum(0.2 - way, way - 0.46) * 180)
    return np.minimum(plate, ridge)


def paint_spine(rng: np.random.Generator, canvas: Canvas, anatomy: Anatomy) -> None:
    """Paint vertebral bodies, discs, canal with cord, arches, spinous and transverse processes."""
    f = anatomy.frame
    hu = anatomy.person.tissue_hu
    behind = behind_spine(f)
    region = intersection(np.abs(f.x) - 40, np.abs(behind - 22) - 46, f.z - 240)
    size = rng.uniform(0.92, 1.1)
    shift = rng.random()
    for part in slabs(canvas.extent(region, 4)):
        x, y, z = (canvas.interpolate(field, part) for field in (f.x, behind, f.z))
        near = (np.abs(x) < 42) & (np.abs(y - 22) < 48)
        column, body, rear, canal = _vertebrae(np.abs(x[near]), y[near], z[near], size, shift)
        for distance, value in (
            (column, hu["disc"]),
            (body, hu["cortex"] * 0.6),
            (body + 1.3, hu["marrow"]),
            (rear, hu["cortex"] * 0.75),
            (rear + 1.8, hu["marrow"] * 1.1),
            (canal, 5.0),
            (canal + 4, hu["cord"]),
        ):
            _lay(canvas, part, near, distance, value)


def _vertebrae(
    x: np.ndarray, y: np.ndarray, z: np.ndarray, size: float, shift: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the distances to the column, the vertebral bodies, what is behind them, the canal."""
    neck = np.clip((z - 60) / 80, 0, 1) * 0.28
    radius = (16.5 + np.clip(-z / 200, 0, 1) * 3) * size * (1 - neck)
    phase = z / VERTEBRA_MM + shift
    up = (phase - np.rint(phase)) * VERTEBRA_MM  # height above this vertebra's middle
    ratio = np.sqrt((x / 1.2) ** 2 + y**2)
    waist = radius - 1.6 + np.abs(up) * 0.16
    canal = np.sqrt(x**2 + (y - radius - 8) ** 2) - 8.5 * (1 - neck)
    arch = np.maximum(np.abs(canal - 2.2) - 2.4, np.abs(up + 2) - 8.5)
    back = y - radius - 17
    spinous = intersection(x - 3.2, np.abs(back - 12) - 17, np.abs(up + 2 + 0.45 * back) - 5.5)
    outwards = np.abs(y - radius - 9 - 0.22 * x) - 4.5
    transverse = intersection(outwards, np.abs(x - 19) - 12, np.abs(up - 3) - 5)
    rear = np.maximum(union(arch, spinous, transverse), -canal)
    return ratio - radius, np.maximum(ratio - waist, np.abs(up) - 8.8), rear, canal


def paint_shoulders(canvas: Canvas, frame: Frame) -> None:
    """Paint clavicles and humeri as cortex round marrow."""
    hu = frame.person.tissue_hu
    shaft = HUMERUS_UP if frame.person.arms_up else HUMERUS_DOWN
    for side in (-1, 1):
        clavicle = frame.tube(on_side(CLAVICLE, side), [8, 6, 5.5, 6.5])
        head = frame.ellipsoid((82, 14, 150 * side), (24, 23, 23), 0.04)
        humerus = union(head, frame.tube(on_side(shaft, side), [13, 11]))
        for bone, cortex_mm in ((clavicle, 1.8), (humerus, 2.6)):
            canvas.paint(bone, hu["cortex"])
            canvas.paint(bone + cortex_mm, hu["marrow"])
