"""Average the weights of a network with those that it was fine-tuned from.

    python recipes/average_weights.py BEFORE AFTER [AFTER …] OUT [--share 0.7]

OUT holds `share` of AFTER and the rest of BEFORE. Such an average keeps what fine-tuning has gained
on data like those it saw, and loses less on other data (Wortsman et al., CVPR 2022): here, on real
scans. Several AFTER, as of the folds of a cross-validation, count alike (model soups, Wortsman et
al., ICML 2022). All must be the same network, trained from the same weights. What is stored beside
the weights, such as min_peak, is taken from the first AFTER.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

from lungseg_utils import checkpoint
from lungseg_utils.runtime import LungsegError
from lungseg_utils.segunet import SegUNet


@torch.no_grad()
def average(before: SegUNet, after: SegUNet, share: float) -> SegUNet:
    """Move the weights of `before` by `share` of the way to those of `after`; return `before`.

    Raises LungsegError where the two are different networks.
    """
    if before.config() != after.config():
        raise LungsegError(
            "weights",
            f"two networks, {before.config()} and {after.config()}",
            "Average the weights of one network only",
        )
    for value, goal in zip(before.state_dict().values(), after.state_dict().values()):
        if value.is_floating_point():
            value.lerp_(goal, share)
    return before


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the arguments, average, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before")
    parser.add_argument("after", nargs="+")
    parser.add_argument("out")
    parser.add_argument("--share", type=float, default=0.7, help="of AFTER (default 0.7)")
    options = parser.parse_args(arguments)
    before, _ = checkpoint.load_weights(options.before)
    after, facts = checkpoint.load_weights(options.after[0])
    del facts["digest"]
    for number, path in enumerate(options.after[1:], start=2):
        other, _ = checkpoint.load_weights(path)
        after = average(after, other, 1 / number)
    checkpoint.save_weights(options.out, average(before, after, options.share), facts)


if __name__ == "__main__":
    main()
