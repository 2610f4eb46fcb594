"""Compare synthetic chests with real ones, number by number, and draw figures/phantom_statistics.png.

    python benchmarks/phantom_statistics.py [--chests 24]

Real values are statistics of public CTs (three whole chests; 439 nodules of LIDC-IDRI; Task06_Lung's sizes); no real
voxel is in the figure. The phantom was tuned while looking at these same seeds and numbers.
The synthetic slices are the first chest's.
"""

from __future__ import annotations

import argparse

import numpy as np

from lungseg_utils import runtime
from lungseg_utils.phantom import synthesise
from lungseg_utils.phantom.statistics import PERCENTILES, REAL, measure_lungs, measure_tumours

REAL_COLOUR, SYNTHETIC_COLOUR = "#0072B2", "#D55E00"  # Okabe-Ito blue and vermilion
FIRST_SEED = 600_000
SPACING_MM = (1.5, 1.0, 1.0)


def collect(count: int):
    """Synthesise chests and measure them. Returns the first chest, lung rows and tumour rows."""
    first, lungs, tumours = None, [], []
    for seed in runtime.progress(
        range(FIRST_SEED, FIRST_SEED + count), "measuring synthetic chests"
    ):
        chest = synthesise(seed, spacing_mm=SPACING_MM)
        first = first or chest
        lungs.append(measure_lungs(chest))
        tumours += measure_tumours(chest)
    return first, lungs, tumours


def draw(first, lungs, tumours):
    """Draw synthetic slices above, statistics side by side below."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(3, 4, figsize=(16, 11.5), height_ratios=(1.15, 0.9, 0.9))
    z, y, x = (int(c.mean()) for c in np.nonzero(first.label))
    d, h, w = first.spacing_mm
    body = np.nonzero(first.lungs)
    low, high = (
        [max(int(c.min()) - 60, 0) for c in body[1:]],
        [int(c.max()) + 60 for c in body[1:]],
    )
    window = (slice(None), slice(low[0], high[0]), slice(low[1], high[1]))
    hu, label, y, x = first.hu[window], first.label[window], y - low[0], x - low[1]
    for axis, image, tumour, aspect, title in (
        (axes[0, 0], hu[z], label[z], h / w, "axial"),
        (axes[0, 1], hu[z], label[z], h / w, "axial, soft tissue"),
        (axes[0, 2], hu[::-1, y], label[::-1, y], d / w, "coronal"),
        (axes[0, 3], hu[::-1, :, x], label[::-1, :, x], d / h, "sagittal"),
    ):
        low, high = (-160, 240) if "soft" in title else (-1350, 150)
        axis.imshow(image, cmap="gray", vmin=low, vmax=high, aspect=aspect)
        axis.contour(tumour, [0.5], colors="#E69F00", linewidths=1)
        axis.set_title(f"synthetic: {title} ({low} to {high} HU)", fontsize=9)
        axis.set_axis_off()
    median = axes[1, 0]
    for name, style in (("lung HU, deep inspiration", "-"), ("lung HU, shallow inspiration", "--")):
        median.plot(
            PERCENTILES,
            REAL[name],
            style,
            color=REAL_COLOUR,
            lw=2.5,
            label=f"real, {name.split(', ')[1]}",
        )
    for row in lungs:
        median.plot(PERCENTILES, row["lung HU"], ":", color=SYNTHETIC_COLOUR, lw=0.9)
    median.set(xlabel="percentile of lung voxels", ylabel="HU", title="lung HU")
    median.plot([], [], ":", color=SYNTHETIC_COLOUR, label="synthetic, a line each")
    median.legend(fontsize=7)
    names = ("lung volume (L)", "lung above -500 HU (%)", "lung above -200 HU (%)")
    for axis, name in zip(axes[1, 1:], names, strict=True):
        axis.axhspan(*REAL[name], color=REAL_COLOUR, alpha=0.3, label="real, range of three chests")
        axis.plot(
            sorted(row[name] for row in lungs), "o", color=SYNTHETIC_COLOUR, label="synthetic"
        )
        axis.set(title=name, xlabel="chest, in order", ylim=(0, None))
        axis.legend(fontsize=7)
    names = ("nodule core (HU)", "inside border (HU)", "outside border (HU)", "tumour volume (mL)")
    for axis, name in zip(axes[2], names, strict=True):
        values = [row[name] for row in tumours]
        shares = (0, 25, 50, 75, 100) if "volume" in name else PERCENTILES
        axis.plot(REAL[name], shares, "s-", color=REAL_COLOUR, label="real")
        axis.plot(
            sorted(values),
            np.linspace(0, 100, len(values)),
            "--",
            color=SYNTHETIC_COLOUR,
            label=f"synthetic (n = {len(values)})",
        )
        axis.set(title=name, ylabel="percentile", xscale="log" if "volume" in name else "linear")
        axis.legend(fontsize=7)
    figure.tight_layout()
    return figure


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
    first, lungs, tumours = collect(parser.parse_args().chests)
    for name in ("lung volume (L)", "lung above -500 HU (%)", "lung above -200 HU (%)"):
        report(name, [row[name] for row in lungs])
    print(
        "lung HU                    synthetic medians",
        np.median([row["lung HU"] for row in lungs], axis=0).round(),
    )
    for name in tumours[0]:
        report(name, [row[name] for row in tumours])
    with runtime.writing(runtime.ROOT / "figures" / "phantom_statistics.png") as partial:
        draw(first, lungs, tumours).savefig(partial, dpi=80, format="png")


if __name__ == "__main__":
    main()
