"""Choose how sure a network must be somewhere in a tumour, on the validation scans of its training.

    python recipes/choose_min_peak.py CHECKPOINT DATASET [--fold 0] [--seed 0] [--mirror] [--write] [--peak 0.95]

Components of the mask whose highest probability stays below the least peak are left out. For several of them this
prints the mean Dice, the share of lesions found and the false positives a scan. With `--write` the highest whose Dice
is as good as the best is written into the checkpoint, where `predict` finds it; those that lose more than
`--most-lost` of all lesions do not count, as a missed tumour costs a patient more than a second look. With `--mirror`
each window is also predicted as in a mirror, left for right, and the mean is taken; that is written too. Decide on
validation scans only, as nnU-Net does; `--peak` writes what was decided otherwise.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

from lungseg_utils import checkpoint, decathlon
from lungseg_utils.components import drop_below_peak, drop_small
from lungseg_utils.evaluation import dice, lesion_detection
from lungseg_utils.prediction import Predictor
from lungseg_utils.preprocess import Prepared
from lungseg_utils.preprocess.cache import prepare_cases
from lungseg_utils.runtime import LungsegError

THRESHOLD = 0.5
DICE_MARGIN = 0.003  # less than a tenth of the width of its confidence interval on a hundred scans
PEAKS = (0.0, *(round(1 / (1 + float(np.exp(-logit))), 5) for logit in (1, 2, 3, 4, 5, 6, 7, 8)))


def truth_of(case: Prepared) -> np.ndarray:
    """Give what is marked in `case` and is large enough to count."""
    truth = np.array(case.label)
    drop_small(truth, case.spacing_mm)
    return truth


def score(predictor: Predictor, cases: Sequence[Prepared], peaks=PEAKS) -> dict[float, np.ndarray]:
    """Give for each peak, a row a case: Dice, lesions found, lesions, false positives."""
    if not any(truth_of(case).any() for case in cases):
        raise LungsegError(
            "the validation scans", "no tumour is marked in them", "choose another --fold"
        )
    rows: dict[float, list] = {peak: [] for peak in peaks}
    for case in cases:
        probability, truth = predictor.probabilities(case).cpu().numpy(), truth_of(case)
        for peak in sorted(peaks):  # what falls at one peak falls at every higher one
            drop_below_peak(probability, THRESHOLD, peak)
            mask = (probability >= THRESHOLD).astype(np.uint8)
            drop_small(mask, case.spacing_mm)
            found = lesion_detection(truth, mask, case.spacing_mm)
            rows[peak].append(
                [
                    dice(case.label, mask),
                    *(found[name] for name in ("lesions_found", "lesions_true", "false_positives")),
                ]
            )
    return {peak: np.array(values, float) for peak, values in rows.items()}


def choose(found: dict[float, np.ndarray], most_lost: float) -> float:
    """Give the highest peak that loses at most `most_lost` of all lesions and no mean Dice that would be missed."""
    lesions = {peak: rows[:, 1].sum() / rows[:, 2].sum() for peak, rows in found.items()}
    allowed = [peak for peak in found if lesions[peak] >= max(lesions.values()) - most_lost]
    overlap = {peak: found[peak][:, 0].mean() for peak in allowed}
    return max(peak for peak in allowed if overlap[peak] >= max(overlap.values()) - DICE_MARGIN)


def from_0_to_1(text: str) -> float:
    """Read a number from 0 to 1."""
    if not 0 <= float(text) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return float(text)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the arguments, print the table, write the best."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint")
    parser.add_argument("dataset")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--most-lost", type=float, default=0.025, help="share of the lesions (default 0.025)"
    )
    parser.add_argument(
        "--peak", type=from_0_to_1, help="to write, instead of the choice by this rule"
    )
    parser.add_argument(
        "--mirror", action="store_true", help="predict each window as in a mirror too"
    )
    parser.add_argument("--write", action="store_true", help="into the checkpoint")
    parser.add_argument("--half", action="store_true", help="write the kernels in half precision")
    options = parser.parse_args(arguments)
    if options.write and not options.checkpoint.endswith(".safetensors"):
        parser.error(
            f"{options.checkpoint}: --write would leave nothing but its weights. Give a .safetensors file."
        )
    model, facts = checkpoint.load_weights(options.checkpoint)
    _, validation = decathlon.split(
        decathlon.load(options.dataset), fold=options.fold, seed=options.seed
    )
    facts["mirror"] = options.mirror
    found = score(
        Predictor(model=model, facts=facts),
        prepare_cases(validation, spacing_mm=facts["spacing_mm"]),
    )
    print(
        "| least peak | mean Dice | lesions found | false positives a scan |\n| --- | --- | --- | --- |"
    )
    for peak, rows in found.items():
        print(
            f"| {peak} | {rows[:, 0].mean():.3f} | {rows[:, 1].sum() / rows[:, 2].sum():.0%} "
            f"| {rows[:, 3].mean():.2f} |"
        )
    best = choose(found, options.most_lost) if options.peak is None else options.peak
    if options.write:
        del facts["digest"]
        checkpoint.save_weights(
            options.checkpoint, model, facts | {"min_peak": best}, half=options.half
        )
        print(f"{options.checkpoint}: least peak {best}, mirror {options.mirror}")


if __name__ == "__main__":
    main()
