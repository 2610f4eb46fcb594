"""One synthetic case from seed to voxels: patient, anatomy, disease, scanner."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lungseg_utils.phantom import (
    airless,
    anatomy,
    bones,
    distractors,
    growth,
    lesions,
    scanner,
    tissue,
)
from lungseg_utils.phantom.fields import Canvas, Grid, resample
from lungseg_utils.phantom.person import Person, draw_person, with_less_contrast
from lungseg_utils.runtime import LungsegError

TIERS = ("quick", "medium", "full")
AIR_HU = -1000.0
SMALLEST_LABEL_MM3 = 80.0  # a nodule of 6 mm has 113


@dataclass(frozen=True)
class Chest:
    """A synthetic scan. `hu` (D, H, W) int16, `label` and `lungs` uint8 of the same shape; axes as everywhere."""

    hu: np.ndarray
    label: np.ndarray
    lungs: np.ndarray
    spacing_mm: tuple[float, float, float]
    lesions: tuple[lesions.Lesion, ...]
    person: Person
    scanner: scanner.Scanner


@dataclass
class World:
    """What lesions and distractors need to know of a patient: coarse signed distances, mm."""

    coarse: Grid
    frame: anatomy.Frame
    person: Person
    shell: np.ndarray
    dome: np.ndarray
    lungs: tuple[np.ndarray, np.ndarray]
    spared: np.ndarray  # heart, great vessels, airway: never overgrown
    hila: np.ndarray
    in_view: np.ndarray
    vessels: np.ndarray  # segments (n, 8), as `trees.grow` gives them
    airways: np.ndarray
    fine: Grid

    def sample(self, field: np.ndarray, box) -> np.ndarray:
        """Interpolate a coarse field in a box of the fine grid."""
        return resample(field, self.coarse, self.fine, box)


def synthesise(
    seed: int,
    *,
    spacing_mm=(2.0, 2.0, 2.0),
    shape=None,
    mix: str = "task06",
    slabs: int | None = None,
) -> Chest:
    """Make one chest CT at `spacing_mm` (D, H, W).

    `shape` defaults to what the whole chest needs. `mix` is one of `lesions.MIXES`: "kind" asks for
    larger lesions and fewer look-alikes, "broad" for more lesions, of every size alike, some
    of them central, and, in some chests, for scars and for less contrast.
    `slabs` thin slices are averaged into each slice (default: as many as bring them near the in-plane spacing).
    """
    rng = np.random.default_rng([seed, 20240607])
    kind = mix == "kind"
    person = draw_person(rng, kind=kind)
    if mix == "broad" and rng.random() < 0.3:
        person = with_less_contrast(rng, person)
    settings = scanner.draw_scanner(rng, spacing_mm, kind=kind)
    # what is thinner than a painted slice would come out too faint or too thin
    slabs = slabs or max(1, round(spacing_mm[0] / max(1.25, *spacing_mm[1:])))
    grid, thin = _place_grids(rng, person, spacing_mm, shape, slabs)
    step = 6.0 if min(spacing_mm[1:]) > 2.4 else 4.0
    coarse = _coarse_grid(thin, step)
    frame = anatomy.Frame(rng, person, coarse)
    canvas = Canvas(thin, coarse, AIR_HU)

    shell, dome = anatomy.cage(frame), anatomy.diaphragm(frame)
    parts = anatomy.mediastinum(rng, frame, kind=kind)
    lungs = anatomy.lungs(rng, frame, shell, dome, parts)
    muscle = tissue.paint_soft_tissue(rng, canvas, frame, shell, dome, parts, settings)
    in_view = _in_view(coarse, grid)
    spared = np.minimum.reduce(
        [parts[k] for k in ("heart", "aorta", "cava", "trachea")] + [parts["pulmonary"] + 4]
    )
    none = np.empty((0, 8))
    world = World(
        coarse, frame, person, shell, dome, lungs, spared, parts["hila"], in_view, none, none, thin
    )
    distractors.paint_nodes(rng, canvas, world)
    label = tissue.paint_lungs(rng, canvas, world, mix)
    bones.paint_ribs(canvas, frame, shell, muscle, rng)
    bones.paint_spine(canvas, frame, rng)
    bones.paint_shoulders(canvas, frame)
    found = _paint_lesions(rng, canvas, world, label, mix)
    if settings.metal:
        scanner.paint_metal(rng, canvas, settings.metal, world)
    hu = scanner.average_slices(canvas.hu, slabs)
    share = scanner.average_slices(label, slabs)
    hu = scanner.expose(rng, hu, grid, settings, AIR_HU)
    lung_share = resample(np.minimum(*world.lungs), coarse, grid) < 0
    return Chest(
        hu,
        _without_specks((share > 0.5).astype(np.uint8), spacing_mm),
        lung_share.astype(np.uint8),
        tuple(map(float, spacing_mm)),
        tuple(found),
        person,
        settings,
    )


def _without_specks(label: np.ndarray, spacing_mm) -> np.ndarray:
    """Drop components that are smaller than any lesion: what pleura or heart leave of one, crumbs of thick slices."""
    import cc3d

    parts = cc3d.connected_components(label, connectivity=26)
    return label * (np.bincount(parts.ravel()) * np.prod(spacing_mm) >= SMALLEST_LABEL_MM3)[
        parts
    ].astype(np.uint8)


def _place_grids(rng, person: Person, spacing_mm, shape, slabs: int) -> tuple[Grid, Grid]:
    """Give the scan's grid and the thinner one that is painted."""
    top = 128 * person.height + rng.uniform(0, 45)
    bottom = person.dome_mm[1] * person.height - rng.uniform(70, 150)
    if shape is None:
        field = rng.uniform(330, 430) if rng.random() < 0.7 else rng.uniform(430, 500)
        shape = (
            int((top - bottom) / spacing_mm[0]),
            int(field / spacing_mm[1]),
            int(field / spacing_mm[2]),
        )
    middle = ((top + bottom) / 2, rng.normal(4, 8), rng.normal(0, 6))
    origin = tuple(m - s * (n - 1) / 2 for m, s, n in zip(middle, spacing_mm, shape))
    grid = Grid(origin, tuple(spacing_mm), tuple(shape))
    thin_step = spacing_mm[0] / slabs
    thin = Grid(
        (origin[0] - (spacing_mm[0] - thin_step) / 2, *origin[1:]),
        (thin_step, *spacing_mm[1:]),
        (shape[0] * slabs, *shape[1:]),
    )
    return grid, thin


