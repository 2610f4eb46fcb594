"""Cross-validate a recipe: train every fold, predict each scan by the fold that has not seen it, score all of them.

    python recipes/cross_validate.py data/Task06_Lung -f params/msd.yaml [--runs runs/msd_fold]

A fold that was stopped goes on where it was, and one that is finished is not trained again. Masks and metrics.csv
(a row a case), summary.json with intervals: in RUNS_masks. The folds together segment a new scan by
`lungseg predict ct.nii.gz -o mask.nii.gz --checkpoint=RUNS{0,1,2,3,4}/best.safetensors`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lungseg_utils import course, decathlon, parameters, volume
from lungseg_utils.evaluation import evaluate
from lungseg_utils.prediction import predict_files
from lungseg_utils.runtime import LungsegError


def require_no_others(masks: Path, cases: Sequence[decathlon.Case]) -> None:
    """Raise where `masks` holds a mask of no case, which could not be scored: now, not after days of training."""
    others = {volume.stem(path) for path in masks.glob("[!.]*.nii*")} - {case.id for case in cases}
    if others:
        raise LungsegError(
            masks,
            f"holds masks of other scans ({', '.join(sorted(others)[:3])})",
            "move them away or choose other --runs",
        )


def main() -> None:
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
    options = parser.parse_args()
    settings = (
        parameters.defaults()
        | parameters.read(options.file)
        | parameters.check(dict(options.parameter))
    )
    dataset = decathlon.load(options.dataset)
    masks = Path(f"{options.runs}_masks")
    require_no_others(masks, dataset.training)
    patients = {case.patient or case.id for case in dataset.training}
    for fold in range(min(5, len(patients))):
        run_dir = Path(f"{options.runs}{fold}")
        course.train(dataset, run_dir, settings | {"fold": fold}, resume=run_dir.exists())
        _, unseen = decathlon.split(dataset, fold=fold, seed=settings["seed"])
        for row in predict_files(
            [case.image for case in unseen],
            masks,
            checkpoint=run_dir / "best.safetensors",
            device=settings["device"],
        ):
            print(f"fold {fold}: {row['name']}, {len(row['tumours'])} tumours", flush=True)
    rows = evaluate(
        masks, {case.id: case.label for case in dataset.training}, masks / "metrics.csv"
    )
    found, true = (sum(row[name] for row in rows) for name in ("lesions_found", "lesions_true"))
    print(
        f"{len(rows)} scans, each by a network that has not seen it: mean Dice "
        f"{sum(row['dice'] for row in rows) / len(rows):.3f}, {found} of {true} lesions found; {masks}"
    )


if __name__ == "__main__":
    main()
