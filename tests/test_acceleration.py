"""The faster ways: the same functions, gradients and running statistics as torch's own."""

import copy
import os
import subprocess
import sys
import types

import pytest
import torch
from torch import nn

from lungseg_utils import acceleration, memory
from lungseg_utils.acceleration import (
    TrainingBlock,
    accelerate_training,
    fold_batch_norms,
    freeze_batch_norms,
)
from lungseg_utils.memory import keep_freed_memory
from lungseg_utils.segunet import SegUNet, double_conv

SWITCHES = [
    ("unpool", "concat"),
    ("unpool", "none"),
    ("transpose", "concat"),
    ("transpose", "none"),
]
OURS = "BatchNormFunctionBackward"


def tiny(upsample="unpool", skip="concat", channels=(2, 3, 5)):
    torch.manual_seed(0)
    return SegUNet(channels=channels, upsample=upsample, skip=skip)


def batch_norms(module) -> list[nn.BatchNorm3d]:
    return [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm3d)]


def shuffle_batch_norms(module):
    """Set batch norms to other weights and statistics than those of the start."""
    for norm in batch_norms(module):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        norm.weight.data.uniform_(0.5, 1.5)
        norm.bias.data.normal_()


def channels_last(tensor):
    return tensor.contiguous(memory_format=torch.channels_last_3d)


def gradients(module, image, pull):
    """Return output and gradients of `module`, those of `image` first, and its running values."""
    x = image.clone().requires_grad_()
    out = module(x)
    (out * pull).sum().backward()
    return [out, x.grad, *(weight.grad for weight in module.parameters()), *module.buffers()]


# --- batch norms that learn -----------------------------------------------------------------------


class One(nn.Module):
    """A batch norm alone, as a training block applies it."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        return acceleration._normalise(x, self.norm)


def norms(channels: int, dtype=torch.float32) -> list[nn.Module]:
    """Return ours and torch's with the same weights."""
    theirs = nn.BatchNorm3d(channels, momentum=0.3).to(dtype)
    nn.init.uniform_(theirs.weight, 0.5, 2)
    nn.init.normal_(theirs.bias)
    return [One(copy.deepcopy(theirs)), theirs]


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("channels", [1, 8, 12, 16, 24])
def test_outputs_gradients_and_running_values_are_those_of_torch(channels, dtype, most):
    torch.manual_seed(channels)
    image = channels_last((3 * torch.randn(2, channels, 5, 6, 7) + 2).to(dtype))
    pull = torch.randn(image.shape).to(dtype)
    ours, theirs = (gradients(norm, image, pull) for norm in norms(channels))
    assert ours[1].is_contiguous(memory_format=torch.channels_last_3d)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=most, atol=most)


def test_the_gradient_is_that_of_differences():
    norm, _ = norms(3, torch.float64)
    x = channels_last(torch.randn(2, 3, 2, 3, 4, dtype=torch.float64))
    assert norm(x.requires_grad_()).grad_fn.name() == OURS  # what is checked is ours
    assert torch.autograd.gradcheck(norm, (x,))


def test_it_is_torchs_own_where_that_is_as_fast():
    narrow = torch.randn(2, 8, 4, 4, 4)
    wide = channels_last(torch.randn(2, 16, 4, 4, 4))
    for norm, image in (
        (nn.BatchNorm3d(8), narrow),
        (nn.BatchNorm3d(16), wide),
        (nn.BatchNorm3d(8).eval(), channels_last(narrow)),
    ):
        assert acceleration._normalise(image, norm).grad_fn.name() != OURS
    with torch.no_grad():
        assert acceleration._normalise(channels_last(narrow), nn.BatchNorm3d(8)).grad_fn is None


# --- blocks and networks --------------------------------------------------------------------------


@pytest.mark.parametrize("frozen", [False, True])
def test_a_training_block_computes_and_learns_what_the_block_does(frozen):
    torch.manual_seed(0)
    plain = double_conv(2, 3, 5)
    shuffle_batch_norms(plain)
    fast = TrainingBlock(*copy.deepcopy(plain))
    for norm in batch_norms(plain) + batch_norms(fast):
        norm.train(not frozen)
    image = channels_last(torch.randn(2, 2, 6, 7, 8))
    pull = torch.randn(2, 5, 6, 7, 8)
    found = gradients(fast, image, pull)
    for one, other in zip(found, gradients(plain, image, pull), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("upsample", "skip"), SWITCHES)
