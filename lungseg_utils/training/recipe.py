"""From datasets and parameters to a run: split, prepare, train."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object

from lungseg_utils import decathlon, parameters
from lungseg_utils.checkpoint import find
from lungseg_utils.parameters import TrainingConfig
from lungseg_utils.preprocess import Prepared
from lungseg_utils.preprocess.cache import prepare_cases
from lungseg_utils.runtime import LungsegError, file_error, require_writable, warn
from lungseg_utils.training.distributed import start_accelerator
from lungseg_utils.training.loop import fit
from lungseg_utils.training.resume import read_start_of

Datasets = decathlon.Dataset | Sequence[decathlon.Dataset]


def train(
    datasets: Datasets,
    run_dir: str | Path,
    settings: Mapping,
    *,
    resume: bool = False,
    weights: str | Path | None = None,
    validate_also: Sequence[Prepared] = (),
) -> list[dict]:
    """Split and prepare a dataset, train on it as the parameters in `settings` say.

    Returns the history. Of several sets the first is split by the fold; of the others every case
    trains, and `settings["shares"]` says how much of the patches each set gives. `validate_also`
    joins the validation cases of the fold. Of several processes the first prepares the scans; the
    others find them in the cache, or fail as it did.
    """
    sets = [datasets] if isinstance(datasets, decathlon.Dataset) else list(datasets)
    run_dir = require_writable(run_dir)
    config = training_config(settings)
    _check_shares(sets, config)
    if weights is not None:
        read_start_of(run_dir, weights, config, resume)  # whether they fit is known first
    accelerator = start_accelerator(settings["device"])
    prepared = None
    failure = None
    if accelerator.is_main_process:
        try:
            prepared = _prepare(sets, settings)
        except LungsegError as error:
            failure = error
    failure = gather_object([failure])[0]
    if failure:
        raise failure
    training, validation = prepared or _prepare(sets, settings)
    return fit(
        [case for cases in training for case in cases],
        [*validation, *validate_also],
        run_dir=run_dir,
        config=config,
        device=settings["device"],
        resume=resume,
        weights=weights,
        recipe=_describe(sets, settings, weights),
        cases_per_set=[len(cases) for cases in training],
    )


def _check_shares(sets: Sequence[decathlon.Dataset], config: TrainingConfig) -> None:
    if config.shares and len(sets) == 1:
        warn(f"{sets[0].root}: the only set; shares are of several, and not used")
    elif config.shares and (len(config.shares) != len(sets) or not sum(config.shares)):
        raise LungsegError(
            "shares",
            f"{list(config.shares)} for {len(sets)} sets",
            "Give one share a set, not all of them 0",
        )


def _describe(
    sets: Sequence[decathlon.Dataset], settings: Mapping, weights: str | Path | None
) -> dict[str, Any]:
    """Return what `train` was called with, as config.json keeps it for `resume`."""
    return {
        "datasets": [str(dataset.root.resolve()) for dataset in sets],
        "weights": str(find(weights).resolve()) if weights is not None else None,
        "settings": dict(settings),
    }


def resume(
    run_dir: str | Path, changes: Mapping, datasets: Sequence[str | Path] = ()
) -> list[dict]:
    """Continue the run in `run_dir` with its own datasets and settings, but for `changes`.

    `datasets` is where they lie now, if not where they were. Epochs, device and workers may
    change; others are refused with what differs.
    """
    record = Path(run_dir) / "config.json"
    recipe = _read_record(record, "recipe", dict, "Train again in another folder")
    if not recipe and not datasets:
        raise LungsegError(
            record,
            "missing, or it does not name the dataset of the run",
            "Name it: lungseg train DATASET --run-dir DIR --resume",
        )
    settings = parameters.defaults() | parameters.check(recipe.get("settings", {}), record)
    earlier = recipe.get("datasets") or [recipe.get("dataset")]
    return train(
        [decathlon.load(folder) for folder in datasets or earlier],
        run_dir,
        settings | dict(changes),
        resume=True,
        weights=recipe.get("weights"),
    )


def _read_record(record: Path, name: str, kind: Callable, remedy: str) -> Any:
    """Return what a run's config.json has under `name`; an empty `kind` where it has nothing."""
    try:
        return kind(json.loads(record.read_text(encoding="utf-8")).get(name, ()))
    except FileNotFoundError:
        return kind()
    except OSError as error:
        raise file_error(record, error) from error
    except (ValueError, AttributeError, TypeError) as error:
        raise LungsegError(record, "damaged: not the settings of a training", remedy) from error


def _prepare(
    sets: Sequence[decathlon.Dataset], settings: Mapping
) -> tuple[list[list[Prepared]], list[Prepared]]:
    """Return the training cases of each set and the validation cases of the fold, prepared."""
    first, *others = sets
    training, validation = decathlon.split(first, fold=settings["fold"], seed=settings["seed"])
    options = {"spacing_mm": settings["spacing_mm"], "workers": settings["workers"]}
    prepared = [prepare_cases(training, **options)]
    validating = prepare_cases(validation, **options)
    names = _names_of(sets)
    for name, dataset in zip(names[1:], others):
        cases = prepare_cases(dataset.training, **options)
        _require_unseen(validating, cases, dataset)
        prepared.append([dataclasses.replace(case, name=f"{name}/{case.name}") for case in cases])
    return prepared, validating


def _names_of(sets: Sequence[decathlon.Dataset]) -> list[str]:
    """Return a name for each set, its folder's; one that is taken gets a number."""
    names: list[str] = []
    for dataset in sets:
        folder = dataset.root.resolve().name
        numbered = (f"{folder} {number}" for number in count(2))
        names.append(next(name for name in chain([folder], numbered) if name not in names))
    return names


def _require_unseen(
    validation: Sequence[Prepared], training: Sequence[Prepared], dataset: decathlon.Dataset
) -> None:
    """Raise where a scan of `dataset` is one to validate on, under whatever name."""
    seen = {case.hu.tobytes(): case.name for case in training}
    for case in validation:
        if case.hu.tobytes() in seen:
            raise LungsegError(
                dataset.root,
                f"its {seen[case.hu.tobytes()]} is the same scan as {case.name}, which validates",
                "Keep each scan in one of the sets",
            )


def training_config(settings: Mapping) -> TrainingConfig:
    """Return what training needs of `settings`; what they leave out has its default."""
    chosen = {
        field.name: settings[field.name]
        for field in dataclasses.fields(TrainingConfig)
        if field.name in settings
    }
    lists = {name: tuple(value) for name, value in chosen.items() if isinstance(value, list)}
    return TrainingConfig(**chosen | lists)


def unseen_cases(
    dataset: decathlon.Dataset, *, fold: int = 0, seed: int = 0, run_dir: str | Path = ""
) -> list[decathlon.Case]:
    """Return the scans to score on: labelled test scans, else the validation scans of `fold`.

    Raises LungsegError where the run in `run_dir` was trained on scans of these names.
    """
    cases = [case for case in dataset.test if case.label]
    if not cases:
        cases = list(decathlon.split(dataset, fold=fold, seed=seed)[1])
    record = Path(run_dir) / "config.json"
    if run_dir and record.is_file():
        remedy = "Train again, or give a checkpoint instead of the run_dir"
        trained_on = _read_record(record, "training_cases", set, remedy)
        seen = sorted(trained_on & {case.id for case in cases})
        if seen:
            raise LungsegError(
                run_dir,
                f"its network was trained on {', '.join(seen)}, which are to be scored",
                "Give the run_dir of this set and fold, or a checkpoint",
            )
    return cases
