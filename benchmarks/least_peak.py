"""Choose from which probability on a network marks a tumour, and how sure it must be somewhere in it.

    python benchmarks/least_peak.py CHECKPOINT DATASET [--thresholds 0.3 0.4 0.5] [--mirror] [--write]

Components of the mask whose highest probability stays below the least peak are left out. For several of them this
prints, on the validation scans of the network's training, the mean Dice, the share of lesions found and the false
positives a scan. With `--write` the choice is written into the checkpoint, where `predict` finds it: of all whose
Dice is as good as the best the one that marks least wrongly. Those that lose more than `--most-lost` of all lesions
do not count, as a missed tumour costs a patient more than a second look. With `--mirror` each window is also
predicted as in a mirror, left for right, and the mean is taken; that is written too.

The mask of the best Dice takes in what is less likely tumour than not (Lipton et al. 2014: half the best score is the
best threshold). A threshold other than one half is written as a shift of the network's last bias: one half again.
Decide on validation scans only, as nnU-Net does.
"""

from __future__ import annotations

import argparse
import copy

import numpy as np
import torch

from lungseg_utils import checkpoint, decathlon
from lungseg_utils.evaluation import dice, lesion_detection
from lungseg_utils.prediction import Predictor, drop_small, drop_unsure
from lungseg_utils.preprocess.cache import prepare_cases
from lungseg_utils.segunet import SegUNet

THRESHOLD = 0.5
DICE_MARGIN = 0.003  # less than a tenth of the width of its confidence interval on a hundred scans
PEAKS = (0.0, *(round(1 / (1 + float(np.exp(-logit))), 5) for logit in (1, 2, 3, 4, 5, 6, 7, 8)))


def score(predictor: Predictor, cases, peaks=PEAKS) -> dict[float, np.ndarray]:
    """Give for each peak, a row a case: Dice, lesions found, lesions, false positives."""
    rows: dict[float, list] = {peak: [] for peak in peaks}
    for case in cases:
        probability, truth = predictor.probabilities(case).cpu().numpy(), np.array(case.label)
        drop_small(truth, case.spacing_mm)
        for peak in sorted(peaks):  # what falls at one peak falls at every higher one
            drop_unsure(probability, THRESHOLD, peak)
            mask = (probability >= THRESHOLD).astype(np.uint8)
            drop_small(mask, case.spacing_mm)
            found = lesion_detection(truth, mask, case.spacing_mm)
            rows[peak].append([dice(case.label, mask), *(found[name] for name in (
                "lesions_found", "lesions_true", "false_positives"))])
    return {peak: np.array(values, float) for peak, values in rows.items()}


@torch.no_grad()
def move_threshold(model: SegUNet, threshold: float) -> SegUNet:
    """Give a copy of `model` that says one half where `model` says `threshold`."""
    moved = copy.deepcopy(model)
    moved.head.bias += float(np.log((1 - threshold) / threshold))
    return moved


def choose(found: dict[tuple, np.ndarray], most_lost: float) -> tuple:
    """Give the choice of fewest false positives that loses at most `most_lost` of all lesions, and no Dice by much."""
    lesions = {choice: rows[:, 1].sum() / rows[:, 2].sum() for choice, rows in found.items()}
    allowed = [choice for choice in found if lesions[choice] >= max(lesions.values()) - most_lost]
    overlap = {choice: found[choice][:, 0].mean() for choice in allowed}
    good = [choice for choice in allowed if overlap[choice] >= max(overlap.values()) - DICE_MARGIN]
    return min(good, key=lambda choice: (found[choice][:, 3].mean(), -overlap[choice]))


def main() -> None:
    """Read the arguments, print the table, write the best."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("dataset")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.5], help="to try (default 0.5)")
    parser.add_argument("--most-lost", type=float, default=0.025, help="share of the lesions (default 0.025)")
    parser.add_argument("--mirror", action="store_true", help="predict each window as in a mirror too")
    parser.add_argument("--write", action="store_true", help="into the checkpoint")
    options = parser.parse_args()
    model, facts = checkpoint.load_weights(options.checkpoint)
    _, validation = decathlon.split(decathlon.load(options.dataset), fold=options.fold, seed=options.seed)
    facts["mirror"] = options.mirror
    cases = prepare_cases(validation, spacing_mm=facts["spacing_mm"])
    found = {}
    print("| threshold | least peak | mean Dice | lesions found | false positives a scan |")
    print("| --- | --- | --- | --- | --- |")
    for threshold in options.thresholds:
        for peak, rows in score(Predictor(model=move_threshold(model, threshold), facts=facts), cases).items():
            found[threshold, peak] = rows
            print(f"| {threshold} | {peak} | {rows[:, 0].mean():.3f} | {rows[:, 1].sum() / rows[:, 2].sum():.0%} "
                  f"| {rows[:, 3].mean():.2f} |")
    threshold, peak = choose(found, options.most_lost)
    if options.write:
        del facts["digest"]
        checkpoint.save_weights(options.checkpoint, move_threshold(model, threshold), facts | {"least_peak": peak})
        print(f"{options.checkpoint}: threshold {threshold}, least peak {peak}, mirror {options.mirror}")


if __name__ == "__main__":
    main()
