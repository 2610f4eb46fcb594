"""Training: Dice + cross-entropy, a plain loop, and a run folder that survives anything but losing the disk."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import math
import os
import platform
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lungseg_utils import __version__, checkpoint
from lungseg_utils.patches import Augmentation, Source, draw_batch, make_source
from lungseg_utils.prediction import Predictor, drop_small
from lungseg_utils.preprocess import Prepared, normalise
from lungseg_utils.runtime import (
    LungsegError,
    pick_device,
    pick_precision,
    require_writable,
    seed_everything,
    warn,
    writing,
)
from lungseg_utils.segunet import SegUNet

SPIKE = 20.0  # Dice + cross-entropy starts near 1.5; a loss beyond this means that the weights have blown up


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides how a run turns out; written to config.json and compared on resume."""

    epochs: int = 15
    steps_per_epoch: int = 20
    batch_size: int = 2
    patch_size: tuple[int, int, int] = (64, 64, 64)
    spacing_mm: float = 3.0
    learning_rate: float = 3e-3
    schedule: str = "constant"  # after the warm-up; "cosine" falls to zero at the last epoch
    warmup_steps: int = 20
    weight_decay: float = 1e-2
    gradient_clip: float = 5.0
    foreground: float = 0.67  # share of patches that are centred in a lesion
    ema_decay: float = 0.98  # the weights that are used are a running mean of those that are trained
    validate_every: int = 1  # epochs
    channels: tuple[int, ...] = (16, 32, 64, 128)
    upsample: str = "unpool"
    skip: str = "concat"
    augment: bool = True
    seed: int = 0


@dataclass
class Run:
    """The moving state of a training run; all of it is in `last.pt`."""

    model: SegUNet
    ema: SegUNet
    optimiser: torch.optim.Optimizer
    generator: torch.Generator
    history: list[dict]
    best_dice: float = -1.0

    @property
    def epoch(self) -> int:
        return len(self.history)


def make_loss():
    """Give Dice + binary cross-entropy on logits, the Dice taken over the whole batch (MONAI's DiceCELoss)."""
    from monai.losses import DiceCELoss

    return DiceCELoss(sigmoid=True, batch=True)


def fit(
    training: Sequence[Prepared],
    validation: Sequence[Prepared],
    *,
    run_dir: str | Path,
    config: TrainingConfig = TrainingConfig(),
    device: str = "auto",
    resume: bool = False,
    model: SegUNet | None = None,
) -> list[dict]:
    """Train a SegUNet and give its history, a row an epoch; leave everything in `run_dir`.

    config.json, environment.json, history.csv, last.pt (the state after the last whole epoch) and
    best.safetensors (the running mean of the weights at the best validation Dice). With `resume` a run goes on
    as if it had never stopped: on a CPU bit for bit. Without it an earlier run in the folder is moved aside.
    """
    run_dir = require_writable(run_dir)
    if not training:
        raise LungsegError(run_dir, "there is no case to train on", "give a dataset with labelled cases")
    chosen = pick_device(device)
    run = start_run(config, chosen, model)
    if resume:
        restore(run, config, run_dir)
    else:
        set_aside(run_dir)
    if run.epoch >= config.epochs:
        return run.history
    _write_json(run_dir / "config.json", dataclasses.asdict(config))
    _write_json(run_dir / "environment.json", describe_environment(chosen))
    sources = [make_source(case, chosen) for case in training]
    loss_function = make_loss()
    started, first = time.perf_counter(), run.epoch
    with stop_on_sigterm():
        try:
            while run.epoch < config.epochs:
                row = train_one_epoch(run, sources, loss_function, config)
                if row["epoch"] % config.validate_every == 0:
                    row |= validate(run.ema, validation, config)
                run.history.append(row)
                save(run, config, run_dir)
                left = (time.perf_counter() - started) / (run.epoch - first) * (config.epochs - run.epoch)
                print(_describe_row(row, config.epochs, left), flush=True)
        except KeyboardInterrupt:
            warn(f"{run_dir}: stopped; {run.epoch} whole epochs are kept, resume goes on from there")
            raise
    return run.history


