"""Show what a real tumour is worth: cross-validated Dice against the number of real tumours.

    python recipes/real_tumours_curve.py REAL SYNTHETIC [SYNTHETIC …] --run-dir runs/worth
        --weights WEIGHTS -f params/real.yaml [--counts 0 10 20 40 79] [--figure FILE]

REAL is a set of outlined tumours. In each fold the network trains on 0, 10, 20 … of the others,
twice: with synthetic chests, from WEIGHTS and beside the SYNTHETIC sets; and without, from random
weights on the real tumours alone, twice as long. Each tumour is scored by a network that has not
seen its patient. A smaller number of tumours is always a part of the larger ones. What is trained
already, or scored, is not made again: stop it and start it as you like. Leaves scores.json and a
run folder for each training in --run-dir, and prints the table.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from lungseg_utils import decathlon, parameters, plotting, training, volume
from lungseg_utils.evaluation import bootstrap_interval, dice
from lungseg_utils.prediction import Predictor
from lungseg_utils.runtime import require_writable, writing

COUNTS = (0, 10, 20, 40, 79)
ARMS = ("with synthetic chests", "without")
FROM_RANDOM = 2  # times as many epochs where training begins with random weights
Scores = dict[str, dict[str, float]]  # of each arm and count: the Dice of each case


@dataclass(frozen=True)
class Question:
    """What all trainings share."""

    real: decathlon.Dataset
    synthetic: Sequence[decathlon.Dataset]
    settings: dict
    weights: str
    run_dir: Path


def with_fewer(dataset: decathlon.Dataset, fold: int, count: int, seed: int) -> decathlon.Dataset:
    """Return `dataset` with `count` of the fold's training cases and all it validates on.

    The cases have folds of their own: 0 validates.
    """
    others, unseen = decathlon.split(dataset, fold=fold, seed=seed)
    shuffled = random.Random(f"{seed} {fold}").sample(others, len(others))
    kept = [replace(case, fold=1) for case in shuffled[:count]]
    kept += [replace(case, fold=0) for case in unseen]
    return replace(dataset, training=tuple(sorted(kept, key=lambda case: case.id)))


def train(question: Question, arm: str, count: int, fold: int) -> Path | str:
    """Train on `count` real tumours, unless it has been done; return the weights."""
    has_synthetic = arm == ARMS[0]
    if count == 0:
        return question.weights
    run_dir = question.run_dir / f"{arm.split()[0]}-{count}-fold{fold}"
    settings = question.settings
    fewer = with_fewer(question.real, fold, count, settings["seed"])
    epochs = settings["epochs"] * (1 if has_synthetic else FROM_RANDOM)
    training.train(
        [fewer, *question.synthetic] if has_synthetic else fewer,
        run_dir,
        {**settings, "fold": 0, "epochs": epochs, "validate_every": epochs}
        | ({} if has_synthetic else {"shares": [], "frozen_norm_share": 0.3}),
        resume=(run_dir / "last.pt").exists(),
        weights=question.weights if has_synthetic else None,
    )
    return run_dir / "best.safetensors"


def score(weights: Path | str, cases: Sequence[decathlon.Case], device: str) -> dict[str, float]:
    """Return the Dice of each case, on its own grid."""
    predictor = Predictor(weights, device)
    scores = {}
    for case in cases:
        assert case.label is not None
        scan = volume.read(case.image)
        truth = volume.read_label(case.label, like=scan)
        scores[case.id] = dice(truth, predictor.segment(scan).mask)
    return scores


def measure(question: Question, counts: Sequence[int]) -> Scores:
    """Return the scores of every arm and count; those of scores.json are not made again."""
    path = require_writable(question.run_dir) / "scores.json"
    found: Scores = json.loads(path.read_text()) if path.is_file() else {}
    for fold in decathlon.list_folds(question.real):
        _, unseen = decathlon.split(question.real, fold=fold, seed=question.settings["seed"])
        for count in counts:
            for arm in ARMS if count else ARMS[:1]:
                scores = found.setdefault(f"{arm}, {count}", {})
                if all(case.id in scores for case in unseen):
                    continue
                weights = train(question, arm, count, fold)
                scores |= score(weights, unseen, question.settings["device"])
                with writing(path) as partial:
                    partial.write_text(json.dumps(found, indent=1) + "\n")
    return found


def table(found: Scores) -> str:
    """Return the table in Markdown."""
    lines = ["| real tumours | mean Dice | 95 % | median | below 0.1 |", "| --- " * 5 + "|"]
    for name, scores in sorted(found.items(), key=lambda item: int(item[0].split(", ")[1])):
        values = np.array(list(scores.values()))
        low, high = bootstrap_interval(values)
        lines.append(
            f"| {name} | {values.mean():.3f} | {low:.3f} – {high:.3f} | {np.median(values):.3f} "
            f"| {(values < 0.1).sum()} of {len(values)} |"
        )
    return "\n".join(lines)


def draw(found: Scores, path: Path) -> None:
    """Draw the two curves with their intervals."""
    plotting.use_style()
    figure, axes = plt.subplots(figsize=(6, 3.6))
    for arm, marker in zip(ARMS, "os"):
        counts = sorted(int(name.split(", ")[1]) for name in found if name.startswith(arm + ","))
        values = [list(found[f"{arm}, {count}"].values()) for count in counts]
        means = np.array([np.mean(one) for one in values])
        ends = np.array([bootstrap_interval(one) for one in values]).T
        reach = np.abs(ends - means)
        axes.errorbar(counts, means, reach, marker=marker, capsize=3, label=arm)
    axes.set(xlabel="real tumours", ylabel="cross-validated Dice", ylim=(0, 1))
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=110)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the arguments, train, score, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("real")
    parser.add_argument("synthetic", nargs="+")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--weights", default="synthetic", help="default: synthetic")
    parser.add_argument("-f", "--file", required=True, help="parameters of all trainings")
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--figure", type=Path, help="draw the curves into this file")
    options = parser.parse_args(arguments)
    question = Question(
        decathlon.load(options.real),
        [decathlon.load(folder) for folder in options.synthetic],
        parameters.defaults() | parameters.read(options.file),
        options.weights,
        options.run_dir,
    )
    found = measure(question, options.counts)
    print(table(found))
    if options.figure:
        draw(found, options.figure)


if __name__ == "__main__":
    main()
