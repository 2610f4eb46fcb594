"""Figures: slices with outlines, error maps, 3D pictures, curves, and the network drawn from itself.

Every function gives back a figure and shows nothing; at the end of a cell Jupyter shows it once.
"""

from lungseg_utils.plotting.charts import (
    plot_fingerprint,
    plot_history,
    plot_lesion_recall_by_size,
    plot_volumes,
)
from lungseg_utils.plotting.network import draw_network
from lungseg_utils.plotting.slices import PLANES, show_error_map, show_planes, show_slice
from lungseg_utils.plotting.solid import render_3d
from lungseg_utils.plotting.style import (
    BONE_WINDOW_HU,
    FULL_WINDOW_HU,
    LUNG_WINDOW_HU,
    PREDICTION_COLOUR,
    SOFT_TISSUE_WINDOW_HU,
    TRUTH_COLOUR,
    WINDOWS_HU,
    new_figure,
    save_figure,
    use_style,
    window,
)

__all__ = [
    "BONE_WINDOW_HU",
    "FULL_WINDOW_HU",
    "LUNG_WINDOW_HU",
    "PLANES",
    "PREDICTION_COLOUR",
    "SOFT_TISSUE_WINDOW_HU",
    "TRUTH_COLOUR",
    "WINDOWS_HU",
    "draw_network",
    "new_figure",
    "plot_fingerprint",
    "plot_history",
    "plot_lesion_recall_by_size",
    "plot_volumes",
    "render_3d",
    "save_figure",
    "show_error_map",
    "show_planes",
    "show_slice",
    "use_style",
    "window",
]
