"""The scanner: table, metal, slice thickness, kernel, noise, streaks, field of view and padding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lungseg_utils.phantom.fields import Canvas, Grid, coverage

PADDINGS_HU = (-1024, -2000, -2048, -3024)


@dataclass(frozen=True)
class Scanner:
    """How a scan is taken."""

    noise_hu: float  # standard deviation in the middle of an average body
    sharpness: float  # -1 soft … +1 sharp kernel with overshoot
    streaks: float
    thickness_mm: float
    padding_hu: int | None  # None: no circular field of view
    table: bool
    metal: str | None


def draw_scanner(rng: np.random.Generator, spacing_mm, *, kind: bool) -> Scanner:
    """Draw a scanner's settings for the given spacing."""
    sharp = float(np.clip(rng.normal(0, 0.5), -1, 1))
    thickness = spacing_mm[0] * rng.choice([1.0, 1.0, 1.25, 1.6])
    dose = rng.lognormal(0, 0.5) * (0.6 if kind else 1)
    noise = np.clip(
        34
        * dose
        * 1.6**sharp
        * np.sqrt(1.5 / max(thickness, 0.5))
        * min(1.0, 1.4 / spacing_mm[2]) ** 0.5,
        3,
        130,
    )
    metal = (
        str(rng.choice(["wires", "port", "pacemaker", "screws"]))
        if rng.random() < (0.03 if kind else 0.1)
        else None
    )
    return Scanner(
        float(noise),
        sharp,
        float(rng.exponential(0.5)),
        float(thickness),
        int(rng.choice(PADDINGS_HU)) if rng.random() < 0.45 else None,
        bool(rng.random() < 0.8),
        metal,
    )


def paint_table(rng: np.random.Generator, canvas: Canvas, skin: np.ndarray) -> None:
    """Paint a curved table and its mattress under the back."""
    grid = canvas.fine
    low = np.flatnonzero((skin < 0).any(axis=(0, 2)))
    back = canvas.coarse.origin_mm[1] + canvas.coarse.spacing_mm[1] * (low[-1] if len(low) else 0)
    y, x = grid.axis(1)[:, None], grid.axis(2)[None, :]
    bend = np.float32(rng.choice([0.0, 0.0008, 0.0014]))
    depth = (
        y
        - np.float32(back + rng.uniform(4, 22))
        - bend * (200**2 * 0.3 - x**2) * (1 if rng.random() < 0.7 else 0)
    )
    thick, half = rng.uniform(14, 45), rng.uniform(190, 250)
    side = np.abs(x) - np.float32(half)
    slab = np.maximum(np.abs(depth - thick / 2) - thick / 2, side)
    shell = np.maximum(slab, -(slab + 2))
    for distance, hu in (
        (slab, rng.uniform(-990, -880)),
        (shell, rng.uniform(-500, 100)),
        (np.maximum(np.abs(depth + 5) - 4, side), rng.uniform(-980, -800)),
    ):
        cover = coverage(
            np.ascontiguousarray(np.broadcast_to(distance, y.shape[:1] + x.shape[1:])),
            canvas.edge_mm,
        )
        outside = canvas.hu < -800  # never over the patient
        canvas.hu += np.where(outside, cover * (np.float32(hu) - canvas.hu), 0)


def paint_metal(rng: np.random.Generator, canvas: Canvas, kind: str, world) -> None:
    """Paint metal parts, with the star of streaks they throw in their slices."""
    f = world.frame
    if kind == "wires":
        places = [(f.locate((z, -104, 0)), 2.5) for z in range(-90, 50, 25)]
    elif kind == "screws":
        places = [(f.locate((z, 72, side * 12)), 3.0) for z in (-120, -98, -76) for side in (-1, 1)]
    else:
        side = 1 if kind == "pacemaker" else -1
        places = [(f.locate((45, -96, 75 * side)), 9.0 if kind == "port" else 16.0)]
    for centre, size in places:
        box = canvas.fine.box(centre - size - 4, centre + size + 4)
        if any(s.start == s.stop for s in box):
            continue
        z, y, x = (a - np.float32(c) for a, c in zip(canvas.fine.mesh(box), centre))
        body = np.sqrt(z**2 + (2 * y) ** 2 + x**2) - np.float32(size)
        hu = rng.uniform(2500, 14000)
        canvas.hu[box] += coverage(body, canvas.edge_mm) * (np.float32(hu) - canvas.hu[box])
        y, x = (
            canvas.fine.axis(1)[:, None] - np.float32(centre[1]),
            canvas.fine.axis(2)[None, :] - np.float32(centre[2]),
        )
        distance = np.sqrt(y**2 + x**2) + np.float32(size)
        rays = rng.standard_normal(180).astype(np.float32)
        angle = (np.arctan2(y, x) + np.pi) * (179 / (2 * np.pi))
        i = angle.astype(int) % 179
        star = (
            (rays[i] + (angle - i).astype(np.float32) * (rays[i + 1] - rays[i]))
            * np.float32(rng.uniform(30, 120))
            * np.float32(size)
            / distance
        )
        canvas.hu[box[0]] += star[None]


