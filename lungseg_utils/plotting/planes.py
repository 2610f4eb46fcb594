"""Three planes through one point: the scan with its outlines, and what a prediction got wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.patches import Patch

from lungseg_utils.components import Box
from lungseg_utils.plotting.slices import PLANES, array_and_spacing, centre_of, show_slice
from lungseg_utils.plotting.style import ERROR_COLOURS, Figure, new_figure
from lungseg_utils.plotting.windows import LUNG_WINDOW_HU, Window, window_text
from lungseg_utils.runtime import printable

if TYPE_CHECKING:
    from lungseg_utils.preprocess import Prepared
    from lungseg_utils.volume import Volume


def show_planes(
    volume: Volume | Prepared | np.ndarray,
    mask: np.ndarray | None = None,
    prediction: np.ndarray | None = None,
    *,
    spacing_mm: Sequence[float] | None = None,
    centre: Sequence[int] | None = None,
    window_hu: Window = LUNG_WINDOW_HU,
    field_mm: float | None = None,
    title: str = "",
) -> Figure:
    """Draw the axial, coronal and sagittal slice through one point, all at the same scale.

    `mask` (the truth, solid) and `prediction` (dashed) are outlined. `centre` is the voxel
    (d, h, w); by default it lies in the largest lesion of `mask`, else of `prediction`, else in
    the middle of the scan. `field_mm` shows only a cube of that side round it: a small nodule
    cannot be seen in a whole chest.
    """
    array, spacing_mm = array_and_spacing(volume, spacing_mm)
    centre = centre or centre_of(mask, prediction, shape=array.shape)
    box = field_box(array.shape, spacing_mm, centre, field_mm)
    mask, prediction = (
        None if part is None else np.asarray(part)[box] for part in (mask, prediction)
    )
    figure, panels = _three_panels(array[box].shape, spacing_mm)
    for (name, cut), axes in zip(PLANES.items(), panels):
        show_slice(
            array[box],
            name,
            centre[cut.across] - box[cut.across].start,
            spacing_mm=spacing_mm,
            mask=mask,
            prediction=prediction,
            window_hu=window_hu,
            axes=axes,
        )
        number = f"{centre[cut.across] + 1} of {array.shape[cut.across]}"
        axes.set_title(f"{name.capitalize()}, slice {number}", fontsize=11)
    title = title or printable(getattr(volume, "name", ""))
    text = window_text(window_hu)
    # the names of scans and cases are no formulas, whatever is between dollars
    figure.suptitle(f"{title}: {text}" if title else text, fontsize=12, parse_math=False)
    _legend(figure, panels[0].get_legend_handles_labels()[0])
    return figure


def show_error_map(
    volume: Volume | Prepared | np.ndarray,
    mask: np.ndarray,
    prediction: np.ndarray,
    *,
    spacing_mm: Sequence[float] | None = None,
    centre: Sequence[int] | None = None,
    window_hu: Window = LUNG_WINDOW_HU,
    field_mm: float | None = None,
    title: str = "",
) -> Figure:
    """Draw in three planes what was found, what is a false positive and what was missed, in mL.

    The arguments are those of `show_planes`.
    """
    array, spacing_mm = array_and_spacing(volume, spacing_mm)
    truth = np.asarray(mask) != 0
    found = np.asarray(prediction) != 0
    parts = {"found": truth & found, "false positive": found & ~truth, "missed": truth & ~found}
    centre = centre or centre_of(truth, found, shape=array.shape)
    figure = show_planes(
        volume,
        spacing_mm=spacing_mm,
        window_hu=window_hu,
        title=title,
        centre=centre,
        field_mm=field_mm,
    )
    box = field_box(array.shape, spacing_mm, centre, field_mm)
    for cut, axes in zip(PLANES.values(), figure.axes):
        image = axes.images[0]
        overlay = np.zeros((*image.get_size(), 4))
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
    patches = [
        Patch(color=ERROR_COLOURS[name], label=f"{name} ({part.sum() * voxel_ml:.1f} mL)")
        for name, part in parts.items()
    ]
    _legend(figure, patches)
    return figure


def field_box(
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    centre: Sequence[int],
    field_mm: float | None,
) -> Box:
    """Return the box of `field_mm` round `centre`, moved to lie inside the scan; else all of it."""
    box = []
    for size, mm, middle in zip(shape, spacing_mm, centre):
        side = size if field_mm is None else min(size, max(1, round(field_mm / mm)))
        start = min(max(0, middle - side // 2), size - side)
        box.append(slice(start, start + side))
    return tuple(box)  # type: ignore[return-value]


def _three_panels(
    shape: Sequence[int], spacing_mm: Sequence[float]
) -> tuple[Figure, Sequence[Axes]]:
    """Return a figure with room for the three planes, side by side at one scale."""
    size_mm = [n * mm for n, mm in zip(shape, spacing_mm)]
    widths = [size_mm[cut.columns] for cut in PLANES.values()]
    tallest = max(size_mm[cut.rows] for cut in PLANES.values())
    figure = new_figure(13, 1.1 + min(12.4 * tallest / sum(widths), 9))
    return figure, figure.subplots(1, 3, width_ratios=widths)


def _legend(figure: Figure, handles: Sequence[Artist]) -> None:
    if handles:
        figure.legend(
            handles=handles, loc="outside lower center", ncols=len(handles), handlelength=2.5
        )
