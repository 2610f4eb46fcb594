"""The part of `train.py` that times this project's loop.

It goes through `training.fit` alone, whose name is a contract, so that it can time other checkouts.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
import unittest.mock
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from torch.optim.optimizer import register_optimizer_step_post_hook

from lungseg_utils.preprocess import Prepared
from lungseg_utils.runtime import LungsegError
from lungseg_utils.training import TrainingConfig, fit

WARM_UP = 3  # steps that are not counted
# frozen_norm_share, or as an earlier checkout calls it
FROZEN = next(field.name for field in dataclasses.fields(TrainingConfig) if "norm" in field.name)


def time_fit(
    cases: Sequence[Prepared],
    options: argparse.Namespace,
    folder: Path,
    *,
    frozen: bool = False,
    same_batch: bool = False,
) -> list[float]:
    """Return the seconds of each step of a training in the run folder `folder`.

    With `frozen` the batch norms are frozen from the first step on. With `same_batch` the first
    batch serves for every step, so that what is left is the network's time.
    """
    config = TrainingConfig(
        epochs=1,
        steps_per_epoch=WARM_UP + options.steps + 1,
        batch_size=options.batch_size,
        patch_size=(options.patch,) * 3,
        channels=tuple(options.channels),
        validate_every=2,  # never
        **{FROZEN: float(frozen)},
    )
    moments: list[float] = []
    hook = register_optimizer_step_post_hook(lambda *_: moments.append(time.perf_counter()))
    drawing = draw_once() if same_batch else contextlib.nullcontext()
    try:
        with contextlib.redirect_stdout(sys.stderr), drawing:
            fit(cases, [], run_dir=folder, config=config, device=options.device)
    finally:
        hook.remove()
    assert len(moments) == config.steps_per_epoch, "a step is timed once"
    return np.diff(moments)[WARM_UP:].tolist()


@contextlib.contextmanager
def draw_once() -> Iterator[None]:
    """Let training draw its first batch only, and use that again and again."""
    modules = [
        module
        for name, module in sorted(sys.modules.items())
        if name.startswith("lungseg_utils.training") and hasattr(module, "draw_batch")
    ]
    assert modules, "training draws its batches under another name"
    with contextlib.ExitStack() as stack:
        for module in modules:
            first = remember_first(module.draw_batch)
            stack.enter_context(unittest.mock.patch.object(module, "draw_batch", first))
        yield


def remember_first(draw: Callable) -> Callable:
    """Return a function that calls `draw` once, and from then on returns what that returned."""
    kept: list = []

    def draw_or_keep(*arguments: object, **options: object) -> object:
        if not kept:
            kept.append(draw(*arguments, **options))
        return kept[0]

    return draw_or_keep


def time_in_processes(options: argparse.Namespace, count: int, frozen: bool) -> list[float]:
    """Time the loop in `count` processes, each with its share of the batch: the first's seconds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seconds.json"
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count)]
        same = [
            f"--steps={options.steps}",
            f"--patch={options.patch}",
            f"--batch-size={options.batch_size}",
            f"--device={options.device}",
            "--channels",
            *map(str, options.channels),
        ]
        if frozen:
            same.append("--frozen")
        script = str(Path(__file__).with_name("train.py"))
        ended = subprocess.run(
            [*launcher, script, "--one-of-several", str(path), *same],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        if ended.returncode:
            raise LungsegError("torchrun", f"failed: {ended.stderr.strip()[-2000:]}")
        return json.loads(path.read_text())


def time_share(cases: Sequence[Prepared], options: argparse.Namespace) -> None:
    """Time the loop as one of several processes; the first writes its seconds."""
    folder = options.one_of_several.parent / "run"
    seconds = time_fit(cases, options, folder, frozen=options.frozen)
    if os.environ["RANK"] == "0":
        options.one_of_several.write_text(json.dumps(seconds))
