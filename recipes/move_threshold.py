"""Move the best threshold of weights to one half, where everybody looks for it.

    python recipes/move_threshold.py CHECKPOINT OUT --threshold 0.35

Adds one number to the bias of the network's last layer: what had a probability of `--threshold` has
one half in OUT, and the order of all probabilities stays. `min_peak` moves with them. Choose the
threshold by cross-validation. The mask with the highest expected Dice takes in voxels that are less
likely tumour than not, the more so the less sure the network is (Lipton, Elkan and Naryanaswamy,
2014: half of the best F1).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

import torch

from lungseg_utils import checkpoint


def logit(probability: float) -> float:
    """Return the log-odds of `probability`."""
    return math.log(probability / (1 - probability))


def moved(probability: float, shift: float) -> float:
    """Return `probability`, its log-odds raised by `shift`; none and certainty stay."""
    if not 0 < probability < 1:
        return probability
    return 1 / (1 + math.exp(-logit(probability) - shift))


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> None:
    """Read the arguments, shift the bias, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint")
    parser.add_argument("out")
    parser.add_argument("--threshold", type=float, required=True, help="in (0, 1)")
    options = parser.parse_args(arguments)
    model, facts = checkpoint.load_weights(options.checkpoint)
    del facts["digest"]
    shift = -logit(options.threshold)
    model.head.bias += shift
    if "min_peak" in facts:
        facts["min_peak"] = moved(facts["min_peak"], shift)
    checkpoint.save_weights(options.out, model, facts)


if __name__ == "__main__":
    main()
