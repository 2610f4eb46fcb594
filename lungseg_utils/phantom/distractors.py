"""Lung tissue, its diseases, and what looks like a tumour but is none (never labelled)."""

from __future__ import annotations

import numpy as np

from lungseg_utils.phantom.fields import Canvas, coverage, noise, resample

FADING_MM = 10.0  # infection fades into the lung over this much, where a tumour ends


def paint_lungs(rng: np.random.Generator, canvas: Canvas, world) -> None:
    """Paint aerated lung: dorsal gradient, mottle, emphysema, dependent density."""
    p, frame = world.person, world.frame
    b = frame.bumps
    tissue = p.lung_hu + p.dorsal_gradient_hu * frame.y / 80 + 14 * b[3] + 10 * b[6] + 8 * b[7]
    if p.emphysema > 0:
        holes = np.clip(
            noise(rng, canvas.coarse, 22) + 0.004 * frame.z - 1.5 + 1.3 * p.emphysema, 0, 1
        )
        tissue = tissue + holes * (-965 - tissue)
    union = np.minimum(*world.lungs)
    if rng.random() < 0.5:  # tissue collapsed by its own weight along the back
        band = np.clip((world.shell + rng.uniform(5, 16)) / 8, 0, 1) * np.clip(
            (frame.y - 35 + 10 * b[6]) / 25, 0, 1
        )
        tissue = tissue + band * rng.uniform(60, 380)
    canvas.paint(union, np.minimum(tissue, 30).astype(np.float32))


def paint_mottle(rng: np.random.Generator, canvas: Canvas, lung: np.ndarray, box) -> None:
    """Add the fine grain of vessels and lobules too small to draw."""
    for wavelength, depth in ((5.0, rng.uniform(4, 14)), (10.0, rng.uniform(4, 12))):
        canvas.hu[box] += lung * np.float32(depth) * noise(rng, canvas.fine, wavelength, box)


def paint_fissures(rng: np.random.Generator, canvas: Canvas, world, box, lung: np.ndarray) -> None:
    """Paint the oblique fissures of both lungs and the right one's horizontal fissure."""
    f = world.frame
    thick = rng.uniform(0.4, 1.1) * (2.2 if rng.random() < 0.1 else 1)
    surfaces = []
    for index in (0, 1):
        surfaces.append(
            (index, (f.z + rng.normal(12, 10) + 0.95 * f.y + 7 * f.bumps[3]) * 0.7, None)
        )
    surfaces.append(
        (0, (f.z + rng.normal(18, 8) - 0.12 * f.y + 7 * f.bumps[4]) * 0.97, surfaces[0][1])
    )
    for index, surface, stop in surfaces:
        distance = np.abs(resample(surface, canvas.coarse, canvas.fine, box))
        cover = (
            np.clip(1 - distance / canvas.edge_mm, 0, 1)
            * np.float32(min(thick / canvas.edge_mm, 1))
            * lung
        )
        side = canvas.fine.axis(2, box[2])[None, None, :]
        cover *= (side < 0) if index == 0 else (side > 0)
        if stop is not None:
            cover *= resample(stop, canvas.coarse, canvas.fine, box) > 0
        canvas.hu[box] += cover * np.clip(0 - canvas.hu[box], 0, 800)


def blob(rng, canvas, centre, radii, rough):
    """Give the box and signed distance of a rough ellipsoid in world mm."""
    reach = np.asarray(radii) * 1.6 + 3
    box = canvas.fine.box(centre - reach, centre + reach)
    if any(s.stop - s.start < 2 for s in box):
        return box, None
    z, y, x = (
        (a - np.float32(c)) / np.float32(r) for a, c, r in zip(canvas.fine.mesh(box), centre, radii)
    )
    distance = (np.sqrt(z * z + y * y + x * x) - 1) * np.float32(min(radii))
    return box, distance + np.float32(rough * min(radii)) * noise(
        rng, canvas.fine, max(0.8 * min(radii), 3), box
    )


def pick(rng, world, wanted):
    """Draw a point, world mm, from the coarse voxels `wanted` that lie in the scan; None where there are none."""
    choices = np.flatnonzero((wanted & world.in_view).ravel())
    if not len(choices):
        return None
    index = np.unravel_index(choices[rng.integers(len(choices))], wanted.shape)
    return np.array(
        [o + s * i for o, s, i in zip(world.coarse.origin_mm, world.coarse.spacing_mm, index)]
    )


def haze(
    rng, canvas, world, centre, radii, rough, rise_hu, grain_hu, most=10.0, edge=3.0, patchy=0.0
):
    """Raise the lung's HU in a rough ellipsoid by `rise_hu`, at most up to `most`; give its box and coverage.

    `patchy` is how far the coverage varies from lobule to lobule.
    """
    if centre is None:
        return None
    box, distance = blob(rng, canvas, centre, radii, rough)
    if distance is None:
        return None
    lung = coverage(world.sample(np.minimum(*world.lungs), box), canvas.edge_mm)
    cover = np.clip(0.5 - distance / (canvas.edge_mm + edge), 0, 1) * lung
    if patchy:
        cover *= np.clip(1 - patchy * (0.5 + noise(rng, canvas.fine, 10, box)), 0, 1)
    rise = rise_hu + grain_hu * noise(rng, canvas.fine, 9, box)
    canvas.hu[box] += cover * np.clip(np.minimum(rise, most - canvas.hu[box]), 0, None)
    return box, cover