def _coarse_grid(thin: Grid, step: float) -> Grid:
    """Give the grid of the signed distances: the part of the scan where the body may be."""
    low = [
        max(thin.origin_mm[0], -420.0) - step,
        max(thin.origin_mm[1] - step, -222.0),
        max(thin.origin_mm[2] - step, -292.0),
    ]
    far = [o + s * n for o, s, n in zip(thin.origin_mm, thin.spacing_mm, thin.shape)]
    high = [far[0] + step, min(far[1] + step, 195.0), min(far[2] + step, 292.0)]
    return Grid(
        tuple(low), (step,) * 3, tuple(int(np.ceil((b - a) / step)) + 1 for a, b in zip(low, high))
    )


def _in_view(coarse: Grid, grid: Grid) -> np.ndarray:
    """Mark coarse voxels well inside the scan."""
    view = np.zeros(coarse.shape, bool)
    low = [o + 12 for o in grid.origin_mm]
    high = [o + s * (n - 1) - 12 for o, s, n in zip(grid.origin_mm, grid.spacing_mm, grid.shape)]
    view[coarse.box(low, high)] = True
    return view


def _paint_lesions(
    rng, canvas: Canvas, world: World, label: np.ndarray, mix: str
) -> list[lesions.Lesion]:
    """Paint one to four tumours and fill the label in."""
    found = []
    shares = lesions.MIXES[mix]
    for number in range(rng.choice(len(shares), p=shares) + 1):
        lesion = lesions.draw_lesion(rng, mix, first=number == 0)
        centre = lesions.place(rng, lesion, world, mix)
        if (
            centre is not None
            and lesion.site in ("hilum", "mediastinum", "central")
            and lesion.volume_ml > 8
            and rng.random() < 0.2
        ):
            airless.paint_collapse(rng, canvas, world, centre, lesion.radius_mm)
        painted = None if centre is None else growth.paint(rng, canvas, lesion, centre, world)
        if painted is None:
            continue
        box, cover = painted
        np.maximum(label[box], cover, out=label[box])
        found.append(replace(lesion, centre_mm=tuple(float(c) for c in centre)))
    return found


def make_case(seed: int, *, tier: str = "quick"):
    """Make a scan and its label as `(volume.Volume, uint8 (D, H, W))`.

    `tier` is "quick" (3 mm, kinder), "medium" (2.5 mm, to train on: tumours of every size alike) or "full" (native).
    """
    from lungseg_utils import volume
    from lungseg_utils.volume.grid import grid_along

    if tier not in TIERS:
        raise LungsegError("tier", f"unknown tier {tier!r}", f"Use one of {', '.join(TIERS)}")
    rng = np.random.default_rng([seed, 7])
    if tier == "quick":
        in_plane = rng.uniform(2.9, 3.2)
        chest = synthesise(seed, spacing_mm=(3.0, in_plane, in_plane), mix="kind")
    elif tier == "medium":
        chest = synthesise(seed, spacing_mm=(2.5, 2.5, 2.5), mix="broad")
    else:
        in_plane, slice_mm = (
            rng.uniform(0.62, 0.9),
            float(rng.choice([0.625, 1.0, 1.25, 1.25, 1.5, 2.5, 3.0])),
        )
        slice_mm = max(slice_mm, 1.0) if in_plane > 0.7 else slice_mm
        depth = int(np.clip(330 / slice_mm, 112, 300))
        chest = synthesise(seed, spacing_mm=(slice_mm, in_plane, in_plane), shape=(depth, 512, 512))
    affine = np.array(
        [
            [0, 0, -chest.spacing_mm[2], 0],
            [0, -chest.spacing_mm[1], 0, 0],
            [chest.spacing_mm[0], 0, 0, 0],
            [0, 0, 0, 1.0],
        ]
    )
    affine[:3, 3] = rng.uniform(-300, 300, 3).round(3)
    name = f"phantom_{seed:06d}"
    scan = volume.Volume(
        chest.hu,
        chest.spacing_mm,
        affine,
        name,
        Path(f"{name}.nii.gz"),
        grid_along("LPS", chest.hu.shape, affine),
    )
    return scan, chest.label
