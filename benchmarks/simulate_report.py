"""The tables and the figure of `simulate_cohort.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from report import ROOT, markdown_table, put
from scale_report import STAGES, describe

from lungseg_utils import plotting, runtime
from lungseg_utils.plotting.style import BLUE, ORANGE, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAGE = ROOT / "docs" / "scale.md"
FIGURE = ROOT / "figures" / "scale.png"
SCRIPT = "benchmarks/simulate_cohort.py"
SPEED = 50  # of the devices in the third panel, in cores
WRITERS = 8  # there
MILLION = 1_000_000
Curves = dict[str, list[tuple[float, float]]]  # by their label: x, and scans a second


def write_page(found: dict, doors: Sequence[dict], means: dict[str, float]) -> None:
    """Write the tables between their marks, and print them."""
    texts = {"million": million_text(found, means), "doors": doors_text(found, doors)}
    for name, text in texts.items():
        put(PAGE, name, SCRIPT, text)
        print(f"{text}\n")


def million_text(found: dict, means: dict[str, float]) -> str:
    """Return what a million scans need, and what that costs, by formula."""
    hours = {stage: MILLION * means[stage] / 3600 for stage in STAGES}
    core_hours = sum(hours.values())
    terabytes = MILLION * means["bytes"] / 1e12
    lines = [[f"core-hours: {stage}", f"{hours[stage]:,.0f}"] for stage in STAGES]
    lines += [
        ["core-hours, all on CPUs", f"**{core_hours:,.0f}**"],
        ["gzipped scans", f"{terabytes:,.0f} TB"],
        ["the same as plain `.nii`", f"{MILLION * means['plain_bytes'] / 1e12:,.0f} TB"],
    ]
    if "manifest" in found:
        manifest = found["manifest"]
        lines += [
            ["manifest", f"{MILLION * manifest['bytes'] / 1e9:.1f} GB"],
            ["a run that finds all done", f"{MILLION * manifest['again'] / 3600:.1f} h"],
        ]
    if found.get("ray"):
        a_second = 1 / found["ray"]["item"]
        lines.append(
            ["the most that Ray's one driver hands out", f"{a_second:,.0f} scans a second"]
        )
    segment = sum(means[stage] for stage in ("prepare", "network", "back"))
    read, plain = means["gzip"], means["plain"]
    on_cores = core_hours - MILLION * segment / 3600
    return (
        f"From the times of [the stages](../benchmarks/results/scale.md), on {describe(found)}; a "
        f"scan has {means['slices']:.0f} slices of 512 × 512 in the mean.\n\n"
        f"{markdown_table(['a million scans', 'need'], lines)}\n\n"
        "Cost = core-hours × price of one + GPU-hours × price of one + terabytes × price of "
        "reading and keeping one.\n\n"
        f"On CPUs alone that is {core_hours:,.0f} core-hours and {terabytes:,.0f} TB. With GPUs, "
        f"{on_cores:,.0f} core-hours remain (hash, read, write), and the GPU-hours are "
        f"{MILLION * segment / 3600:,.0f} ÷ *s*, where *s* is how many times as fast as one core "
        "a GPU prepares, segments and takes a mask back.\n\n"
        f"One core hashes, inflates and reads {means['bytes'] / 1e6 / read:.0f} MB of gzip a "
        f"second, {read:.2f} s a scan, against {segment:.2f} s of one core for the segmentation: "
        f"it keeps up with a device of *s* = {segment / read:.1f}. **Beyond that, gzip is the "
        f"first bottleneck.** From a plain file the same core takes {plain:.2f} s: *s* = "
        f"{segment / plain:.0f}."
    )


def doors_text(found: dict, doors: Sequence[dict]) -> str:
    """Return the figure, and the check of the simulation against real runs."""
    bars = (
        "Left, bars: scans a minute on two cores by one process, two shards, and Ray with one and "
        "two actors, each measured and simulated. "
    )
    alt = (
        f"{bars if doors else ''}Scans an hour of one device against its speed: with one reader of "
        "gzip the line turns flat first, with a plain file or more readers later. Scans an hour "
        "against the number of devices: each line rises until its readers are all busy, then "
        "stays flat"
    )
    picture = f"![{alt}](../figures/{FIGURE.name})"
    if not doors:
        return f"{picture}\n\nThe doors were not measured yet, as the machine was busy."
    heading = ["door", "measured, scans a minute", "simulated", "difference"]
    lines = [
        [
            row["door"],
            f"{60 * row['measured']:.1f}",
            f"{60 * row['simulated']:.1f}",
            f"{row['simulated'] / row['measured'] - 1:+.0%}",
        ]
        for row in doors
    ]
    return f"{picture}\n\nOn {describe(found)}:\n\n{markdown_table(heading, lines)}"


def draw(doors: Sequence[dict], by_speed: Curves, by_devices: Curves) -> None:
    """Draw the check, and how many scans an hour pass with more of everything."""
    plotting.use_style()
    figure = plotting.new_figure(13 if doors else 9, 4.2)
    axes = figure.subplots(1, 3 if doors else 2)
    if doors:
        draw_doors(axes[0], doors)
    draw_curves(axes[-2], by_speed)
    axes[-2].set(title="One device", xlabel="device, times as fast as a core")
    draw_curves(axes[-1], by_devices)
    axes[-1].set(title=f"{SPEED} times as fast as a core, {WRITERS} writers", xlabel="devices")
    with runtime.writing(FIGURE) as partial:
        partial.write_bytes(png(figure, dpi=100, few_colours=True))


def draw_doors(axes: Axes, doors: Sequence[dict]) -> None:
    """Draw measured and simulated rates as bars, a pair for each door."""
    places = np.arange(len(doors))[::-1]
    for shift, way, colour, hatch in (
        (0.2, "measured", BLUE, ""),
        (-0.2, "simulated", ORANGE, "//"),
    ):
        rates = [60 * row[way] for row in doors]
        options = {"color": colour, "hatch": hatch, "edgecolor": "white"}
        axes.barh(places + shift, rates, 0.38, label=way, **options)
    axes.set_yticks(places, [row["door"].replace("`", "").replace(", ", "\n") for row in doors])
    axes.set(title="Real runs on two cores", xlabel="scans a minute")
    axes.set_xlim(right=1.6 * axes.get_xlim()[1])
    axes.legend(loc="upper right")


def draw_curves(axes: Axes, curves: Curves) -> None:
    """Draw scans an hour against the number or speed of devices, a line for each of `curves`."""
    for (label, points), marker in zip(curves.items(), "osD^v"):
        x, rate = np.array(points).T
        axes.plot(x, 3600 * rate, marker=marker, ms=5, label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_minor_formatter("")
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, high / 100), high * 4)  # a power of ten in sight, room for the legend
    axes.set_ylabel("scans an hour")
    axes.legend(loc="upper left")
