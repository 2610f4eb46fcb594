"""Training: Dice + cross-entropy, a plain loop, and a run folder that survives anything but losing the disk."""

from __future__ import annotations

import contextlib
import copy
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from lungseg_utils.patches import NO_AUGMENTATION, Augmentation, Source, draw_batch, make_source
from lungseg_utils.patches.prefetch import Batch, draw_ahead
from lungseg_utils.preprocess import Prepared, normalise
from lungseg_utils.runtime import LungsegError, progress, require_writable, warn
from lungseg_utils.segunet import SegUNet
from lungseg_utils.training import distributed
from lungseg_utils.training.config import TrainingConfig, learning_rate_at
from lungseg_utils.training.losses import loss_of_all, make_loss, predict_all
from lungseg_utils.training.run_folder import (
    Run,
    add_to_tensorboard,
    alone_in,
    describe_cases,
    describe_environment,
    restore,
    save,
    set_aside,
    write_json,
)
from lungseg_utils.training.start import read_start, start_run, training_precision
from lungseg_utils.training.validation import add_hard_examples, validate

SPIKE = 20.0  # Dice + cross-entropy starts near 1.5; a loss beyond this means that the weights have blown up


def fit(
    training: Sequence[Prepared],
    validation: Sequence[Prepared],
    *,
    run_dir: str | Path,
    config: TrainingConfig | None = None,
    device: str = "auto",
    resume: bool = False,
    model: SegUNet | None = None,
    weights: str | Path | None = None,
) -> list[dict]:
    """Train a SegUNet and give its history, a row an epoch; leave everything in `run_dir`.

    config.json, environment.json, history.csv, last.pt (the state after the last whole epoch) and
    best.safetensors (the running mean of the weights at the best validation Dice). With `resume` a run goes on
    as if it had never stopped: on a CPU bit for bit. Without it an earlier run in the folder is moved aside.
    It begins with random weights, with those of `model`, or with those of the file `weights` (to fine-tune them).
    Started by `accelerate launch` or `torchrun`, the processes share each batch and the first of them writes.
    A second training in the folder at the same time is refused.
    """
    config = config or TrainingConfig()
    run_dir = require_writable(run_dir)
    if not training:
        raise LungsegError(
            run_dir, "there is no case to train on", "give a dataset with labelled cases"
        )
    chosen = distributed.join_processes(device)
    origin = None
    if weights is not None:
        model, origin = read_start(weights, config)
    run = start_run(config, chosen, model)
    run.settings |= describe_cases(training, validation) | {
        "processes": distributed.count(),
        "started_from": origin,
    }
    begun_with = copy.deepcopy(run.ema) if config.hard_example_share else None
    with alone_in(run_dir):
        if resume:
            restore(run, run_dir)
        if run.epoch < config.epochs:
            _train_on(run, training, validation, run_dir, config, begun_with)
    return run.history


def _train_on(
    run: Run,
    training: Sequence[Prepared],
    validation: Sequence[Prepared],
    run_dir: Path,
    config: TrainingConfig,
    begun_with: SegUNet | None,
) -> None:
    """Train `run` to its last epoch, and write it after each."""
    device = next(run.model.parameters()).device
    sources = [make_source(case, device) for case in training]
    if begun_with:
        sources = add_hard_examples(sources, training, begun_with, config)
    if not any(source.lesions for source in sources):
        raise LungsegError(
            run_dir, "no tumour is marked in any training case", "restore the labels of the dataset"
        )
    distributed.wait()  # nobody reads the folder any more
    is_first = distributed.rank() == 0
    if is_first:
        if not run.history:
            set_aside(run_dir)
        write_json(run_dir / "config.json", run.settings)
        write_json(run_dir / "environment.json", describe_environment(device))
    loss_function = make_loss(config.loss)
    started, first = time.perf_counter(), run.epoch
    with stop_on_sigterm():
        try:
            while run.epoch < config.epochs:
                row = train_one_epoch(run, sources, loss_function, config)
                if row["epoch"] % config.validate_every == 0:
                    row |= validate(run.ema, validation, config)
                run.history.append(row)
                if is_first:
                    save(run, run_dir)
                    add_to_tensorboard(row, run_dir)
                    left = (
                        (time.perf_counter() - started)
                        / (run.epoch - first)
                        * (config.epochs - run.epoch)
                    )
                    print(_describe_row(row, config.epochs, left), flush=True)
                distributed.wait()  # what a process leaves with is on the disk
        except KeyboardInterrupt:
            warn(f"{run_dir}: stopped; resume goes on after the last whole epoch")
            raise


