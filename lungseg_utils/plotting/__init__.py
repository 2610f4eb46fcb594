"""Figures of slices, errors, 3D, curves and networks, and tables: each function returns one."""

from lungseg_utils.plotting.charts import (
    plot_fingerprint,
    plot_history,
    plot_lesion_recall_by_size,
    plot_volumes,
    plot_worth_of_tumours,
)
from lungseg_utils.plotting.network import draw_network, trace_stages
from lungseg_utils.plotting.planes import show_error_map, show_planes
from lungseg_utils.plotting.slices import show_slice
from lungseg_utils.plotting.solid import render_3d
from lungseg_utils.plotting.style import new_figure, save_figure, use_style
from lungseg_utils.plotting.tables import table
from lungseg_utils.plotting.windows import LUNG_WINDOW_HU, SOFT_TISSUE_WINDOW_HU, WINDOWS_HU, window

__all__ = [
    "LUNG_WINDOW_HU",
    "SOFT_TISSUE_WINDOW_HU",
    "WINDOWS_HU",
    "draw_network",
    "new_figure",
    "plot_fingerprint",
    "plot_history",
    "plot_lesion_recall_by_size",
    "plot_volumes",
    "plot_worth_of_tumours",
    "render_3d",
    "save_figure",
    "show_error_map",
    "show_planes",
    "show_slice",
    "table",
    "trace_stages",
    "use_style",
    "window",
]
