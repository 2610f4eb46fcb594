"""The network as a drawing and as a table, both made from the module itself."""

from __future__ import annotations

import copy
import functools
import itertools
import math
import operator
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch

from lungseg_utils.plotting.style import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    Figure,
    new_figure,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lungseg_utils.segunet import SegUNet

Point = tuple[float, float]

STEP_X = 1.6  # from a stage to the next, in drawing units
STEP_Y = 1.55


def draw_network(model: SegUNet) -> Figure:
    """Draw a box for each block with its channels, and how features and pooling indices travel.

    Channels are read off the convolutions, so the picture cannot differ from the network.
    """
    stages = len(model.pools)
    right = 2 * STEP_X * stages
    bottom = -STEP_Y * stages
    figure = new_figure(12, 1.6 + 1.35 * (stages + 1))
    axes = figure.subplots()
    axes.set(xlim=(-1.6, right + 1.6), ylim=(bottom - 0.75, 1.0))
    axes.set_axis_off()
    scale: tuple[int, ...] = (1, 1, 1)
    for stage, pool in enumerate(model.pools):
        _draw_stage(axes, model, stage, right)
        _write_size(axes, (STEP_X * stage, -STEP_Y * stage), scale)
        scale = tuple(map(operator.mul, scale, pool))
    _draw_block(axes, (right / 2, bottom), model.bottleneck, "0.4")
    _write_size(axes, (right / 2, bottom), scale)

    plural = "s" if model.in_channels > 1 else ""
    axes.text(0.12, 0.72, f"CT: {model.in_channels} channel{plural}", fontsize=9)
    _arrow(axes, (0, 0.85), (0, 0.42), "black")
    head = f"1×1×1 head, {model.head.out_channels} logit"
    axes.text(right - 0.12, 0.72, head, fontsize=9, ha="right")
    _arrow(axes, (right, 0.42), (right, 0.85), "black")
    _add_legend(figure, model)
    count = f"{_count_parameters(model):,} parameters, {stages + 1} stages"
    figure.suptitle(f"{type(model).__name__}: {count}", fontsize=12)
    return figure


def _draw_stage(axes: Axes, model: SegUNet, stage: int, right: float) -> None:
    """Draw the encoder and the decoder of a stage, and the arrows between them and downwards."""
    x = STEP_X * stage
    y = -STEP_Y * stage
    mirrored = right - x
    _draw_block(axes, (x, y), model.encoder[stage], BLUE)
    _draw_block(axes, (mirrored, y), model.decoder[stage], ORANGE)
    if model.skip == "concat":
        _arrow(axes, (x + 0.66, y + 0.16), (mirrored - 0.66, y + 0.16), GREEN)
    if model.upsample == "unpool":
        _arrow(axes, (x + 0.66, y - 0.16), (mirrored - 0.66, y - 0.16), PURPLE, "--")
    below = y - STEP_Y + 0.42
    _arrow(axes, (x + 0.25, y - 0.42), (x + STEP_X - 0.25, below), VERMILION)
    _arrow(axes, (mirrored - STEP_X + 0.25, below), (mirrored - 0.25, y - 0.42), SKY)


def _draw_block(axes: Axes, centre: Point, block: nn.Module, colour: str) -> None:
    from torch import nn

    x, y = centre
    convolutions = [layer for layer in block.modules() if isinstance(layer, nn.Conv3d)]
    widths = [convolutions[0].in_channels, *(layer.out_channels for layer in convolutions)]
    box = FancyBboxPatch(
        (x - 0.6, y - 0.32),
        1.2,
        0.64,
        boxstyle="round,pad=0.02,rounding_size=0.08",
        facecolor="white",
        edgecolor=colour,
        linewidth=2,
    )
    axes.add_patch(box)
    axes.text(x, y, " → ".join(map(str, widths)), ha="center", va="center", fontsize=10)


