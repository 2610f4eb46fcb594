"""The folder of a run: its state is written whole after every epoch, and nothing good is overwritten."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import platform
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from lungseg_utils import __version__, checkpoint
from lungseg_utils.preprocess import Prepared
from lungseg_utils.runtime import LungsegError, warn, writing
from lungseg_utils.segunet import SegUNet
from lungseg_utils.training import distributed
from lungseg_utils.training.config import TrainingConfig


@dataclass
class Run:
    """The moving state of a training run; all of it is in `last.pt`."""

    model: SegUNet
    ema: SegUNet
    heads: torch.nn.ModuleList  # of deep supervision; none without it
    optimiser: torch.optim.Optimizer
    generator: torch.Generator
    settings: dict  # what must not change on resume
    history: list[dict] = field(default_factory=list)
    best_dice: float = -1.0

    @property
    def epoch(self) -> int:
        return len(self.history)


@contextlib.contextmanager
def alone_in(run_dir: Path) -> Iterator[None]:
    """Keep other trainings out of `run_dir` while the block runs; raise, in every process, where one is at work.

    The system frees the lock of a process that was killed. A disk that knows no locks is used without.
    """
    from filelock import FileLock, SoftFileLock, Timeout  # a dependency of torch

    lock, refusal = FileLock(run_dir / ".lock"), None
    if distributed.rank() == 0:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if not isinstance(
                lock, SoftFileLock
            ):  # as on a disk without locks: a kill leaves it there
                refusal = LungsegError(
                    run_dir,
                    "another training is at work in it",
                    "wait for its end, or choose another run folder",
                )
        except (OSError, NotImplementedError):
            pass
    refusal = distributed.gather([refusal])[0]
    if refusal:
        raise refusal
    try:
        yield
    finally:
        lock.release()


def describe_cases(training: Sequence[Prepared], validation: Sequence[Prepared]) -> dict:
    """Give what a run depends on in its cases: their names and a checksum of each one's voxels."""
    return {
        "training_cases": [case.name for case in training],
        "validation_cases": [case.name for case in validation],
        "contents": [_checksum(case) for case in (*training, *validation)],
    }


def _checksum(case: Prepared) -> str:
    number = zlib.crc32(repr((case.hu.shape, case.spacing_mm)).encode())
    for array in (case.hu, case.label):
        number = zlib.crc32(b"" if array is None else np.ascontiguousarray(array), number)
    return f"{number:08x}"


def save(run: Run, run_dir: Path) -> None:
    """Write the run after an epoch: best weights if they are, then history, then the state."""
    score = run.history[-1].get("validation_dice")
    if score is None and not any("validation_dice" in row for row in run.history):
        score = run.best_dice + 1e-9  # nothing to choose by: the latest
    if score is not None and score > run.best_dice:
        run.best_dice = score
        checkpoint.save_weights(run_dir / "best.safetensors", run.ema, _facts(run))
    with writing(run_dir / "history.csv") as partial, open(partial, "w", newline="") as file:
        table = csv.DictWriter(file, list({name: 0 for row in run.history for name in row}))
        table.writeheader()
        table.writerows(run.history)
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
        "described": json.dumps({"network": run.model.config(), "facts": _facts(run)}),
    }
    last = run_dir / "last.pt"
    with writing(last) as partial:
        torch.save(state, partial)
        if last.exists():
            os.replace(last, run_dir / "previous.pt")


def _facts(run: Run) -> dict:
    return {
        "spacing_mm": run.settings["spacing_mm"],
        "epoch": run.epoch,
        "trained_with": __version__,
    }


