"""A picture in 3D without a 3D engine: rays through a coarse grid, glass lungs, solid tumours, only NumPy and SciPy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lungseg_utils.plotting.style import PREDICTION_COLOUR, TRUTH_COLOUR, Figure, new_figure

LUNG_COLOUR = "#8A99A8"
LIGHT = np.array(
    [0.8, -0.45, -0.4], np.float32
)  # from above, from the viewer's side, from the viewer's left


def render_3d(
    mask, *, spacing_mm, lungs=None, prediction=None, turns: Sequence[float] = (0, 45, 90)
) -> Figure:
    """Draw lesions as solid bodies inside glass lungs, seen from the front and turned towards the patient's left.

    `mask`, `lungs` and `prediction` are masks (D, H, W) on one grid. Next to `mask` (solid), `prediction` is drawn
    as a translucent shell. `turns` are degrees: 0 from the front, 90 from the patient's left.
    """
    masks = {"lungs": lungs, "truth": mask, "prediction": prediction}
    masks = {name: np.asarray(part) != 0 for name, part in masks.items() if part is not None}
    grids, grid_mm = _coarse(masks, spacing_mm)
    pictures = [render(grids, degrees) for degrees in turns]
    widths = [picture.shape[1] for picture in pictures]  # one scale for all views
    figure = new_figure(
        4.2 * len(turns), 0.9 + 4.2 * len(turns) * pictures[0].shape[0] / sum(widths)
    )
    panels = np.atleast_1d(figure.subplots(1, len(turns), width_ratios=widths))
    for axes, degrees, picture in zip(panels, turns, pictures, strict=True):
        height, width = (n * grid_mm for n in picture.shape[:2])
        axes.imshow(
            picture,
            extent=(0, width, 0, height),
            origin="lower",
            interpolation="bicubic",
            aspect="equal",
        )
        axes.set_title(
            {0: "from the front", 90: "from the patient's left"}.get(
                degrees, f"turned by {degrees:g}°"
            ),
            fontsize=11,
        )
        sides = {0: ("R", "L"), 90: ("A", "P")}.get(degrees % 360, ("", ""))
        for letter, x in zip(sides, (0.02, 0.98), strict=True):
            axes.text(
                x, 0.93, letter, transform=axes.transAxes, ha="center", weight="bold", color="0.35"
            )
        axes.set_ylim(-16, height)  # room for the scale bar
        axes.set_axis_off()
    panels[0].plot([5, 55], [-9, -9], color="0.2", lw=3, ls="-", solid_capstyle="butt")
    panels[0].text(59, -9, "50 mm", color="0.2", fontsize=9, va="center")
    _name_bodies(figure, [name for name in masks if name != "lungs"])
    return figure


def render(grids: dict[str, np.ndarray], degrees: float) -> np.ndarray:
    """Cast parallel rays: grids of 0 to 1 (D, H, W) → picture (rows = D, columns, RGB), over white.

    Every body is a surface where its grid passes one half; light falls by Lambert's law. A glass body is faint
    where we look straight at it and strong at its rim.
    """
    from matplotlib.colors import to_rgb

    # per body: its colour, and how opaque it is seen from the front and at its rim (1 and 1: solid)
    styles = {
        "lungs": (LUNG_COLOUR, 0.10, 0.55),
        "truth": (TRUTH_COLOUR, 1, 1),
        "prediction": (PREDICTION_COLOUR, 0.2, 0.7),
    }
    bodies = [_body(_turn(grid, degrees), *styles[name][1:]) for name, grid in grids.items()]
    total = sum(alpha for alpha, _ in bodies)
    alpha = np.clip(total, 0, 1)
    passed = np.cumprod(1 - alpha, axis=1)  # the light that is left behind each step of the ray
    seen = (
        np.concatenate([np.ones_like(passed[:, :1]), passed[:, :-1]], axis=1)
        * alpha
        / np.maximum(total, 1e-6)
    )
    picture = np.repeat(
        passed[:, -1, :, None], 3, axis=2
    )  # (D, columns, RGB): white where nothing stands
    for name, (body_alpha, shade) in zip(grids, bodies, strict=True):
        picture += (seen * body_alpha * shade).sum(axis=1)[..., None] * np.array(
            to_rgb(styles[name][0]), np.float32
        )
    return np.clip(picture, 0, 1)


def _body(grid: np.ndarray, face: float, rim: float) -> tuple[np.ndarray, np.ndarray]:
    """Give opacity and brightness of each voxel of a body, its grid turned to (D, depth, columns)."""
    up, depth, across = np.gradient(grid)
    steepness = np.sqrt(up**2 + depth**2 + across**2)
    light = LIGHT / np.linalg.norm(LIGHT)
    lambert = np.clip(
        -(up * light[0] + depth * light[1] + across * light[2]) / np.maximum(steepness, 1e-6), 0, 1
    )
    shade = np.float32(0.45) + np.float32(0.6) * lambert + np.float32(0.35) * lambert**12
    if face == 1:
        return np.clip((grid - 0.3) / 0.3, 0, 1), shade
    facing = np.abs(depth) / np.maximum(steepness, 1e-6)
    return np.clip(steepness * 1.5, 0, 1) * (face + (rim - face) * (1 - facing) ** 2.5), shade


def _coarse(
    masks: dict[str, np.ndarray], spacing_mm, longest: int = 130
) -> tuple[dict[str, np.ndarray], float]:
    """Cut all masks to the box that holds them and average them onto one isotropic, smoothed grid."""
    import torch
    from scipy.ndimage import gaussian_filter

    box = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        inside = np.flatnonzero(np.any([part.any(axis=others) for part in masks.values()], axis=0))
        box.append(slice(inside[0], inside[-1] + 1) if inside.size else slice(None))
    shape = [
        len(range(*cut.indices(n)))
        for cut, n in zip(box, next(iter(masks.values())).shape, strict=True)
    ]
    size_mm = np.array(shape) * np.array(spacing_mm, float)
    grid_mm = float(size_mm.max() / longest)
    size = [max(1, round(mm / grid_mm)) for mm in size_mm]
    blur = [
        0.3 + 0.5 * max(1.0, mm / grid_mm) for mm in spacing_mm
    ]  # hides the steps of thick slices
    grids = {}
    for name, part in masks.items():
        averaged = torch.nn.functional.adaptive_avg_pool3d(
            torch.from_numpy(part[tuple(box)]).float()[None], size
        )[0]
        grids[name] = gaussian_filter(np.pad(averaged.numpy(), 4), blur)
    return grids, grid_mm


def _turn(grid: np.ndarray, degrees: float) -> np.ndarray:
    """Sample (D, H, W) as (D, depth, columns): away from the viewer and to the viewer's right."""
    from scipy.ndimage import affine_transform

    angle = np.deg2rad(degrees)
    cos, sin = np.cos(angle), np.sin(angle)
    depth, height, width = grid.shape
    out = (
        depth,
        *(
            int(np.ceil(side - 1e-6))
            for side in (abs(cos) * height + abs(sin) * width, abs(sin) * height + abs(cos) * width)
        ),
    )
    matrix = np.array([[1, 0, 0], [0, cos, sin], [0, -sin, cos]])
    offset = (np.array(grid.shape) - 1) / 2 - matrix @ ((np.array(out) - 1) / 2)
    return affine_transform(grid, matrix, offset, out, order=1)


def _name_bodies(figure: Figure, names: list[str]) -> None:
    from matplotlib.patches import Patch

    colours = {"truth": TRUTH_COLOUR, "prediction": PREDICTION_COLOUR}
    handles = [
        Patch(color=colours[name], label=name, alpha=0.6 if name == "prediction" else 1)
        for name in names
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
