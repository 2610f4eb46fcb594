"""The painting of a lung tumour, and the label that a reader would draw round it."""

from __future__ import annotations

import numpy as np

from lungseg_utils.phantom.anatomy import spine
from lungseg_utils.phantom.fields import Canvas, coverage, noise
from lungseg_utils.phantom.lesions import Lesion
from lungseg_utils.phantom.trees import rasterise

# The label ends a little beyond where a reader sees the tumour end, which is where it is denser than lung by less than
# this. Tuned so that border HU come near those of LIDC-IDRI's outlines.
OUTLINE_MM, SEEN_HU = 0.3, (100, 260)
WALL_MM = 2.5  # a tumour's cavity has a wall all round


def shape(rng: np.random.Generator, canvas: Canvas, lesion: Lesion, centre: np.ndarray):
    """Give the lesion's box on the fine grid and two signed distances there (mm, negative inside): body, with spicules.

    No reader follows the spicules, so the label is the body's.
    """
    r = lesion.radius_mm
    reach = 1.9 * r + 8
    box = canvas.fine.box(centre - reach, centre + reach)
    if any(s.stop - s.start < 2 for s in box):
        return box, None, None
    z, y, x = (axis - np.float32(c) for axis, c in zip(canvas.fine.mesh(box), centre))
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0].astype(np.float32)
    axes = np.exp(rng.normal(0, 0.16, 3))
    axes = (axes / np.prod(axes) ** (1 / 3)).astype(np.float32)
    total = 0
    for row, axis in zip(turn, axes):
        total = total + ((row[0] * z + row[1] * y + row[2] * x) / axis) ** 2
    body = np.sqrt(total) - np.float32(r)
    lumps = {"round": 0.06, "lobulated": 0.24, "spiculated": 0.13}[lesion.outline]
    body += np.float32(lumps * r) * noise(rng, canvas.fine, max(1.1 * r, 6), box)
    body += np.float32(min(0.07 * r, 1.2)) * noise(rng, canvas.fine, max(0.4 * r, 3.0), box)
    distance = body
    if lesion.outline == "spiculated":
        for _ in range(rng.integers(6, 22)):
            way = rng.standard_normal(3)
            way /= np.linalg.norm(way)
            start, length = 0.7 * r, rng.uniform(0.25, 0.8) * min(r, 14) + 3
            t = np.clip(
                (z * way[0] + y * way[1] + x * way[2] - start) / (0.3 * r + length), 0, 1
            ).astype(np.float32)
            along = start + t * (0.3 * r + length)
            off = np.sqrt(
                (z - along * way[0]) ** 2 + (y - along * way[1]) ** 2 + (x - along * way[2]) ** 2
            ).astype(np.float32)
            distance = np.minimum(
                distance, off - np.float32(rng.uniform(0.5, 1.3) + 0.03 * r) * (1.15 - t)
            )
    return box, body, distance


def _largest_part(outline: np.ndarray) -> np.ndarray:
    """Drop from a label's coverage the pieces that pleura or heart have cut off: a tumour is one."""
    import cc3d

    parts = cc3d.connected_components(outline > 0.5, connectivity=26)
    sizes = np.bincount(parts.ravel())
    if len(sizes) < 3:
        return outline
    sizes[0] = 0
    return np.where((parts > 0) & (parts != sizes.argmax()), 0, outline)


