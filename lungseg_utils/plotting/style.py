"""One look for every figure: fonts, line styles, few colours in small files, and where they go."""

import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import matplotlib as mpl
import matplotlib.figure
import numpy as np
from cycler import cycler
from PIL import Image

from lungseg_utils import runtime

# Okabe and Ito's palette for colour-blind readers (jfly.uni-koeln.de/color)
ORANGE, SKY, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILION, PURPLE, BLACK = "#0072B2", "#D55E00", "#CC79A7", "#000000"

TRUTH_COLOUR, TRUTH_LINE = SKY, "solid"
PREDICTION_COLOUR, PREDICTION_LINE = ORANGE, "dashed"
ERROR_COLOURS = {"found": SKY, "false positive": VERMILION, "missed": YELLOW}

GREYS = 128  # of 256: nobody can tell neighbours apart; more make a CT's file larger


def use_style() -> None:
    """Set matplotlib's defaults for the whole course."""
    # The first pair differs most in lightness as well, and neighbours differ in their dashes.
    colours = cycler(color=[BLUE, VERMILION, SKY, ORANGE, PURPLE, GREEN, BLACK])
    lines = cycler(linestyle=["-", "--", "-.", ":", "-", "--", "-."])
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
            "axes.prop_cycle": colours + lines,
        }
    )


class Figure(matplotlib.figure.Figure):
    """A figure that Jupyter shows once, as the result of its cell, whatever the backend.

    It is unknown to pyplot, which would draw it a second time at the end of the cell and keep it
    in memory.
    """

    def _repr_png_(self) -> bytes:
        return png(self, dpi=80, few_colours=True)  # a notebook is to stay under 1 MB


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of `width` × `height` inches."""
    return Figure(figsize=(width, height), layout="constrained")


def png(figure: matplotlib.figure.Figure, dpi: float, *, few_colours: bool = False) -> bytes:
    """Render `figure` as PNG, the same bytes each time.

    `few_colours` makes a file of half the size, whose greys look the same.
    """
    page = io.BytesIO()
    with warnings.catch_warnings():  # a name in a script that the font lacks is drawn as boxes
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(
            page, format="png", dpi=dpi, bbox_inches="tight", metadata={"Software": None}
        )
    if not few_colours:
        return page.getvalue()
    return _indexed_png(*_reduce_colours(np.asarray(Image.open(page).convert("RGB"))))


def _reduce_colours(pixels: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Return (H, W, RGB) as numbers of colours (H, W) and a palette of at most 256 of them.

    The palette is even steps of grey, and the picture's own colours. A quantiser that is given all
    pixels at once either merges the greys of a CT into a few (false contours) or takes the colour
    from a thin outline.
    """
    is_coloured = np.ptp(pixels, axis=2) > 8  # of 255
    greys = max(2, round(GREYS * (1 - is_coloured.mean())))
    index = np.round(pixels.mean(axis=2) * (greys - 1) / 255).astype(np.uint8)
    palette = np.linspace(0, 255, greys).round().repeat(3).astype(int).tolist()
    if is_coloured.any():
        coloured = Image.fromarray(pixels[is_coloured][None])
        coloured = coloured.quantize(256 - greys, Image.Quantize.MAXCOVERAGE, kmeans=1)
        index[is_coloured] = greys + np.asarray(coloured)[0]
        palette += coloured.getpalette() or []
    return index, palette[: 3 * 256]


def _indexed_png(index: np.ndarray, palette: list[int]) -> bytes:
    """Pack a picture with a palette as PNG, each row as its difference from the row above.

    Pillow stores the rows of such a picture as they are, which makes a CT a third larger.
    """
    height, width = index.shape
    differences = np.diff(index, axis=0, prepend=np.uint8(0))
    rows = np.insert(differences, 0, 2, axis=1)  # each row begins with its filter: 2 is "Up"
    chunks = {
        b"IHDR": struct.pack(">2I5B", width, height, 8, 3, 0, 0, 0),  # 8 bits, a palette
        b"PLTE": bytes(palette),
        b"IDAT": zlib.compress(rows.tobytes(), 9),
        b"IEND": b"",
    }
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    )


def save_figure(figure: Figure, name: str, folder: str | Path | None = None) -> Path:
    """Write `figure` as `folder`/`name`.png and return its path.

    The default folder is $LUNGSEG_FIGURES, else `figures` of `runtime.home()`. `name` is the
    notebook's number and what is to be seen: "05_dice_by_size".
    """
    default = os.environ.get("LUNGSEG_FIGURES") or runtime.home() / "figures"
    path = Path(folder or default) / f"{name}.png"
    with runtime.writing(path) as partial:
        partial.write_bytes(png(figure, dpi=150))
    return path