def start_run(config: TrainingConfig, device: torch.device, model: SegUNet | None = None) -> Run:
    """Build network, running mean, optimiser and random generator for `config`."""
    seed_everything(config.seed)
    if model is None:
        model = SegUNet(channels=config.channels, upsample=config.upsample, skip=config.skip)
        # Tumours fill about a hundredth of a patch: starting from there saves the first epoch.
        torch.nn.init.constant_(model.head.bias, -math.log(99))
    model = model.to(device, memory_format=torch.channels_last_3d)
    ema = SegUNet(**model.config()).to(device) if isinstance(model, SegUNet) else _copy_of(model)
    ema.load_state_dict(model.state_dict())
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    generator = torch.Generator().manual_seed(config.seed)
    return Run(model, ema.eval(), optimiser, generator, [])


def _copy_of(model):
    import copy

    return copy.deepcopy(model)


def train_one_epoch(run: Run, sources: Sequence[Source], loss_function, config: TrainingConfig) -> dict:
    """Make `steps_per_epoch` steps; give the epoch's row of the history."""
    device = next(run.model.parameters()).device
    precision = pick_precision(device)
    augmentation = Augmentation() if config.augment else Augmentation(0, 0, 0, 0, 0, 0, 0, 0)
    run.model.train()
    losses = []
    for within in range(config.steps_per_epoch):
        step = run.epoch * config.steps_per_epoch + within
        hu, label, names = draw_batch(
            sources, batch_size=config.batch_size, patch_size=config.patch_size, generator=run.generator,
            foreground=config.foreground, augmentation=augmentation,
        )
        image = normalise(hu).contiguous(memory_format=torch.channels_last_3d)  # (B, 1, d, h, w)
        for group in run.optimiser.param_groups:
            group["lr"] = learning_rate_at(step, config)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
            logits = run.model(image)
        loss = loss_function(logits.float(), label.float())
        if not torch.isfinite(loss) or loss > SPIKE:
            raise LungsegError(f"step {step}", f"the loss is {loss.item():.3g} on {', '.join(names)}",
                               "the last checkpoint is kept: lower the learning rate, or check these cases")
        run.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(run.model.parameters(), config.gradient_clip)
        run.optimiser.step()
        update_mean(run.ema, run.model, min(config.ema_decay, (1 + step) / (10 + step)))
        losses.append(loss.detach())
    return {"epoch": run.epoch + 1, "learning_rate": learning_rate_at(step, config),
            "loss": float(torch.stack(losses).mean())}


@torch.no_grad()
def update_mean(ema: torch.nn.Module, model: torch.nn.Module, decay: float) -> None:
    """Move the running mean of weights and batch-norm statistics a little towards `model`."""
    for mean, value in zip(ema.state_dict().values(), model.state_dict().values()):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


def learning_rate_at(step: int, config: TrainingConfig) -> float:
    """Give the learning rate of `step`: a linear warm-up, then constant or a half cosine to zero."""
    rate = config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.schedule == "cosine":
        rate *= 0.5 * (1 + math.cos(math.pi * step / (config.epochs * config.steps_per_epoch)))
    return rate


def validate(model: SegUNet, cases: Sequence[Prepared], config: TrainingConfig) -> dict:
    """Give the mean Dice per case, the share of lesions found and false positives a scan, on whole lung boxes.

    The whole path of prediction on the working grid, not a "pseudo-Dice" over patches, which flatters.
    """
    from lungseg_utils.evaluation import dice, lesion_detection

    if not cases:
        return {}
    predictor = Predictor(model=model, facts={"spacing_mm": config.spacing_mm}, device=str(next(model.parameters()).device))
    scores, found, true, false = [], 0, 0, 0
    for case in cases:
        mask = (predictor.probabilities(case) >= 0.5).to(torch.uint8).cpu().numpy()
        drop_small(mask, case.spacing_mm)
        scores.append(dice(case.label, mask))
        lesions = lesion_detection(np.array(case.label), mask, case.spacing_mm)
        found, true = found + int(lesions.found.sum()), true + len(lesions.found)
        false += lesions.false_positives
    return {"validation_dice": float(np.mean(scores)), "validation_recall": found / true if true else float("nan"),
            "validation_false_positives": false / len(cases)}


