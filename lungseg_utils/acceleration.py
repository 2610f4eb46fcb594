"""The same network, computed faster: in training, in prediction, and in the memory it takes.

Nothing here changes what is computed beyond rounding, and nobody needs it to understand the rest.
"""

import copy
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lungseg_utils.segunet import SegUNet

LANES = 16  # values of float32 in a vector of AVX-512


def accelerate_training(model: SegUNet) -> None:
    """Let the blocks of `model` compute as `TrainingBlock` does; weights and names stay its own."""

    def swap(blocks: Iterable[Any]) -> nn.ModuleList:
        return nn.ModuleList(TrainingBlock(*block) for block in blocks)

    model.encoder = swap(model.encoder)
    model.bottleneck = TrainingBlock(*model.bottleneck)
    model.decoder = swap(model.decoder)


class TrainingBlock(nn.Sequential):
    """(Convolution, batch norm, ReLU), repeated, with faster batch norms.

    A frozen one (in evaluation mode while the rest trains) works inside its convolution; one that
    learns has another backward pass where torch's own is slow.
    """

    def forward(self, x: Tensor) -> Tensor:  # (B, C, D, H, W)
        """Compute what `nn.Sequential` would."""
        layers = list(self)
        for convolution, norm, activation in zip(layers[0::3], layers[1::3], layers[2::3]):
            if self.training and not norm.training:
                x = activation(_convolve_and_normalise(x, convolution, norm))
            else:
                x = activation(_normalise(convolution(x), norm))
        return x


def _convolve_and_normalise(x: Tensor, convolution: Any, norm: Any) -> Tensor:
    """Apply a convolution whose weights and bias have taken over those of a frozen batch norm."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    weight = convolution.weight * scale[:, None, None, None, None]
    bias = norm.bias - norm.running_mean * scale
    return F.conv3d(x, weight, bias, padding=convolution.padding)


def _normalise(x: Tensor, norm: Any) -> Tensor:
    """Apply a batch norm, with the faster backward pass where there is one to come.

    Where channels come last, torch's own backward pass on a CPU takes the channels of a voxel 16 at
    a time and copies what is over value by value: with AVX-512 a norm of 8 channels takes longer
    than one of 16 (torch 2.13).
    """
    is_learning = norm.training and torch.is_grad_enabled()
    is_slow = is_learning and x.device.type == "cpu" and norm.num_features % LANES
    if not is_slow or not x.is_contiguous(memory_format=torch.channels_last_3d):
        return norm(x)
    norm.num_batches_tracked += 1
    statistics = (norm.running_mean, norm.running_var, norm.momentum, norm.eps)
    return BatchNormFunction.apply(x, norm.weight, norm.bias, *statistics)


class BatchNormFunction(torch.autograd.Function):
    """Batch norm in training; the gradient of Ioffe and Szegedy (2015), section 3."""

    @staticmethod
    def forward(ctx, x, weight, bias, running_mean, running_var, momentum, eps):
        """Normalise (B, C, D, H, W) by its own mean and variance; update the running ones."""
        out, mean, inverse_std = torch.native_batch_norm(
            x, weight, bias, running_mean, running_var, True, momentum, eps
        )
        ctx.save_for_backward(x, weight, mean, inverse_std)
        return out

    @staticmethod
    def backward(ctx, gradient):
        """Return the gradients of `x`, `weight` and `bias`."""
        x, weight, mean, inverse_std = ctx.saved_tensors
        values = x.to(weight.dtype)
        gradient = gradient.to(weight.dtype)
        count = values[:, 0].numel()
        axes = (0, 2, 3, 4)
        of_bias = gradient.sum(axes)
        of_weight = ((gradient * values).sum(axes) - mean * of_bias) * inverse_std
        # of_x = weight / std * (gradient - its mean - normalised x * mean of their product):
        # linear in both gradient and x
        by_gradient = weight * inverse_std
        by_value = -by_gradient * inverse_std * of_weight / count
        constant = -by_gradient * of_bias / count - by_value * mean
        of_x = torch.addcmul(_per_channel(constant), values, _per_channel(by_value))
        of_x.addcmul_(gradient, _per_channel(by_gradient))
        return of_x.to(x.dtype), of_weight, of_bias, None, None, None, None


def _per_channel(values: Tensor) -> Tensor:
    return values[:, None, None, None]  # (C, 1, 1, 1)


@torch.no_grad()
def freeze_batch_norms(model: nn.Module, statistics: nn.Module) -> None:
    """Put the batch norms of `model` into evaluation mode, with the running ones of `statistics`.

    Training then normalises as prediction does; those of a few patches are noisy.
    """
    modules: Iterable[tuple[Any, Any]] = zip(model.modules(), statistics.modules())
    for norm, source in modules:
        if isinstance(norm, nn.BatchNorm3d):
            norm.eval()
            for name, buffer in norm.named_buffers():
                if buffer.is_floating_point():
                    buffer.copy_(source.get_buffer(name))


def fold_batch_norms(model: SegUNet) -> SegUNet:
    """Return a copy for prediction, each batch norm folded into the convolution before it.

    After training a batch norm is one multiplication and one addition a channel, which the
    convolution's weights and bias can take over: the same function.
    """
    folded = copy.deepcopy(model).eval()
    for block in [*folded.encoder, folded.bottleneck, *folded.decoder]:
        for position in range(len(block) - 1):
            if isinstance(block[position + 1], nn.BatchNorm3d):
                block[position] = nn.utils.fuse_conv_bn_eval(block[position], block[position + 1])
                block[position + 1] = nn.Identity()
    return folded