def paint(
    rng: np.random.Generator, canvas: Canvas, lesion: Lesion, centre: np.ndarray, world
) -> tuple[tuple, np.ndarray] | None:
    """Paint one lesion. Returns its box and its coverage there (the label before thresholding), or None."""
    box, body, distance = shape(rng, canvas, lesion, centre)
    if distance is None:
        return None
    r = lesion.radius_mm
    lung = coverage(world.sample(np.minimum(*world.lungs), box), canvas.edge_mm)
    if lesion.site in ("wall", "mediastinum", "hilum", "central"):
        # it grows past the pleura, but not into heart and great vessels
        share = (0.375, 1.5) if lesion.site == "central" else (0.15, 0.6)
        deep = rng.uniform(*share) * r + (2 if lesion.site in ("hilum", "central") else 0)
        allowed = np.maximum(
            np.maximum(
                world.sample(np.minimum(*world.lungs), box) - deep, -world.sample(world.spared, box)
            ),
            -world.sample(world.dome, box),
        )
        if lesion.site == "central":
            allowed = np.maximum(allowed, -world.sample(spine(world.frame), box))
        may = coverage(allowed, canvas.edge_mm)
    else:
        may = lung
    soft = rng.uniform(0.6, 4.2)
    haze_hu = (
        rng.uniform(350, 620) if lesion.texture in ("ground-glass", "part-solid") else 850.0
    )  # rise at the border
    seen = OUTLINE_MM + (0.5 - rng.uniform(*SEEN_HU) / haze_hu) * soft
    cover = np.clip(0.5 - distance / (canvas.edge_mm + soft), 0, 1) * may
    outline = _largest_part(np.clip(0.5 - (body - np.float32(seen)) / canvas.edge_mm, 0, 1) * may)
    grain = noise(rng, canvas.fine, max(0.5 * r, 4), box)
    target = canvas.hu[box]
    enhanced = 0.25 * max(world.person.blood["aorta"] - 40, 0) * rng.uniform(0, 1)
    solid = rng.uniform(5, 55) + min(enhanced, 60) + rng.uniform(3, 22) * grain
    if (
        lesion.site == "central" and rng.random() < 0.6
    ):  # as bright as the nodes and tissue that it grows among
        solid = world.person.organs["node"] + rng.normal(0, 8) + rng.uniform(0, 12) * grain
    if lesion.texture in ("ground-glass", "part-solid"):
        haze = haze_hu + rng.uniform(20, 90) * grain
        target += cover * np.minimum(haze, np.maximum(20 - target, 0))
        if lesion.texture == "ground-glass":
            return box, outline
        depth = rng.uniform(0.2, 0.65) * r + rng.uniform(0.1, 0.35) * r * grain
        core = cover * np.clip(0.5 - (distance + depth) / canvas.edge_mm, 0, 1)
        target += core * (solid - target)
        return box, outline
    target += cover * (solid - target)
    wall = rng.uniform(2, 4) if lesion.texture == "thin-walled" else rng.uniform(0.2, 0.5) * r
    inner = np.clip(
        0.5 - (distance + np.maximum(wall + 0.2 * r * grain, WALL_MM)) / (canvas.edge_mm + 2), 0, 1
    )
    if lesion.texture == "necrotic":
        target += inner * cover * (rng.uniform(0, 25) - target)
    elif lesion.texture == "calcified":
        target += cover * (rng.uniform(100, 900) + 60 * grain - target)
    elif lesion.texture in ("cavitated", "thin-walled"):
        level = np.float32(
            rng.uniform(-0.3, 1.2) * r
        )  # fluid below, air above, for a patient on the back
        air = np.broadcast_to(canvas.fine.mesh(box)[1] - np.float32(centre[1]) < level, cover.shape)
        target += (
            inner
            * cover
            * (np.where(air, np.float32(rng.uniform(-980, -850)), np.float32(10)) - target)
        )
    elif rng.random() < 0.15:  # specks of calcium
        target += (
            np.clip(noise(rng, canvas.fine, 4, box) - rng.uniform(0, 2), 0, 1)
            * cover
            * rng.uniform(150, 500)
        )
    if lesion.site == "central":
        _spare_tubes(rng, canvas, world, box, cover)
    return box, outline


def _spare_tubes(rng: np.random.Generator, canvas: Canvas, world, box, cover: np.ndarray) -> None:
    """Let large vessels and bronchi run on through a tumour, or close them."""
    small, target = Canvas(canvas.fine.cut(box), canvas.coarse, 0.0), canvas.hu[box]
    for segments, hu in ((world.vessels, world.person.blood["right"]), (world.airways, -975.0)):
        if rng.random() < 0.5:
            tubes = rasterise(small, segments[segments[:, 7] > 1.2]) * cover
            target += tubes * (np.float32(hu) - target)
