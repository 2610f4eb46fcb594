"""The training loop: draw a batch, predict, compare, step; after each epoch validate and save."""

import copy
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch

from lungseg_utils.parameters import TrainingConfig
from lungseg_utils.patches import TrainingCase, make_training_case
from lungseg_utils.preprocess import Prepared
from lungseg_utils.runtime import LungsegError, require_writable, warn
from lungseg_utils.segunet import SegUNet
from lungseg_utils.training.batches import epoch_batches
from lungseg_utils.training.distributed import average_buffers
from lungseg_utils.training.losses import make_loss
from lungseg_utils.training.network import whole_batch_loss
from lungseg_utils.training.resume import has_begun, read_start_of, restore, restore_if_same
from lungseg_utils.training.run import Run, start_run
from lungseg_utils.training.run_folder import alone_in, begin_folder, save, save_start
from lungseg_utils.training.schedule import learning_rate_at
from lungseg_utils.training.step import (
    ema_decay_at,
    set_learning_rate,
    set_training_mode,
    stop_if_diverged,
    update_ema,
)
from lungseg_utils.training.stopping import stoppable
from lungseg_utils.training.validation import add_hard_examples, validate
from lungseg_utils.training.watching import show_curves, watched


def train_one_epoch(
    run: Run, cases: Sequence[TrainingCase], loss_function: Callable, config: TrainingConfig
) -> dict:
    """Take `steps_per_epoch` optimiser steps; return the epoch's row of the history."""
    set_training_mode(run, config)
    losses = []
    for step, image, label, names in epoch_batches(run, cases, config):  # (B, 1, d, h, w)
        set_learning_rate(run.optimiser, learning_rate_at(step, config))
        logits = run.network(image)
        loss = whole_batch_loss(run.accelerator, loss_function, logits, label)
        run.optimiser.zero_grad()
        run.accelerator.backward(loss)
        weights = run.network.parameters()
        grad_norm = run.accelerator.clip_grad_norm_(weights, config.gradient_clip)
        stop_if_diverged(step, loss, grad_norm, names)
        run.optimiser.step()
        update_ema(run.ema, run.model, ema_decay_at(step, config))
        losses.append(loss.detach())
    average_buffers(run.accelerator, run.model, run.ema)
    mean_loss = float(torch.stack(losses).mean())
    return {
        "epoch": run.epoch + 1,
        "learning_rate": learning_rate_at(step, config),
        "loss": mean_loss,
    }


def fit(
    training: Sequence[Prepared],
    validation: Sequence[Prepared],
    *,
    run_dir: str | Path,
    config: TrainingConfig | None = None,
    device: str = "auto",
    resume: bool | Literal["auto"] = False,
    model: SegUNet | None = None,
    weights: str | Path | None = None,
    recipe: Mapping | None = None,
    cases_per_set: Sequence[int] = (),
) -> list[dict]:
    """Train a SegUNet and return its history, a row an epoch; leave everything in `run_dir`.

    With `resume` a run goes on as if it had never stopped: on a CPU bit for bit. Without it an
    earlier run in the folder is moved aside, with "auto" only one of other settings.

    It begins with random weights, with those of `model`, or with those of the file `weights`, to
    fine-tune them: their score is printed first, and they are the best until an epoch is better.
    `recipe` is written to config.json for who resumes. `cases_per_set` counts the training cases of
    each of several sets, which are given one set after another. Started by `accelerate launch` or
    `torchrun`, the processes share each batch and the first of them writes; restarted by
    `torchrun`, the run goes on by itself. A second one in the folder at the same time is refused.
    """
    config = config or TrainingConfig()
    run_dir = require_writable(run_dir)
    if not training:
        raise LungsegError(
            run_dir, "there is no case to train on", "Give a dataset with labelled cases"
        )
    start: dict = {}
    if weights is not None:
        model, start = read_start_of(run_dir, weights, config, resume)
    run = start_run(config, device, model)
    run.describe(training, validation, start)
    if recipe is not None:
        run.settings["recipe"] = dict(recipe)
    first_weights = copy.deepcopy(run.ema) if config.hard_example_share else None
    with alone_in(run_dir), stoppable(run, run_dir, resumes=bool(resume)):
        if resume == "auto":
            restore_if_same(run, run_dir)
        elif resume or has_begun(run, run_dir):
            restore(run, run_dir)
        if run.epoch < config.epochs:
            cases = _training_cases(run, training, run_dir, config, first_weights)
            cases = _number_sets(cases, cases_per_set)
            with watched(run_dir / "history.png", config.epochs):
                _train(run, cases, validation, run_dir, config)
    return run.history


