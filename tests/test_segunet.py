"""The network: any size goes in, maxima come back to where they were, and its switches give SegNet and U-Net."""

import copy

import numpy as np
import pytest
import torch
from helpers_cases import make_prepared
from torch import nn

from lungseg_utils.preprocess import normalise
from lungseg_utils.segunet import SegUNet, fold_batch_norms, trace_stages
from lungseg_utils.training import make_loss

SWITCHES = [
    ("unpool", "concat"),
    ("unpool", "none"),
    ("transpose", "concat"),
    ("transpose", "none"),
]


def tiny(upsample="unpool", skip="concat", **options):
    torch.manual_seed(0)
    return SegUNet(**{"channels": (2, 3, 5), "upsample": upsample, "skip": skip, **options})


def parameters(module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("upsample", "skip"), SWITCHES)
@pytest.mark.parametrize(
    "size", [(8, 8, 8), (7, 9, 11), (1, 13, 6), (5, 1, 1), (1, 1, 1), (3, 30, 2)]
)
def test_any_size_gives_logits_of_that_size(size, upsample, skip):
    with torch.no_grad():
        logits = tiny(upsample, skip).eval()(torch.randn(2, 1, *size))
    assert logits.shape == (2, 1, *size) and torch.isfinite(logits).all()


def test_channels_in_and_out_and_anisotropic_pooling():
    model = tiny(in_channels=2, out_channels=3, pools=[(1, 2, 2), (2, 2, 2)]).eval()
    assert model(torch.zeros(1, 2, 3, 9, 10)).shape == (1, 3, 3, 9, 10)
    assert trace_stages(model, (4, 8, 8))[2]["shape"] == (
        3,
        2,
        2,
        2,
    )  # the bottleneck: depth halved once only


def test_unpooling_puts_maxima_back_where_they_were():
    model = tiny(channels=(1, 1))
    x = torch.rand(1, 1, 4, 5, 6) + 1
    pooled, where = nn.functional.max_pool3d(x, 2, 2, ceil_mode=True, return_indices=True)
    back = model.enlarge(pooled, 0, where, x.shape[2:])
    kept = back != 0
    assert kept.sum() == pooled.numel() == 2 * 3 * 3
    assert torch.equal(back[kept], x[kept])  # each maximum at its own place, nothing else
    again = nn.functional.max_pool3d(back, 2, 2, ceil_mode=True)
    assert torch.equal(again, pooled)


def test_segnet_has_no_skips_and_unet_learns_its_upsampling():
    segunet, segnet, unet = tiny(), tiny("unpool", "none"), tiny("transpose", "concat")
    kernel = 27  # 3 x 3 x 3
    # without the skips, the first convolution of each decoder block takes half the channels
    assert parameters(segunet) - parameters(segnet) == kernel * (2 * 2 + 3 * 3)
    # a 2 x 2 x 2 transposed convolution with bias for each pooling
    assert parameters(unet) - parameters(segunet) == (8 * 2 * 2 + 2) + (8 * 3 * 3 + 3)
    assert not any(isinstance(m, nn.ConvTranspose3d) for m in segunet.modules())
    assert [m.stride for m in unet.modules() if isinstance(m, nn.ConvTranspose3d)] == [
        (2, 2, 2)
    ] * 2


def test_the_encoder_reaches_the_output_through_the_skips_only_where_there_are_skips():
    """With everything below the first stage cut off, a U-Net still sees the voxel; a SegNet sees where maxima stood."""
    x = torch.randn(1, 1, 8, 8, 8)
    for skip, sees in (("concat", True), ("none", False)):
        model = tiny("transpose", skip).eval()
        for parameter in model.bottleneck.parameters():
            nn.init.zeros_(parameter)
        for parameter in (*model.decoder[1].parameters(), *model.upsamplers.parameters()):
            nn.init.zeros_(parameter)
        with torch.no_grad():
            logits = model(x)
        assert (logits.std() > 1e-6) == sees


@pytest.mark.parametrize(("upsample", "skip"), SWITCHES)
def test_config_builds_the_same_network(upsample, skip):
    model = tiny(upsample, skip, pools=[(1, 2, 2), (2, 2, 1)])
    again = SegUNet(**model.config())
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }
    assert again.config() == model.config()


@pytest.mark.parametrize(
    "wrong",
    [
        {"channels": (4,)},
        {"pools": [(2, 2, 2)]},
        {"pools": [(0, 2, 2)] * 2},
        {"pools": [(2, 2)] * 2},
        {"pools": [(2, 2, -2)] * 2},
        {"upsample": "linear"},
        {"skip": "add"},
    ],
)
def test_wrong_arguments_are_explained(wrong):
    with pytest.raises(AssertionError, match=str(next(iter(wrong)))[:4]):
        tiny(**wrong)


