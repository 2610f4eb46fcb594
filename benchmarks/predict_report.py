"""The tables and the figure of `predict.py`."""

from __future__ import annotations

from typing import Any

import numpy as np
from processes import TOOLS
from report import RESULTS, ROOT, markdown_table, write_results

from lungseg_utils import plotting, runtime

STAGES = ("start", "read", "preprocess", "network", "write")
COLOURS = ("#999999", "#56B4E9", "#0072B2", "#E69F00", "#009E73")  # one for each stage
HATCHES = ("", "//", "..", "", "xx")
SCAN_COLOURS = ("#0072B2", "#E69F00")
SCAN_HATCHES = ("", "//")


def star_of(row: dict, mark: str = "\\*") -> str:
    return mark if row.get("extrapolated") else ""


def tables(found: dict) -> str:
    """Return the tables in Markdown."""
    parts = [f"Measured by `benchmarks/predict.py` on {found['machine']}.", tools_table(found)]
    sampled = [row for row in found["rows"] if row["tool"] == "nnunet" and star_of(row)]
    if sampled:
        runs = "; ".join(
            f"{row['windows_run']} of nnU-Net's {row['windows_needed']} windows run on "
            f"{row['scan']}"
            for row in sampled
        )
        parts.append(f"\\* extrapolated: {runs}. Mirroring counts as eight passes.")
    if found.get("growth"):
        parts.append(growth_table(found["growth"]))
    return "\n\n".join(parts) + "\n"


def tools_table(found: dict) -> str:
    """Return a row for each scan and tool."""
    ours = {row["scan"]: row["total"] for row in found["rows"] if row["tool"] == "ours"}
    lines = []
    for row in found["rows"]:
        star = star_of(row)
        stages = [f"{row['seconds'].get(name, 0):,.1f}" for name in STAGES]
        stages[STAGES.index("network")] += star
        own = ours.get(row["scan"])
        lines.append(
            [
                row["scan"],
                TOOLS[row["tool"]],
                *stages,
                f"{row['total']:,.1f}{star}",
                f"{row['slices_per_second']:.3g}",
                f"{row['peak_gb']:.2f}",
                f"{row['total'] / own:,.3g}" if own else "",
            ]
        )
    seconds = [f"{name} (s)" for name in (*STAGES, "total")]
    heading = ["scan", "tool", *seconds, "slices/s", "peak (GB)", "times this project"]
    return markdown_table(heading, lines)


def growth_table(rows: list[dict]) -> str:
    """Return a row for each number of slices."""
    heading = ["slices of 512x512", "seconds, file to file", "slices/s", "peak (GB)"]
    lines = []
    for row in rows:
        speed = f"{row['slices'] / row['total']:.0f}"
        lines.append([row["slices"], f"{row['total']:.1f}", speed, f"{row['peak_gb']:.2f}"])
    return markdown_table(heading, lines)


def draw(found: dict) -> None:
    """Draw where the time goes, all of it on a logarithmic axis, and growth beside them."""
    import matplotlib.pyplot as plt

    plotting.use_style()
    panels = 3 if found.get("growth") else 2
    figure, axes = plt.subplots(1, panels, figsize=(5 * panels, 3.6), layout="constrained")
    draw_stages(axes[0], found["rows"])
    draw_totals(axes[1], found["rows"])
    if found.get("growth"):
        draw_growth(axes[2], found["growth"])
    with runtime.writing(ROOT / "figures" / "benchmark_predict.png") as partial:
        figure.savefig(partial, dpi=110, format="png")


def draw_stages(axis: Any, rows: list[dict]) -> None:
    """Draw the stages of the tools that are fast enough to be seen as stacked bars."""
    bars = [row for tool in ("monai", "ours") for row in rows if row["tool"] == tool]
    for place, row in enumerate(bars):
        left = 0.0
        for name, colour, hatch in zip(STAGES, COLOURS, HATCHES):
            seconds = row["seconds"].get(name, 0)
            axis.barh(
                place,
                seconds,
                left=left,
                color=colour,
                hatch=hatch,
                edgecolor="white",
                label=name if place == 0 else None,
            )
            left += seconds
    axis.set_yticks(range(len(bars)), [f"{TOOLS[row['tool']]}\n{row['scan']}" for row in bars])
    axis.set(xlabel="seconds, file to file", title="Where the time goes")
    axis.legend(fontsize=8)


def draw_totals(axis: Any, rows: list[dict]) -> None:
    """Draw the total of every tool, a bar a scan."""
    scans = list(dict.fromkeys(row["scan"] for row in rows))
    thickness = 0.8 / len(scans)
    for number, scan in enumerate(scans):
        own = [row for row in rows if row["scan"] == scan]
        places = np.arange(len(own))[::-1] - number * thickness
        axis.barh(
            places,
            [row["total"] for row in own],
            thickness * 0.9,
            label=scan,
            color=SCAN_COLOURS[number % 2],
            hatch=SCAN_HATCHES[number % 2],
            edgecolor="white",
        )
        for place, row in zip(places, own):
            text = f"{row['total']:,.0f} s{star_of(row, '*')}"
            axis.text(row["total"] * 1.15, place, text, va="center", fontsize=8)
    axis.set_yticks(np.arange(len(TOOLS))[::-1] - 0.4 + thickness / 2, TOOLS.values())
    axis.set(
        xscale="log",
        xlabel="seconds, file to file (logarithmic; * extrapolated)",
        title="All of it",
    )
    axis.set_xlim(right=axis.get_xlim()[1] * 6)
    axis.legend(fontsize=8, loc="upper right")


def draw_growth(axis: Any, rows: list[dict]) -> None:
    """Draw seconds and memory against the number of slices."""
    slices = [row["slices"] for row in rows]
    seconds = [row["total"] for row in rows]
    peaks = [row["peak_gb"] for row in rows]
    axis.plot(slices, seconds, "o-", color="#0072B2", label="seconds")
    axis.plot(slices, peaks, "s--", color="#D55E00", label="peak memory, GB")
    axis.set(xlabel="slices of 512 x 512", ylim=(0, None), title="Growth, this project")
    axis.legend(fontsize=8)


def write(found: dict) -> None:
    """Write the measurements, their tables and the figure."""
    draw(found)
    write_results(RESULTS / "predict", found, tables(found))