def paint_opacities(rng: np.random.Generator, canvas: Canvas, world, *, kind: bool):
    """Paint granulomas, scars, bands, consolidation and ground glass.

    Returns the box and the coverage of the consolidation, or None: its bronchi still hold air.
    """
    d = np.minimum(*world.lungs)
    near_wall = (d < -1) & (d > -9) & (world.shell > -16)
    deep = d < -5
    often = 0.2 if kind else 1.0
    blur = 3.0 if kind else FADING_MM

    def add(*what, **how):
        return haze(rng, canvas, world, *what, **how)

    consolidation = None

    for _ in range(rng.poisson(1.2 * often)):  # calcified granulomas
        centre = pick(rng, world, deep | near_wall)
        if centre is not None:
            r = rng.uniform(1.0, 2.8)
            add(
                centre,
                (r, r, r),
                0.1,
                rng.uniform(900, 1700),
                0,
                most=rng.uniform(250, 900),
                edge=0.3,
            )
    for _ in range(rng.poisson(1.5 * often)):  # scars and atelectatic bands
        r = rng.uniform(8, 28, 3)
        r[rng.integers(3)] = rng.uniform(0.8, 2.5)
        add(pick(rng, world, near_wall), r, 0.3, rng.uniform(200, 700), 80, edge=1)
    if rng.random() < (0.05 if kind else 0.12):  # multifocal ground glass, as in viral pneumonia
        for _ in range(rng.integers(3, 14)):
            add(
                pick(rng, world, near_wall if rng.random() < 0.75 else deep),
                rng.uniform(8, 34, 3),
                0.3,
                rng.uniform(100, 420),
                90,
                most=-300.0,
                edge=blur,
            )
    if rng.random() < (0.04 if kind else 0.15):
        centre = pick(rng, world, d < -2)
        radii, rise = rng.uniform(14, 48, 3), rng.uniform(600, 950)
        consolidation = add(
            centre, radii, 0.35, rise, 160, most=45.0, edge=3 + blur, patchy=rng.uniform(0.1, 0.4)
        )
    return consolidation


def paint_mounds(rng: np.random.Generator, canvas: Canvas, world, *, kind: bool) -> None:
    """Paint what bulges into the lungs from the chest wall: pleural plaques, spurs of spine and first ribs.

    All rise from the wall far less than they are wide, as no tumour does. A `kind` patient has no spurs.
    """
    f = world.frame
    on_wall = (np.abs(np.minimum(*world.lungs)) < 2.5) & (world.shell > -7)
    if rng.random() < (0.04 if kind else 0.2):  # plaques, partly calcified
        for _ in range(rng.integers(1, 6)):
            hu = rng.choice([60.0, 250.0, 500.0])
            mound(
                rng,
                canvas,
                world,
                pick(rng, world, on_wall),
                rng.uniform(6, 24, 3),
                rng.uniform(1.5, 4),
                2.0,
                hu,
            )
    beside_spine = on_wall & (f.y > 25) & (np.abs(f.x) < 50)
    behind_sternum = on_wall & (f.y < -20) & (f.z > 0) & (np.abs(f.x) < 60)
    for place, many in ((beside_spine, 1.5), (behind_sternum, 0.8)):
        for _ in range(0 if kind else rng.poisson(many)):
            base = rng.uniform(7, 16, 3)
            high = rng.uniform(0.3, 0.6) * base.min()
            mound(
                rng,
                canvas,
                world,
                pick(rng, world, place),
                base,
                high,
                base.min(),
                rng.uniform(20, 350),
            )


def mound(rng, canvas, world, centre, base_mm, high_mm: float, slope_mm: float, hu: float) -> None:
    """Thicken the lungs' border round a point on it by `high_mm`, which falls to nothing over `slope_mm` at the rim."""
    if centre is None:
        return
    box, distance = blob(rng, canvas, centre, base_mm, 0.2)
    if distance is None:
        return
    depth = world.sample(np.minimum(*world.lungs), box)
    fall = 1 - np.clip(-distance / np.float32(slope_mm), 0, 1)
    cover = coverage(-depth - np.float32(high_mm) * (1 - fall * fall), canvas.edge_mm) * (fall < 1)
    cover *= coverage(depth - 2, canvas.edge_mm)  # it lies on the wall, not in it
    target = canvas.hu[box]
    target += cover * np.maximum(np.float32(hu) - target, 0)


def effusion(rng: np.random.Generator, world) -> np.ndarray | None:
    """Give the region of a pleural effusion, in the lungs' lowest part (patient on the back), or None."""
    if rng.random() > 0.12:
        return None
    lung = world.lungs[rng.integers(2)]
    level = np.float32(rng.uniform(38, 85))
    return np.maximum(
        lung,
        level - world.frame.y - 0.12 * np.minimum(-world.frame.z, 100) + 3 * world.frame.bumps[6],
    )


def paint_nodes(rng: np.random.Generator, canvas: Canvas, world) -> None:
    """Paint lymph nodes round trachea, hila and aortic arch (some calcified)."""
    f = world.frame
    for _ in range(rng.integers(4, 16)):
        centre = (rng.uniform(-50, 80), rng.uniform(-30, 30), rng.uniform(-45, 45))
        radii = rng.uniform(2.5, 7.5, 3) * (1.6 if rng.random() < 0.12 else 1)
        node = np.maximum(f.ellipsoid(centre, radii, 0.15, 7), -world.spared)
        canvas.paint(
            node,
            400.0 if rng.random() < 0.06 else world.person.organs["node"] + rng.uniform(-10, 15),
        )