@pytest.mark.parametrize(("upsample", "skip"), SWITCHES)
def test_folding_the_batch_norms_keeps_the_function(upsample, skip):
    model = tiny(upsample, skip)
    for _ in range(3):  # running statistics that are not those of the start
        model(torch.randn(4, 1, 8, 8, 8) * 3 + 1)
    folded = fold_batch_norms(model)
    assert not any(isinstance(m, nn.BatchNorm3d) for m in folded.modules())
    assert (
        any(isinstance(m, nn.BatchNorm3d) for m in model.modules()) and model.training
    )  # the original stays
    x = torch.randn(1, 1, 7, 8, 9)
    with torch.no_grad():
        assert torch.allclose(folded(x), model.eval()(x), atol=1e-5)


@pytest.mark.parametrize(("upsample", "skip"), SWITCHES)
def test_fixed_batch_norms_within_the_convolutions_learn_the_same(upsample, skip):
    model = tiny(upsample, skip).train()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm3d):
            (
                norm.running_mean.normal_(),
                norm.running_var.uniform_(0.5, 2),
                norm.weight.data.uniform_(0.5, 1.5),
            )
            norm.bias.data.normal_()
            norm.eval()
    plain = copy.deepcopy(model)
    for block in plain.modules():
        block.training = False  # as in prediction: each norm for itself
    image, asked = torch.randn(1, 1, 8, 8, 8), []
    handles = [
        norm.register_forward_hook(lambda *_: asked.append(1))
        for norm in model.modules()
        if isinstance(norm, nn.BatchNorm3d)
    ]
    outputs = [network(image) for network in (model, plain)]
    assert handles and not asked
    torch.testing.assert_close(*outputs)
    for output in outputs:
        output.square().sum().backward()
    for one, other in zip(model.parameters(), plain.parameters()):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4)


def test_stages_are_counted_as_by_hand():
    model = SegUNet(channels=(2, 3))
    rows = {row["block"]: row for row in trace_stages(model, (4, 4, 4))}
    assert list(rows) == ["encoder 1", "bottleneck", "decoder 1", "head"]
    assert [row["shape"] for row in rows.values()] == [
        (2, 4, 4, 4),
        (2, 2, 2, 2),
        (2, 4, 4, 4),
        (1, 4, 4, 4),
    ]
    assert [row["parameters"] for row in rows.values()] == [
        27 * 1 * 2
        + 27 * 2 * 2
        + 2 * 2 * 2,  # two convolutions without bias, scale and shift of two batch norms
        27 * 2 * 3 + 27 * 3 * 2 + 2 * 3 + 2 * 2,
        27 * 4 * 2 + 27 * 2 * 2 + 2 * 2 * 2,
        2 + 1,
    ]
    flops = [
        2 * 64 * (27 * 1 * 2 + 27 * 2 * 2),
        2 * 8 * (27 * 2 * 3 + 27 * 3 * 2),
        2 * 64 * (27 * 4 * 2 + 27 * 2 * 2),
        2 * 64 * 2,
    ]
    assert [row["gflop"] * 1e9 for row in rows.values()] == pytest.approx(flops)
    assert sum(row["parameters"] for row in rows.values()) == parameters(model)
    # encoder: 3 + 2; pooling: + 1; bottleneck: two convolutions of step 2: + 8; decoder: + 4
    assert [row["receptive_field"] for row in rows.values()] == [5, 14, 18, 18]
    # convolution, batch norm and ReLU, twice, each with an output of 2 channels of 4 x 4 x 4 float32
    assert rows["encoder 1"]["activation_mb"] * 1e6 == pytest.approx(6 * 2 * 64 * 4)


def test_it_overfits_one_patch():
    torch.manual_seed(0)
    case = make_prepared(shape=(24, 24, 24))
    hu, label = (torch.from_numpy(np.array(a))[None, None].float() for a in (case.hu, case.label))
    hu += torch.randn(hu.shape) * 300  # so much noise that no threshold would do
    image, model, loss_function = normalise(hu), SegUNet(channels=(4, 8)), make_loss()
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-2)
    for _ in range(100):
        logits = model(image)
        optimiser.zero_grad()
        loss_function(logits, label).backward()
        optimiser.step()
        mask = logits > 0
        if (overlap := 2 * (mask & (label > 0)).sum() / (mask.sum() + label.sum())) > 0.95:
            break
    assert overlap > 0.95
