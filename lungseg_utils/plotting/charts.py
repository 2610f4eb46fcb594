"""Curves and counts: a run's history, what a set is like, lesions found by size, volumes."""

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from lungseg_utils.plotting.style import (
    BLUE,
    PREDICTION_COLOUR,
    TRUTH_COLOUR,
    VERMILION,
    Figure,
    new_figure,
)
from lungseg_utils.runtime import printable

# From the least to the most in Task06_Lung, the set that others are drawn beside.
TASK06_SLICE_MM = (0.625, 2.5)
TASK06_PIXEL_MM = (0.6, 0.98)
SIZE_EDGES_ML = (1, 3, 10, 30)


def plot_history(history: list[dict]) -> Figure:
    """Draw the columns of a history over epochs: losses on the left, scores (0 to 1) on the right.

    `history` holds a dict for each epoch, as `training.fit` returns it; a value that is missing
    (an epoch without validation) leaves no point.
    """
    names = list(dict.fromkeys(name for row in history for name in row))
    figure = new_figure(11, 4)
    losses, scores = figure.subplots(1, 2)
    _draw_columns(losses, history, (name for name in names if "loss" in name))
    _draw_columns(scores, history, (name for name in names if "dice" in name or "recall" in name))
    losses.set_ylabel("loss")
    scores.set(ylabel="score (0 to 1)", ylim=(0, 1))
    return figure


def _draw_columns(axes: Axes, history: list[dict], names: Iterable[str]) -> None:
    for name in names:
        points = np.array(
            [
                (row.get("epoch", number), row[name])
                for number, row in enumerate(history, start=1)
                if row.get(name) not in (None, "")
            ],
            float,
        )
        points = points[np.isfinite(points).all(axis=1)]
        marker = "o" if len(points) < 30 else ""
        axes.plot(*points.T, label=name.replace("_", " "), marker=marker)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
    if axes.lines:
        axes.legend()


def plot_fingerprint(rows: list[dict]) -> Figure:
    """Draw what a set is like: voxel sizes, tumour volumes, where the tumours lie.

    `rows` are those of `decathlon.fingerprint`. The grey box is the range of Task06_Lung.
    """
    figure = new_figure(14, 4.6)
    voxels, volumes, places = figure.subplots(1, 3)
    tumours = [row for row in rows if row.get("tumour_ml")]
    volume_ml = np.array([row["tumour_ml"] for row in tumours])
    centres = np.array([row["tumour_centre"] for row in tumours]).reshape(-1, 3)
    _draw_voxel_sizes(voxels, rows)
    _draw_volumes(volumes, volume_ml)
    _draw_places(places, centres, volume_ml)
    return figure


def _draw_voxel_sizes(axes: Axes, rows: list[dict]) -> None:
    slice_mm, _, pixel_mm = np.array([row["spacing_mm"] for row in rows], float).T
    slices = np.array([row["shape"][0] for row in rows])
    left, right = TASK06_SLICE_MM
    bottom, top = TASK06_PIXEL_MM
    box = Rectangle((left, bottom), right - left, top - bottom, color="0.85", label="Task06_Lung")
    axes.add_patch(box)
    axes.scatter(slice_mm, pixel_mm, s=np.clip(slices / 3, 12, 150), color=BLUE, alpha=0.7)
    axes.legend(loc="lower right")
    axes.set(
        xlabel="distance between slices (mm)",
        ylabel="pixel in the slice (mm)",
        xlim=(0, 1.15 * max(right, slice_mm.max())),  # room for the largest dot
        ylim=(0, 1.15 * max(top, pixel_mm.max())),
        title=f"{len(rows)} scans of {slices.min()} to {slices.max()} slices (size of dot)",
    )


def _draw_volumes(axes: Axes, volume_ml: np.ndarray) -> None:
    axes.set(xlabel="tumour volume in a case (mL)", ylabel="cases", title="Tumour volumes")
    if not volume_ml.size:
        return
    bins = max(5, round(1.5 * volume_ml.size**0.5))
    median = np.median(volume_ml)
    axes.margins(y=0.3)  # room for the legend
    axes.hist(
        volume_ml,
        bins=np.geomspace(volume_ml.min() * 0.95, volume_ml.max() * 1.05, bins).tolist(),
        color=BLUE,
        edgecolor="white",
    )
    axes.axvline(median, color=VERMILION, ls="--", label=f"median {median:.3g} mL")
    axes.set_xscale("log")
    _plain_ticks(axes.xaxis)
    axes.legend()


def _draw_places(axes: Axes, centres: np.ndarray, volume_ml: np.ndarray) -> None:
    """Draw the `centres` (n, 3), shares of the scan's (D, H, W), as seen from the front."""
    axes.scatter(
        centres[:, 2],
        centres[:, 0],
        s=20 + 30 * volume_ml ** (2 / 3),
        color=VERMILION,
        alpha=0.5,
        edgecolor="black",
    )
    axes.set(
        xlim=(0, 1),
        ylim=(0, 1),
        xlabel="share of the width, right (R) to left (L)",
        ylabel="share of the height, feet to head",
        title="Where they lie, from the front",
    )


