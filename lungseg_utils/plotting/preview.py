"""One picture a mask: every tumour in three planes, with its volume and its axial diameters."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure

from lungseg_utils.components import Box
from lungseg_utils.plotting.planes import field_box, show_planes
from lungseg_utils.plotting.slices import PLANES, show_slice
from lungseg_utils.plotting.style import YELLOW, Figure, new_figure, png
from lungseg_utils.plotting.windows import LUNG_WINDOW_HU, window_text
from lungseg_utils.prediction.diameters import Diameters, axial_diameters, longest_mm
from lungseg_utils.prediction.tumours import largest_first
from lungseg_utils.runtime import printable, writing
from lungseg_utils.volume import Volume

MOST_TUMOURS = 10  # further ones are small, and counted in the title
SMALLEST_FIELD_MM = 120.0  # so that one sees where in the lung a nodule lies


def save_preview(path: str | Path, scan: Volume, mask: np.ndarray) -> None:
    """Write the picture of `preview` as a PNG file."""
    picture = png(preview(scan, mask), dpi=90)
    with writing(path) as partial:
        partial.write_bytes(picture)


def preview(scan: Volume, mask: np.ndarray) -> Figure:
    """Draw each tumour of `mask` (D, H, W) in three planes, the largest first.

    The axial plane is the tumour's largest slice, with both of its diameters. Without a tumour the
    planes are those through the middle of the scan.
    """
    name = printable(scan.name)
    tumours = largest_first(mask)
    lung_window = f"lung {window_text(LUNG_WINDOW_HU)}"
    if not tumours:
        figure = show_planes(scan)
        title = f"{name}: no tumour marked; {lung_window}"
        figure.suptitle(title, fontsize=13, parse_math=False)
        return figure
    shown = tumours[:MOST_TUMOURS]
    figure = new_figure(13, 0.7 + 4.7 * len(shown))
    rows = figure.subfigures(len(shown), 1, squeeze=False)
    for number, (row, voxels) in enumerate(zip(rows.flat, shown), 1):
        _draw_tumour(row, number, voxels, scan, mask)
    count = "1 tumour" if len(tumours) == 1 else f"{len(tumours)} tumours"
    if len(shown) < len(tumours):
        count += f" (the {len(shown)} largest are shown)"
    total = _volume_ml(sum(map(len, tumours)), scan)
    title = f"{name}: {count}, {total:.1f} mL; {lung_window}"
    figure.suptitle(title, fontsize=13, parse_math=False)
    return figure


def _volume_ml(voxels: int, scan: Volume) -> float:
    return voxels * float(np.prod(scan.spacing_mm)) / 1000


def _draw_tumour(
    row: SubFigure, number: int, voxels: np.ndarray, scan: Volume, mask: np.ndarray
) -> None:
    """Draw one tumour: its largest axial slice, and the two other planes through its centre."""
    diameters = axial_diameters(voxels, scan)
    centre = np.rint(voxels.mean(axis=0)).astype(int)
    centre[0] = diameters.long_ends[0, 0]
    field_mm = max(SMALLEST_FIELD_MM, 1.5 * longest_mm(voxels, scan))
    box = field_box(scan.hu.shape, scan.spacing_mm, centre.tolist(), field_mm)
    panels = row.subplots(1, 3)
    for (name, cut), axes in zip(PLANES.items(), panels):
        show_slice(
            scan.hu[box],
            name,
            int(centre[cut.across] - box[cut.across].start),
            spacing_mm=scan.spacing_mm,
            prediction=mask[box],
            axes=axes,
        )
        axes.set_title(name.capitalize(), fontsize=11)
    number_and_count = _stored_slice(int(centre[0]), scan)
    panels[0].set_title(f"Axial, its largest slice: {number_and_count}", fontsize=11)
    _draw_diameters(panels[0], diameters, box, scan)
    row.suptitle(
        f"tumour {number}: {_volume_ml(len(voxels), scan):.1f} mL, axial diameters "
        f"{diameters.long_mm:.0f} × {diameters.short_mm:.0f} mm",
        fontsize=12,
    )


def _stored_slice(d: int, scan: Volume) -> str:
    """Return the number of the slice `d` in stored order, from 1, and how many there are."""
    count = scan.hu.shape[0]
    is_flipped = scan.grid.flips[scan.grid.axes.index(0)]
    return f"{count - d if is_flipped else d + 1} of {count}"


def _draw_diameters(axes: Axes, diameters: Diameters, box: Box, scan: Volume) -> None:
    for ends in (diameters.long_ends, diameters.short_ends):
        y, x = (
            (ends[:, axis] - box[axis].start + 0.5) * scan.spacing_mm[axis]
            for axis in (PLANES["axial"].rows, PLANES["axial"].columns)
        )
        axes.plot(x, y, color=YELLOW, ls="solid", lw=1.2)
