"""One look for every figure: fonts, colours that everybody can tell apart, HU windows, and where figures go."""

from __future__ import annotations

import io
import os
from pathlib import Path

import matplotlib.figure
import numpy as np

from lungseg_utils import runtime

# (lower, upper) bounds in HU
LUNG_WINDOW_HU = (-1350, 150)
SOFT_TISSUE_WINDOW_HU = (-160, 240)
BONE_WINDOW_HU = (-450, 1050)
FULL_WINDOW_HU = (-1024, 1024)
WINDOWS_HU = {
    "lung": LUNG_WINDOW_HU,
    "soft tissue": SOFT_TISSUE_WINDOW_HU,
    "bone": BONE_WINDOW_HU,
    "full": FULL_WINDOW_HU,
}

# Okabe & Ito's palette for colour-blind readers (jfly.uni-koeln.de/color)
ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE, BLACK = (
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
    "#000000",
)
TRUTH_COLOUR, PREDICTION_COLOUR = SKY, ORANGE
TRUTH_LINE, PREDICTION_LINE = "solid", "dashed"


def use_style() -> None:
    """Set matplotlib's defaults for the whole course."""
    import matplotlib as mpl
    from cycler import cycler

    # blue and vermillion first: the pair that differs most in lightness as well; line styles differ too
    mpl.rcParams.update(
        {
            "figure.dpi": 100,
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "font.family": "sans-serif",
            "font.size": 11,
            "axes.titlesize": 12,
            "axes.labelsize": 11,
            "legend.fontsize": 10,
            "legend.frameon": False,
            "xtick.labelsize": 10,
            "ytick.labelsize": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "0.9",
            "grid.linewidth": 0.8,
            "lines.linewidth": 2,
            "image.cmap": "gray",
            "axes.prop_cycle": cycler(color=[BLUE, VERMILLION, SKY, ORANGE, PURPLE, GREEN, BLACK])
            + cycler(linestyle=["-", "--", "-.", ":", "-", "--", "-."]),
        }
    )


class Figure(matplotlib.figure.Figure):
    """A figure that Jupyter shows once, as the result of its cell, whatever the backend.

    It is unknown to pyplot, which would draw it a second time at the end of the cell and keep it in memory.
    """

    def _repr_png_(self) -> bytes:
        return png(self, dpi=80, few_colours=True)  # a notebook is to stay under 1 MB


def new_figure(width: float, height: float) -> Figure:
    """Make a figure of `width` × `height` inches."""
    return Figure(figsize=(width, height), layout="constrained")


def png(figure: matplotlib.figure.Figure, dpi: float, *, few_colours: bool = False) -> bytes:
    """Render `figure` as PNG, the same bytes each time; `few_colours` (256) makes it a third to a half as large."""
    page = io.BytesIO()
    figure.savefig(page, format="png", dpi=dpi, bbox_inches="tight", metadata={"Software": None})
    if not few_colours:
        return page.getvalue()
    from PIL import Image

    # maximum coverage keeps a thin outline's colour; the median cut turns it grey in favour of the many greys
    few = (
        Image.open(page)
        .convert("RGB")
        .quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    )
    packed = io.BytesIO()
    few.save(packed, format="png", optimize=True, dpi=(dpi, dpi))
    return packed.getvalue()


def save_figure(figure: Figure, name: str, folder: str | Path | None = None) -> Path:
    """Write `figure` as `folder`/`name`.png and give its path; by default in $LUNGSEG_FIGURES, else figures/ of home.

    `name` is the notebook's number and what is to be seen: "05_dice_by_size".
    """
    path = (
        Path(folder or os.environ.get("LUNGSEG_FIGURES") or runtime.home() / "figures")
        / f"{name}.png"
    )
    with runtime.writing(path) as partial:
        partial.write_bytes(png(figure, dpi=150))
    return path


def window(hu: np.ndarray, window_hu: tuple[float, float] = LUNG_WINDOW_HU) -> np.ndarray:
    """Map HU to grey levels 0 to 1: everything below the window is black, everything above it white."""
    lower, upper = window_hu
    return np.clip((np.asarray(hu, np.float32) - lower) / (upper - lower), 0, 1)


def window_text(window_hu: tuple[float, float]) -> str:
    """Say the window as it stands in titles, with real minus signs."""
    return f"window {window_hu[0]:g} to {window_hu[1]:g} HU".replace("-", "−")
