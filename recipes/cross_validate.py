"""Cross-validate a recipe: train every fold, and score each scan by the fold that has not seen it.

    python recipes/cross_validate.py data/Task06_Lung -f params/msd.yaml [--runs runs/msd_fold]

A fold that was stopped goes on where it was; a finished one is not trained again. RUNS_masks gets
the masks, metrics.csv (a row a case) and summary.json (with intervals). The folds together segment
a new scan by

    lungseg predict ct.nii.gz -o mask.nii.gz --checkpoint=RUNS{0,1,2,3,4}/best.safetensors
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from lungseg_utils import decathlon, parameters, volume
from lungseg_utils.evaluation import evaluate
from lungseg_utils.prediction import predict_files
from lungseg_utils.runtime import LungsegError
from lungseg_utils.training import train

FOLDS = 5


def require_no_others(masks: Path, cases: Sequence[decathlon.Case]) -> None:
    """Raise LungsegError where `masks` holds a mask of no case, which could not be scored.

    That is better known now than after days of training.
    """
    others = {volume.stem(path) for path in masks.glob("[!.]*.nii*")} - {case.id for case in cases}
    if others:
        raise LungsegError(
            masks,
            f"holds masks of other scans ({', '.join(sorted(others)[:3])})",
            "Move them away or choose other --runs",
        )


def train_and_predict(
    dataset: decathlon.Dataset, fold: int, run_dir: Path, masks: Path, settings: Mapping
) -> None:
    """Train one fold, or what is left of it, and write the masks of its validation scans."""
    train(dataset, run_dir, {**settings, "fold": fold}, resume=run_dir.exists())
    _, unseen = decathlon.split(dataset, fold=fold, seed=settings["seed"])
    rows = predict_files(
        [case.image for case in unseen],
        masks,
        checkpoint=run_dir / "best.safetensors",
        device=settings["device"],
    )
    for row in rows:
        print(f"fold {fold}: {row['name']}, {len(row['tumours'])} tumours", flush=True)


def score(dataset: decathlon.Dataset, masks: Path) -> None:
    """Score the masks of all folds, write metrics.csv and summary.json, and print the means."""
    labels = {case.id: case.label for case in dataset.training}
    rows = evaluate(masks, labels, masks / "metrics.csv")
    found = sum(row["lesions_found"] for row in rows)
    true = sum(row["lesions_true"] for row in rows)
    mean_dice = sum(row["dice"] for row in rows) / len(rows)
    print(
        f"{len(rows)} scans, each by a network that has not seen it: mean Dice {mean_dice:.3f}, "
        f"{found} of {true} lesions found; {masks}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the arguments; train, predict, score."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path)
    parser.add_argument("-f", "--file", required=True, help="YAML file of parameters")
    parser.add_argument(
        "-p", "--parameter", nargs=2, metavar=("NAME", "VALUE"), action="append", default=[]
    )
    parser.add_argument(
        "--runs", default="runs/msd_fold", help="the run folders' path without the fold's number"
    )
    options = parser.parse_args(arguments)
    settings = parameters.defaults() | parameters.read(options.file)
    settings |= parameters.check(dict(options.parameter))
    dataset = decathlon.load(options.dataset)
    masks = Path(f"{options.runs}_masks")
    require_no_others(masks, dataset.training)
    patients = {case.patient or case.id for case in dataset.training}
    for fold in range(min(FOLDS, len(patients))):
        train_and_predict(dataset, fold, Path(f"{options.runs}{fold}"), masks, settings)
    score(dataset, masks)


if __name__ == "__main__":
    main()
