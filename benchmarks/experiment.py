"""What `ablation.py`, `curves.py` and `recipes.py` share: data, training, scores, results.

All train on the same phantoms and score on the same others. A run that the results hold already is
not made again, so that the whole may run in pieces.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from networks import count_parameters
from report import RESULTS, write_results
from torch import nn

from lungseg_utils import decathlon, phantom, runtime, volume
from lungseg_utils.evaluation import bootstrap_interval, case_metrics, paired_difference
from lungseg_utils.patches import make_training_case
from lungseg_utils.phantom.dataset import RECIPE_VERSION
from lungseg_utils.prediction import Predictor
from lungseg_utils.preprocess import Prepared, prepare
from lungseg_utils.preprocess.cache import prepare_cases
from lungseg_utils.training import TrainingConfig, make_loss, start_run, train_one_epoch

PHANTOM_SEED = 11  # its case seeds are in no other set of this project
MEASURES = {
    "dice": "Dice",
    "nsd_2mm": "surface Dice 2 mm",
    "recall": "lesion recall",
    "false_positives": "false positives a scan",
}
SETTING = ("steps", "cases", "test_cases", "tier", "spacing_mm", "batch_size", "channels")


@dataclass(frozen=True)
class Trial:
    """A scan to be scored on: prepared, and its truth (D, H, W) on its own grid."""

    prepared: Prepared
    truth: np.ndarray


# --- the setting ----------------------------------------------------------------------------------


def add_setting(parser: argparse.ArgumentParser, name: str) -> None:
    """Add the options of the setting; the defaults are a small one. `name` is of the results."""
    numbers = {"steps": 160, "cases": 24, "test-cases": 16, "batch-size": 4, "patch": 32}
    for option, default in numbers.items():
        parser.add_argument(f"--{option}", type=int, default=default, help=f"(default {default})")
    tiers = ("quick", "medium", "full")
    parser.add_argument("--tier", default="quick", choices=tiers, help="(default quick)")
    parser.add_argument("--spacing-mm", type=float, default=3.0, help="(default 3)")
    widths = [8, 16, 32, 64]
    parser.add_argument(
        "--channels", type=int, nargs="+", default=widths, help="(default 8 16 32 64)"
    )
    parser.add_argument("--seeds", type=int, default=3, help="(default 3)")
    parser.add_argument("--runs", type=int, help="stop after so many trainings (default: all)")
    parser.add_argument(
        "--data", type=Path, help="folder for the phantoms (default: data/ablation)"
    )
    output = RESULTS / name
    parser.add_argument("--output", type=Path, default=output, help=f"(default: results/{name})")


def setting_of(options: argparse.Namespace) -> dict:
    """Return what decides the results, as it is written beside them."""
    return {name: getattr(options, name) for name in SETTING} | {
        "patch_size": [options.patch] * 3,
        "threads": torch.get_num_threads(),
        "generator": RECIPE_VERSION,
    }


def describe(setting: dict) -> str:
    patch = "×".join(map(str, setting["patch_size"]))
    return (
        f"{setting['cases']} training and {setting['test_cases']} test phantoms of the "
        f"{setting['tier']} tier (version {setting['generator']} of the generator), "
        f"{setting['steps']} steps of {setting['batch_size']} patches of {patch} voxels of "
        f"{setting['spacing_mm']:g} mm; means over seeds and cases, with the 95 % interval of the "
        "bootstrap over cases; the running mean of the weights after the last step, threshold "
        "0.5, scored on the scan's own grid."
    )


def config_of(setting: dict, seed: int) -> TrainingConfig:
    """Return the quick recipe for the steps of `setting`, its learning rate falling to zero."""
    return TrainingConfig(
        epochs=1,
        steps_per_epoch=setting["steps"],
        batch_size=setting["batch_size"],
        schedule="cosine",
        patch_size=tuple(setting["patch_size"]),
        spacing_mm=setting["spacing_mm"],
        seed=seed,
    )


# --- training and scoring -------------------------------------------------------------------------


def load_data(options: argparse.Namespace) -> tuple[list[Prepared], list[Trial]]:
    """Make or find the phantoms that `options` ask for; return those to train and to score on."""
    folder = options.data or runtime.home() / "data" / "ablation"
    with contextlib.redirect_stdout(None):
        phantom.write_dataset(
            folder,
            cases=options.cases,
            test_cases=options.test_cases,
            seed=PHANTOM_SEED,
            tier=options.tier,
        )
    dataset = decathlon.load(folder)
    training = prepare_cases(dataset.training, spacing_mm=options.spacing_mm, workers=1)
    trials = []
    for case in dataset.test:
        scan = volume.read(case.image)
        truth = volume.read_label(case.label, like=scan)
        trials.append(Trial(prepare(scan, spacing_mm=options.spacing_mm), truth))
    return training, trials


def score(model: nn.Module, trials: Sequence[Trial], config: TrainingConfig) -> list[dict]:
    """Predict every trial on the scan's own grid and measure it: a row a case."""
    predictor = Predictor(model=model, facts={"spacing_mm": config.spacing_mm})
    rows = []
    for trial in trials:
        scan = trial.prepared.scan
        mask = predictor.mask(trial.prepared, predictor.probabilities(trial.prepared))
        row = {"case": scan.name} | case_metrics(trial.truth, mask, scan.spacing_mm)
        lesions = row["lesions_true"]
        row["recall"] = row["lesions_found"] / lesions if lesions else math.nan
        rows.append({key: None if value != value else value for key, value in row.items()})
    return rows


