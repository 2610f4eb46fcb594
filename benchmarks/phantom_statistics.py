"""Compare synthetic chests with real ones, number by number, and draw the comparison.

    python benchmarks/phantom_statistics.py [--chests 24]

Real values are statistics of public CTs (three whole chests; 439 nodules of LIDC-IDRI; the sizes
of Task06_Lung); no real voxel is in figures/phantom_statistics.png. The phantom was tuned while
looking at these same seeds and numbers. The synthetic slices are the first chest's.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import numpy as np

from lungseg_utils import plotting, runtime
from lungseg_utils.components import bounding_box
from lungseg_utils.phantom import Chest, synthesise
from lungseg_utils.phantom.calibration import PERCENTILES, REAL, measure_lungs, measure_nodules
from lungseg_utils.plotting.style import BLUE, VERMILION, Figure, png
from lungseg_utils.plotting.windows import window_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

FIRST_SEED = 600_000
SPACING_MM = (1.5, 1.0, 1.0)
MARGIN_MM = 60  # shown beside the lungs
LUNG_NUMBERS = {  # the name in REAL, and how the figure calls it
    "lung volume (L)": "volume\n{} to {} L",
    "lung above -500 HU (%)": "above −500 HU\n{} to {} %",
    "lung above -200 HU (%)": "above −200 HU\n{} to {} %",
}
NODULE_NUMBERS = {
    "nodule core (HU)": "core",
    "inside border (HU)": "border,\ninside",
    "outside border (HU)": "border,\noutside",
}
LINES = {"real": (BLUE, "-"), "synthetic": (VERMILION, "--")}


def collect(count: int) -> tuple[Chest, list[dict], list[dict]]:
    """Return the first of `count` synthetic chests, and what is measured on lungs and tumours."""
    first, *others = range(FIRST_SEED, FIRST_SEED + count)
    shown = synthesise(first, spacing_mm=SPACING_MM)
    lungs = [measure_lungs(shown)]
    nodules = measure_nodules(shown)
    for seed in runtime.progress(others, "measuring synthetic chests"):
        chest = synthesise(seed, spacing_mm=SPACING_MM)
        lungs.append(measure_lungs(chest))
        nodules += measure_nodules(chest)
    return shown, lungs, nodules


def draw(chest: Chest, lungs: list[dict], nodules: list[dict]) -> Figure:
    """Draw synthetic slices above, statistics below."""
    plotting.use_style()
    figure = plotting.new_figure(15, 8.8)
    above, below = figure.subfigures(2, 1, height_ratios=(1.1, 1))
    _draw_slices(above, chest)
    below.suptitle(f"{len(lungs)} synthetic chests and their tumours beside real ones")
    hu, numbers, borders, sizes = below.subplots(1, 4)
    _draw_lung_hu(hu, [row["lung HU"] for row in lungs])
    _draw_lung_numbers(numbers, lungs)
    _draw_nodule_hu(borders, nodules)
    _draw_sizes(sizes, [row["tumour volume (mL)"] for row in nodules])
    return figure


def _draw_slices(figure: SubFigure, chest: Chest) -> None:
    """Draw a synthetic chest in three planes, and its axial one in the window of soft tissue."""
    _, rows, columns = bounding_box(chest.lungs)
    margins = [round(MARGIN_MM / step) for step in chest.spacing_mm[1:]]
    around = [
        slice(max(side.start - margin, 0), side.stop + margin)
        for side, margin in zip((rows, columns), margins)
    ]
    box = (slice(None), *around)
    hu = chest.hu[box]
    _, height_mm, width_mm = np.multiply(hu.shape, chest.spacing_mm)
    lung, soft = plotting.LUNG_WINDOW_HU, plotting.SOFT_TISSUE_WINDOW_HU
    views = (("axial", lung), ("axial", soft), ("coronal", lung), ("sagittal", lung))
    panels = figure.subplots(1, 4, width_ratios=(width_mm, width_mm, width_mm, height_mm))
    for axes, (plane, window_hu) in zip(panels, views):
        plotting.show_slice(
            hu,
            plane,
            spacing_mm=chest.spacing_mm,
            mask=chest.label[box],
            window_hu=window_hu,
            axes=axes,
        )
        axes.set_title(f"{plane.capitalize()}\n{window_text(window_hu)}", fontsize=10)
    figure.suptitle("A synthetic chest CT, its tumour outlined")


def _draw_lung_hu(axes: Axes, synthetic: list[np.ndarray]) -> None:
    for row in synthetic:
        axes.plot(PERCENTILES, row, color=VERMILION, ls="--", lw=0.7)
    axes.plot([], [], color=VERMILION, ls="--", lw=0.7, label="synthetic, a line each")
    for name, style in (("shallow inspiration", "-"), ("deep inspiration", "-.")):
        axes.plot(PERCENTILES, REAL[f"lung HU, {name}"], style, color=BLUE, label=f"real, {name}")
    axes.set(xlabel="percentile of lung voxels", ylabel="HU", title="Lung density")
    axes.set_ylim(top=150)  # room for the legend
    axes.legend(loc="upper left")


def _draw_lung_numbers(axes: Axes, lungs: list[dict]) -> None:
    """Draw each number on a scale of its own, from the lowest to the highest real chest."""
    axes.axvspan(0, 1, color=BLUE, alpha=0.2, lw=0, label="real, range of three")
    labels = []
    for place, (name, text) in enumerate(LUNG_NUMBERS.items()):
        low, high = REAL[name]
        values = np.sort([(row[name] - low) / (high - low) for row in lungs])
        jitter = np.resize([-0.1, 0, 0.1], len(values))
        label = "" if place else "synthetic, a dot each"
        axes.plot(values, place + jitter, "o", color=VERMILION, ms=4, alpha=0.7, label=label)
        labels.append(text.format(low, high))
    axes.set(title="Lung volume and vessels", ylim=(2.5, -1.3))
    axes.set_xticks([0, 1], ["lowest\nreal", "highest\nreal"])
    axes.set_yticks(range(len(labels)), labels)
    axes.legend(loc="upper left")


def _draw_nodule_hu(axes: Axes, nodules: list[dict]) -> None:
    """Draw percentiles 5 to 95 as a thin bar, the quartiles as a thick one, the median as a dot."""
    for place, name in enumerate(NODULE_NUMBERS):
        synthetic = np.percentile([row[name] for row in nodules], PERCENTILES)
        for source, values in (("real", REAL[name]), ("synthetic", synthetic)):
            colour, line = LINES[source]
            y = place + (0.15 if source == "synthetic" else -0.15)
            label = "" if place else f"{source}, n = {439 if source == 'real' else len(nodules)}"
            axes.plot(values[::4], [y, y], line, color=colour, lw=1.5, label=label)
            axes.plot(values[1:4:2], [y, y], "-", color=colour, lw=6, solid_capstyle="butt")
            axes.plot(values[2], y, "o", color="white", mec=colour, ms=7)
    axes.set(title="Nodules", xlabel="HU: median, quartiles, 5 to 95 %", ylim=(2.5, -1.3))
    axes.set_yticks(range(len(NODULE_NUMBERS)), list(NODULE_NUMBERS.values()))
    axes.legend(loc="upper left")


def _draw_sizes(axes: Axes, synthetic_ml: list[float]) -> None:
    shares = np.linspace(0, 100, len(synthetic_ml))
    real_ml = REAL["tumour volume (mL)"]
    for source, values, percentiles, marker in (
        ("real", real_ml, (0, 25, 50, 75, 100), "o"),
        ("synthetic", np.sort(synthetic_ml), shares, ""),
    ):
        colour, line = LINES[source]
        axes.plot(values, percentiles, line, marker=marker, color=colour, label=source)
    axes.set(title="Tumour volume", xlabel="mL", ylabel="share of smaller tumours (%)")
    axes.set_xscale("log")
    ticks = (1, 10, 100)
    axes.set_xticks(ticks, map(str, ticks))
    axes.legend(loc="upper left")


def report(name: str, values: list[float]) -> None:
    """Print one statistic: the real range beside the synthetic percentiles."""
    print(f"{name:26} real {REAL[name]}  synthetic {np.percentile(values, PERCENTILES).round(1)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--chests", type=int, default=24, help="how many chests to measure (default 24)"
    )
    chest, lungs, nodules = collect(parser.parse_args().chests)
    for name in LUNG_NUMBERS:
        report(name, [row[name] for row in lungs])
    medians = np.median([row["lung HU"] for row in lungs], axis=0).round()
    print("lung HU                    synthetic medians", medians)
    for name in nodules[0]:
        report(name, [row[name] for row in nodules])
    with runtime.writing(runtime.ROOT / "figures" / "phantom_statistics.png") as partial:
        partial.write_bytes(png(draw(chest, lungs, nodules), dpi=100, few_colours=True))


if __name__ == "__main__":
    main()
