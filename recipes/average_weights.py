"""Mix the weights of a network with those it was fine-tuned from: robust fine-tuning.

    python recipes/average_weights.py BEFORE AFTER OUT [--share 0.7]

OUT holds `share` of AFTER and the rest of BEFORE, number by number. Wortsman et al. (CVPR 2022) found that such a mean
keeps what fine-tuning has gained on data like those it saw, and loses less on other data: here, on real scans.
Both must be one network, trained from the same weights or the one from the other; the facts that go along are AFTER's.
"""

from __future__ import annotations

import argparse

import torch

from lungseg_utils import checkpoint
from lungseg_utils.runtime import LungsegError
from lungseg_utils.segunet import SegUNet


@torch.no_grad()
def mix(before: SegUNet, after: SegUNet, share: float) -> SegUNet:
    """Move the weights of `before` by `share` of the way to those of `after`, in place, and return it."""
    if before.config() != after.config():
        raise LungsegError(
            "weights",
            f"two networks, {before.config()} and {after.config()}",
            "mix one with its own",
        )
    for value, goal in zip(before.state_dict().values(), after.state_dict().values()):
        if value.is_floating_point():
            value.lerp_(goal, share)
    return before


def main() -> None:
    """Read the arguments, mix, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before")
    parser.add_argument("after")
    parser.add_argument("out")
    parser.add_argument("--share", type=float, default=0.7, help="of AFTER (default 0.7)")
    options = parser.parse_args()
    before, (after, facts) = (
        checkpoint.load_weights(options.before)[0],
        checkpoint.load_weights(options.after),
    )
    del facts["digest"]
    checkpoint.save_weights(options.out, mix(before, after, options.share), facts)


if __name__ == "__main__":
    main()
