"""The scanner: table, implants, slice thickness, kernel, noise, streaks and padding."""

from dataclasses import dataclass

import numpy as np

from lungseg_utils.components import bounding_box
from lungseg_utils.phantom.anatomy import Frame
from lungseg_utils.phantom.fields import Canvas, VoxelGrid, coverage

RANGE_HU = (-1024, 30000)
PADDINGS_HU = (-1024, -2000, -2048, -3024)
IMPLANTS = {  # places in body coordinates, radius in mm
    "wires": ([(z, -104, 0) for z in range(-90, 50, 25)], 2.5),
    "port": ([(45, -96, -75)], 9.0),
    "pacemaker": ([(45, -96, 75)], 16.0),
    "screws": ([(z, 72, side * 12) for z in (-120, -98, -76) for side in (-1, 1)], 3.0),
}


@dataclass(frozen=True)
class Scanner:
    """How a scan is taken."""

    noise_hu: float  # standard deviation in the middle of an average body
    sharpness: float  # -1 soft … +1 sharp kernel with overshoot
    streaks: float
    thickness_mm: float
    padding_hu: int | None  # None: no circular field of view
    table: bool
    implant: str | None


def draw_scanner(
    rng: np.random.Generator, spacing_mm: tuple[float, float, float], *, easy: bool
) -> Scanner:
    """Draw a scanner's settings for the given spacing."""
    sharpness = float(np.clip(rng.normal(0, 0.5), -1, 1))
    thickness_mm = float(spacing_mm[0] * rng.choice([1.0, 1.0, 1.25, 1.6]))
    dose = rng.lognormal(0, 0.5) * (0.6 if easy else 1)
    noise = 34 * dose * 1.6**sharpness * np.sqrt(1.5 / max(thickness_mm, 0.5))
    noise *= min(1.0, 1.4 / spacing_mm[2]) ** 0.5
    has_implant = rng.random() < (0.03 if easy else 0.1)
    implant = str(rng.choice(list(IMPLANTS))) if has_implant else None
    return Scanner(
        noise_hu=float(np.clip(noise, 3, 130)),
        sharpness=sharpness,
        streaks=float(rng.exponential(0.5)),
        thickness_mm=thickness_mm,
        padding_hu=int(rng.choice(PADDINGS_HU)) if rng.random() < 0.45 else None,
        table=rng.random() < 0.8,
        implant=implant,
    )


def paint_table(rng: np.random.Generator, canvas: Canvas, skin: np.ndarray) -> None:
    """Paint a curved table and its mattress under the back."""
    _, y, x = canvas.fine.mesh()
    lowest = max(bounding_box(skin < 0)[1].stop - 1, 0)
    back = canvas.coarse.origin_mm[1] + canvas.coarse.spacing_mm[1] * lowest
    bend = np.float32(rng.choice([0.0, 0.0008, 0.0014]))
    top = np.float32(back + rng.uniform(4, 22))
    if rng.random() >= 0.7:
        bend = np.float32(0)
    depth = y - top - bend * (12000 - x**2)
    thick, half_width = rng.uniform(14, 45), rng.uniform(190, 250)
    side = np.abs(x) - np.float32(half_width)
    slab = np.maximum(np.abs(depth - thick / 2) - thick / 2, side)
    shell = np.maximum(slab, -(slab + 2))
    mattress = np.maximum(np.abs(depth + 5) - 4, side)
    for distance, hu in (
        (slab, rng.uniform(-990, -880)),
        (shell, rng.uniform(-500, 100)),
        (mattress, rng.uniform(-980, -800)),
    ):
        cover = coverage(distance, canvas.edge_mm)
        part = (slice(None), *bounding_box(cover)[1:])
        rise = cover[part] * (np.float32(hu) - canvas.hu[part])
        canvas.hu[part] += np.where(canvas.hu[part] < -800, rise, 0)  # never over the patient


def paint_implant(rng: np.random.Generator, canvas: Canvas, implant: str, frame: Frame) -> None:
    """Paint metal parts, and the streaks they cause in their slices."""
    points, size = IMPLANTS[implant]
    for centre in [frame.locate(point) for point in points]:
        box = canvas.fine.box(centre - size - 4, centre + size + 4)
        if not canvas.hu[box].size:
            continue
        z, y, x = (axis - np.float32(c) for axis, c in zip(canvas.fine.mesh(box), centre))
        body = np.sqrt(z**2 + (2 * y) ** 2 + x**2) - np.float32(size)
        canvas.blend(box, coverage(body, canvas.edge_mm), np.float32(rng.uniform(2500, 14000)))
        _, y, x = (axis - np.float32(c) for axis, c in zip(canvas.fine.mesh(), centre))
        distance = np.sqrt(y**2 + x**2) + np.float32(size)
        rays = rng.standard_normal(180).astype(np.float32)
        angle = (np.arctan2(y, x) + np.pi) * (179 / (2 * np.pi))
        i = angle.astype(int) % 179
        between = rays[i] + (angle - i).astype(np.float32) * (rays[i + 1] - rays[i])
        star = between * np.float32(rng.uniform(30, 120)) * np.float32(size) / distance
        canvas.hu[box[0]] += star


