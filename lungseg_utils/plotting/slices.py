"""CT slices as a radiologist sees them: from the feet, head up, in mm, with sides and a scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from lungseg_utils.components import list_components
from lungseg_utils.plotting.style import (
    PREDICTION_COLOUR,
    PREDICTION_LINE,
    TRUTH_COLOUR,
    TRUTH_LINE,
    Figure,
    new_figure,
)
from lungseg_utils.plotting.windows import LUNG_WINDOW_HU, Window, window_text

if TYPE_CHECKING:  # they bring torch, which no picture needs
    from lungseg_utils.preprocess import Prepared
    from lungseg_utils.volume import Volume


class Plane(NamedTuple):
    """How a plane is cut and laid out: the axis across it, those of its rows and columns, sides."""

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
SIDES = (  # where the letters stand, in shares of the picture: x, y, horizontal, vertical alignment
    (0.02, 0.5, "left", "center"),
    (0.98, 0.5, "right", "center"),
    (0.5, 0.97, "center", "top"),
    (0.5, 0.03, "center", "bottom"),
)
BAR_LENGTHS_MM = (1, 2, 5, 10, 20, 50, 100)


def array_and_spacing(
    volume: Volume | Prepared | np.ndarray, spacing_mm: Sequence[float] | None
) -> tuple[np.ndarray, tuple[float, ...]]:
    """Return the HU (D, H, W) and the voxel size of a scan, or of an array with `spacing_mm`."""
    if spacing_mm is None:
        spacing_mm = getattr(volume, "spacing_mm", None)
    if spacing_mm is None:
        raise TypeError("an array does not know its voxel size: pass spacing_mm=(d, h, w)")
    return np.asarray(getattr(volume, "hu", volume)), tuple(map(float, spacing_mm))


def centre_of(*masks: np.ndarray | None, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the voxel (d, h, w) to look at: in the largest lesion of the first mask with any.

    Without a lesion it is the middle of `shape`.
    """
    for mask in masks:
        if mask is not None and np.any(mask):
            voxels = max(list_components(np.asarray(mask) != 0), key=len)
            # the voxel nearest to the centre of gravity: a hollow lesion has none there
            nearest = np.square(voxels - voxels.mean(axis=0)).sum(axis=1).argmin()
            return tuple(map(int, voxels[nearest]))
    return tuple(size // 2 for size in shape)


def show_slice(
    volume: Volume | Prepared | np.ndarray,
    plane: str = "axial",
    index: int | None = None,
    *,
    spacing_mm: Sequence[float] | None = None,
    mask: np.ndarray | None = None,
    prediction: np.ndarray | None = None,
    window_hu: Window = LUNG_WINDOW_HU,
    axes: Axes | None = None,
) -> Figure:
    """Draw one slice, with the outlines of `mask` (solid) and `prediction` (dashed), (D, H, W).

    `volume` is a `volume.Volume`, a `preprocess.Prepared`, or an array in HU with `spacing_mm`.
    """
    array, spacing_mm = array_and_spacing(volume, spacing_mm)
    cut = PLANES[plane]
    if index is None:
        index = centre_of(mask, prediction, shape=array.shape)[cut.across]
    pixel_mm = (spacing_mm[cut.rows], spacing_mm[cut.columns])
    height = array.shape[cut.rows] * pixel_mm[0]
    width = array.shape[cut.columns] * pixel_mm[1]
    if axes is None:
        axes = new_figure(5.6, 0.6 + 5.4 * min(height / width, 1.5)).subplots()
    is_upwards = cut.rows == 0
    axes.imshow(
        array.take(index, axis=cut.across),
        cmap="gray",
        vmin=window_hu[0],
        vmax=window_hu[1],
        extent=(0, width, 0, height) if is_upwards else (0, width, height, 0),  # in mm
        origin="lower" if is_upwards else "upper",
        aspect="equal",
        interpolation="bilinear",
    )
    for name, outlined, colour, line in (
        ("truth", mask, TRUTH_COLOUR, TRUTH_LINE),
        ("prediction", prediction, PREDICTION_COLOUR, PREDICTION_LINE),
    ):
        if outlined is not None:
            section = np.asarray(outlined).take(index, axis=cut.across)
            axes.plot([], [], color=colour, ls=line, lw=2, label=name)  # for a legend
            _outline(axes, section, pixel_mm, colour, line)
    _annotate(axes, cut, width)
    number = f"{index + 1} of {array.shape[cut.across]}"
    axes.set_title(f"{plane.capitalize()} {number}, {window_text(window_hu)}", fontsize=10)
    return axes.figure  # type: ignore[return-value]


def _outline(
    axes: Axes, section: np.ndarray, pixel_mm: tuple[float, float], colour: str, line: str
) -> None:
    """Draw the border round the marked pixels of `section` (rows, columns), along their edges."""
    if not section.any():
        return
    padded = np.pad(section != 0, 1).astype(float)  # an outline closes at the edge of the scan
    y, x = ((np.arange(n) - 0.5) * mm for n, mm in zip(padded.shape, pixel_mm))
    drawn = axes.contour(
        x, y, padded, levels=[0.5], colors=[colour], linestyles=[line], linewidths=1.6
    )
    drawn.set_path_effects([withStroke(linewidth=2.6, foreground="black", alpha=0.5)])


def _annotate(axes: Axes, cut: Plane, width_mm: float) -> None:
    """Mark the patient's sides at the four borders, and draw a scale bar."""
    axes.set_axis_off()
    halo = [withStroke(linewidth=2.5, foreground="black")]
    white: dict[str, Any] = {"transform": axes.transAxes, "color": "white", "path_effects": halo}
    for letter, (x, y, ha, va) in zip(cut.letters, SIDES):
        axes.text(x, y, letter, ha=ha, va=va, fontsize=11, weight="bold", **white)
    bar_mm = max((mm for mm in BAR_LENGTHS_MM if mm <= 0.3 * width_mm), default=1)
    ends = [0.03, 0.03 + bar_mm / width_mm]
    bar = {**white, "path_effects": [withStroke(linewidth=4.5, foreground="black")]}
    axes.plot(ends, [0.035, 0.035], lw=3, ls="-", solid_capstyle="butt", **bar)
    axes.text(0.03, 0.05, f"{bar_mm} mm", fontsize=9, va="bottom", **white)
