"""Cross-validation: every scan is scored by a network that has not seen its patient."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from accelerate import PartialState

from lungseg_utils import checkpoint, decathlon, volume
from lungseg_utils.evaluation import evaluate
from lungseg_utils.on_ray import WorkerDiedError, work_on_ray
from lungseg_utils.prediction import predict_files
from lungseg_utils.prediction.inputs import Scan
from lungseg_utils.prediction.manifest import read_manifests
from lungseg_utils.prediction.reading import collected_warnings
from lungseg_utils.prediction.shards import Shard, torchrun_process
from lungseg_utils.preprocess.cache import prepare_cases
from lungseg_utils.runtime import LungsegError, home, printable, progress, require_writable
from lungseg_utils.training.recipe import Datasets, train
from lungseg_utils.training.resume import STATES
from lungseg_utils.training.run_folder import epochs_done

FOLDS = 5

Outcomes = Iterator[tuple[int, "list[str] | Exception"]]  # of each fold: what to print of it


def crossvalidate(
    datasets: Datasets,
    run_dir: str | Path,
    settings: Mapping,
    weights: str | Path | None = None,
    *,
    shard: Shard | None = None,
    ray: bool = False,
) -> list[dict]:
    """Train every fold of a dataset, score each case by the fold that has not seen it.

    Of several sets the first is cross-validated; the others train in every fold. With `weights`
    each fold starts from them, which should have seen none of the cases.
    Leaves fold<K>/ (a run folder each), masks/, metrics.csv and summary.json in `run_dir`, and
    returns the rows of metrics.csv. A fold that was stopped goes on where it was; one that is
    finished is neither trained nor segmented again. Folds that fail do not stop the others; they
    are named in one LungsegError after them.

    With `ray` the workers of a Ray cluster do the folds, each a fold at a time. `shard` is the part
    of the folds to do here; as long as others are not finished, no rows are returned.
    """
    sets = [datasets] if isinstance(datasets, decathlon.Dataset) else list(datasets)
    work = FoldWork(sets, require_writable(run_dir), settings, weights)
    _require_no_others(work.masks, sets[0].training)
    folds = decathlon.list_folds(sets[0], FOLDS)
    if len(folds) < 2:
        raise LungsegError(
            sets[0].root, "it has one fold: nothing to cross-validate", "Use `lungseg train`"
        )
    own = shard.part_of(folds) if shard else folds
    _do_all(work, own, ray)
    PartialState().wait_for_everyone()  # of the processes of `torchrun`, which share the masks
    if not all(work.is_finished(fold) for fold in folds):
        return []
    scored = [case for fold in folds for case in work.unseen(fold)]
    labels = {case.id: case.label for case in scored if case.label}
    return evaluate(work.masks, labels, work.run_dir / "metrics.csv")


def _do_all(work: FoldWork, folds: Sequence[int], ray: bool) -> None:
    """Do the folds and print what each has segmented; raise the failures as one error."""
    failures = {}
    for fold, outcome in _on_ray(work, folds) if ray else _here(work, folds):
        if isinstance(outcome, Exception):
            failures[fold] = outcome
            continue
        for line in outcome:
            print(f"fold {fold}: {line}", flush=True)
    if failures:
        raise _name_all(failures, len(folds), work.run_dir)


@dataclass(frozen=True)
class FoldWork:
    """Train a fold and segment the scans that it has not seen, whoever calls."""

    sets: list[decathlon.Dataset]
    run_dir: Path
    settings: Mapping
    weights: str | Path | None

    @property
    def masks(self) -> Path:
        """Return the folder of the masks of all folds."""
        return self.run_dir / "masks"

    def unseen(self, fold: int) -> Sequence[decathlon.Case]:
        """Return the cases that the network of a fold is scored on."""
        return decathlon.split(self.sets[0], fold=fold, seed=self.settings["seed"])[1]

    def __call__(self, fold: int) -> list[str]:
        """Train and segment; return a line for each scan segmented now."""
        folder = self.run_dir / f"fold{fold}"
        train(
            self.sets,
            folder,
            {**self.settings, "fold": fold},
            resume=any((folder / state).exists() for state in STATES),
            weights=self.weights,
        )
        rows = predict_files(
            [Scan(case.id, str(case.image)) for case in self.unseen(fold)],
            self.masks,
            checkpoint=folder / "best.safetensors",
            device=self.settings["device"],
            skip_done=True,
            process=torchrun_process(),
        )
        return [f"{printable(row['name'])}, {len(row['tumours'])} tumours" for row in rows]

    def is_finished(self, fold: int) -> bool:
        """Return whether a fold has all its epochs and masks, by whichever job."""
        folder = self.run_dir / f"fold{fold}"
        try:
            digest = checkpoint.load_weights(folder / "best.safetensors")[1]["digest"]
        except LungsegError:
            return False
        rows = read_manifests(self.masks)
        states = [rows.get(f"{case.id}.nii.gz", {}) for case in self.unseen(fold)]
        is_segmented = all((r.get("status"), r.get("weights")) == ("done", digest) for r in states)
        return is_segmented and epochs_done(folder) >= self.settings["epochs"]


def _here(work: FoldWork, folds: Sequence[int]) -> Outcomes:
    """Do the folds one after another in this process."""
    for fold in folds:
        try:
            outcome: list[str] | Exception = work(fold)
        except LungsegError as error:
            outcome = error
        except Exception as error:
            if torchrun_process().count > 1:  # the other processes are in the middle of the fold
                raise
            outcome = _named(work, fold, error)
        yield fold, outcome


def _named(work: FoldWork, fold: int, error: Exception) -> LungsegError:
    """Return an error of any kind as one of the fold; without its frames, which hold memory."""
    return LungsegError(work.run_dir / f"fold{fold}", f"{type(error).__name__}: {error}")


def _on_ray(work: FoldWork, folds: Sequence[int]) -> Outcomes:
    """Do the folds by the workers of a Ray cluster, from scans that are prepared here, once."""
    for dataset in work.sets:
        options = {name: work.settings[name] for name in ("spacing_mm", "workers")}
        prepare_cases(dataset.training, **options)
    begin = partial(_begin, work, str(home()))
    results = work_on_ray(folds, begin, work.settings["device"], is_heavy=True)
    yield from progress(results, "folds", total=len(folds))


def _begin(work: FoldWork, home_of_all: str) -> Callable[[int], list[str]]:
    """Return what a worker does, with the cache of who sent it; its errors can be sent back."""
    os.environ["LUNGSEG_HOME"] = home_of_all

    def do(fold: int) -> list[str]:
        try:
            with collected_warnings() as warnings:
                return work(fold) + [f"warning: {message}" for message in warnings]
        except LungsegError:
            raise
        except Exception as error:
            raise _named(work, fold, error) from None

    return do


def _name_all(failures: Mapping[int, Exception], count: int, run_dir: Path) -> LungsegError:
    """Return the failures of `count` folds as one error."""
    died = "each process that trained it died, as where memory does not suffice"
    causes = [
        f"fold {fold}: {died if isinstance(error, WorkerDiedError) else str(error).rstrip('.')}"
        for fold, error in sorted(failures.items())
    ]
    return LungsegError(
        run_dir,
        f"{len(failures)} of {count} folds failed: {'; '.join(causes)}",
        "Fix that and run it again: what is finished is not done again",
    )


def _require_no_others(masks: Path, cases: Sequence[decathlon.Case]) -> None:
    """Raise where `masks` holds a mask of no case: now, not after days of training."""
    others = {volume.stem(path) for path in masks.glob("[!.]*.nii*")} - {case.id for case in cases}
    if others:
        raise LungsegError(
            masks,
            f"holds masks of other scans ({', '.join(sorted(others)[:3])})",
            "Move them away or choose another --run-dir",
        )