def average_slices(hu: np.ndarray, parts: int) -> np.ndarray:
    """Average each `parts` thin slices into one: the true partial volume of a thick slice."""
    return hu if parts == 1 else hu.reshape(-1, parts, *hu.shape[1:]).mean(1)


def expose(
    rng: np.random.Generator, hu: np.ndarray, grid: VoxelGrid, scanner: Scanner
) -> np.ndarray:
    """Return measured slices (int16) of ideal ones: with kernel, noise, streaks and padding."""
    out = np.empty(hu.shape, np.int16)
    pixel_mm = grid.spacing_mm[2]
    y, x = (axis[0] - float(axis.mean()) for axis in grid.mesh()[1:])
    radius_mm = np.float32(0.5 * pixel_mm * grid.shape[2] - 1)
    outside = np.sqrt(y**2 + x**2) > radius_mm
    depth = np.clip(1 - (y**2 / 120**2 + x**2 / 190**2), 0, 1)
    radial = np.float32(0.75) + np.float32(0.5) * depth
    overlap = 0.25 * min(max(scanner.thickness_mm / grid.spacing_mm[0] - 1, 0), 1)
    if overlap:
        hu = _smooth(hu, 0, overlap)
    mean_body = np.mean(np.clip(hu[:, ::4, ::4], -1000, 1200), axis=(1, 2)) + 1000
    loads = (mean_body / max(float(np.median(mean_body)), 1)).clip(0.5, 2)
    previous = rng.standard_normal(hu.shape[1:], dtype=np.float32)
    for k, load in enumerate(loads):
        ideal = _with_kernel(hu[k], scanner.sharpness, pixel_mm)
        white = rng.standard_normal(ideal.shape, dtype=np.float32)
        grain = _correlated(white + np.float32(0.35) * previous, scanner.sharpness, pixel_mm)
        previous = white
        deviation = max(float(grain[::7, ::7].std()), 1e-3)
        grain *= np.float32(scanner.noise_hu * load**1.5 / deviation) * radial
        if load > 1.1:  # photon starvation, as in the shoulders
            grain += _streaks(rng, ideal.shape, scanner, load, pixel_mm) * (ideal > -700)
        measured = np.rint(np.clip(ideal + grain, *RANGE_HU))
        if scanner.padding_hu is not None:
            measured[outside] = scanner.padding_hu
        out[k] = measured
    return out


def _smooth(a: np.ndarray, axis: int, share: float) -> np.ndarray:
    """Blur along one axis with the kernel (share, 1 - 2 share, share)."""
    a = np.moveaxis(a, axis, 0)
    out = a * np.float32(1 - 2 * share)
    out[1:] += np.float32(share) * a[:-1]
    out[:-1] += np.float32(share) * a[1:]
    out[0] += np.float32(share) * a[0]
    out[-1] += np.float32(share) * a[-1]
    return np.moveaxis(out, 0, axis)


def _with_kernel(ideal: np.ndarray, sharpness: float, pixel_mm: float) -> np.ndarray:
    """Blur a slice by a soft kernel, or sharpen it with overshoot by a hard one."""
    share = 0.2 * min(1.0, 0.8 / pixel_mm)
    soft = _smooth(_smooth(ideal, 0, share), 1, share)
    if sharpness < 0:
        return ideal + np.float32(-sharpness) * (soft - ideal)
    return ideal + np.float32(0.9 * sharpness) * (ideal - soft)


def _correlated(grain: np.ndarray, sharpness: float, pixel_mm: float) -> np.ndarray:
    """Correlate the noise of neighbouring pixels, the more the softer the kernel."""
    share = 0.25 if sharpness < 0.3 else 0.12
    for _ in range(1 if pixel_mm > 1.4 else 2):
        grain = _smooth(_smooth(grain, 0, share), 1, share)
    return grain


def _streaks(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    scanner: Scanner,
    load: float,
    pixel_mm: float,
) -> np.ndarray:
    """Draw noise that is drawn out from side to side."""
    lines = np.cumsum(rng.standard_normal(shape, dtype=np.float32), axis=1)
    window = max(int(60 / pixel_mm), 2)
    lines[:, window:] -= lines[:, :-window].copy()
    strength = scanner.streaks * scanner.noise_hu * (load - 1.1) * 2 / np.sqrt(window)
    return lines * np.float32(strength)
