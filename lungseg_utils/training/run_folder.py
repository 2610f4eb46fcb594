"""The folder of a run: its state is written whole after every epoch."""

import contextlib
import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from lungseg_utils import __version__, checkpoint
from lungseg_utils.runtime import LungsegError, warn, writing
from lungseg_utils.training.record import (
    add_to_tensorboard,
    describe_environment,
    draw_history,
    write_json,
)
from lungseg_utils.training.run import Run
from lungseg_utils.training.watching import picture_age_s

FILES = [
    "config.json",
    "environment.json",
    "history.csv",
    "history.png",
    "last.pt",
    "previous.pt",
    "last.damaged.pt",
    "best.safetensors",
    "tensorboard",
]


@contextlib.contextmanager
def alone_in(run_dir: Path) -> Iterator[None]:
    """Keep other trainings out of `run_dir` while the block runs.

    Raises LungsegError, in every process, where another one is at work. The system frees the lock
    of a process that was killed. A disk that knows no locks is used without.
    """
    from filelock import FileLock, SoftFileLock, Timeout

    lock = FileLock(run_dir / ".lock")
    refusal = None
    if PartialState().is_main_process:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if not isinstance(lock, SoftFileLock):  # as on a disk without locks: a kill leaves it
                refusal = LungsegError(
                    run_dir,
                    "another training is at work in it",
                    "Wait for its end, or choose another run folder",
                )
        except (OSError, NotImplementedError):
            pass
    refusal = gather_object([refusal])[0]
    if refusal:
        raise refusal
    try:
        yield
    finally:
        lock.release()


def begin_folder(run: Run, run_dir: Path) -> None:
    """Move an earlier run aside, unless `run` continues it, and write what this one is made of."""
    run.accelerator.wait_for_everyone()  # nobody reads the folder any more
    if not run.accelerator.is_main_process:
        return
    if not run.history:
        set_aside(run_dir)
    write_json(run_dir / "config.json", run.settings)
    write_json(run_dir / "environment.json", describe_environment(run.device))


def set_aside(run_dir: Path) -> None:
    """Move an earlier run's files into a numbered folder."""
    earlier = [run_dir / name for name in FILES if (run_dir / name).exists()]
    if not any(path.suffix in (".pt", ".safetensors") for path in earlier):
        return  # stopped before its first epoch was whole
    suffixes = [path.name.removeprefix("earlier-") for path in run_dir.glob("earlier-*")]
    taken = [int(suffix) for suffix in suffixes if suffix.isdecimal()]
    folder = run_dir / f"earlier-{1 + max(taken, default=0)}"
    folder.mkdir()
    for path in earlier:
        os.replace(path, folder / path.name)
    warn(f"{run_dir}: an earlier run was moved to {folder.name}")


def epochs_done(run_dir: Path) -> int:
    """Return how many whole epochs the run in a folder has; 0 where there is none."""
    try:
        return len((run_dir / "history.csv").read_text(encoding="utf-8").splitlines()) - 1
    except OSError:
        return 0


def save(run: Run, run_dir: Path) -> None:
    """Write the run after an epoch, in the first process; the others wait for it."""
    if run.accelerator.is_main_process:
        _save_best(run, run_dir)
        _save_history(run.history, run_dir / "history.csv")
        is_last = run.epoch >= run.settings["epochs"]
        draw_history(run.history, run_dir / "history.png", 0 if is_last else picture_age_s())
        _save_state(run, run_dir)
        add_to_tensorboard(run.history[-1], run_dir)
    run.accelerator.wait_for_everyone()


def save_start(run: Run, run_dir: Path, row: dict) -> None:
    """Write the weights to start from, whose score is in `row`, as the best so far."""
    if "validation_dice" in row:
        run.best_dice = row["validation_dice"]
        if run.accelerator.is_main_process:
            checkpoint.save_weights(run_dir / "best.safetensors", run.ema, facts_of(run))


def _save_best(run: Run, run_dir: Path) -> None:
    """Write the running mean of the weights if its validation Dice is the best so far."""
    score = run.history[-1].get("validation_dice")
    if score is None and run.best_dice < 0:
        score = run.best_dice + 1e-9  # nothing to choose by: the latest
    if score is not None and score > run.best_dice:
        run.best_dice = score
        checkpoint.save_weights(run_dir / "best.safetensors", run.ema, facts_of(run))


def _save_history(history: list[dict], path: Path) -> None:
    columns = list(dict.fromkeys(name for row in history for name in row))
    with writing(path) as partial, open(partial, "w", newline="") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        table.writerows(history)


def _save_state(run: Run, run_dir: Path) -> None:
    """Write last.pt; the one before becomes previous.pt."""
    state = {
        "model": run.model.state_dict(),
        "ema": run.ema.state_dict(),
        "heads": run.heads.state_dict(),
        "optimiser": run.optimiser.state_dict(),
        "generator": run.generator.get_state(),
        "torch": torch.get_rng_state(),
        "history": run.history,
        "best_dice": run.best_dice,
        "settings": json.dumps(run.settings),
        "described": json.dumps({"network": run.model.config(), "facts": facts_of(run)}),
    }
    last = run_dir / "last.pt"
    with writing(last) as partial:
        torch.save(state, partial)
        if last.exists():
            os.replace(last, run_dir / "previous.pt")


def facts_of(run: Run) -> dict:
    """Return what the weights of `run` have to say of themselves."""
    return {
        "spacing_mm": run.settings["spacing_mm"],
        "epoch": run.epoch,
        "trained_with": __version__,
    } | run.settings.get("prediction", {})
