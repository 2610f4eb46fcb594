"""Widen a trained network without changing what it computes: Net2Net.

    python benchmarks/widen.py BEFORE OUT --channels 16 32 96 160 224 [--seed 0]

Chen, Goodfellow and Shlens (ICLR 2016): new channels are copies of old ones, and whatever reads a channel gives each
copy a share of the old weight. The shares are random, so that copies learn different things from the first step on.
Un-pooling asks that the copies of a stage stand in the same order wherever its pooling indices are used.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor

from lungseg_utils import checkpoint
from lungseg_utils.runtime import LungsegError
from lungseg_utils.segunet import Block, SegUNet


@torch.no_grad()
def widen(model: SegUNet, channels: Sequence[int], seed: int = 0) -> SegUNet:
    """Give a SegUNet of stages `channels`, none narrower, that computes what `model` does."""
    if len(channels) != len(model.channels) or any(new < old for new, old in zip(channels, model.channels)):
        raise LungsegError("channels", f"{list(channels)} is no widening of {list(model.channels)}",
                           "give as many stages, each at least as wide")
    if model.upsample != "unpool":
        raise LungsegError("weights", "its upsampling is learnt", "widen a network that un-pools")
    generator = torch.Generator().manual_seed(seed)
    wide = SegUNet(in_channels=model.in_channels, out_channels=model.out_channels, channels=channels,
                   pools=model.pools, upsample=model.upsample, skip=model.skip)
    # of each stage: the old channel that each new one copies
    copies = [torch.cat([torch.arange(old), torch.randint(old, (new - old,), generator=generator)])
              for new, old in zip(channels, model.channels)]
    one, deepest = torch.arange(model.in_channels), copies.pop()
    joined = [torch.cat([own, own + width]) if model.skip == "concat" else own
              for own, width in zip(copies, model.channels)]
    for stage, own in enumerate(copies):
        below, above = copies[stage - 1] if stage else one, copies[max(stage - 1, 0)]
        _copy_block(model.encoder[stage], wide.encoder[stage], [below, own, own], generator)
        _copy_block(model.decoder[stage], wide.decoder[stage], [joined[stage], own, above], generator)
    _copy_block(model.bottleneck, wide.bottleneck, [copies[-1], deepest, copies[-1]], generator)
    wide.head.weight.copy_(_share(model.head.weight, copies[0], generator))
    wide.head.bias.copy_(model.head.bias)
    return wide.eval()


def _copy_block(before: Block, after: Block, copies: Sequence[Tensor], generator: torch.Generator) -> None:
    """Fill `after` from `before`; `copies` are those of its input, its middle and its output."""
    for number, (reads, writes) in enumerate(zip(copies, copies[1:])):
        convolve, norm = before[3 * number], before[3 * number + 1]
        after[3 * number].weight.copy_(_share(convolve.weight[writes], reads, generator))
        new = after[3 * number + 1].state_dict()
        for name, value in norm.state_dict().items():
            new[name].copy_(value[writes] if value.ndim else value)


def _share(weight: Tensor, reads: Tensor, generator: torch.Generator) -> Tensor:
    """Let `weight` (out, in, …) read the channels `reads`: copies of one get random shares that sum to 1."""
    shares = 0.25 + torch.rand((len(weight), len(reads)), generator=generator)
    total = torch.zeros(len(weight), weight.shape[1]).index_add_(1, reads, shares)
    shares = shares / total[:, reads]
    return weight[:, reads] * shares.reshape(*shares.shape, *[1] * (weight.ndim - 2))


def main() -> None:
    """Read the arguments, widen, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before")
    parser.add_argument("out")
    parser.add_argument("--channels", type=int, nargs="+", required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model, facts = checkpoint.load_weights(options.before)
    del facts["digest"]
    checkpoint.save_weights(options.out, widen(model, options.channels, options.seed), facts)


if __name__ == "__main__":
    main()
