"""A picture in 3D without a 3D engine: rays through a coarse grid, glass lungs, solid tumours."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch

from lungseg_utils.components import bounding_box
from lungseg_utils.plotting.style import PREDICTION_COLOUR, TRUTH_COLOUR, Figure, new_figure

# per body: its colour, and how opaque it is seen from the front and at its rim (1 and 1: solid)
STYLES = {
    "lungs": ("#8A99A8", 0.10, 0.55),
    "truth": (TRUTH_COLOUR, 1, 1),
    "prediction": (PREDICTION_COLOUR, 0.2, 0.7),
}
# from above, from the viewer's side, from the viewer's left
LIGHT = np.array([0.8, -0.45, -0.4], np.float32)


def render_3d(
    mask: np.ndarray,
    *,
    spacing_mm: Sequence[float],
    lungs: np.ndarray | None = None,
    prediction: np.ndarray | None = None,
    turns: Sequence[int] = (0, 45, 90),
) -> Figure:
    """Draw lesions as solid bodies inside glass lungs, from the front and from the patient's left.

    `mask`, `lungs` and `prediction` are masks (D, H, W) on one grid. Next to `mask` (solid),
    `prediction` is drawn as a translucent shell. `turns` are whole degrees: 0 from the front, 90
    from the patient's left.
    """
    given = {"lungs": lungs, "truth": mask, "prediction": prediction}
    masks = {name: np.asarray(part) != 0 for name, part in given.items() if part is not None}
    grids, grid_mm = coarse_bodies(masks, spacing_mm)
    pictures = [render(grids, degrees) for degrees in turns]
    widths = [picture.shape[1] for picture in pictures]  # one scale for all views
    figure_width = 4.2 * len(turns)
    figure = new_figure(figure_width, 0.9 + figure_width * pictures[0].shape[0] / sum(widths))
    panels = np.atleast_1d(figure.subplots(1, len(turns), width_ratios=widths))
    for axes, degrees, picture in zip(panels, turns, pictures):
        height, width = (n * grid_mm for n in picture.shape[:2])
        axes.imshow(
            picture,
            extent=(0, width, 0, height),
            origin="lower",
            interpolation="bicubic",
            aspect="equal",
        )
        names = {0: "from the front", 90: "from the patient's left"}
        axes.set_title(names.get(degrees, f"turned by {degrees}°"), fontsize=11)
        sides = {0: ("R", "L"), 90: ("A", "P")}.get(degrees % 360, ("", ""))
        for letter, x in zip(sides, (0.02, 0.98)):
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

    Every body is a surface where its grid passes one half; light falls by Lambert's law. A glass
    body is faint where we look straight at it and strong at its rim.
    """
    bodies = [_body(_turn(grid, degrees), *STYLES[name][1:]) for name, grid in grids.items()]
    total = sum(alpha for alpha, _ in bodies)
    alpha = np.clip(total, 0, 1)
    passed = np.cumprod(1 - alpha, axis=1)  # the light that is left behind each step of the ray
    arriving = np.concatenate([np.ones_like(passed[:, :1]), passed[:, :-1]], axis=1)
    seen = arriving * alpha / np.maximum(total, 1e-6)
    picture = np.repeat(
        passed[:, -1, :, None], 3, axis=2
    )  # white where no body is: (D, columns, 3)
    for name, (body_alpha, shade) in zip(grids, bodies):
        colour = np.array(to_rgb(STYLES[name][0]), np.float32)
        picture += (seen * body_alpha * shade).sum(axis=1)[..., None] * colour
    return np.clip(picture, 0, 1)


def _body(grid: np.ndarray, face: float, rim: float) -> tuple[np.ndarray, np.ndarray]:
    """Return opacity and brightness of each voxel of a body; its grid is (D, depth, columns).

    `face` and `rim` are the opacities where the surface faces the viewer and at its rim.
    """
    up, depth, across = np.gradient(grid)
    slope = np.sqrt(up**2 + depth**2 + across**2)
    light = LIGHT / np.linalg.norm(LIGHT)
    towards_light = -(up * light[0] + depth * light[1] + across * light[2])
    lambert = np.clip(towards_light / np.maximum(slope, 1e-6), 0, 1)
    shade = np.float32(0.45) + np.float32(0.6) * lambert + np.float32(0.35) * lambert**12
    if face == 1:
        return np.clip((grid - 0.3) / 0.3, 0, 1), shade
    facing = np.abs(depth) / np.maximum(slope, 1e-6)
    return np.clip(slope * 1.5, 0, 1) * (face + (rim - face) * (1 - facing) ** 2.5), shade


def coarse_bodies(
    masks: dict[str, np.ndarray], spacing_mm: Sequence[float], longest: int = 130
) -> tuple[dict[str, np.ndarray], float]:
    """Crop all masks to the box that holds them and average them onto one smooth isotropic grid."""
    import torch
    from scipy.ndimage import gaussian_filter
    from torch.nn.functional import adaptive_avg_pool3d

    marked = np.any(list(masks.values()), axis=0)
    if marked.any():
        box = bounding_box(marked)
        masks = {name: part[box] for name, part in masks.items()}
        marked = marked[box]
    size_mm = np.array(marked.shape) * np.array(spacing_mm, float)
    grid_mm = float(size_mm.max() / longest)
    size = tuple(max(1, round(mm / grid_mm)) for mm in size_mm)
    blur = [0.3 + 0.5 * max(1.0, mm / grid_mm) for mm in spacing_mm]  # hides thick slices' steps
    grids = {}
    for name, part in masks.items():
        averaged = adaptive_avg_pool3d(torch.from_numpy(part).float()[None], size)[0]
        grids[name] = gaussian_filter(np.pad(averaged.numpy(), 4), blur)
    return grids, grid_mm


def _turn(grid: np.ndarray, degrees: float) -> np.ndarray:
    """Sample (D, H, W) as (D, depth, columns): away from the viewer and to the viewer's right."""
    from scipy.ndimage import affine_transform

    angle = np.deg2rad(degrees)
    cos = np.cos(angle)
    sin = np.sin(angle)
    planes, height, width = grid.shape
    depth = abs(cos) * height + abs(sin) * width
    columns = abs(sin) * height + abs(cos) * width
    out = (planes, int(np.ceil(depth - 1e-6)), int(np.ceil(columns - 1e-6)))
    matrix = np.array([[1, 0, 0], [0, cos, sin], [0, -sin, cos]])
    offset = (np.array(grid.shape) - 1) / 2 - matrix @ ((np.array(out) - 1) / 2)
    return affine_transform(grid, matrix, offset, out, order=1)


def _name_bodies(figure: Figure, names: list[str]) -> None:
    handles = [
        Patch(color=STYLES[name][0], label=name, alpha=0.6 if name == "prediction" else 1)
        for name in names
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
