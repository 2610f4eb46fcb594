"""Vessel and airway trees that fill the lungs, with partial volume below voxel size.

A tree is grown by halving: the targets of a branch are split along their longest axis, each half
has a child that runs part of the way to its middle, and radii follow Murray's law (r³ is shared
among the children).
"""

from dataclasses import dataclass

import numpy as np

from lungseg_utils.phantom.anatomy import Anatomy
from lungseg_utils.phantom.fields import Canvas, VoxelGrid, round_cone

TARGET_DEPTH_MM = 2.0  # twigs end this far below the pleura


@dataclass(frozen=True)
class Trees:
    """The trees of both lungs as segments (n, 8): start, end (world mm), radius at each."""

    arteries: np.ndarray
    veins: np.ndarray
    airways: np.ndarray

    @property
    def vessels(self) -> np.ndarray:
        """Arteries and veins."""
        return np.concatenate([self.arteries, self.veins])


def grow_vessels(
    rng: np.random.Generator, anatomy: Anatomy, voxel_mm: float
) -> tuple[np.ndarray, np.ndarray]:
    """Grow arteries and veins of both lungs, with the more twigs the smaller the voxels."""
    arteries = [np.empty((0, 8))]
    veins = [np.empty((0, 8))]
    count = int(np.clip(3000 / max(voxel_mm, 0.9), 600, 2600))
    for hilum, lung in zip(anatomy.hila, anatomy.lungs):
        below = hilum + np.array([-14, -4, 0])
        for grown, root, stem_mm in ((arteries, hilum, 5.6), (veins, below, 4.8)):
            targets = _targets_in(rng, anatomy.frame.grid, lung, count)
            if len(targets):
                tip_mm = rng.uniform(0.45, 0.68)
                width_mm = stem_mm * rng.uniform(0.75, 1.05)
                grown.append(grow(rng, root, targets, tip_mm=tip_mm, stem_mm=width_mm))
    return np.concatenate(arteries), np.concatenate(veins)


def draw_hilar_branches(
    rng: np.random.Generator, anatomy: Anatomy
) -> tuple[np.ndarray, np.ndarray]:
    """Draw large arteries and veins beside the hila (n, 8), which slices cut across.

    Lobar arteries are 8 to 12 mm wide, segmental ones 4 to 8 mm.
    """
    both: tuple[list, list] = [], []
    for side, hilum in zip((-1, 1), anatomy.hila):
        for segments, below in zip(both, ((0, 0, 0), (-16, -6, 0))):
            for _ in range(rng.integers(2, 6)):
                start = hilum + below + rng.normal(0, (10, 6, 4))
                way = rng.normal((0, 0, 0.7 * side), (0.9, 1.0, 0.5))
                way *= rng.uniform(20, 55) / np.linalg.norm(way)
                bend = start + 0.5 * way + rng.normal(0, 4, 3)
                wide, thin = rng.uniform((2.5, 1.5), (6, 3))
                between = (wide + thin) / 2
                segments.append([*start, *bend, wide, between])
                segments.append([*bend, *(start + way), between, thin])
    return np.array(both[0]), np.array(both[1])


def grow(
    rng: np.random.Generator,
    root: np.ndarray,
    targets: np.ndarray,
    *,
    tip_mm: float,
    stem_mm: float,
) -> np.ndarray:
    """Grow a tree from `root` to `targets` (n, 3), world mm, and return its segments (m, 8).

    Two targets are the fewest.
    """
    segments = []
    exponent = np.log(stem_mm / tip_mm) / np.log(len(targets))  # the stem's radius is met exactly
    stack = [(root, targets, targets.mean(0), stem_mm)]
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
            end = start + rng.uniform(0.32, 0.5) * way
            end = end + rng.normal(0, 0.05, 3) * np.sqrt((way * way).sum())
            segments.append([*start, *end, min(radius, child * 1.12), child])
            stack.append((end, half, middle, child))
    return np.array(segments)


def _targets_in(
    rng: np.random.Generator, grid: VoxelGrid, lung: np.ndarray, count: int
) -> np.ndarray:
    """Draw points (world mm) spread evenly in a lung."""
    voxels = np.flatnonzero(lung < -TARGET_DEPTH_MM)
    if not len(voxels):
        return np.empty((0, 3))
    # one from each equal run of a space-filling order keeps them apart
    chosen = voxels[((np.arange(count) + rng.random(count)) * (len(voxels) / count)).astype(int)]
    index = np.stack(np.unravel_index(chosen, lung.shape), 1)
    index = index + rng.uniform(-0.5, 0.5, (count, 3))
    return np.asarray(grid.origin_mm) + index * np.asarray(grid.spacing_mm)


def rasterise(canvas: Canvas, segments: np.ndarray, wider_mm: float = 0.0) -> np.ndarray:
    """Return the coverage (D, H, W) of round cones.

    Thin ones count by their share of the voxel, thick ones by distance.
    """
    grid = canvas.fine
    out = np.zeros(grid.shape, np.float32)
    thin = np.maximum(segments[:, 6], segments[:, 7]) + wider_mm < 0.75 * max(grid.spacing_mm)
    _splat(out, segments[thin], grid, wider_mm)
    for segment in segments[~thin]:
        start, end, radii = segment[:3], segment[3:6], segment[6:] + wider_mm
        pad = max(radii) + canvas.edge_mm
        part = grid.box(np.minimum(start, end) - pad, np.maximum(start, end) + pad)
        if out[part].size:
            distance = round_cone(grid.mesh(part), start, end, radii)
            cover = np.clip(0.5 - distance / np.float32(canvas.edge_mm), 0, 1)
            out[part] = np.maximum(out[part], cover)
    return np.minimum(out, 1, out=out)


def _splat(out: np.ndarray, segments: np.ndarray, grid: VoxelGrid, wider_mm: float) -> None:
    """Add thin cones: points along each, the volume of whose cross-section eight voxels share."""
    spacing = np.asarray(grid.spacing_mm)
    length = np.linalg.norm(segments[:, 3:6] - segments[:, :3], axis=1)
    count = np.maximum(np.ceil(length / (0.5 * spacing.min())), 1).astype(int)
    which = np.repeat(np.arange(len(segments)), count)
    t = (np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count) + 0.5) / count[which]
    rows = segments[which]
    position = rows[:, :3] + t[:, None] * (rows[:, 3:6] - rows[:, :3])
    position = (position - np.asarray(grid.origin_mm)) / spacing
    radius = rows[:, 6] + t * (rows[:, 7] - rows[:, 6]) + wider_mm
    share = np.pi * radius**2 * (length / count)[which] / spacing.prod()
    base = np.floor(position).astype(int)
    fraction = position - base
    for corner in np.ndindex(2, 2, 2):
        index = base + corner
        weight = share * np.prod(np.where(corner, fraction, 1 - fraction), axis=1)
        inside = ((index >= 0) & (index < out.shape)).all(1)
        flat = np.ravel_multi_index(tuple(index[inside].T), out.shape)
        np.add.at(out.reshape(-1), flat, weight[inside].astype(np.float32))


def bronchi(arteries: np.ndarray, smallest_mm: float) -> np.ndarray:
    """Return the airways that run beside the larger arteries."""
    airways = arteries[arteries[:, 7] > smallest_mm].copy()
    beside = np.array([0.35, 0.55, 0.75])
    airways[:, :3] += beside * (airways[:, 6:7] * 1.7)
    airways[:, 3:6] += beside * (airways[:, 7:8] * 1.7)
    airways[:, 6:] *= 0.85
    return airways
