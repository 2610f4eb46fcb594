"""SegUNet in 3D: SegNet's un-pooling with remembered indices, U-Net's skip connections.

From SegNet (Badrinarayanan et al., 2017): max-pooling keeps where each maximum stood, and the decoder puts
values back exactly there. From U-Net (Ronneberger et al., 2015): the encoder's features of the same stage are
concatenated after un-pooling. Joined in 2D as Seg-UNet (Kamal et al., 2019; Abdollahi et al., 2020).
Two switches give the parents: `skip="none"` is SegNet, `upsample="transpose"` is U-Net.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lungseg_utils.acceleration import BatchNorm3d


class Block(nn.Sequential):
    """Layers one after another; a batch norm that is fixed while the rest learns works within its convolution."""

    def forward(self, x: Tensor) -> Tensor:
        layers = list(self)
        for convolve, norm, rectify in zip(layers[0::3], layers[1::3], layers[2::3]):
            if self.training and not norm.training:
                scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
                weight = convolve.weight * scale[:, None, None, None, None]
                x = F.conv3d(
                    x, weight, norm.bias - norm.running_mean * scale, padding=convolve.padding
                )
            else:
                x = norm(convolve(x))
            x = rectify(x)
        return x


def double_conv(channels_in: int, channels_middle: int, channels_out: int) -> Block:
    """Build the block of every stage: (convolution, batch norm, ReLU) twice."""
    layers: list[nn.Module] = []
    for before, after in ((channels_in, channels_middle), (channels_middle, channels_out)):
        layers += [
            nn.Conv3d(before, after, 3, padding=1, bias=False),
            BatchNorm3d(after),
            nn.ReLU(inplace=True),
        ]
    return Block(*layers)


class SegUNet(nn.Module):
    """Segment a volume: (B, in_channels, D, H, W) → logits (B, out_channels, D, H, W), of any size.

    channels: the width of each stage, the last one being the bottleneck.
    pools: the pooling of each stage but the last, as (d, h, w); default 2 × 2 × 2. Use (1, 2, 2) first where
        slices are thick.
    upsample: "unpool" puts maxima back where they stood; "transpose" learns a transposed convolution (U-Net).
    skip: "concat" joins the encoder's features; "none" leaves them out (SegNet).
    """

    def __init__(
        self,
        *,
        in_channels: int = 1,
        out_channels: int = 1,
        channels: Sequence[int] = (16, 32, 64, 128),
        pools: Sequence[Sequence[int]] | None = None,
        upsample: str = "unpool",
        skip: str = "concat",
    ):
        super().__init__()
        pools = pools or [(2, 2, 2)] * (len(channels) - 1)
        assert len(channels) >= 2, f"a SegUNet needs at least two stages, got channels={channels}"
        assert len(pools) == len(channels) - 1, (
            f"{len(channels)} stages need {len(channels) - 1} pools, got {pools}"
        )
        assert all(
            len(pool) == 3 and all(isinstance(n, int) and n > 0 for n in pool) for pool in pools
        ), f"a pool is three whole numbers from 1 on, got {pools}"
        assert upsample in ("unpool", "transpose"), (
            f"upsample is 'unpool' or 'transpose', got {upsample!r}"
        )
        assert skip in ("concat", "none"), f"skip is 'concat' or 'none', got {skip!r}"
        self.in_channels, self.out_channels = in_channels, out_channels
        self.channels, self.pools = tuple(channels), tuple(tuple(pool) for pool in pools)
        self.upsample, self.skip = upsample, skip

        *widths, deepest = self.channels
        self.encoder = nn.ModuleList(
            double_conv(before, width, width)
            for before, width in zip([in_channels, *widths], widths)
        )
        # Every block below a pooling ends at the width that was pooled: only then do the indices fit.
        self.bottleneck = double_conv(widths[-1], deepest, widths[-1])
        joined = 2 if skip == "concat" else 1
        self.decoder = nn.ModuleList(
            double_conv(joined * width, width, above)
            for width, above in zip(widths, [widths[0], *widths[:-1]])
        )
        self.upsamplers = nn.ModuleList(
            nn.ConvTranspose3d(width, width, pool, stride=pool)
            if upsample == "transpose"
            else nn.Identity()
            for width, pool in zip(widths, self.pools)
        )
        self.head = nn.Conv3d(widths[0], out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, D, H, W)
        features, indices = [], []
        for block, pool in zip(self.encoder, self.pools):
            x = block(x)
            features.append(x)
            # ceil_mode: an odd last plane is pooled on its own instead of being dropped
            x, where = F.max_pool3d(
                x, pool, pool, ceil_mode=True, return_indices=True
            )  # int64 indices
            indices.append(where)
        x = self.bottleneck(x)
        for stage in reversed(range(len(self.pools))):
            x = self.enlarge(x, stage, indices[stage], features[stage].shape[2:])
            if self.skip == "concat":
                x = torch.cat([features[stage], x], dim=1)
            x = self.decoder[stage](x)
        return self.head(x)

    def enlarge(self, x: Tensor, stage: int, where: Tensor, size: torch.Size) -> Tensor:
        """Undo the pooling of `stage`: back to `size`."""
        if self.upsample == "unpool":
            # un-pooling drops the layout that the convolutions were given; without it each of them would copy
            by_channel = where.is_contiguous(memory_format=torch.channels_last_3d)
            layout = torch.channels_last_3d if by_channel else torch.contiguous_format
            x = F.max_unpool3d(x, where, self.pools[stage], self.pools[stage], output_size=size)
            return x.contiguous(memory_format=layout)
        depth, height, width = size
        return self.upsamplers[stage](x)[..., :depth, :height, :width]

    def config(self) -> dict:
        """Give the arguments that build this network again; what a checkpoint stores."""
        return {
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "channels": list(self.channels),
            "pools": [list(pool) for pool in self.pools],
            "upsample": self.upsample,
            "skip": self.skip,
        }


def fold_batch_norms(model: SegUNet) -> SegUNet:
    """Give a copy for prediction with each batch norm folded into the convolution before it: the same function.

    After training a batch norm is one multiplication and one addition a channel, which the convolution's
    weights and bias can take over.
    """
    import copy

    folded = copy.deepcopy(model).eval()
    for block in [*folded.encoder, folded.bottleneck, *folded.decoder]:
        for position in range(len(block) - 1):
            if isinstance(block[position + 1], nn.BatchNorm3d):
                block[position] = nn.utils.fuse_conv_bn_eval(block[position], block[position + 1])
                block[position + 1] = nn.Identity()
    return folded


def trace_stages(model: SegUNet, size: Sequence[int]) -> list[dict]:
    """Run `model` once on zeros of `size` (d, h, w); give a row a block: name, shape, parameters, GFLOP, activation MB.

    FLOPs count a multiplication and an addition as two; activations are float32, all outputs of the block kept
    for the backward pass. The receptive field (voxels a side, along W) is that of the block's output.
    """
    rows: list[dict] = []
    tally = {"flop": 0.0, "values": 0}

    def count(module: nn.Module, _inputs, output: Tensor) -> None:
        tally["values"] += output.numel()
        if isinstance(module, nn.Conv3d):
            tally["flop"] += 2 * output.numel() * module.weight[0].numel()
        elif isinstance(module, nn.ConvTranspose3d):
            tally["flop"] += 2 * _inputs[0].numel() * module.weight[0].numel()

    def close_row(name: str, block: nn.Module, field: int):
        def hook(_module, _inputs, output: Tensor) -> None:
            rows.append(
                {
                    "block": name,
                    "shape": tuple(output.shape[1:]),
                    "parameters": sum(p.numel() for p in block.parameters()),
                    "gflop": tally["flop"] / 1e9,
                    "activation_mb": tally["values"] * 4 / 1e6,
                    "receptive_field": field,
                }
            )
            tally.update(flop=0.0, values=0)

        return hook

    jumps = [1]
    for pool in model.pools:
        jumps.append(jumps[-1] * pool[2])
    field, named = 1, []
    for stage, block in enumerate(model.encoder):
        field += 4 * jumps[stage]
        named.append((f"encoder {stage + 1}", block, field))
        field += (model.pools[stage][2] - 1) * jumps[stage]
    field += 4 * jumps[-1]
    named.append(("bottleneck", model.bottleneck, field))
    for stage in reversed(range(len(model.pools))):
        field += 4 * jumps[stage]
        named.append((f"decoder {stage + 1}", model.decoder[stage], field))
    named.append(("head", model.head, field))

    handles = [m.register_forward_hook(count) for m in model.modules() if not list(m.children())]
    handles += [
        block.register_forward_hook(close_row(name, block, reach)) for name, block, reach in named
    ]
    was_training = model.training
    try:
        device = next(model.parameters()).device
        with torch.inference_mode():
            model.eval()(torch.zeros(1, model.in_channels, *size, device=device))
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return rows
