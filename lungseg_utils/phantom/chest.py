"""One synthetic case from seed to voxels: patient, anatomy, disease, scanner."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lungseg_utils import volume
from lungseg_utils.components import drop_small
from lungseg_utils.phantom import bones, bowel, lungs, mimics, scanner, soft_tissue
from lungseg_utils.phantom.anatomy import draw_anatomy
from lungseg_utils.phantom.fields import Canvas, VoxelGrid, interpolate
from lungseg_utils.phantom.lesions import SMALLEST_LABEL_MM3, paint_lesions
from lungseg_utils.phantom.person import Person, draw_person, with_less_contrast
from lungseg_utils.phantom.scanner import Scanner
from lungseg_utils.phantom.tumours import Lesion
from lungseg_utils.runtime import LungsegError
from lungseg_utils.volume.grid import grid_along

TIERS = ("quick", "medium", "full")
ROOM_AIR_HU = -1000.0
MOST_TUMOURS = 9  # that may be asked for
SLICES_MM = (0.625, 1.0, 1.25, 1.25, 1.5, 2.5, 3.0, 4.0, 5.0)  # of the full tier
MOST_SLICES = 300
REGIONS = {"chest": 0.85, "bases": 0.05, "abdomen": 0.1}  # what scans cover; shares
HILA_MM = 70.0  # height up to which the lungs are drawn, though the scan ends below

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
    tumours: int | None = None,
) -> Chest:
    """Make one chest CT at `spacing_mm` (D, H, W).

    `shape` defaults to what the scanned region needs; of two numbers, H and W, only D does. `mix`
    is a key of `COUNT_SHARES`: "easy" has larger lesions and fewer mimics, and always shows the
    whole chest; "broad" has more lesions, of every size alike, some of them central, and in some
    chests less contrast. `slabs` thin slices are averaged into each slice (default: as many as
    bring them near the in-plane spacing). `tumours` is how many there are (default: drawn by the
    mix, one to four); the rest of the chest does not depend on it.
    """
    rng = np.random.default_rng([seed, 20240607])
    easy = mix == "easy"
    person = draw_person(rng, easy=easy)
    if mix == "broad" and rng.random() < 0.3:
        person = with_less_contrast(rng, person)
    settings = scanner.draw_scanner(rng, spacing_mm, easy=easy)
    # what is thinner than a painted slice would come out too faint or too thin
    slabs = slabs or max(1, round(spacing_mm[0] / max(1.25, *spacing_mm[1:])))
    region = "chest" if easy else _draw_region(rng.spawn(1)[0])
    grid = _place_grid(rng, person, spacing_mm, shape, region)
    thin = _thin_slices(grid, slabs)
    coarse = _coarse_grid(thin, 6.0 if min(spacing_mm[1:]) > 2.4 else 4.0)
    canvas = Canvas(thin, coarse, ROOM_AIR_HU)
    anatomy = draw_anatomy(rng, person, coarse, grid, easy=easy)
    if settings.table:
        scanner.paint_table(rng, canvas, anatomy.skin)
    soft_tissue.paint_soft_tissue(rng, canvas, anatomy)
    if not easy:
        bowel.paint_bowel(rng.spawn(1)[0], canvas, anatomy)
    mimics.paint_nodes(rng, canvas, anatomy)
    anatomy, trees = lungs.paint_lungs(rng, canvas, anatomy, mix)
    bones.paint_ribs(rng, canvas, anatomy)
    bones.paint_spine(rng, canvas, anatomy)
    bones.paint_shoulders(canvas, anatomy.frame)
    lesions, share = paint_lesions(rng, canvas, anatomy, trees, mix, tumours)
    if settings.implant:
        scanner.paint_implant(rng, canvas, settings.implant, anatomy.frame)
    label = (scanner.average_slices(share, slabs) > 0.5).astype(np.uint8)
    drop_small(label, spacing_mm, SMALLEST_LABEL_MM3)  # fragments that heart or pleura cut off
    return Chest(
        hu=scanner.expose(rng, scanner.average_slices(canvas.hu, slabs), grid, settings),
        label=label,
        lungs=(interpolate(anatomy.lung, coarse, grid) < 0).astype(np.uint8),
        spacing_mm=(float(spacing_mm[0]), float(spacing_mm[1]), float(spacing_mm[2])),
        lesions=tuple(lesions),
        person=person,
        scanner=settings,
    )


def _draw_region(rng: np.random.Generator) -> str:
    return str(rng.choice(list(REGIONS), p=list(REGIONS.values())))


def _place_grid(
    rng: np.random.Generator,
    person: Person,
    spacing_mm: Triple,
    shape: Sequence[int] | None,
    region: str,
) -> VoxelGrid:
    """Return the scan's grid: round the chest, the lungs' bases, or these and the abdomen."""
    top = 128 * person.height + rng.uniform(0, 45)
    below = rng.uniform(70, 150)
    if region != "chest":
        dome = max(person.dome_mm) * person.height
        place = rng.spawn(1)[0]
        top = dome + place.uniform(*((40, 100) if region == "bases" else (15, 90)))
        below += 110 if region == "abdomen" else 0
    bottom = person.dome_mm[1] * person.height - below
    if shape is None:
        field = rng.uniform(330, 430) if rng.random() < 0.7 else rng.uniform(430, 500)
        shape = [int(size / s) for size, s in zip((field, field), spacing_mm[1:])]
    if len(shape) == 2:
        shape = [min(int((top - bottom) / spacing_mm[0]), MOST_SLICES), *shape]
    if region != "chest":  # however few the slices, some of them show lung
        bottom = top - shape[0] * spacing_mm[0]
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
    high = [max(z, HILA_MM) + step, min(y + step, 195.0), min(x + step, 292.0)]
    return VoxelGrid(
        low, (step,) * 3, [int(np.ceil((b - a) / step)) + 1 for a, b in zip(low, high)]
    )


def check_options(tier: str, tumours: int | None) -> None:
    """Raise LungsegError for an unknown tier or an impossible number of tumours."""
    if tier not in TIERS:
        raise LungsegError("tier", f"unknown tier {tier!r}", f"Use one of {', '.join(TIERS)}")
    is_whole = isinstance(tumours, (int, np.integer)) and not isinstance(tumours, bool)
    if tumours is not None and not (is_whole and 0 <= tumours <= MOST_TUMOURS):
        raise LungsegError(
            "tumours",
            f"{tumours!r} is out of range",
            f"Use a whole number from 0 to {MOST_TUMOURS}, or None",
        )


def make_case(
    seed: int, *, tier: str = "quick", tumours: int | None = None
) -> tuple[volume.Volume, np.ndarray]:
    """Make a scan with `tumours` (default: drawn, one to four) and its label (uint8, (D, H, W)).

    `tier` is "quick" (3 mm, easier), "medium" (2.5 mm, to train on: tumours of every size alike) or
    "full" (native).
    """
    check_options(tier, tumours)
    rng = np.random.default_rng([seed, 7])
    if tier == "quick":
        pixel_mm = rng.uniform(2.9, 3.2)
        chest = synthesise(seed, spacing_mm=(3.0, pixel_mm, pixel_mm), mix="easy", tumours=tumours)
    elif tier == "medium":
        chest = synthesise(seed, spacing_mm=(2.5, 2.5, 2.5), mix="broad", tumours=tumours)
    else:
        pixel_mm = rng.uniform(0.62, 0.9)
        slice_mm = float(rng.choice(SLICES_MM))
        if pixel_mm > 0.7:
            slice_mm = max(slice_mm, 1.0)
        spacing_mm = (slice_mm, pixel_mm, pixel_mm)
        chest = synthesise(seed, spacing_mm=spacing_mm, shape=(512, 512), tumours=tumours)
    affine = volume.CANONICAL * [*chest.spacing_mm, 1.0]
    affine[:3, 3] = rng.uniform(-300, 300, 3).round(3)
    name = f"phantom_{seed:06d}"
    grid = grid_along("LPS", chest.hu.shape, affine)
    path = Path(f"{name}.nii.gz")
    return volume.Volume(chest.hu, chest.spacing_mm, affine, name, path, grid), chest.label
