"""A network as training runs it: in the device's fastest precision, with deep supervision."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from lungseg_utils.patches import UNKNOWN
from lungseg_utils.segunet import SegUNet
from lungseg_utils.training.distributed import whole_batch

NEVER = -30.0  # a logit: a probability of nothing, with no gradient


class TrainingNetwork(nn.Module):
    """A network and its heads of deep supervision: image (B, 1, d, h, w) → a list of logits.

    The first logits are the network's, float32 (B, 1, d, h, w); then those of each head, at half
    the size, at a quarter …
    """

    def __init__(self, model: nn.Module, heads: nn.ModuleList, precision: torch.dtype):
        super().__init__()
        self.model = model
        self.heads = heads
        self.precision = precision

    def forward(self, image: Tensor) -> list[Tensor]:
        """Compute the logits in `precision`."""
        casts = self.precision == torch.bfloat16
        with torch.autocast(image.device.type, torch.bfloat16, enabled=casts):
            outputs = predict_all(self.model, self.heads, image)
        return [logits.float() for logits in outputs]


def make_heads(model: SegUNet) -> nn.ModuleList:
    """Return a 1 × 1 × 1 head for each decoder stage but the first; they live in training only."""
    heads = nn.ModuleList()
    for width in model.channels[:-2]:
        head = nn.Conv3d(width, model.out_channels, 1)
        head.bias.data.zero_()  # type: ignore[union-attr]
        heads.append(head)
    return heads


def predict_all(model: Any, heads: nn.ModuleList, image: Tensor) -> list[Tensor]:
    """Return the logits of `model`, then those of each head on the coarser decoder stages."""
    if not len(heads):
        return [model(image)]
    features: list[Tensor] = []

    def keep(_block: nn.Module, _inputs: object, output: Tensor) -> None:
        features.insert(0, output)  # the decoder works from the coarsest stage on

    with contextlib.ExitStack() as hooks:
        for block in model.decoder[1 : 1 + len(heads)]:
            hooks.enter_context(block.register_forward_hook(keep))
        logits = model(image)
    return [logits, *(head(stage) for head, stage in zip(heads, features))]


def whole_batch_loss(
    accelerator: Accelerator, loss_function: Callable, outputs: Sequence[Tensor], label: Tensor
) -> Tensor:
    """Return the loss of the batch of all processes: the mean over `outputs`.

    Each output counts half as much as the one before (nnU-Net's weights of deep supervision).
    Where the label is UNKNOWN nothing counts.
    """
    label = whole_batch(accelerator, label)
    total = torch.zeros((), device=label.device)
    weights = [0.5**stage for stage in range(len(outputs))]
    for weight, logits in zip(weights, outputs):
        target = F.interpolate(label, logits.shape[2:], mode="nearest-exact")
        is_unknown = target == UNKNOWN
        known = whole_batch(accelerator, logits).masked_fill(is_unknown, NEVER)
        total = total + weight * loss_function(known, target.masked_fill(is_unknown, 0))
    return total / sum(weights)