def plot_lesion_recall_by_size(
    volume_ml: np.ndarray, found: np.ndarray, *, edges_ml: Sequence[float] = SIZE_EDGES_ML
) -> Figure:
    """Draw the share of lesions found in each class of size, with Wilson's 95 % intervals.

    `volume_ml` and `found` have a value for each true lesion: those of
    `evaluation.lesion_detection`, joined over the cases.
    """
    size_class = np.digitize(np.asarray(volume_ml, float), edges_ml)
    found = np.asarray(found, bool)
    names = [
        f"under {edges_ml[0]:g}",
        *(f"{lower:g} to {upper:g}" for lower, upper in itertools.pairwise(edges_ml)),
        f"{edges_ml[-1]:g} and more",
    ]
    figure = new_figure(7, 4)
    axes = figure.subplots()
    for place in range(len(names)):
        of_class = found[size_class == place]
        hits, total = int(of_class.sum()), len(of_class)
        text = f"{hits} of {total}" if total else "none"
        axes.text(place, 1.05, text, ha="center", va="bottom", fontsize=10)
        if total:
            share = hits / total
            low, high = wilson_interval(hits, total)
            axes.bar(place, share, color=BLUE, width=0.7)
            whiskers = [[share - low], [high - share]]
            axes.errorbar(place, share, whiskers, color="black", capsize=4, lw=1.5, ls="-")
    axes.set(
        xticks=range(len(names)),
        xticklabels=names,
        xlabel="true volume of the lesion (mL)",
        ylabel="share found",
        xlim=(-0.6, len(names) - 0.4),
        ylim=(0, 1.15),
        yticks=np.linspace(0, 1, 6),
    )
    axes.grid(False, axis="x")
    return figure


def wilson_interval(hits: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927): sound for few cases, 0 % and 100 %."""
    share = hits / total
    middle = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z * np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2)) / (1 + z**2 / total)
    return float(max(middle - half, 0.0)), float(min(middle + half, 1.0))


def plot_volumes(rows: list[dict]) -> Figure:
    """Draw each case's predicted beside its true tumour volume, and its Dice; largest on top.

    `rows` are those of `evaluation.evaluate`.
    """
    rows = sorted(rows, key=lambda row: row["volume_ml_true"])
    true_ml = np.array([row["volume_ml_true"] for row in rows])
    predicted_ml = np.array([row["volume_ml_pred"] for row in rows])
    positive_ml = [ml for ml in (*true_ml, *predicted_ml) if ml > 0] or [1.0]
    border_ml = min(positive_ml) / 1.6  # where what is empty stands
    is_empty = predicted_ml == 0
    places = np.arange(len(rows))
    figure = new_figure(7.4, min(1.7 + 0.34 * len(rows), 12))
    axes = figure.subplots()
    shown_ml = [np.maximum(ml, border_ml) for ml in (true_ml, predicted_ml)]
    axes.hlines(places, *shown_ml, color="0.6", lw=1.5, ls="-", zorder=1)
    axes.scatter(shown_ml[0], places, s=60, color=TRUTH_COLOUR, label="truth")
    for is_shown, name, colour, marker in (
        (~is_empty, "prediction", PREDICTION_COLOUR, "D"),
        (is_empty, "nothing predicted", VERMILION, "x"),
    ):
        if is_shown.any():
            shown = (shown_ml[1][is_shown], places[is_shown])
            axes.scatter(*shown, s=40, color=colour, marker=marker, label=name, clip_on=False)
    for place, row in enumerate(rows):
        text = f"Dice {row['dice']:.2f}"
        axes.text(1.02, place, text, va="center", transform=axes.get_yaxis_transform())
    axes.set(
        xscale="log",
        xlim=(border_ml, max(positive_ml) * 1.6),
        xlabel="tumour volume in a case (mL)",
        ylim=(-0.6, len(rows) - 0.4),
    )
    axes.set_yticks(places, [printable(row["case"]) for row in rows], parse_math=False)
    _plain_ticks(axes.xaxis)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _plain_ticks(axis: Axis) -> None:
    """Label a logarithmic axis with 0.1, 1, 10, not with powers."""
    axis.set_major_locator(LogLocator(subs=(1, 3)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def plot_worth_of_tumours(rows: Sequence[dict]) -> Figure:
    """Draw the mean Dice, and its interval, against the number of real tumours trained on.

    A row has `arm` (one curve each), `real_tumours`, `mean`, `low` and `high`.
    """
    figure = new_figure(7, 3.8)
    axes = figure.subplots()
    for arm, marker in zip(dict.fromkeys(row["arm"] for row in rows), "os"):
        points = [row for row in rows if row["arm"] == arm]
        low, mean, high = (
            np.array([float(row[k]) for row in points]) for k in ("low", "mean", "high")
        )
        counts = [int(row["real_tumours"]) for row in points]
        axes.errorbar(counts, mean, (mean - low, high - mean), marker=marker, capsize=3, label=arm)
    axes.set(xlabel="real tumours trained on", ylabel="cross-validated Dice")
    axes.legend(loc="lower right")
    return figure
