"""One synthetic case from seed to voxels: patient, anatomy, disease, scanner."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lungseg_utils import volume
from lungseg_utils.components import drop_small
from lungseg_utils.phantom import (
    atelectasis,
    bones,
    lungs,
    mimics,
    scanner,
    soft_tissue,
    tumour_painting,
    tumours,
)
from lungseg_utils.phantom.anatomy import Anatomy, draw_anatomy
from lungseg_utils.phantom.fields import Canvas, VoxelGrid, interpolate
from lungseg_utils.phantom.person import Person, draw_person, with_less_contrast
from lungseg_utils.phantom.scanner import Scanner
from lungseg_utils.phantom.trees import Trees
from lungseg_utils.phantom.tumours import COUNT_SHARES, Lesion
from lungseg_utils.runtime import LungsegError
from lungseg_utils.volume.grid import grid_along

TIERS = ("quick", "medium", "full")
ROOM_AIR_HU = -1000.0
SMALLEST_LABEL_MM3 = 80.0  # a nodule of 6 mm has 113
SLICES_MM = (0.625, 1.0, 1.25, 1.25, 1.5, 2.5, 3.0)  # of the full tier

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Chest:
    """A synthetic scan.

    `hu` (D, H, W) is int16, `label` and `lungs` are uint8 of the same shape; axes as everywhere.
    """

    hu: np.ndarray
    label: np.ndarray
    lungs: np.ndarray
    spacing_mm: Triple
    lesions: tuple[Lesion, ...]
    person: Person
    scanner: Scanner


def synthesise(
    seed: int,
    *,
    spacing_mm: Triple = (2.0, 2.0, 2.0),
    shape: Sequence[int] | None = None,
    mix: str = "task06",
    slabs: int | None = None,
) -> Chest:
    """Make one chest CT at `spacing_mm` (D, H, W).

    `shape` defaults to what the whole chest needs. `mix` is a key of `COUNT_SHARES`: "easy" has
    larger lesions and fewer mimics; "broad" has more lesions, of every size alike, some of them
    central, and in some chests scars and less contrast. `slabs` thin slices are averaged into each
    slice (default: as many as bring them near the in-plane spacing).
    """
    rng = np.random.default_rng([seed, 20240607])
    easy = mix == "easy"
    person = draw_person(rng, easy=easy)
    if mix == "broad" and rng.random() < 0.3:
        person = with_less_contrast(rng, person)
    settings = scanner.draw_scanner(rng, spacing_mm, easy=easy)
    # what is thinner than a painted slice would come out too faint or too thin
    slabs = slabs or max(1, round(spacing_mm[0] / max(1.25, *spacing_mm[1:])))
    grid = _place_grid(rng, person, spacing_mm, shape)
    thin = _thin_slices(grid, slabs)
    coarse = _coarse_grid(thin, 6.0 if min(spacing_mm[1:]) > 2.4 else 4.0)
    canvas = Canvas(thin, coarse, ROOM_AIR_HU)
    anatomy = draw_anatomy(rng, person, coarse, grid, easy=easy)
    if settings.table:
        scanner.paint_table(rng, canvas, anatomy.skin)
    soft_tissue.paint_soft_tissue(rng, canvas, anatomy)
    mimics.paint_nodes(rng, canvas, anatomy)
    anatomy, trees = lungs.paint_lungs(rng, canvas, anatomy, mix)
    bones.paint_ribs(rng, canvas, anatomy)
    bones.paint_spine(rng, canvas, anatomy)
    bones.paint_shoulders(canvas, anatomy.frame)
    lesions, share = _paint_lesions(rng, canvas, anatomy, trees, mix)
    if settings.implant:
        scanner.paint_implant(rng, canvas, settings.implant, anatomy.frame)
    hu = scanner.average_slices(canvas.hu, slabs)
    label = (scanner.average_slices(share, slabs) > 0.5).astype(np.uint8)
    drop_small(label, spacing_mm, SMALLEST_LABEL_MM3)  # fragments that heart or pleura cut off
    return Chest(
        hu=scanner.expose(rng, hu, grid, settings),
        label=label,
        lungs=(interpolate(anatomy.lung, coarse, grid) < 0).astype(np.uint8),
        spacing_mm=(float(spacing_mm[0]), float(spacing_mm[1]), float(spacing_mm[2])),
        lesions=tuple(lesions),
        person=person,
        scanner=settings,
    )


def _place_grid(
    rng: np.random.Generator,
    person: Person,
    spacing_mm: Triple,
    shape: Sequence[int] | None,
) -> VoxelGrid:
    """Return the scan's grid, round the chest."""
    top = 128 * person.height + rng.uniform(0, 45)
    bottom = person.dome_mm[1] * person.height - rng.uniform(70, 150)
    if shape is None:
        field = rng.uniform(330, 430) if rng.random() < 0.7 else rng.uniform(430, 500)
        shape = [int(size / s) for size, s in zip((top - bottom, field, field), spacing_mm)]
    middle = ((top + bottom) / 2, rng.normal(4, 8), rng.normal(0, 6))
    origin = [m - s * (n - 1) / 2 for m, s, n in zip(middle, spacing_mm, shape)]
    return VoxelGrid(origin, spacing_mm, shape)


