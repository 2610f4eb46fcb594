"""Choose the probability that a tumour must reach somewhere, on a training's validation scans.

    python recipes/choose_min_peak.py CHECKPOINT DATASET [--fold 0] [--seed 0]
        [--test-time-mirroring] [--write] [--min-peak 0.95] [--half]

Components of the mask whose highest probability stays below min_peak are left out. For each of nine
candidates this prints the mean Dice, the share of lesions found and the false positives a scan.
With `--write` the highest whose Dice is as good as the best is written into the checkpoint, where
`predict` finds it. Candidates that lose more than `--max-lost` of all lesions do not count, as a
missed tumour costs a patient more than a second look. With `--test-time-mirroring` the mean over
each window and its mirror image, left for right, is taken; that is written too. Decide on
validation scans only, as nnU-Net does; `--min-peak` writes what was decided otherwise.
"""

from __future__ import annotations

import argparse
import math
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
CANDIDATES = (0.0, *(round(1 / (1 + math.exp(-logit)), 5) for logit in range(1, 9)))


def truth_of(case: Prepared) -> np.ndarray:
    """Return what is marked in `case` and is large enough to count."""
    truth = np.array(case.label)
    drop_small(truth, case.spacing_mm)
    return truth


def score(
    predictor: Predictor, cases: Sequence[Prepared], candidates: Sequence[float] = CANDIDATES
) -> dict[float, np.ndarray]:
    """Return for each candidate, a row a case: Dice, lesions found, lesions, false positives.

    Raises LungsegError where no tumour is marked in any case.
    """
    truths = [truth_of(case) for case in cases]
    if not any(truth.any() for truth in truths):
        raise LungsegError(
            "the validation scans", "no tumour is marked in them", "Choose another --fold"
        )
    rows: dict[float, list] = {candidate: [] for candidate in sorted(candidates)}
    for case, truth in zip(cases, truths):
        probability = predictor.probabilities(case).cpu().numpy()
        for candidate in rows:  # what falls at one falls at every higher one
            drop_below_peak(probability, THRESHOLD, candidate)
            mask = (probability >= THRESHOLD).astype(np.uint8)
            drop_small(mask, case.spacing_mm)
            lesions = lesion_detection(truth, mask, case.spacing_mm)
            names = ("lesions_found", "lesions_true", "false_positives")
            rows[candidate].append([dice(case.label, mask), *(lesions[name] for name in names)])
    return {candidate: np.array(values, float) for candidate, values in rows.items()}


def choose(scores: dict[float, np.ndarray], max_lost: float) -> float:
    """Return the highest candidate that loses at most `max_lost` of all lesions and no mean Dice.

    A Dice lower than the best by no more than DICE_MARGIN counts as equal.
    """
    found = {candidate: share_found(rows) for candidate, rows in scores.items()}
    enough = max(found.values()) - max_lost
    allowed = [candidate for candidate in scores if found[candidate] >= enough]
    overlap = {candidate: scores[candidate][:, 0].mean() for candidate in allowed}
    best = max(overlap.values())
    return max(candidate for candidate in allowed if overlap[candidate] >= best - DICE_MARGIN)


def share_found(rows: np.ndarray) -> float:
    """Return the share of all lesions that were found."""
    return rows[:, 1].sum() / rows[:, 2].sum()


def table(scores: dict[float, np.ndarray]) -> str:
    """Return the scores as a table in Markdown."""
    lines = [
        "| min_peak | mean Dice | lesions found | false positives a scan |",
        "| --- | --- | --- | --- |",
    ]
    for candidate, rows in scores.items():
        lines.append(
            f"| {candidate} | {rows[:, 0].mean():.3f} | {share_found(rows):.0%} "
            f"| {rows[:, 3].mean():.2f} |"
        )
    return "\n".join(lines)


def probability(text: str) -> float:
    """Read a number from 0 to 1."""
    if not 0 <= float(text) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return float(text)


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the arguments; refuse to write into what is more than weights."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint")
    parser.add_argument("dataset")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--max-lost", type=float, default=0.025, help="share of the lesions (default 0.025)"
    )
    parser.add_argument(
        "--min-peak", type=probability, help="to write, instead of the choice by this rule"
    )
    parser.add_argument(
        "--test-time-mirroring", action="store_true", help="predict each window mirrored too"
    )
    parser.add_argument("--write", action="store_true", help="into the checkpoint")
    parser.add_argument("--half", action="store_true", help="write the kernels in half precision")
    options = parser.parse_args(arguments)
    if options.write and not options.checkpoint.endswith(".safetensors"):
        parser.error(
            f"{options.checkpoint}: --write would leave nothing but its weights. "
            "Name a .safetensors file."
        )
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the arguments, print the table, write the best."""
    options = read_options(arguments)
    model, facts = checkpoint.load_weights(options.checkpoint)
    dataset = decathlon.load(options.dataset)
    _, validation = decathlon.split(dataset, fold=options.fold, seed=options.seed)
    facts["test_time_mirroring"] = options.test_time_mirroring
    predictor = Predictor(model=model, facts=facts)
    scores = score(predictor, prepare_cases(validation, spacing_mm=facts["spacing_mm"]))
    print(table(scores))
    best = choose(scores, options.max_lost) if options.min_peak is None else options.min_peak
    if options.write:
        del facts["digest"]
        facts["min_peak"] = best
        checkpoint.save_weights(options.checkpoint, model, facts, half=options.half)
        mirroring = "on" if options.test_time_mirroring else "off"
        print(f"{options.checkpoint}: min_peak {best}, test-time mirroring {mirroring}")


if __name__ == "__main__":
    main()
