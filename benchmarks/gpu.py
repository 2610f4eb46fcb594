"""Check on a GPU what a CPU cannot: bfloat16, torch.compile and repeatability.

    python benchmarks/gpu.py [--cases 4] [--tier medium] [--recipe params/gpu.yaml] [--steps 40]
        [--output benchmarks/results/gpu] [--device auto]

Prediction: masks of the shipped weights in bfloat16 against those in float32, on synthetic chests.
Training: steps of `--recipe` from one seed, on noise, in both precisions, compiled or not, and each
of them twice: whether the loss and the weights come out the same again, bit for bit; also with
PyTorch's deterministic algorithms, whose warnings name those that do not exist. Without a GPU
everything runs on the CPU, where nothing is compiled. Writes OUTPUT.json and OUTPUT.md.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import time
import unittest.mock
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from memory import noise_case, read_config
from processes import describe_machine
from report import RESULTS, make_parser, markdown_table, write_results

from lungseg_utils import phantom
from lungseg_utils.evaluation import dice
from lungseg_utils.prediction import Predictor
from lungseg_utils.runtime import pick_device
from lungseg_utils.training import TrainingConfig, make_loss, run, start_run, train_one_epoch

FIRST_SEED = 7000  # of chests that no training has seen
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS's, for deterministic sums


def compare_masks(options: argparse.Namespace) -> list[dict]:
    """Predict each chest in both precisions; return a row a chest."""
    predictors = {
        name: Predictor(device=options.device, precision=precision)
        for name, precision in PRECISIONS.items()
    }
    rows = []
    for seed in range(FIRST_SEED, FIRST_SEED + options.cases):
        scan, truth = phantom.make_case(seed, tier=options.tier)
        row: dict = {"seed": seed}
        masks = {}
        for name, predictor in predictors.items():
            predictor.segment(scan)  # a first time, which chooses algorithms
            started = time.perf_counter()
            masks[name] = predictor.segment(scan).mask
            row[f"seconds in {name}"] = round(time.perf_counter() - started, 3)
            row[f"Dice in {name}"] = round(dice(truth, masks[name]), 4)
        row["Dice between them"] = round(dice(*masks.values()), 4)
        row["voxels that differ"] = int(np.count_nonzero(np.not_equal(*masks.values())))
        rows.append(row)
    return rows


@contextlib.contextmanager
def in_precision(name: str) -> Iterator[None]:
    """Let training compute in the precision called `name` while the block runs."""
    with unittest.mock.patch.object(run, "pick_precision", lambda _: PRECISIONS[name]):
        yield


def take_steps(config: TrainingConfig, device: str) -> tuple[dict, int]:
    """Train an epoch that is not timed, and one that is; return its row, and a sum of the weights.

    The seconds of the first hold what torch.compile takes.
    """
    began = start_run(config, device)
    case = noise_case(config, began.device)
    loss_function = make_loss(config.loss)
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        loss = train_one_epoch(began, [case], loss_function, config)["loss"]
        seconds.append(time.perf_counter() - started)
    weights = began.model.state_dict().values()
    total = zlib.crc32(b"".join(weight.cpu().numpy().tobytes() for weight in weights))
    step = round(seconds[1] / config.steps_per_epoch, 4)
    first = round(seconds[0], 1)
    return {"seconds a step": step, "seconds of the first epoch": first, "loss": loss}, total


@contextlib.contextmanager
def deterministic() -> Iterator[list[warnings.WarningMessage]]:
    """Ask for deterministic algorithms while the block runs; yield warnings of those missing."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield caught
        finally:
            torch.use_deterministic_algorithms(False)


def train_twice(
    name: str, precision: str, config: TrainingConfig, device: str, *, strict: bool = False
) -> dict:
    """Train the same twice; return the second's row, and whether both came out the same."""
    with in_precision(precision), deterministic() if strict else contextlib.nullcontext([]) as said:
        torch._dynamo.reset()
        _, first = take_steps(config, device)
        row, second = take_steps(config, device)
    missing = {str(one.message).split(" does not")[0] for one in said if "determini" in str(one)}
    print(f"{name}, {precision}: {row}", flush=True)
    return {
        "training": name,
        "precision": precision,
        **row,
        "the same twice": first == second,
        "without deterministic algorithm": ", ".join(sorted(missing)),
    }


def trainings(options: argparse.Namespace) -> list[dict]:
    """Train in both precisions, compiled and with deterministic algorithms."""
    base = read_config(options.recipe, steps_per_epoch=options.steps, epochs=2)
    config = dataclasses.replace(base, frozen_norm_share=0, hard_example_share=0, warmup_steps=1)
    compiled = dataclasses.replace(config, compile=True)
    device = options.device
    return [
        *(train_twice("as it is", precision, config, device) for precision in PRECISIONS),
        train_twice("compiled", "bfloat16", compiled, device),
        train_twice("deterministic algorithms", "bfloat16", config, device, strict=True),
    ]


def table(rows: Sequence[dict]) -> str:
    """Return `rows` as a table."""
    return markdown_table(list(rows[0]), [list(row.values()) for row in rows])


def read_options() -> argparse.Namespace:
    """Read the arguments."""
    parser = make_parser(__doc__)
    parser.add_argument("--cases", type=int, default=4)
    parser.add_argument("--tier", default="medium")
    parser.add_argument("--recipe", default="params/gpu.yaml")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, default=RESULTS / "gpu")
    return parser.parse_args()


def main() -> None:
    """Compare masks and trainings, write tables."""
    options = read_options()
    options.device = pick_device(options.device).type
    found = {"machine": describe_machine(options.device), "masks": compare_masks(options)}
    print(table(found["masks"]), flush=True)
    found["trainings"] = trainings(options)
    text = (
        "# Precision, compilation, repeatability\n\n"
        f"{found['machine']}; {options.recipe}, {options.steps} steps.\n\n"
        f"{table(found['masks'])}\n\n{table(found['trainings'])}\n"
    )
    write_results(options.output, found, text)


if __name__ == "__main__":
    main()
