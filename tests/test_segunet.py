"""The network: any size goes in, maxima return to their places, two switches give its parents."""

import pytest
import torch
from torch import nn

from lungseg_utils.plotting import trace_stages
from lungseg_utils.segunet import SegUNet, double_conv, in_layout_of

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
    bottleneck = trace_stages(model, (4, 8, 8))[2]
    assert bottleneck["shape"] == (3, 2, 2, 2)  # the depth is halved once only


def test_a_block_is_convolution_batch_norm_and_relu_twice():
    block = double_conv(2, 3, 5)
    layers = [nn.Conv3d, nn.BatchNorm3d, nn.ReLU]
    assert type(block) is nn.Sequential and [type(layer) for layer in block] == 2 * layers
    assert block(torch.zeros(1, 2, 4, 5, 6)).shape == (1, 5, 4, 5, 6)
    assert block[0].bias is None and block[3].bias is None  # the batch norms have one


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_the_layout_in_memory_stays_the_same_through_unpooling(layout):
    x = torch.rand(2, 4, 6, 7, 8).contiguous(memory_format=layout)
    pooled, where = nn.functional.max_pool3d(x, 2, return_indices=True)
    back = tiny(channels=(4, 4)).enlarge(pooled, 0, where, x.shape[2:])
    assert back.is_contiguous(memory_format=layout)
    other = x.contiguous(memory_format=torch.contiguous_format)
    assert torch.equal(in_layout_of(x, other), x)
    assert in_layout_of(x, other).stride() == x.stride()


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
    strides = [m.stride for m in unet.modules() if isinstance(m, nn.ConvTranspose3d)]
    assert strides == [(2, 2, 2)] * 2


def test_the_encoder_reaches_the_output_through_the_skips_only_where_there_are_skips():
    """With all below the first stage set to zero, a U-Net sees the voxel and a SegNet nothing."""
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

    def shapes(network):
        return {name: weight.shape for name, weight in network.state_dict().items()}

    assert shapes(again) == shapes(model)
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
    with pytest.raises(ValueError, match=str(next(iter(wrong)))[:4]):
        tiny(**wrong)