def train_one_epoch(
    run: Run, sources: Sequence[Source], loss_function, config: TrainingConfig
) -> dict:
    """Make `steps_per_epoch` steps; give the epoch's row of the history."""
    device = next(run.model.parameters()).device
    precision = training_precision(device, config)
    augmentation = NO_AUGMENTATION
    if config.augment:
        augmentation = Augmentation(
            elastic_voxels=config.elastic_voxels,
            low_resolution=config.low_resolution,
            field_of_view_crop=config.field_of_view_crop,
        )
    weights = [weight for group in run.optimiser.param_groups for weight in group["params"]]
    distributed.seed_epoch(run.generator, config.seed, run.epoch)
    run.model.train()
    if run.epoch >= (1 - config.frozen_norm_share) * config.epochs:
        freeze_norms(run)
    losses = []

    def draw() -> Batch:
        return draw_batch(
            sources,
            batch_size=config.batch_size,
            part=distributed.part(config.batch_size),
            patch_size=config.patch_size,
            generator=run.generator,
            foreground_share=config.foreground_share,
            hard_example_share=config.hard_example_share,
            augmentation=augmentation,
        )

    batches = draw_ahead(draw, config.steps_per_epoch, device)
    for within, (hu, label, names) in enumerate(
        progress(batches, f"epoch {run.epoch + 1}", config.steps_per_epoch)
    ):
        step = run.epoch * config.steps_per_epoch + within
        image = normalise(hu).contiguous(memory_format=torch.channels_last_3d)  # (B, 1, d, h, w)
        for group in run.optimiser.param_groups:
            group["lr"] = learning_rate_at(step, config)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
            outputs = predict_all(run.model, run.heads, image)
        outputs, label = (
            [distributed.join(logits.float()) for logits in outputs],
            distributed.join(label),
        )
        loss = loss_of_all(loss_function, outputs, label.float())
        run.optimiser.zero_grad(set_to_none=True)
        (
            distributed.count() * loss
        ).backward()  # each adds its own patches' part; then their mean is the whole
        loss = loss.detach()
        distributed.average([loss, *(weight.grad for weight in weights)])
        steepness = torch.nn.utils.clip_grad_norm_(weights, config.gradient_clip)
        if not (
            torch.isfinite(loss + steepness) & (loss <= SPIKE)
        ):  # one question: on a GPU each waits for the answer
            raise LungsegError(
                f"step {step}",
                f"loss {loss.item():.3g}, gradient {steepness.item():.3g} on {', '.join(names)}",
                "the last checkpoint is kept: lower the learning rate, or check these cases",
            )
        run.optimiser.step()
        update_mean(run.ema, run.model, min(config.ema_decay, (1 + step) / (10 + step)))
        losses.append(loss)
    distributed.average([*run.model.buffers(), *run.ema.buffers()])
    return {
        "epoch": run.epoch + 1,
        "learning_rate": learning_rate_at(step, config),
        "loss": float(torch.stack(losses).mean()),
    }


@torch.no_grad()
def freeze_norms(run: Run) -> None:
    """Let the batch norms of `run.model` work as in prediction: the statistics of a few patches are noisy."""
    for norm, mean in zip(run.model.modules(), run.ema.modules()):
        if isinstance(norm, torch.nn.BatchNorm3d):
            norm.eval()
            norm.running_mean.copy_(mean.running_mean)
            norm.running_var.copy_(mean.running_var)


@torch.no_grad()
def update_mean(ema: torch.nn.Module, model: torch.nn.Module, decay: float) -> None:
    """Move the running mean of weights and batch-norm statistics a little towards `model`."""
    pairs = list(zip(ema.state_dict().values(), model.state_dict().values()))
    moving = [pair for pair in pairs if pair[0].is_floating_point()]
    torch._foreach_lerp_(
        *map(list, zip(*moving)), 1 - decay
    )  # on a GPU one call instead of a hundred
    for mean, value in pairs:
        if not mean.is_floating_point():
            mean.copy_(value)


def _describe_row(row: dict, epochs: int, left_s: float) -> str:
    text = f"epoch {row['epoch']:3d} of {epochs}: loss {row['loss']:.3f}"
    if "validation_dice" in row:
        text += f", validation Dice {row['validation_dice']:.3f}, lesions found {row['validation_recall']:.0%}"
    return text + f", {left_s / 60:.1f} min left"


@contextlib.contextmanager
def stop_on_sigterm() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C while the block runs, where the main thread allows it."""

    def interrupt(_number, _frame):
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
