"""What training minimises: MONAI's losses on logits, and one for nodules beside masses."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALLEST_VOXELS = 30  # of a tumour in a patch: a crumb of one weighs no more than a nodule
USUAL_VOXELS = 500  # stand for the tumour of a patch that has none


def make_loss(name: str = "dice_ce") -> nn.Module:
    """Return the loss called `name`, on logits (B, 1, d, h, w) and labels of the same shape.

    Its overlap is taken over the whole batch, not patch by patch.

    dice_ce: Dice + binary cross-entropy. dice_ce_balanced: the same, see `BalancedDiceCE`.
    focal: Dice + focal loss (Lin et al. 2017), which looks less at easy voxels.
    tversky: a Dice in which a missed voxel costs more than a false one, 0.7 to 0.3 (Salehi et al.
    2017).
    """
    from monai.losses import DiceCELoss, DiceFocalLoss, TverskyLoss

    if name == "dice_ce_balanced":
        return BalancedDiceCE()
    if name == "focal":
        return DiceFocalLoss(sigmoid=True, batch=True)
    if name == "tversky":
        return TverskyLoss(sigmoid=True, batch=True, alpha=0.3, beta=0.7)
    if name == "dice_ce":
        return DiceCELoss(sigmoid=True, batch=True)
    raise ValueError(f"unknown loss {name!r}")


class BalancedDiceCE(nn.Module):
    """Dice + cross-entropy in which a nodule is not drowned by the mass in the patch beside it.

    In the overlap a patch counts by one over the root of its tumour's volume.
    """

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:  # both (B, 1, d, h, w)
        """Return the loss of the batch."""
        axes = (1, 2, 3, 4)
        probability = logits.sigmoid()
        volume = label.sum(axes)
        weight = torch.where(volume > 0, volume.clamp(min=SMALLEST_VOXELS), USUAL_VOXELS).rsqrt()
        overlap = (weight * (probability * label).sum(axes)).sum()
        both = (weight * (probability.sum(axes) + volume)).sum()
        return 1 - 2 * overlap / both + F.binary_cross_entropy_with_logits(logits, label)
