"""CT slices as a radiologist sees them: from the feet, head up, in millimetres, with sides, window and scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lungseg_utils.plotting.style import (
    LUNG_WINDOW_HU,
    PREDICTION_COLOUR,
    PREDICTION_LINE,
    SKY,
    TRUTH_COLOUR,
    TRUTH_LINE,
    VERMILLION,
    YELLOW,
    Figure,
    new_figure,
    window_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Plane(NamedTuple):
    """How a plane is cut and laid out: the axis it crosses, those of its rows and columns, and the sides."""

    across: int
    rows: int
    columns: int
    letters: tuple[str, str, str, str]  # left, right, top, bottom


# Columns and rows run along axes of (D, H, W). D runs towards the head, so it is drawn upwards.
PLANES = {
    "axial": Plane(0, 1, 2, ("R", "L", "A", "P")),
    "coronal": Plane(1, 0, 2, ("R", "L", "H", "F")),
    "sagittal": Plane(2, 0, 1, ("A", "P", "H", "F")),
}
ERROR_COLOURS = {"found": SKY, "false alarm": VERMILLION, "missed": YELLOW}


def array_and_spacing(volume, spacing_mm) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Take a `volume.Volume`, or an array (D, H, W) and its `spacing_mm`."""
    array = volume.hu if hasattr(volume, "hu") else np.asarray(volume)
    spacing_mm = getattr(volume, "spacing_mm", None) if spacing_mm is None else spacing_mm
    if spacing_mm is None:
        raise TypeError("an array does not know its voxel size: give spacing_mm=(d, h, w)")
    return array, tuple(map(float, spacing_mm))


