"""Vessel and airway trees that fill the lungs, from hilum to pleura, with partial volume below voxel size.

A tree is grown by halving: the targets of a branch are split along their longest axis, each half gets a child that
runs part of the way to its middle, and radii follow Murray's law (r³ is shared among the children).
"""

from __future__ import annotations

import numpy as np

from lungseg_utils.phantom.fields import Canvas, Grid


def grow(
    root: np.ndarray,
    targets: np.ndarray,
    rng: np.random.Generator,
    *,
    tip_mm: float,
    stem_mm: float,
) -> np.ndarray:
    """Grow a tree to `targets` (n, 3), world mm. Returns segments (m, 8): start, end, radius at each."""
    segments = []
    exponent = np.log(stem_mm / tip_mm) / np.log(
        max(len(targets), 2)
    )  # the stem's radius is met exactly
    targets = np.asarray(targets, float)
    if len(targets) == 1:
        return np.array([[*root, *targets[0], stem_mm, 0.7 * tip_mm]])
    stack = [(np.asarray(root, float), targets, targets.mean(0), stem_mm)]
    while stack:
        start, points, centre, radius = stack.pop()
        centred = points - centre
        axis = centred[np.argmax((centred * centred).sum(1))]
        order = np.argsort((centred * axis).sum(1), kind="stable")
        cut = int(len(points) * rng.uniform(0.34, 0.66)) or 1
        for half in (points[order[:cut]], points[order[cut:]]):
            child = tip_mm * len(half) ** exponent
            if len(half) == 1:
                segments.append([*start, *half[0], child, 0.7 * tip_mm])
                continue
            middle = half.sum(0) / len(half)
            way = middle - start
            end = (
                start
                + rng.uniform(0.32, 0.5) * way
                + rng.normal(0, 0.05, 3) * np.sqrt((way * way).sum())
            )
            segments.append([*start, *end, min(radius, child * 1.12), child])
            stack.append((end, half, middle, child))
    return np.array(segments)


def targets_in(
    rng: np.random.Generator, grid: Grid, distance_mm: np.ndarray, count: int, depth_mm: float
) -> np.ndarray:
    """Draw points spread evenly in a shape, at least `depth_mm` below its surface (world mm)."""
    voxels = np.flatnonzero(distance_mm.ravel() < -depth_mm)
    if not len(voxels):
        return np.empty((0, 3))
    # one from each equal run of a space-filling order keeps them apart
    chosen = voxels[((np.arange(count) + rng.random(count)) * (len(voxels) / count)).astype(int)]
    index = np.stack(np.unravel_index(chosen, distance_mm.shape), 1) + rng.uniform(
        -0.5, 0.5, (count, 3)
    )
    return np.asarray(grid.origin_mm) + index * np.asarray(grid.spacing_mm)


def rasterise(canvas: Canvas, segments: np.ndarray, grow_mm: float = 0.0) -> np.ndarray:
    """Give the coverage (D, H, W) of round cones: thin ones by their share of the voxel, thick ones by distance."""
    grid = canvas.fine
    spacing = np.asarray(grid.spacing_mm)
    out = np.zeros(grid.shape, np.float32)
    if not len(segments):
        return out
    radius = np.maximum(segments[:, 6], segments[:, 7]) + grow_mm
    thin = radius < 0.75 * spacing.max()
    _splat(out, segments[thin], grid, grow_mm)
    for z0, y0, x0, z1, y1, x1, r0, r1 in segments[~thin]:
        a, b, r0, r1 = np.array([z0, y0, x0]), np.array([z1, y1, x1]), r0 + grow_mm, r1 + grow_mm
        pad = max(r0, r1) + canvas.edge_mm
        part = grid.box(np.minimum(a, b) - pad, np.maximum(a, b) + pad)
        if any(s.start == s.stop for s in part):
            continue
        z, y, x = grid.mesh(part)
        d = (b - a).astype(np.float32)
        z, y, x = z - np.float32(a[0]), y - np.float32(a[1]), x - np.float32(a[2])
        t = np.clip((z * d[0] + y * d[1] + x * d[2]) / np.float32(max(d @ d, 1e-3)), 0, 1)
        distance = np.sqrt((z - t * d[0]) ** 2 + (y - t * d[1]) ** 2 + (x - t * d[2]) ** 2) - (
            np.float32(r0) + t * np.float32(r1 - r0)
        )
        target = out[part]
        np.maximum(target, np.clip(0.5 - distance / np.float32(canvas.edge_mm), 0, 1), out=target)
    return np.minimum(out, 1, out=out)


def _splat(out: np.ndarray, segments: np.ndarray, grid: Grid, grow_mm: float) -> None:
    """Add thin cones: points along each, its cross-section's volume shared among the eight voxels round a point."""
    if not len(segments):
        return
    spacing = np.asarray(grid.spacing_mm)
    step = 0.5 * spacing.min()
    length = np.linalg.norm(segments[:, 3:6] - segments[:, :3], axis=1)
    count = np.maximum(np.ceil(length / step), 1).astype(int)
    which = np.repeat(np.arange(len(segments)), count)
    t = (np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count) + 0.5) / count[which]
    rows = segments[which]
    position = (
        rows[:, :3] + t[:, None] * (rows[:, 3:6] - rows[:, :3]) - np.asarray(grid.origin_mm)
    ) / spacing
    radius = rows[:, 6] + t * (rows[:, 7] - rows[:, 6]) + grow_mm
    share = np.pi * radius**2 * (length / count)[which] / spacing.prod()
    base = np.floor(position).astype(int)
    fraction = position - base
    shape, flat = np.array(out.shape), out.reshape(-1)
    for corner in np.ndindex(2, 2, 2):
        index = base + corner
        weight = share * np.prod(np.where(corner, fraction, 1 - fraction), axis=1)
        inside = ((index >= 0) & (index < shape)).all(1)
        index = index[inside]
        np.add.at(
            flat,
            (index[:, 0] * shape[1] + index[:, 1]) * shape[2] + index[:, 2],
            weight[inside].astype(np.float32),
        )


def bronchi(arteries: np.ndarray, smallest_mm: float) -> np.ndarray:
    """Give the airways that run beside the larger arteries."""
    big = arteries[arteries[:, 7] > smallest_mm].copy()
    if not len(big):
        return big
    side = np.array([0.35, 0.55, 0.75])
    big[:, :3] += side * (big[:, 6:7] * 1.7)
    big[:, 3:6] += side * (big[:, 7:8] * 1.7)
    big[:, 6:] *= 0.85
    return big
