"""From a dataset and parameters to a run: split, prepare, train."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object

from lungseg_utils import decathlon, parameters
from lungseg_utils.parameters import TrainingConfig
from lungseg_utils.preprocess import Prepared
from lungseg_utils.preprocess.cache import prepare_cases
from lungseg_utils.runtime import LungsegError, file_error, require_writable
from lungseg_utils.training.distributed import start_accelerator
from lungseg_utils.training.loop import fit
from lungseg_utils.training.run import read_start


def train(
    dataset: decathlon.Dataset,
    run_dir: str | Path,
    settings: Mapping,
    *,
    resume: bool = False,
    weights: str | Path | None = None,
    validate_also: Sequence[Prepared] = (),
) -> list[dict]:
    """Split and prepare `dataset`, train on it as the parameters in `settings` say.

    Returns the history. `validate_also` joins the validation cases of the fold. Of several
    processes the first prepares the scans; the others find them in the cache, or fail as it did.
    """
    run_dir = require_writable(run_dir)
    config = training_config(settings)
    if weights is not None:
        read_start(weights, config)  # whether they fit is known before the scans are prepared
    accelerator = start_accelerator(settings["device"])
    prepared = None
    failure = None
    if accelerator.is_main_process:
        try:
            prepared = _prepare(dataset, settings)
        except LungsegError as error:
            failure = error
    failure = gather_object([failure])[0]
    if failure:
        raise failure
    training, validation = prepared or _prepare(dataset, settings)
    return fit(
        training,
        [*validation, *validate_also],
        run_dir=run_dir,
        config=config,
        device=settings["device"],
        resume=resume,
        weights=weights,
        recipe=_describe(dataset, settings, weights),
    )


def _describe(
    dataset: decathlon.Dataset, settings: Mapping, weights: str | Path | None
) -> dict[str, Any]:
    """Return what `train` was called with, as config.json keeps it for `resume`."""
    return {
        "dataset": str(dataset.root.resolve()),
        "weights": str(Path(weights).resolve()) if weights is not None else None,
        "settings": dict(settings),
    }


def resume(run_dir: str | Path, changes: Mapping, dataset: str | Path | None = None) -> list[dict]:
    """Continue the run in `run_dir` with its own dataset and settings, but for `changes`.

    `dataset` is where the set lies now, if not where it was. Epochs, device and workers may
    change; others are refused with what differs.
    """
    record = Path(run_dir) / "config.json"
    recipe = _read_recipe(record)
    if not recipe and not dataset:
        raise LungsegError(
            record,
            "missing, or it does not name the dataset of the run",
            "Name it: lungseg train DATASET --run-dir DIR --resume",
        )
    settings = parameters.defaults() | parameters.check(recipe.get("settings", {}), record)
    return train(
        decathlon.load(dataset or recipe["dataset"]),
        run_dir,
        settings | dict(changes),
        resume=True,
        weights=recipe.get("weights"),
    )


def _read_recipe(record: Path) -> dict[str, Any]:
    """Return what `train` noted in a run's config.json; nothing where it did not."""
    try:
        return dict(json.loads(record.read_text(encoding="utf-8")).get("recipe") or {})
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise file_error(record, error) from error
    except (ValueError, AttributeError, TypeError) as error:
        raise LungsegError(
            record, "damaged: not the settings of a training", "Train again in another folder"
        ) from error


def _prepare(
    dataset: decathlon.Dataset, settings: Mapping
) -> tuple[list[Prepared], list[Prepared]]:
    """Return the training and the validation cases of the fold, prepared."""
    training, validation = decathlon.split(dataset, fold=settings["fold"], seed=settings["seed"])
    options = {"spacing_mm": settings["spacing_mm"], "workers": settings["workers"]}
    return prepare_cases(training, **options), prepare_cases(validation, **options)


def training_config(settings: Mapping) -> TrainingConfig:
    """Return what training needs of `settings`; what they leave out has its default."""
    chosen: dict[str, Any] = {}
    for field in dataclasses.fields(TrainingConfig):
        if field.name in settings:
            value = settings[field.name]
            chosen[field.name] = tuple(value) if isinstance(value, list) else value
    return TrainingConfig(**chosen)


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
        seen = sorted(_trained_on(record) & {case.id for case in cases})
        if seen:
            raise LungsegError(
                run_dir,
                f"its network was trained on {', '.join(seen)}, which are to be scored",
                "Give the run_dir of this set and fold, or a checkpoint",
            )
    return cases


def _trained_on(record: Path) -> set[str]:
    """Return the names of the training cases that a run's config.json lists."""
    try:
        return set(json.loads(record.read_text(encoding="utf-8")).get("training_cases", []))
    except (ValueError, AttributeError, TypeError) as error:
        raise LungsegError(
            record,
            "damaged: not the settings of a training",
            "Train again, or give a checkpoint instead of the run_dir",
        ) from error