def average_slices(hu: np.ndarray, parts: int) -> np.ndarray:
    """Average each `parts` thin slices into one thick one: the true partial volume of a thick slice."""
    return hu if parts == 1 else hu.reshape(-1, parts, *hu.shape[1:]).mean(1)


def _smooth(a: np.ndarray, axis: int, share: float) -> np.ndarray:
    """Blur along one axis with the kernel (share, 1 - 2 share, share)."""
    a = np.moveaxis(a, axis, 0)
    out = a * np.float32(1 - 2 * share)
    out[1:] += np.float32(share) * a[:-1]
    out[:-1] += np.float32(share) * a[1:]
    out[0] += np.float32(share) * a[0]
    out[-1] += np.float32(share) * a[-1]
    return np.moveaxis(out, 0, axis)


def expose(
    rng: np.random.Generator, hu: np.ndarray, grid: Grid, scanner: Scanner, background_hu: float
) -> np.ndarray:
    """Turn ideal slices into measured ones: blur or overshoot, correlated noise, streaks, padding. Gives int16."""
    out = np.empty(hu.shape, np.int16)
    y, x = grid.axis(1)[:, None], grid.axis(2)[None, :]
    middle_y, middle_x = float(y.mean()), float(x.mean())
    field = np.sqrt((y - middle_y) ** 2 + (x - middle_x) ** 2) - np.float32(
        0.5 * grid.spacing_mm[2] * grid.shape[2] - 1
    )
    radial = np.float32(0.75) + np.float32(0.5) * np.clip(
        1 - ((y - middle_y) ** 2 / 120**2 + (x - middle_x) ** 2 / 190**2), 0, 1
    )
    thickness_share = 0.25 * min(max(scanner.thickness_mm / grid.spacing_mm[0] - 1, 0), 1)
    if thickness_share:
        hu = _smooth(hu, 0, thickness_share)
    fine = min(1.0, 0.8 / grid.spacing_mm[2]) if grid.spacing_mm[2] > 0.8 else 1.0
    passes = 1 if grid.spacing_mm[2] > 1.4 else 2
    mean_body = np.mean(np.clip(hu[:, ::4, ::4], -1000, 1200), axis=(1, 2)) + 1000
    load = (mean_body / max(float(np.median(mean_body)), 1)).clip(0.5, 2)
    previous = rng.standard_normal(hu.shape[1:], dtype=np.float32)
    for k in range(len(hu)):
        slice_ = hu[k]
        soft = _smooth(_smooth(slice_, 0, 0.2 * fine), 1, 0.2 * fine)
        if scanner.sharpness < 0:
            slice_ = slice_ + np.float32(-scanner.sharpness) * (soft - slice_)
        else:
            slice_ = slice_ + np.float32(0.9 * scanner.sharpness) * (slice_ - soft)
        white = rng.standard_normal(slice_.shape, dtype=np.float32)
        grain, previous = white + np.float32(0.35) * previous, white
        share = 0.25 if scanner.sharpness < 0.3 else 0.12
        for _ in range(passes):
            grain = _smooth(_smooth(grain, 0, share), 1, share)
        grain *= (
            np.float32(scanner.noise_hu * load[k] ** 1.5 / max(float(grain[::7, ::7].std()), 1e-3))
            * radial
        )
        if (
            scanner.streaks and load[k] > 1.1
        ):  # shoulders starve the detector: noise drawn out from side to side
            lines = np.cumsum(rng.standard_normal(slice_.shape, dtype=np.float32), axis=1)
            window = max(int(60 / grid.spacing_mm[2]), 2)
            lines[:, window:] -= lines[:, :-window].copy()
            lines *= np.float32(
                scanner.streaks * scanner.noise_hu * (load[k] - 1.1) * 2 / np.sqrt(window)
            )
            grain += lines * (slice_ > -700)
        measured = np.rint(
            np.clip(slice_ + grain, -1024 if background_hu > -1024 else background_hu, 30000)
        )
        if scanner.padding_hu is not None:
            measured = np.where(field > 0, scanner.padding_hu, measured)
        out[k] = measured
    return out
