"""The network as a drawing, made from the module itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lungseg_utils.plotting.style import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    Figure,
    new_figure,
)

if TYPE_CHECKING:
    from torch import nn

STEP = 1.6  # between stages, in drawing units


def draw_network(model: nn.Module) -> Figure:
    """Draw a `SegUNet`: a box for each block with its channels, and how features and pooling indices travel.

    Channels are read off the convolutions, so the picture cannot differ from the network.
    """
    stages = len(model.pools)
    figure = new_figure(12, 1.6 + 1.35 * (stages + 1))
    axes = figure.subplots()
    axes.set(xlim=(-1.6, 2 * STEP * stages + 1.6), ylim=(-1.55 * stages - 0.75, 1.0))
    axes.set_axis_off()
    scale = [1, 1, 1]
    scales = [tuple(scale)]
    for pool in model.pools:
        scale = [a * b for a, b in zip(scale, pool, strict=True)]
        scales.append(tuple(scale))

    right = 2 * STEP * stages
    for stage in range(stages):
        x, y = STEP * stage, -1.55 * stage
        _box(axes, x, y, model.encoder[stage], BLUE)
        _box(axes, right - x, y, model.decoder[stage], ORANGE)
        axes.text(
            x - 0.72, y, _size(scales[stage]), ha="right", va="center", fontsize=9, color="0.35"
        )
        if model.skip == "concat":
            _arrow(axes, (x + 0.66, y + 0.16), (right - x - 0.66, y + 0.16), GREEN, "-")
        if model.upsample == "unpool":
            _arrow(axes, (x + 0.66, y - 0.16), (right - x - 0.66, y - 0.16), PURPLE, "--")
        _arrow(axes, (x + 0.25, y - 0.42), (x + STEP - 0.25, y - 1.13), VERMILLION, "-")
        _arrow(axes, (right - x - STEP + 0.25, y - 1.13), (right - x - 0.25, y - 0.42), SKY, "-")
    _box(axes, STEP * stages, -1.55 * stages, model.bottleneck, "0.4")
    axes.text(
        STEP * stages - 0.72,
        -1.55 * stages,
        _size(scales[-1]),
        ha="right",
        va="center",
        fontsize=9,
        color="0.35",
    )
    _arrow(axes, (0, 0.85), (0, 0.42), "black", "-")
    axes.text(
        0.12, 0.72, f"CT: {model.in_channels} channel{'s' * (model.in_channels > 1)}", fontsize=9
    )
    _arrow(axes, (right, 0.42), (right, 0.85), "black", "-")
    axes.text(
        right - 0.12, 0.72, f"1×1×1 head, {model.head.out_channels} logit", fontsize=9, ha="right"
    )
    _key(figure, model)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    figure.suptitle(
        f"{type(model).__name__}: {parameters:,} parameters, {stages + 1} stages", fontsize=12
    )
    return figure


def _box(axes, x: float, y: float, block: nn.Module, colour: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    convolutions = [layer for layer in block.modules() if hasattr(layer, "in_channels")]
    widths = [convolutions[0].in_channels, *[layer.out_channels for layer in convolutions]]
    axes.add_patch(
        FancyBboxPatch(
            (x - 0.6, y - 0.32),
            1.2,
            0.64,
            boxstyle="round,pad=0.02,rounding_size=0.08",
            facecolor="white",
            edgecolor=colour,
            linewidth=2,
        )
    )
    axes.text(x, y, " → ".join(map(str, widths)), ha="center", va="center", fontsize=10)


def _arrow(axes, start, end, colour: str, line: str) -> None:
    axes.annotate(
        "",
        end,
        start,
        arrowprops={
            "arrowstyle": "-|>",
            "color": colour,
            "lw": 1.8,
            "ls": line,
            "shrinkA": 0,
            "shrinkB": 0,
        },
    )


def _size(scale: tuple[int, ...]) -> str:
    if scale == (1, 1, 1):
        return "D×H×W"
    return "×".join(side if n == 1 else f"{side}/{n}" for side, n in zip("DHW", scale, strict=True))


def _key(figure: Figure, model: nn.Module) -> None:
    from matplotlib.lines import Line2D

    pools = sorted({"×".join(map(str, pool)) for pool in model.pools})
    upwards = "un-pool" if model.upsample == "unpool" else "transposed convolution"
    entries = [(VERMILLION, "-", f"max-pool {' or '.join(pools)}"), (SKY, "-", upwards)]
    entries += [(PURPLE, "--", "pooling indices")] * (model.upsample == "unpool")
    entries += [(GREEN, "-", "features, concatenated")] * (model.skip == "concat")
    handles = [
        Line2D([], [], color=colour, ls=line, lw=2, label=label) for colour, line, label in entries
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