def _write_size(axes: Axes, centre: Point, scale: Sequence[int]) -> None:
    sides = (side if n == 1 else f"{side}/{n}" for side, n in zip("DHW", scale))
    x, y = centre
    axes.text(x - 0.72, y, "×".join(sides), ha="right", va="center", fontsize=9, color="0.35")


def _arrow(axes: Axes, start: Point, end: Point, colour: str, line: str = "-") -> None:
    shape = {"arrowstyle": "-|>", "color": colour, "lw": 1.8, "ls": line}
    axes.annotate("", end, start, arrowprops={**shape, "shrinkA": 0, "shrinkB": 0})


def _add_legend(figure: Figure, model: SegUNet) -> None:
    pools = sorted({"×".join(map(str, pool)) for pool in model.pools})
    upwards = "un-pool" if model.upsample == "unpool" else "transposed convolution"
    entries = [(VERMILION, "-", f"max-pool {' or '.join(pools)}"), (SKY, "-", upwards)]
    if model.upsample == "unpool":
        entries.append((PURPLE, "--", "pooling indices"))
    if model.skip == "concat":
        entries.append((GREEN, "-", "features, concatenated"))
    handles = [
        Line2D([], [], color=colour, ls=line, lw=2, label=label) for colour, line, label in entries
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def trace_stages(model: SegUNet, size: Sequence[int]) -> list[dict]:
    """Run `model` once on zeros of `size` (d, h, w) and return a row for each block.

    A row has the block's name and shape (C, D, H, W), its parameters, gflop (a multiplication
    and an addition count as two), activation_mb (float32, every output that the backward pass
    needs) and receptive_field (voxels along W that the block's output depends on).
    """
    import torch

    model = copy.deepcopy(model).eval()  # the hooks stay off the caller's network
    traced: dict[nn.Module, tuple[tuple[int, ...], int]] = {}
    for layer in model.modules():
        if not list(layer.children()):
            layer.register_forward_hook(functools.partial(_trace, traced))
    device = next(model.parameters()).device
    with torch.inference_mode():
        model(torch.zeros(1, model.in_channels, *size, device=device))
    rows = []
    for name, blocks, field in _list_blocks(model):
        layers = [m for block in blocks for m in block.modules() if m in traced]
        output_shape, _ = traced[layers[-1]]
        rows.append(
            {
                "block": name,
                "shape": output_shape,
                "parameters": _count_parameters(blocks[-1]),
                "gflop": sum(traced[layer][1] for layer in layers) / 1e9,
                "activation_mb": sum(math.prod(traced[layer][0]) for layer in layers) * 4 / 1e6,
                "receptive_field": field,
            }
        )
    return rows


def _trace(traced: dict, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    """Note the shape (C, D, H, W) of a layer's output, and the FLOPs that it took."""
    from torch import nn

    flop = 0
    if isinstance(layer, nn.Conv3d | nn.ConvTranspose3d):
        voxels = inputs[0] if isinstance(layer, nn.ConvTranspose3d) else output
        flop = 2 * voxels.numel() * layer.weight[0].numel()
    traced[layer] = (tuple(output.shape[1:]), flop)


def _list_blocks(model: SegUNet) -> Iterator[tuple[str, list[nn.Module], int]]:
    """Yield each block's name, what runs in it, and the receptive field of its output along W."""
    strides = [1, *itertools.accumulate((pool[2] for pool in model.pools), operator.mul)]
    field = 1
    for stage, pool in enumerate(model.pools):
        field += 4 * strides[stage]  # two convolutions of 3 voxels
        yield f"encoder {stage + 1}", [model.encoder[stage]], field
        field += (pool[2] - 1) * strides[stage]
    field += 4 * strides[-1]
    yield "bottleneck", [model.bottleneck], field
    for stage in reversed(range(len(model.pools))):
        field += 4 * strides[stage]
        yield f"decoder {stage + 1}", [model.upsamplers[stage], model.decoder[stage]], field
    yield "head", [model.head], field


def _count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