def _training_cases(
    run: Run,
    training: Sequence[Prepared],
    run_dir: Path,
    config: TrainingConfig,
    first_weights: SegUNet | None,
) -> list[TrainingCase]:
    """Put the cases on the device, with the hard examples of `first_weights` where it is given."""
    cases = [make_training_case(case, run.device) for case in training]
    if first_weights:
        cases = add_hard_examples(cases, training, first_weights, config)
    empty = [case.name for case in cases if not case.lesions]
    if len(empty) == len(cases):
        raise LungsegError(
            run_dir,
            "no tumour is marked in any training case",
            "Restore the labels of the dataset",
        )
    if empty:
        shown = ", ".join(empty[:3]) + (" …" if len(empty) > 3 else "")
        warn(f"{len(empty)} of {len(cases)} training cases have no tumour marked: {shown}")
    return cases


def _number_sets(cases: Sequence[TrainingCase], cases_per_set: Sequence[int]) -> list[TrainingCase]:
    """Return `cases`, which come one set after another, with the number of their set."""
    numbers = [number for number, count in enumerate(cases_per_set) for _ in range(count)]
    return [
        dataclasses.replace(case, set_number=number)
        for case, number in zip(cases, numbers or [0] * len(cases), strict=True)
    ]


def _train(
    run: Run,
    cases: Sequence[TrainingCase],
    validation: Sequence[Prepared],
    run_dir: Path,
    config: TrainingConfig,
) -> None:
    """Train `run` to its last epoch; validate and save after each."""
    begin_folder(run, run_dir)
    if run.history:
        show_curves(run.epoch)
    if run.settings["started_from"] and not run.history:
        _validate_start(run, validation, run_dir, config)
    loss_function = make_loss(config.loss)
    started = time.perf_counter()
    first = run.epoch
    while run.epoch < config.epochs:
        row = train_one_epoch(run, cases, loss_function, config)
        if row["epoch"] % config.validate_every == 0:
            row |= validate(run.ema, validation, config)
        run.history.append(row)
        save(run, run_dir)
        if run.accelerator.is_main_process:
            show_curves(run.epoch)
            per_epoch = (time.perf_counter() - started) / (run.epoch - first)
            left_s = per_epoch * (config.epochs - run.epoch)
            print(_describe_row(row, config.epochs, left_s), flush=True)


def _validate_start(
    run: Run, validation: Sequence[Prepared], run_dir: Path, config: TrainingConfig
) -> None:
    """Print the score of the weights to start from, and keep them as the best so far."""
    row = validate(run.ema, validation, config)
    if row and run.accelerator.is_main_process:
        print(f"before the first step: {_describe_score(row)}", flush=True)
    save_start(run, run_dir, row)


def _describe_row(row: dict, epochs: int, left_s: float) -> str:
    text = f"epoch {row['epoch']:3d} of {epochs}: loss {row['loss']:.3f}"
    if "validation_dice" in row:
        text += f", {_describe_score(row)}"
    return text + f", {left_s / 60:.1f} min left"


def _describe_score(row: dict) -> str:
    found = f"lesions found {row['validation_recall']:.0%}"
    return f"validation Dice {row['validation_dice']:.3f}, {found}"
