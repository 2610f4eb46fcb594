"""The batch norm of few channels: the same function and gradients as torch's own."""

import copy

import pytest
import torch
from torch import nn

from lungseg_utils.acceleration import BatchNorm3d


def norms(channels: int, dtype=torch.float32) -> list[nn.BatchNorm3d]:
    """Give ours and torch's with the same weights."""
    ours = BatchNorm3d(channels, momentum=0.3).to(dtype)
    nn.init.uniform_(ours.weight, 0.5, 2), nn.init.normal_(ours.bias)
    theirs = nn.BatchNorm3d(channels, momentum=0.3).to(dtype)
    theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
    return [ours, theirs]


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("channels", [1, 8, 12, 16, 24])
def test_outputs_gradients_and_running_values_are_those_of_torch(channels, dtype, most):
    torch.manual_seed(channels)
    image = (
        (3 * torch.randn(2, channels, 5, 6, 7) + 2)
        .to(dtype)
        .contiguous(memory_format=torch.channels_last_3d)
    )
    pull = torch.randn(image.shape).to(dtype)
    found = []
    for norm in norms(channels):
        x = image.clone().requires_grad_()
        out = norm(x)
        (out * pull).sum().backward()
        found.append([out, x.grad, norm.weight.grad, norm.bias.grad, *norm.buffers()])
        assert x.grad.is_contiguous(memory_format=torch.channels_last_3d)
    for ours, theirs in zip(*found):
        torch.testing.assert_close(ours, theirs, rtol=most, atol=most)


def test_the_gradient_is_that_of_differences():
    norm, _ = norms(3, torch.float64)
    x = torch.randn(2, 3, 2, 3, 4, dtype=torch.float64).contiguous(
        memory_format=torch.channels_last_3d
    )
    assert (
        norm(x.requires_grad_()).grad_fn.name() == "_NormaliseBackward"
    )  # what is checked is ours
    assert torch.autograd.gradcheck(norm, (x,))


def test_it_is_torchs_own_where_that_is_as_fast():
    x = torch.randn(2, 8, 4, 4, 4)
    by_channel = x.contiguous(memory_format=torch.channels_last_3d)
    wide = torch.randn(2, 16, 4, 4, 4).contiguous(memory_format=torch.channels_last_3d)
    for norm, image in (
        (BatchNorm3d(8), x),
        (BatchNorm3d(16), wide),
        (BatchNorm3d(8).eval(), by_channel),
    ):
        assert norm(image).grad_fn.name() != "_NormaliseBackward"