def train_and_score(
    build: Callable[[], nn.Module],
    training: Sequence[Prepared],
    trials: Sequence[Trial],
    config: TrainingConfig,
) -> dict:
    """Train one network as `fit` does and score its running mean at the end: nothing is chosen."""
    runtime.seed_everything(config.seed)
    run = start_run(config, model=build())
    cases = [make_training_case(case, run.device) for case in training]
    loss_function = make_loss(config.loss)
    started = time.perf_counter()
    for _ in range(config.epochs):
        run.history.append(train_one_epoch(run, cases, loss_function, config))
    seconds = time.perf_counter() - started
    return {
        "parameters": count_parameters(run.model),
        "seconds": round(seconds, 1),
        "loss": run.history[-1]["loss"],
        "rows": score(run.ema, trials, config),
    }


# --- results --------------------------------------------------------------------------------------


def column(runs: Sequence[dict], measure: str) -> np.ndarray:
    """Return a measure per case, the mean over the seeds: (cases,)."""
    values = [[row[measure] for row in run["rows"]] for run in runs]
    return np.array(values, float).mean(axis=0)  # None becomes NaN


def cells_of(runs: Sequence[dict]) -> list[str]:
    """Return the text of each measure: its mean over seeds and cases, with its interval."""
    cells = []
    for measure in MEASURES:
        values = column(runs, measure)
        low, high = bootstrap_interval(values)
        cells.append(f"{np.nanmean(values):.3f} ({low:.3f} to {high:.3f})")
    return cells


def difference_of(base: Sequence[dict], other: Sequence[dict], measure: str) -> str:
    """Return the text of the paired difference, `other` less `base`, over the seeds of both."""
    seeds = {run["seed"] for run in base} & {run["seed"] for run in other}
    before = column([run for run in base if run["seed"] in seeds], measure)
    after = column([run for run in other if run["seed"] in seeds], measure)
    found = paired_difference(after, before)
    return f"{found['mean']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})"


def save(path: Path, title: str, setting: dict, runs: list[dict], table: str) -> None:
    found = {"setting": setting, "runs": runs}
    write_results(path, found, f"# {title}\n\n{describe(setting)}\n\n{table}\n")


def earlier_runs(path: Path, setting: dict) -> list[dict]:
    """Return the runs that the results hold; raise LungsegError where their setting was another."""
    if not path.with_suffix(".json").is_file():
        return []
    content = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    if content["setting"] != setting:
        raise runtime.LungsegError(
            path, "holds results of another setting", "Name another file with --output"
        )
    return content["runs"]
