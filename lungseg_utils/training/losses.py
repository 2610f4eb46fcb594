"""What training makes small: MONAI's losses on logits, also on the coarser stages under deep supervision."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lungseg_utils.segunet import SegUNet

FEWEST_VOXELS, MIDDLING_VOXELS = (
    30,
    500,
)  # of a tumour in a patch: a crumb of one weighs no more than a nodule


def make_loss(name: str = "dice_ce") -> nn.Module:
    """Give the loss called `name`, on logits; its overlap is taken over the whole batch, not patch by patch.

    dice_ce: Dice + binary cross-entropy. dice_ce_balanced: the same, see `BalancedDiceCE`.
    focal: Dice + focal loss (Lin et al. 2017), which looks less at easy voxels.
    tversky: a Dice in which a missed voxel costs more than a false one, 0.7 to 0.3 (Salehi et al. 2017).
    """
    from monai.losses import DiceCELoss, DiceFocalLoss, TverskyLoss

    if name == "dice_ce_balanced":
        return BalancedDiceCE()
    if name == "focal":
        return DiceFocalLoss(sigmoid=True, batch=True)
    if name == "tversky":
        return TverskyLoss(sigmoid=True, batch=True, alpha=0.3, beta=0.7)
    return DiceCELoss(sigmoid=True, batch=True)


class BalancedDiceCE(nn.Module):
    """Dice + cross-entropy in which a nodule is not drowned by the mass in the patch beside it.

    In the overlap a patch counts by one over the root of its tumour's volume; MIDDLING_VOXELS stand for none.
    """

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:  # both (B, 1, d, h, w)
        probability, each = logits.sigmoid(), (1, 2, 3, 4)
        volume = label.sum(each)
        weight = torch.where(volume > 0, volume.clamp(min=FEWEST_VOXELS), MIDDLING_VOXELS).rsqrt()
        overlap = (weight * (probability * label).sum(each)).sum()
        both = (weight * (probability.sum(each) + volume)).sum()
        return 1 - 2 * overlap / both + F.binary_cross_entropy_with_logits(logits, label)


def make_heads(model: SegUNet) -> nn.ModuleList:
    """Give a 1 × 1 × 1 head for each decoder stage but the first; they live in training only."""
    heads = nn.ModuleList(nn.Conv3d(width, model.out_channels, 1) for width in model.channels[:-2])
    for head in heads:
        nn.init.zeros_(head.bias)
    return heads


def predict_all(model: SegUNet, heads: Sequence[nn.Module], image: Tensor) -> list[Tensor]:
    """Give the logits (B, 1, d, h, w), then those of each head: at half the size, at a quarter …"""
    coarse: list[Tensor] = []
    handles = [
        block.register_forward_hook(lambda _block, _inputs, output: coarse.insert(0, output))
        for block in model.decoder[1 : 1 + len(heads)]
    ]
    try:
        logits = model(image)
    finally:
        for handle in handles:
            handle.remove()
    return [logits, *(head(features) for head, features in zip(heads, coarse))]


def loss_of_all(loss_function: Callable, outputs: Sequence[Tensor], label: Tensor) -> Tensor:
    """Give the mean loss over `outputs`, each counting half as much as the one before (nnU-Net's weights)."""
    weights = [0.5**stage for stage in range(len(outputs))]
    losses = [
        loss_function(logits, F.interpolate(label, logits.shape[2:], mode="nearest-exact"))
        for logits in outputs
    ]
    return sum(weight * loss for weight, loss in zip(weights, losses)) / sum(weights)


def make_optimiser(
    name: str, weights: list[nn.Parameter], learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Give AdamW, or nnU-Net's stochastic gradient descent: Nesterov's momentum of 0.99."""
    if name == "sgd":
        return torch.optim.SGD(
            weights, lr=learning_rate, weight_decay=weight_decay, momentum=0.99, nesterov=True
        )
    return torch.optim.AdamW(weights, lr=learning_rate, weight_decay=weight_decay)