def centre_of(*masks: np.ndarray | None, shape: Sequence[int]) -> tuple[int, int, int]:
    """Give the voxel (d, h, w) to look at: inside the largest lesion of the first mask that has one."""
    import cc3d

    for mask in masks:
        if mask is not None and np.any(mask):
            labels = cc3d.connected_components(np.asarray(mask) != 0, connectivity=26)
            sizes = np.bincount(labels.ravel())
            voxels = np.argwhere(labels == 1 + sizes[1:].argmax())
            # the voxel nearest to the centre of gravity: a hollow lesion has none there
            nearest = np.square(voxels - voxels.mean(axis=0)).sum(axis=1).argmin()
            return tuple(int(index) for index in voxels[nearest])
    return tuple(int(size) // 2 for size in shape)


def show_slice(
    volume,
    plane: str = "axial",
    index: int | None = None,
    *,
    spacing_mm=None,
    mask=None,
    prediction=None,
    window_hu=LUNG_WINDOW_HU,
    opacity: float = 0.0,
    axes: Axes | None = None,
) -> Figure:
    """Draw one slice, with the outline of `mask` (solid) and of `prediction` (dashed), both (D, H, W).

    `volume` is a `volume.Volume`, or an array in HU with `spacing_mm`; `opacity` fills the outlines.
    """
    array, spacing_mm = array_and_spacing(volume, spacing_mm)
    cut = PLANES[plane]
    if index is None:
        index = centre_of(mask, prediction, shape=array.shape)[cut.across]
    width, height = (
        array.shape[cut.columns] * spacing_mm[cut.columns],
        array.shape[cut.rows] * spacing_mm[cut.rows],
    )
    if axes is None:
        axes = new_figure(5.6, 0.6 + 5.4 * min(height / width, 1.5)).subplots()
    extent = (
        (0, width, 0, height) if cut.rows == 0 else (0, width, height, 0)
    )  # millimetres, so aspect is true
    axes.imshow(
        array.take(index, axis=cut.across),
        cmap="gray",
        vmin=window_hu[0],
        vmax=window_hu[1],
        extent=extent,
        origin="lower" if cut.rows == 0 else "upper",
        aspect="equal",
        interpolation="bilinear",
    )
    for outline, colour, line in (
        (mask, TRUTH_COLOUR, TRUTH_LINE),
        (prediction, PREDICTION_COLOUR, PREDICTION_LINE),
    ):
        if outline is not None:
            _outline(
                axes,
                np.asarray(outline).take(index, axis=cut.across),
                spacing_mm[cut.rows],
                spacing_mm[cut.columns],
                colour,
                line,
                opacity,
            )
    _annotate(axes, cut, width)
    axes.set_title(
        f"{plane.capitalize()} {index + 1} of {array.shape[cut.across]}, {window_text(window_hu)}",
        fontsize=10,
    )
    return axes.figure


def show_planes(
    volume,
    mask=None,
    prediction=None,
    *,
    spacing_mm=None,
    centre=None,
    window_hu=LUNG_WINDOW_HU,
    field_mm: float | None = None,
    crosshair: bool = False,
    title: str = "",
) -> Figure:
    """Draw the axial, coronal and sagittal slice through one point, all at the same scale.

    `mask` (the truth, solid) and `prediction` (dashed) are outlined. `centre` is the voxel (d, h, w); by default
    it lies in the largest lesion of `mask`, else of `prediction`, else in the middle of the scan. `field_mm` shows
    only a cube of that side round it: a small nodule cannot be seen in a whole chest.
    """
    array, spacing_mm = array_and_spacing(volume, spacing_mm)
    full_shape = array.shape
    full_centre = centre = tuple(centre or centre_of(mask, prediction, shape=full_shape))
    box = _field(full_shape, spacing_mm, centre, field_mm)
    array, mask, prediction = (
        None if part is None else np.asarray(part)[box] for part in (array, mask, prediction)
    )
    centre = [index - cut.start for index, cut in zip(centre, box, strict=True)]
    figure, panels = _three_panels(array.shape, spacing_mm)
    for (name, cut), axes in zip(PLANES.items(), panels, strict=True):
        show_slice(
            array,
            name,
            centre[cut.across],
            spacing_mm=spacing_mm,
            mask=mask,
            prediction=prediction,
            window_hu=window_hu,
            axes=axes,
        )
        axes.set_title(
            f"{name.capitalize()}, slice {full_centre[cut.across] + 1} of {full_shape[cut.across]}",
            fontsize=11,
        )
        if crosshair:
            axes.axvline(
                (centre[cut.columns] + 0.5) * spacing_mm[cut.columns], color=YELLOW, lw=0.7, ls=":"
            )
            axes.axhline(
                (centre[cut.rows] + 0.5) * spacing_mm[cut.rows], color=YELLOW, lw=0.7, ls=":"
            )
    title = title or getattr(volume, "name", "")
    figure.suptitle(
        f"{title}: {window_text(window_hu)}" if title else window_text(window_hu), fontsize=12
    )
    _legend(
        figure,
        [("truth", TRUTH_COLOUR, TRUTH_LINE)] * (mask is not None)
        + [("prediction", PREDICTION_COLOUR, PREDICTION_LINE)] * (prediction is not None),
    )
    return figure


def show_error_map(
    volume,
    mask,
    prediction,
    *,
    spacing_mm=None,
    centre=None,
    window_hu=LUNG_WINDOW_HU,
    field_mm: float | None = None,
    title: str = "",
) -> Figure:
    """Draw in three planes what was found, what is a false alarm and what was missed, with their volumes in mL."""
    from matplotlib.colors import to_rgba

    array, spacing_mm = array_and_spacing(volume, spacing_mm)
    mask, prediction = np.asarray(mask) != 0, np.asarray(prediction) != 0
    parts = dict(
        zip(ERROR_COLOURS, (mask & prediction, prediction & ~mask, mask & ~prediction), strict=True)
    )
    centre = tuple(centre or centre_of(mask, prediction, shape=array.shape))
    figure = show_planes(
        volume,
        spacing_mm=spacing_mm,
        window_hu=window_hu,
        title=title,
        centre=centre,
        field_mm=field_mm,
    )
    box = _field(array.shape, spacing_mm, centre, field_mm)
    for cut, axes in zip(PLANES.values(), figure.axes, strict=True):
        image = axes.images[0]
        overlay = np.zeros((*image.get_array().shape, 4))
        for name, part in parts.items():
            section = part[box].take(centre[cut.across] - box[cut.across].start, axis=cut.across)
            overlay[section] = to_rgba(ERROR_COLOURS[name], 0.65)
        axes.imshow(
            overlay,
            extent=image.get_extent(),
            origin=image.origin,
            aspect="equal",
            interpolation="nearest",
        )
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    _legend(
        figure,
        [
            (f"{name} ({part.sum() * voxel_ml:.1f} mL)", ERROR_COLOURS[name], None)
            for name, part in parts.items()
        ],
    )
    return figure


def _field(shape, spacing_mm, centre, field_mm: float | None) -> tuple[slice, slice, slice]:
    """Give the box of `field_mm` round `centre`, moved to lie inside the scan; the whole scan without one."""
    if field_mm is None:
        return tuple(slice(0, size) for size in shape)
    sides = [
        min(size, max(1, round(field_mm / mm))) for size, mm in zip(shape, spacing_mm, strict=True)
    ]
    starts = [
        min(max(0, c - side // 2), size - side)
        for c, side, size in zip(centre, sides, shape, strict=True)
    ]
    return tuple(slice(start, start + side) for start, side in zip(starts, sides, strict=True))


def _three_panels(shape, spacing_mm) -> tuple[Figure, Sequence[Axes]]:
    size_mm = [n * s for n, s in zip(shape, spacing_mm, strict=True)]
    widths = [size_mm[cut.columns] for cut in PLANES.values()]
    tallest = max(size_mm[cut.rows] for cut in PLANES.values())
    figure = new_figure(13, 1.1 + min(12.4 * tallest / sum(widths), 9))
    return figure, figure.subplots(1, 3, width_ratios=widths)


def _outline(
    axes: Axes,
    section: np.ndarray,
    row_mm: float,
    column_mm: float,
    colour: str,
    line: str,
    opacity: float,
):
    from matplotlib.patheffects import withStroke

    section = np.pad(section != 0, 1).astype(
        float
    )  # so that an outline closes at the edge of the scan
    if not section.any():
        return
    y, x = (
        (np.arange(n) - 0.5) * mm for n, mm in zip(section.shape, (row_mm, column_mm), strict=True)
    )
    if opacity:
        axes.contourf(x, y, section, levels=[0.5, 1.5], colors=[colour], alpha=opacity)
    drawn = axes.contour(
        x, y, section, levels=[0.5], colors=[colour], linestyles=[line], linewidths=1.6
    )
    drawn.set_path_effects([withStroke(linewidth=2.6, foreground="black", alpha=0.5)])


def _annotate(axes: Axes, cut: Plane, width: float) -> None:
    """Mark the patient's sides at the four borders, and a scale bar."""
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=2.5, foreground="black")]
    for letter, (x, y) in zip(
        cut.letters, ((0.02, 0.5), (0.98, 0.5), (0.5, 0.97), (0.5, 0.03)), strict=True
    ):
        axes.text(
            x,
            y,
            letter,
            transform=axes.transAxes,
            color="white",
            fontsize=11,
            weight="bold",
            path_effects=halo,
            ha={0.02: "left", 0.98: "right"}.get(x, "center"),
            va={0.97: "top", 0.03: "bottom"}.get(y, "center"),
        )
    bar = max((mm for mm in (1, 2, 5, 10, 20, 50, 100) if mm <= 0.3 * width), default=1)
    end = 0.03 + bar / width
    axes.plot(
        [0.03, end],
        [0.035] * 2,
        transform=axes.transAxes,
        color="white",
        lw=3,
        ls="-",
        solid_capstyle="butt",
        path_effects=[withStroke(linewidth=4.5, foreground="black")],
    )
    axes.text(
        0.03,
        0.05,
        f"{bar} mm",
        transform=axes.transAxes,
        color="white",
        fontsize=9,
        va="bottom",
        path_effects=halo,
    )
    axes.set_axis_off()


def _legend(figure: Figure, entries: list[tuple[str, str, str | None]]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Line2D([], [], color=colour, ls=line, lw=2, label=name)
        if line
        else Patch(color=colour, label=name)
        for name, colour, line in entries
    ]
    if handles:
        figure.legend(
            handles=handles, loc="outside lower center", ncols=len(handles), handlelength=2.5
        )
