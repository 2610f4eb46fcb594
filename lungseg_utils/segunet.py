"""SegUNet in 3D: SegNet's un-pooling with remembered indices, U-Net's skip connections.

From SegNet (Badrinarayanan et al., 2017): max-pooling keeps where each maximum stood, and the
decoder puts values back exactly there. From U-Net (Ronneberger et al., 2015): the encoder's
features of the same stage are concatenated after un-pooling. Joined in 2D as Seg-UNet (Kamal et
al., 2019; Abdollahi et al., 2020). Two switches give the parents: `skip="none"` is SegNet,
`upsample="transpose"` is U-Net.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lungseg_utils.architecture import check_architecture


def double_conv(channels_in: int, channels_middle: int, channels_out: int) -> nn.Sequential:
    """Build the block of every stage: (convolution, batch norm, ReLU) twice."""
    return nn.Sequential(
        nn.Conv3d(channels_in, channels_middle, 3, padding=1, bias=False),
        nn.BatchNorm3d(channels_middle),
        nn.ReLU(inplace=True),
        nn.Conv3d(channels_middle, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm3d(channels_out),
        nn.ReLU(inplace=True),
    )


class SegUNet(nn.Module):
    """Segment a volume: (B, in_channels, D, H, W) → logits (B, out_channels, D, H, W), of any size.

    channels: the width of each stage, the last one being the bottleneck.
    pools: the pooling of each stage but the last, as (d, h, w); default 2 × 2 × 2. Use (1, 2, 2)
        first where slices are thick.
    upsample: "unpool" puts maxima back where they stood; "transpose" learns a transposed
        convolution (U-Net).
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
        check_architecture(channels, pools, upsample, skip)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.channels = tuple(channels)
        self.pools = [(depth, height, width) for depth, height, width in pools]
        self.upsample = upsample
        self.skip = skip

        *widths, deepest = self.channels
        self.encoder = nn.ModuleList(
            double_conv(before, width, width)
            for before, width in zip([in_channels, *widths], widths)
        )
        # Every block below a pooling ends at the width that was pooled, so that the indices fit.
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
        """Return the logits of each voxel of `x`."""
        features, indices = [], []
        for block, pool in zip(self.encoder, self.pools):
            x = block(x)
            features.append(x)
            # ceil_mode: an odd last plane is pooled on its own instead of being dropped
            x, where = F.max_pool3d(x, pool, pool, ceil_mode=True, return_indices=True)  # int64
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
        pool = self.pools[stage]
        if self.upsample == "unpool":
            return in_layout_of(where, F.max_unpool3d(x, where, pool, pool, output_size=size))
        depth, height, width = size
        return self.upsamplers[stage](x)[..., :depth, :height, :width]

    def config(self) -> dict:
        """Return the arguments that build this network again; what a checkpoint stores."""
        return {
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "channels": list(self.channels),
            "pools": [list(pool) for pool in self.pools],
            "upsample": self.upsample,
            "skip": self.skip,
        }


def in_layout_of(like: Tensor, x: Tensor) -> Tensor:
    """Return `x` in the memory layout of `like`, which un-pooling has dropped."""
    if like.is_contiguous(memory_format=torch.channels_last_3d):
        return x.contiguous(memory_format=torch.channels_last_3d)
    return x.contiguous()