def restore(run: Run, run_dir: Path) -> None:
    """Bring `run` to where the folder's last whole epoch left it; fall back to the epoch before, and say so.

    A damaged last.pt is then renamed: the next one would move it over the only good state. Best weights that are
    missing or damaged are replaced.
    Raises LungsegError when the settings differ in anything but the number of epochs (and in that too where the
    schedule depends on it) or a case has other voxels now, or when both states are damaged.
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
    try:
        earlier, wanted = json.loads(state["settings"]), json.loads(json.dumps(run.settings))
        differences = _differences(earlier, wanted)
        if differences:
            raise LungsegError(
                path,
                f"the run was made with other settings: {'; '.join(differences)}",
                "resume with the same ones or choose another run folder",
            )
        checkpoint.fill(run.model, state["model"], path)
        checkpoint.fill(run.ema, state["ema"], path)
        checkpoint.fill(run.heads, state.get("heads", {}), path)
        run.optimiser.load_state_dict(state["optimiser"])
        run.generator.set_state(state["generator"])
        torch.set_rng_state(state["torch"])
        run.history[:] = state["history"]
        run.best_dice = float(state["best_dice"])
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise LungsegError(
            path, "not the state of a training run", "choose another run folder"
        ) from error
    if distributed.rank() == 0:
        if path != candidates[0]:
            os.replace(candidates[0], run_dir / "last.damaged.pt")
            warn(f"{candidates[0]}: kept as last.damaged.pt")
        _mend_best(run, run_dir)


def _mend_best(run: Run, run_dir: Path) -> None:
    """Write the present running mean for best weights that cannot be read; any later epoch that is better follows."""
    best = run_dir / "best.safetensors"
    try:
        checkpoint.load_weights(best)
    except LungsegError as error:
        warn(
            f"{best}: {error.cause}: replaced by the weights of epoch {run.epoch}, which may be worse"
        )
        run.best_dice = run.history[-1].get("validation_dice", -1.0)
        checkpoint.save_weights(best, run.ema, _facts(run))


def _differences(earlier: dict, wanted: dict) -> list[str]:
    """Say in what a run to be resumed differs; what its version did not know yet had the default."""
    earlier = (
        json.loads(json.dumps(asdict(TrainingConfig())))
        | {"processes": 1, "started_from": None}
        | earlier
    )
    prolonged = (
        wanted["schedule"] == "constant" and not wanted["frozen_norm_share"]
    )  # nothing depends on the last epoch
    free = {"contents"} | ({"epochs"} if prolonged else set())
    differences = [
        f"{name} was {earlier.get(name)} and is now {value}"
        for name, value in wanted.items()
        if name not in free and earlier.get(name) != value
    ]
    names = wanted["training_cases"] + wanted["validation_cases"]
    changed = [
        name
        for name, before, now in zip(names, earlier.get("contents", ()), wanted["contents"])
        if before != now
    ]
    if changed and not differences:
        differences.append(f"the scan or label of {', '.join(changed)} is another one now")
    return differences


def add_to_tensorboard(row: dict, run_dir: Path) -> None:
    """Write an epoch's row for TensorBoard, where that is installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return
    with SummaryWriter(run_dir / "tensorboard") as writer:
        for name, value in row.items():
            writer.add_scalar(name, value, row["epoch"])


def set_aside(run_dir: Path) -> None:
    """Move an earlier run's files into a numbered folder: nothing good is overwritten."""
    names = [
        "config.json",
        "environment.json",
        "history.csv",
        "last.pt",
        "previous.pt",
        "last.damaged.pt",
        "best.safetensors",
        "tensorboard",
    ]
    earlier = [run_dir / name for name in names if (run_dir / name).exists()]
    if not any(path.suffix in (".pt", ".safetensors") for path in earlier):
        return  # stopped before its first epoch was whole
    number = 1 + max(
        (int(p.name.split("-")[1]) for p in run_dir.glob("earlier-*") if p.name[8:].isdigit()),
        default=0,
    )
    folder = run_dir / f"earlier-{number}"
    folder.mkdir()
    for path in earlier:
        os.replace(path, folder / path.name)
    warn(f"{run_dir}: an earlier run was moved to {folder.name}")


def describe_environment(device: torch.device) -> dict:
    """Give the versions and the machine that a run depends on; no names, no paths."""
    return {
        "lungseg_utils": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
    }


def write_json(path: Path, content: dict) -> None:
    with writing(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n")
