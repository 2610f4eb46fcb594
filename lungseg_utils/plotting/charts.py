"""Curves and counts: training history, a set's fingerprint, what was found by size, volumes against the truth."""

from __future__ import annotations

import numpy as np

from lungseg_utils.plotting.style import BLUE, VERMILLION, Figure, new_figure

SIZE_EDGES_ML = (1, 3, 10, 30)


def plot_history(history: list[dict]) -> Figure:
    """Draw the columns of a training history over epochs: losses on the left, scores from 0 to 1 on the right.

    `history` holds a dict for each epoch, as `training.fit` returns it; a value that is missing (an epoch
    without validation) leaves no point.
    """
    names = list(dict.fromkeys(name for row in history for name in row))
    figure = new_figure(11, 4)
    panels = figure.subplots(1, 2)
    for axes, words, label in zip(
        panels, (("loss",), ("dice", "recall")), ("loss", "score (0 to 1)"), strict=True
    ):
        for name in [name for name in names if any(word in name for word in words)]:
            values = np.array(
                [row[name] if row.get(name) not in (None, "") else np.nan for row in history], float
            )
            epochs = np.array([row.get("epoch", i + 1) for i, row in enumerate(history)], float)
            seen = np.isfinite(values)
            axes.plot(
                epochs[seen],
                values[seen],
                label=name.replace("_", " "),
                marker="o" if seen.sum() < 30 else "",
            )
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if axes.lines:
            axes.legend()
    panels[1].set_ylim(0, 1)
    return figure


def plot_fingerprint(rows: list[dict]) -> Figure:
    """Draw what a set is like, from `decathlon.fingerprint`: spacing, tumour volumes, where the tumours sit."""
    figure = new_figure(14, 4.6)
    spacing, volumes, places = figure.subplots(1, 3)
    mm = np.array([row["spacing_mm"] for row in rows], float)
    slices = [row["shape"][0] for row in rows]
    spacing.scatter(
        mm[:, 0], mm[:, 2], s=np.clip(np.array(slices) / 3, 12, 150), color=BLUE, alpha=0.7
    )
    spacing.set(
        xlabel="distance between slices (mm)",
        ylabel="pixel in the slice (mm)",
        xlim=(0, 1.15 * mm[:, 0].max()),
        ylim=(0, 1.15 * mm[:, 2].max()),  # room for the largest dot
        title=f"{len(rows)} scans of {min(slices)} to {max(slices)} slices (size of dot)",
    )

    tumours = [row for row in rows if row.get("tumour_ml")]
    ml = np.array([row["tumour_ml"] for row in tumours])
    if ml.size:
        edges = np.geomspace(ml.min() * 0.95, ml.max() * 1.05, max(5, round(1.5 * ml.size**0.5)))
        volumes.margins(y=0.3)  # room for the legend
        volumes.hist(ml, bins=edges, color=BLUE, edgecolor="white")
        volumes.axvline(
            np.median(ml), color=VERMILLION, ls="--", label=f"median {np.median(ml):.3g} mL"
        )
        volumes.set_xscale("log")
        _plain_ticks(volumes.xaxis)
        volumes.legend()
    volumes.set(xlabel="tumour volume in a case (mL)", ylabel="cases", title="Tumour volumes")

    centres = np.array([row["tumour_centre"] for row in tumours]).reshape(-1, 3)
    places.scatter(
        centres[:, 2],
        centres[:, 0],
        s=20 + 30 * ml ** (2 / 3),
        color=VERMILLION,
        alpha=0.5,
        edgecolor="black",
    )
    places.set(
        xlim=(0, 1),
        ylim=(0, 1),
        xlabel="share of the width, right (R) to left (L)",
        ylabel="share of the height, feet to head",
        title="Where they sit, from the front",
    )
    return figure


def plot_lesion_recall_by_size(volume_ml, found, *, edges_ml=SIZE_EDGES_ML) -> Figure:
    """Draw the share of lesions found in each class of size, with counts and Wilson's 95 % intervals.

    `volume_ml` and `found` have a value for each true lesion: those of
    `evaluation.lesion_detection`, joined over the cases.
    """
    volume_ml, found = np.asarray(volume_ml, float), np.asarray(found, bool)
    figure = new_figure(7, 4)
    axes = figure.subplots()
    bounds = [0, *edges_ml, np.inf]
    names = [
        f"under {bounds[1]:g}",
        *[f"{a:g} to {b:g}" for a, b in zip(bounds[1:], bounds[2:-1], strict=False)],
        f"{bounds[-2]:g} and more",
    ]
    for place, (lower, upper) in enumerate(zip(bounds, bounds[1:], strict=False)):
        here = (volume_ml >= lower) & (volume_ml < upper)
        hits, total = int(found[here].sum()), int(here.sum())
        if total:
            low, high = wilson_interval(hits, total)
            axes.bar(place, hits / total, color=BLUE, width=0.7)
            axes.errorbar(
                place,
                hits / total,
                [[hits / total - low], [high - hits / total]],
                color="black",
                capsize=4,
                lw=1.5,
                ls="-",
            )
        axes.text(
            place,
            1.05,
            f"{hits} of {total}" if total else "none",
            ha="center",
            va="bottom",
            fontsize=10,
        )
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
    """Give the 95 % interval of a share (Wilson 1927): sound for few cases and for 0 and 100 %."""
    share, n = hits / total, total
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return float(max(middle - half, 0.0)), float(min(middle + half, 1.0))


def plot_volumes(rows: list[dict]) -> Figure:
    """Draw the predicted against the true tumour volume of each case, from the rows of `evaluation.evaluate`."""
    figure = new_figure(5.4, 5)
    axes = figure.subplots()
    true, predicted = (
        np.array([row[f"volume_ml_{which}"] for row in rows], float) for which in ("true", "pred")
    )
    positive = np.concatenate([true, predicted])
    positive = positive[positive > 0]
    lowest, highest = (positive.min() / 1.6, positive.max() * 1.6) if positive.size else (0.1, 10)
    floor = np.where(
        predicted > 0, predicted, lowest
    )  # nothing predicted: at the lower border, as a cross
    is_seen = predicted > 0
    axes.plot([lowest, highest], [lowest, highest], color="0.5", lw=1, ls="-", label="equal")
    axes.scatter(true[is_seen], floor[is_seen], color=BLUE, s=35, alpha=0.8, label="case")
    if not is_seen.all():
        axes.scatter(
            true[~is_seen],
            floor[~is_seen],
            color=VERMILLION,
            marker="x",
            s=45,
            clip_on=False,
            label="nothing predicted",
        )
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(lowest, highest),
        ylim=(lowest, highest),
        aspect="equal",
        xlabel="true volume (mL)",
        ylabel="predicted volume (mL)",
    )
    for axis in (axes.xaxis, axes.yaxis):
        _plain_ticks(axis)
    axes.legend(loc="upper left")
    return figure


def _plain_ticks(axis) -> None:
    """Write 0.1, 1, 10 on a logarithmic axis, and no powers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 3)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