def test_an_accelerated_network_is_the_same_network(upsample, skip):
    plain = tiny(upsample, skip)
    fast = copy.deepcopy(plain)
    weights = list(fast.parameters())
    accelerate_training(fast)
    blocks = [*fast.encoder, fast.bottleneck, *fast.decoder]
    assert all(type(block) is TrainingBlock for block in blocks)
    assert all(a is b for a, b in zip(weights, fast.parameters(), strict=True))
    assert list(fast.state_dict()) == list(plain.state_dict())  # the names in a checkpoint
    assert fast.config() == plain.config()
    image = channels_last(torch.randn(2, 1, 8, 9, 8))
    pull = torch.randn(image.shape)
    found = gradients(fast, image, pull)
    for one, other in zip(found, gradients(plain, image, pull), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(fast.eval()(image), plain.eval()(image))


@pytest.mark.parametrize(("upsample", "skip"), SWITCHES)
def test_frozen_batch_norms_within_the_convolutions_learn_the_same(upsample, skip):
    model = tiny(upsample, skip)
    accelerate_training(model)
    shuffle_batch_norms(model)
    model.train()
    for norm in batch_norms(model):
        norm.eval()
    plain = copy.deepcopy(model)
    for block in plain.modules():
        block.training = False  # as in prediction: each norm for itself
    image = torch.randn(1, 1, 8, 8, 8)
    asked = []
    for norm in batch_norms(model):
        norm.register_forward_hook(lambda *_: asked.append(1))
    outputs = [network(image) for network in (model, plain)]
    assert batch_norms(model) and not asked
    torch.testing.assert_close(*outputs)
    for output in outputs:
        output.square().sum().backward()
    for one, other in zip(model.parameters(), plain.parameters()):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4)


def test_frozen_batch_norms_take_over_the_running_statistics_and_keep_them():
    model = tiny().train()
    mean = copy.deepcopy(model)
    shuffle_batch_norms(mean)
    freeze_batch_norms(model, mean)
    model(torch.randn(2, 1, 8, 8, 8) * 3 + 1)
    assert model.training
    for norm, source in zip(batch_norms(model), batch_norms(mean), strict=True):
        assert not norm.training
        assert torch.equal(norm.running_mean, source.running_mean)
        assert torch.equal(norm.running_var, source.running_var)
        assert not torch.equal(norm.bias, source.bias)  # what learns stays the model's own


@pytest.mark.parametrize(("upsample", "skip"), SWITCHES)
@pytest.mark.parametrize("accelerated", [False, True])
def test_folding_the_batch_norms_keeps_the_function(upsample, skip, accelerated):
    model = tiny(upsample, skip)
    if accelerated:
        accelerate_training(model)
    for _ in range(3):  # running statistics that are not those of the start
        model(torch.randn(4, 1, 8, 8, 8) * 3 + 1)
    folded = fold_batch_norms(model)
    assert not batch_norms(folded)
    assert batch_norms(model) and model.training  # the original stays
    x = torch.randn(1, 1, 7, 8, 9)
    with torch.no_grad():
        assert torch.allclose(folded(x), model.eval()(x), atol=1e-5)


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "libc", [TypeError(), OSError(), types.SimpleNamespace()], ids=["Windows", "none", "macOS"]
)
def test_where_there_is_no_glibc_memory_is_left_as_it_is(monkeypatch, libc):
    def find(_name):
        if isinstance(libc, Exception):
            raise libc
        return libc

    monkeypatch.setattr(memory.ctypes, "CDLL", find)
    keep_freed_memory()


def test_glibc_is_asked_to_keep_what_is_freed(monkeypatch):
    asked = {}
    libc = types.SimpleNamespace(mallopt=asked.__setitem__)
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _name: libc)
    keep_freed_memory()
    assert asked == {-1: 2**31 - 1, -2: 2**28, -4: 0}  # trim threshold, top pad, most mmaps


@pytest.mark.parametrize(
    "given, expected",
    [
        ({}, ("passive", "20000")),
        ({"GOMP_SPINCOUNT": "7"}, ("passive", "7")),
        ({"OMP_WAIT_POLICY": "active"}, ("active", None)),
    ],
)
def test_how_threads_wait_is_set_before_torch_unless_the_user_has(given, expected):
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    code = (
        "import sys, os, lungseg_utils\n"
        "assert 'torch' not in sys.modules\n"
        f"print([os.environ.get(name) for name in {names}])"
    )
    environment = {name: value for name, value in os.environ.items() if name not in names} | given
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == str(list(expected))
