"""The networks that `ablation.py` compares: SegUNet, its parents and its peers.

SegUNet, U-Net and SegNet are this project's switches; DynUNet is MONAI's; PlainConvUNet is
nnU-Net's, from the package dynamic-network-architectures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from lungseg_utils.segunet import SegUNet

TUMOUR_LOGIT = -math.log(99)  # a new network starts where tumours fill a hundredth of a patch


class Peer(nn.Module):
    """Somebody else's network, with what training and prediction ask of a SegUNet: its pools."""

    def __init__(self, network: nn.Module, last: nn.Conv3d, stages: int):
        super().__init__()
        self.network = network
        self.pools = [(2, 2, 2)] * (stages - 1)
        self.channels = (last.in_channels,)
        self.encoder: list = []  # no batch norm is folded
        self.bottleneck = nn.Sequential()
        self.decoder: list = []
        nn.init.constant_(last.bias, TUMOUR_LOGIT)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, C, D, H, W)
        """Pad with air to whole poolings, which a SegUNet does not need, and cut back."""
        depth, height, width = x.shape[2:]
        ends = [-size % 2 ** len(self.pools) for size in (width, height, depth)]
        padded = nn.functional.pad(x, [side for end in ends for side in (0, end)], value=-1.0)
        return self.network(padded)[..., :depth, :height, :width]


def segunet(widths: Sequence[int], **switches: str) -> SegUNet:
    """Build one of the three networks that are switches of ours."""
    model = SegUNet(channels=widths, **switches)
    nn.init.constant_(model.head.bias, TUMOUR_LOGIT)
    return model


def unet(widths: Sequence[int]) -> SegUNet:
    """Build a U-Net: transposed convolutions instead of un-pooling."""
    return segunet(widths, upsample="transpose")


def segnet(widths: Sequence[int]) -> SegUNet:
    """Build a SegNet: no skip connections."""
    return segunet(widths, skip="none")


def dynunet(widths: Sequence[int]) -> Peer:
    """Build MONAI's DynUNet, nnU-Net's network in MONAI's words, with its own defaults."""
    from monai.networks.nets import DynUNet

    stages = len(widths)
    strides = [1] + [2] * (stages - 1)
    network = DynUNet(3, 1, 1, [3] * stages, strides, strides[1:], filters=list(widths))
    return Peer(network, network.output_block.conv.conv, stages)


def plain_conv_unet(widths: Sequence[int]) -> Peer:
    """Build nnU-Net's PlainConvUNet with the operations of nnU-Net's plans."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    stages = len(widths)
    network = PlainConvUNet(
        input_channels=1,
        n_stages=stages,
        features_per_stage=list(widths),
        conv_op=nn.Conv3d,
        kernel_sizes=3,
        strides=[1] + [2] * (stages - 1),
        n_conv_per_stage=2,
        num_classes=1,
        n_conv_per_stage_decoder=2,
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=False,
    )
    network.apply(network.initialize)
    return Peer(network, network.decoder.seg_layers[-1], stages)


NETWORKS: dict[str, Callable[[Sequence[int]], nn.Module]] = {
    "SegUNet": segunet,
    "U-Net": unet,
    "SegNet": segnet,
    "MONAI DynUNet": dynunet,
    "nnU-Net PlainConvUNet": plain_conv_unet,
}


def count_parameters(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def match_widths(name: str, channels: Sequence[int]) -> list[int]:
    """Return the widths with which `name` has about the parameters of a SegUNet of `channels`."""
    wanted = count_parameters(segunet(channels))
    candidates = [
        [round(width * share) for width in channels] for share in np.arange(0.5, 1.6, 0.01)
    ]

    def distance(widths: Sequence[int]) -> int:
        return abs(count_parameters(NETWORKS[name](widths)) - wanted)

    return min(candidates, key=distance)
