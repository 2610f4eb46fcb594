"""Cross-validation: every scan is scored by a network that has not seen its patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lungseg_utils import decathlon, volume
from lungseg_utils.evaluation import evaluate
from lungseg_utils.prediction import predict_files
from lungseg_utils.prediction.inputs import Scan
from lungseg_utils.runtime import LungsegError, require_writable
from lungseg_utils.training.recipe import Datasets, train

FOLDS = 5


def crossvalidate(
    datasets: Datasets,
    run_dir: str | Path,
    settings: Mapping,
    weights: str | Path | None = None,
) -> list[dict]:
    """Train every fold of a dataset, score each case by the fold that has not seen it.

    Of several sets the first is cross-validated; the others train in every fold. With `weights`
    each fold starts from them, which should have seen none of the cases.
    Leaves fold<K>/ (a run folder each), masks/, metrics.csv and summary.json in `run_dir`, and
    returns the rows of metrics.csv. A fold that was stopped goes on where it was; one that is
    finished is not trained again.
    """
    sets = [datasets] if isinstance(datasets, decathlon.Dataset) else list(datasets)
    dataset = sets[0]
    run_dir = require_writable(run_dir)
    masks = run_dir / "masks"
    _require_no_others(masks, dataset.training)
    folds = decathlon.list_folds(dataset, FOLDS)
    if len(folds) < 2:
        raise LungsegError(
            dataset.root, "it has one fold: nothing to cross-validate", "Use `lungseg train`"
        )
    labels: dict[str, Path] = {}
    for fold in folds:
        folder = run_dir / f"fold{fold}"
        train(
            sets,
            folder,
            {**settings, "fold": fold},
            resume=(folder / "last.pt").exists(),
            weights=weights,
        )
        _, unseen = decathlon.split(dataset, fold=fold, seed=settings["seed"])
        labels |= {case.id: case.label for case in unseen if case.label}
        rows = predict_files(
            [Scan(case.id, str(case.image)) for case in unseen],
            masks,
            checkpoint=folder / "best.safetensors",
            device=settings["device"],
        )
        for row in rows:
            print(f"fold {fold}: {row['name']}, {len(row['tumours'])} tumours", flush=True)
    return evaluate(masks, labels, run_dir / "metrics.csv")


def _require_no_others(masks: Path, cases: Sequence[decathlon.Case]) -> None:
    """Raise where `masks` holds a mask of no case: now, not after days of training."""
    others = {volume.stem(path) for path in masks.glob("[!.]*.nii*")} - {case.id for case in cases}
    if others:
        raise LungsegError(
            masks,
            f"holds masks of other scans ({', '.join(sorted(others)[:3])})",
            "Move them away or choose another --run-dir",
        )