def _thin_slices(grid: VoxelGrid, slabs: int) -> VoxelGrid:
    """Return the grid on which each slice of `grid` is painted as `slabs` thinner ones."""
    slice_mm, *pixel_mm = grid.spacing_mm
    thin_mm = slice_mm / slabs
    first = grid.origin_mm[0] - (slice_mm - thin_mm) / 2
    return VoxelGrid(
        (first, *grid.origin_mm[1:]),
        (thin_mm, *pixel_mm),
        (grid.shape[0] * slabs, *grid.shape[1:]),
    )


def _coarse_grid(thin: VoxelGrid, step: float) -> VoxelGrid:
    """Return the grid of the signed distances: the part of the scan where the body may be."""
    z, y, x = thin.origin_mm
    low = [max(z, -420.0) - step, max(y - step, -222.0), max(x - step, -292.0)]
    z, y, x = (o + s * n for o, s, n in zip(thin.origin_mm, thin.spacing_mm, thin.shape))
    high = [z + step, min(y + step, 195.0), min(x + step, 292.0)]
    return VoxelGrid(
        low, (step,) * 3, [int(np.ceil((b - a) / step)) + 1 for a, b in zip(low, high)]
    )


def _paint_lesions(
    rng: np.random.Generator, canvas: Canvas, anatomy: Anatomy, trees: Trees, mix: str
) -> tuple[list[Lesion], np.ndarray]:
    """Paint one to four tumours; return them and the coverage of their label."""
    label = np.zeros(canvas.fine.shape, np.float32)
    found = []
    for number in range(rng.choice(len(COUNT_SHARES[mix]), p=COUNT_SHARES[mix]) + 1):
        lesion = tumours.draw_lesion(rng, mix, first=number == 0)
        centre = tumours.place_lesion(rng, lesion, anatomy, trees, mix)
        if centre is None:
            continue
        is_central = lesion.site in ("hilum", "mediastinum", "central")
        if is_central and lesion.volume_ml > 8 and rng.random() < 0.2:
            atelectasis.paint_collapse(rng, canvas, anatomy, centre, lesion.radius_mm)
        z, y, x = map(float, centre)
        lesion = replace(lesion, centre_mm=(z, y, x))
        painted = tumour_painting.paint_lesion(rng, canvas, lesion, anatomy, trees)
        if painted is not None:
            box, cover = painted
            label[box] = np.maximum(label[box], cover)
            found.append(lesion)
    return found, label


def make_case(seed: int, *, tier: str = "quick") -> tuple[volume.Volume, np.ndarray]:
    """Make a scan and its label (uint8, (D, H, W)).

    `tier` is "quick" (3 mm, easier), "medium" (2.5 mm, to train on: tumours of every size alike) or
    "full" (native).
    """
    if tier not in TIERS:
        raise LungsegError("tier", f"unknown tier {tier!r}", f"Use one of {', '.join(TIERS)}")
    rng = np.random.default_rng([seed, 7])
    if tier == "quick":
        pixel_mm = rng.uniform(2.9, 3.2)
        chest = synthesise(seed, spacing_mm=(3.0, pixel_mm, pixel_mm), mix="easy")
    elif tier == "medium":
        chest = synthesise(seed, spacing_mm=(2.5, 2.5, 2.5), mix="broad")
    else:
        pixel_mm = rng.uniform(0.62, 0.9)
        slice_mm = float(rng.choice(SLICES_MM))
        if pixel_mm > 0.7:
            slice_mm = max(slice_mm, 1.0)
        shape = (int(np.clip(330 / slice_mm, 112, 300)), 512, 512)
        chest = synthesise(seed, spacing_mm=(slice_mm, pixel_mm, pixel_mm), shape=shape)
    affine = volume.CANONICAL * [*chest.spacing_mm, 1.0]
    affine[:3, 3] = rng.uniform(-300, 300, 3).round(3)
    name = f"phantom_{seed:06d}"
    grid = grid_along("LPS", chest.hu.shape, affine)
    path = Path(f"{name}.nii.gz")
    return volume.Volume(chest.hu, chest.spacing_mm, affine, name, path, grid), chest.label
