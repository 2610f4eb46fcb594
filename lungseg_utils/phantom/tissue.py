"""The order of painting: soft tissue from the skin inwards, then the lungs with all that is in them."""

from __future__ import annotations

import numpy as np

from lungseg_utils.phantom import airless, anatomy, distractors, scanner, trees
from lungseg_utils.phantom.body import belly, torso
from lungseg_utils.phantom.fields import Canvas, coverage, resample

BRONCHOGRAM_MM = 0.75  # radius of the thinnest artery whose bronchus is seen in consolidated lung


def paint_soft_tissue(
    rng, canvas: Canvas, f: anatomy.Frame, shell, dome, parts, settings
) -> np.ndarray:
    """Paint trunk, belly and mediastinum, outside in. Returns the surface of the muscles."""
    hu, blood = f.person.organs, f.person.blood
    body = torso(f, shell)
    if settings.table:
        scanner.paint_table(rng, canvas, body["skin"])
    canvas.paint(body["skin"], rng.uniform(-20, 50))
    canvas.paint(body["skin"] + rng.uniform(1.5, 3), hu["fat"])
    canvas.paint(body["muscle"], hu["muscle"] + 6 * f.bumps[7])
    planes = np.abs(f.bumps[6] + 0.6 * f.bumps[7] - 0.3 * f.bumps[3]) * 11 - rng.uniform(
        0.5, 2.5
    )  # fat between the muscles
    canvas.paint(np.maximum(np.maximum(planes, body["muscle"] + 3), 9 - shell), hu["fat"])
    if rng.random() < 0.4:  # clothes or a blanket
        cloth = np.abs(body["skin"] - 9 - 5 * f.bumps[7] - 3 * f.bumps[3]) - 0.5
        canvas.paint(np.maximum(cloth, 2 - body["skin"]), rng.uniform(-900, -600))
    canvas.paint(shell, hu["mediastinal_fat"] + 8 * f.bumps[6])
    canvas.paint(parts["hilar"], hu["node"] + 8 * f.bumps[7])
    canvas.paint(np.maximum(dome - 1, shell), hu["muscle"])
    for distance, value in belly(rng, f, shell, dome):
        canvas.paint(distance, value)
    canvas.paint(parts["heart"] - 2, hu["myocardium"] + 4 * f.bumps[7])
    for name, value, wall in (
        ("rv", "right", 2),
        ("ra", "right", 1),
        ("la", "left", 1),
        ("lv", "left", 10),
    ):
        canvas.paint(parts[name] + wall, blood[value] + 4 * f.bumps[7])
    for name, value in (
        ("gullet", None),
        ("thyroid", None),
        ("azygos", "veins"),
        ("lower_cava", "lower_cava"),
        ("brachial", "cava"),
        ("veins", "left"),
        ("cava", "cava"),
        ("pulmonary", "right"),
        ("arch_branches", "aorta"),
        ("aorta", "aorta"),
    ):
        if name in ("aorta", "arch_branches"):
            canvas.paint(
                parts[name] - 1.3,
                45.0
                if not f.person.calcified
                else np.where(f.bumps[7] > 1.1, 500.0, 45.0).astype(np.float32),
            )
        canvas.paint(
            parts[name], blood[value] if value else hu["thyroid" if name == "thyroid" else "wall"]
        )
    canvas.paint(parts["trachea"] - rng.uniform(1.2, 2.2), hu["wall"])
    canvas.paint(parts["trachea"], -990.0)
    if rng.random() < 0.5:
        canvas.paint(np.maximum(parts["gullet"] + 5, f.bumps[5] * 8), -700.0)
    return body["muscle"]


def paint_lungs(rng, canvas: Canvas, world, mix: str) -> np.ndarray:
    """Paint lungs with their trees, fissures and opacities. Returns the empty label, float32 on the thin grid."""
    distractors.paint_lungs(rng, canvas, world)
    union = np.minimum(*world.lungs)
    box = canvas.extent(union)
    lung = canvas.sample(union, box)
    voxel = max(canvas.edge_mm, 0.9)
    count = int(np.clip(3000 / voxel, 600, 2600))
    arteries, veins = [], []
    for side, lung_sdf in enumerate(world.lungs):
        hilum = world.hila[side]
        for group, depth, stem, drop in ((arteries, 2.0, 5.6, 0.0), (veins, 2.0, 4.8, -14.0)):
            targets = trees.targets_in(rng, world.coarse, lung_sdf, count, depth)
            if len(targets):
                group.append(
                    trees.grow(
                        hilum + (drop, -4 if drop else 0, 0),
                        targets,
                        rng,
                        tip_mm=rng.uniform(0.45, 0.68),
                        stem_mm=stem * rng.uniform(0.75, 1.05),
                    )
                )
    arteries, veins = (np.concatenate(g) if g else np.empty((0, 8)) for g in (arteries, veins))
    world.vessels = np.concatenate([arteries, veins])
    distractors.paint_mottle(rng, canvas, lung, box)
    distractors.paint_fissures(rng, canvas, world, box, lung)
    fluid = distractors.effusion(rng, world)
    if fluid is not None:
        canvas.paint(fluid, rng.uniform(-5, 25))
        world.lungs = tuple(np.maximum(lung_sdf, -fluid) for lung_sdf in world.lungs)
    consolidation = distractors.paint_opacities(rng, canvas, world, kind=mix == "kind")
    distractors.paint_mounds(rng, canvas, world, kind=mix == "kind")
    without_air = [] if consolidation is None else [(*consolidation, 0.0)]
    if mix == "broad" and rng.random() < 0.3:
        without_air += [
            (*scar, rng.uniform(0, 1)) for scar in airless.paint_scars(rng, canvas, world)
        ]
    tubes = world.airways = trees.bronchi(arteries, rng.uniform(1.7, 2.3))
    near_lung = coverage(resample(union - 6, canvas.coarse, canvas.fine, box), canvas.edge_mm)
    for segments, hu in (
        (veins, world.person.blood["left"]),
        (arteries, world.person.blood["right"]),
    ):
        cover = trees.rasterise(canvas, segments)[box] * near_lung
        canvas.hu[box] += cover * (np.float32(hu) - canvas.hu[box])
    cover = trees.rasterise(canvas, tubes, rng.uniform(0.5, 0.9))[box] * near_lung
    canvas.hu[box] += cover * np.maximum(np.float32(30) - canvas.hu[box], 0)
    air = trees.rasterise(canvas, tubes)[box] * near_lung
    canvas.hu[box] += air * (np.float32(-975) - canvas.hu[box])
    for (
        part,
        cover,
        wider_mm,
    ) in without_air:  # air bronchograms: there the small bronchi stand out too
        air = (
            trees.rasterise(canvas, trees.bronchi(arteries, BRONCHOGRAM_MM), wider_mm)[part] * cover
        )
        canvas.hu[part] += air * (np.float32(-975) - canvas.hu[part])
    return np.zeros(canvas.fine.shape, np.float32)
