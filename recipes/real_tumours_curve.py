"""Show what a real tumour is worth: cross-validated Dice against the number of real tumours.

    python recipes/real_tumours_curve.py REAL SYNTHETIC [SYNTHETIC …] --run-dir runs/worth
        --weights WEIGHTS -f params/real.yaml [--counts 0 10 20 40 79] [--counts-without 20 79]
        [--folds 0 1 2] [--csv FILE] [--figure FILE]

REAL is a set of outlined tumours. In each fold the network trains on 0, 10, 20 … of the others,
twice: with synthetic chests, from WEIGHTS and beside the SYNTHETIC sets; and without, from random
weights on the real tumours alone, twice as long. Each tumour is scored by a network that has not
seen its patient. A smaller number of tumours is always a part of the larger ones. What is trained
already, or scored, is not made again: stop it and start it as you like. Leaves scores.json and a
run folder for each training in --run-dir, and prints the table.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

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


def measure(question: Question, points: Sequence[tuple[str, int]], folds: Sequence[int]) -> Scores:
    """Return the scores of each arm and count; those of scores.json are not made again."""
    path = require_writable(question.run_dir) / "scores.json"
    found: Scores = json.loads(path.read_text()) if path.is_file() else {}
    asked: set[str] = set()
    for fold in folds:
        _, unseen = decathlon.split(question.real, fold=fold, seed=question.settings["seed"])
        asked |= {case.id for case in unseen}
        for arm, count in points:
            scores = found.setdefault(f"{arm}, {count}", {})
            if all(case.id in scores for case in unseen):
                continue
            weights = train(question, arm, count, fold)
            scores |= score(weights, unseen, question.settings["device"])
            with writing(path) as partial:
                partial.write_text(json.dumps(found, indent=1) + "\n")
    names = [f"{arm}, {count}" for arm, count in points]
    return {name: {id: found[name][id] for id in sorted(asked)} for name in names}


def summarise(found: Scores, most: int) -> list[dict]:
    """Return a row for each point of the curves: means with their intervals (95 %), medians.

    No fold has more than `most` tumours to train on.
    """
    rows = []
    for name, scores in found.items():
        arm, count = name.split(", ")
        values = np.array(list(scores.values()))
        low, high = bootstrap_interval(values)
        numbers = {"mean": values.mean(), "low": low, "high": high, "median": np.median(values)}
        row = {"arm": arm, "real_tumours": min(int(count), most)}
        row |= {name: round(float(number), 4) for name, number in numbers.items()}
        rows.append(row | {"missed": int((values < 0.1).sum()), "scored": len(values)})
    return sorted(rows, key=lambda row: (row["real_tumours"], row["arm"]))


def table(rows: Sequence[dict]) -> str:
    """Return the table in Markdown."""
    lines = ["| real tumours | | mean Dice | 95 % | median | below 0.1 |", "| --- " * 6 + "|"]
    lines += [
        f"| {row['real_tumours']} | {row['arm']} | {row['mean']:.3f} "
        f"| {row['low']:.3f} – {row['high']:.3f} | {row['median']:.3f} "
        f"| {row['missed']} of {row['scored']} |"
        for row in rows
    ]
    return "\n".join(lines)


def write_csv(path: Path, rows: Sequence[dict]) -> None:
    """Write the rows, which notebook 07 draws."""
    with writing(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


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
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS, help="of real tumours")
    parser.add_argument(
        "--counts-without", type=int, nargs="*", help="without synthetic chests; default: the same"
    )
    parser.add_argument("--folds", type=int, nargs="+", help="that are scored; default: all")
    parser.add_argument("--csv", type=Path, help="write the points of the curves into this file")
    parser.add_argument("--figure", type=Path, help="draw the curves into this file")
    options = parser.parse_args(arguments)
    question = Question(
        decathlon.load(options.real),
        [decathlon.load(folder) for folder in options.synthetic],
        parameters.defaults() | parameters.read(options.file),
        options.weights,
        options.run_dir,
    )
    without = options.counts if options.counts_without is None else options.counts_without
    points = [(ARMS[0], count) for count in options.counts]
    points += [(ARMS[1], count) for count in without if count]
    folds = options.folds or decathlon.list_folds(question.real)
    seed = question.settings["seed"]
    most = max(len(decathlon.split(question.real, fold=fold, seed=seed)[0]) for fold in folds)
    rows = summarise(measure(question, points, folds), most)
    print(table(rows))
    if options.csv:
        write_csv(options.csv, rows)
    if options.figure:
        plotting.use_style()
        plotting.plot_worth_of_tumours(rows).savefig(options.figure, dpi=110)


if __name__ == "__main__":
    main()