# --- the run folder --------------------------------------------------------------------------------------------


def save(run: Run, config: TrainingConfig, run_dir: Path) -> None:
    """Write the run after an epoch: best weights if they are, then history, then the state."""
    facts = {"spacing_mm": config.spacing_mm, "epoch": run.epoch, "trained_with": __version__}
    score = run.history[-1].get("validation_dice")
    if score is None and not any("validation_dice" in row for row in run.history):
        score = run.best_dice + 1e-9  # nothing to choose by: the latest
    if score is not None and score > run.best_dice:
        run.best_dice = score
        checkpoint.save_weights(run_dir / "best.safetensors", run.ema, facts)
    with writing(run_dir / "history.csv") as partial, open(partial, "w", newline="") as file:
        table = csv.DictWriter(file, list({name: 0 for row in run.history for name in row}))
        table.writeheader()
        table.writerows(run.history)
    state = {
        "model": run.model.state_dict(), "ema": run.ema.state_dict(), "optimiser": run.optimiser.state_dict(),
        "generator": run.generator.get_state(), "torch": torch.get_rng_state(), "history": run.history,
        "best_dice": run.best_dice, "config": json.dumps(dataclasses.asdict(config)),
        "described": json.dumps({"network": run.model.config(), "facts": facts}),
    }
    last = run_dir / "last.pt"
    with writing(last) as partial:
        torch.save(state, partial)
        if last.exists():
            os.replace(last, run_dir / "previous.pt")


def restore(run: Run, config: TrainingConfig, run_dir: Path) -> None:
    """Bring `run` to where the folder's last whole epoch left it; fall back to the epoch before, and say so.

    Raises LungsegError when the settings differ in anything but the number of epochs, or when both are damaged.
    """
    candidates = [path for path in (run_dir / "last.pt", run_dir / "previous.pt") if path.exists()]
    if not candidates:
        warn(f"{run_dir}: no earlier run to resume; starting anew")
        return
    for path in candidates:
        try:
            state = checkpoint.load_state(path)
            break
        except LungsegError as error:
            if path == candidates[-1]:
                raise
            warn(f"{error} Falling back to {candidates[-1].name}.")
    earlier, wanted = json.loads(state["config"]), json.loads(json.dumps(dataclasses.asdict(config)))
    free = {"epochs"} if config.schedule == "constant" else set()
    differences = [f"{name} was {earlier.get(name)} and is now {wanted[name]}"
                   for name in wanted if name not in free and earlier.get(name) != wanted[name]]
    if differences:
        raise LungsegError(path, f"the run was made with other settings: {'; '.join(differences)}",
                           "resume with the same ones or choose another run folder")
    checkpoint.fill(run.model, state["model"], path)
    checkpoint.fill(run.ema, state["ema"], path)
    run.optimiser.load_state_dict(state["optimiser"])
    run.generator.set_state(state["generator"])
    torch.set_rng_state(state["torch"])
    run.history[:] = state["history"]
    run.best_dice = state["best_dice"]


def set_aside(run_dir: Path) -> None:
    """Move an earlier run's files into a numbered folder: nothing good is overwritten."""
    names = ["config.json", "environment.json", "history.csv", "last.pt", "previous.pt", "best.safetensors"]
    earlier = [run_dir / name for name in names if (run_dir / name).exists()]
    if not (run_dir / "last.pt").exists() and not (run_dir / "best.safetensors").exists():
        return
    number = 1 + max((int(p.name.split("-")[1]) for p in run_dir.glob("earlier-*") if p.name[8:].isdigit()), default=0)
    folder = run_dir / f"earlier-{number}"
    folder.mkdir()
    for path in earlier:
        os.replace(path, folder / path.name)
    warn(f"{run_dir}: an earlier run was moved to {folder.name}")


def describe_environment(device: torch.device) -> dict:
    """Give the versions and the machine that a run depends on; no names, no paths."""
    return {
        "lungseg_utils": __version__, "torch": torch.__version__, "python": platform.python_version(),
        "system": platform.system(), "processor": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
    }


def _write_json(path: Path, content: dict) -> None:
    with writing(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n")


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
