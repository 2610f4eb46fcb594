"""Run jobs again and again in forked children, kill -9 each at a random moment, and let the next run end it.

    python tests/helpers_kills.py FOLDER KILLS

FOLDER/JOB/undisturbed gets the result of a run that nobody disturbed, FOLDER/JOB/0, FOLDER/JOB/1 … those of runs that
were killed and ended by another, FOLDER/JOB/race that of two at once; `kills.json` says when. Imports are made once.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import cc3d  # noqa: F401
import monai.losses  # noqa: F401
import numpy as np
import torch
import torch._dynamo
from helpers_cases import TINY, ball, make_prepared, make_scan

import lungseg_utils.evaluation  # noqa: F401
from lungseg_utils import checkpoint, volume
from lungseg_utils.decathlon import Case
from lungseg_utils.prediction import predict_files
from lungseg_utils.preprocess import cache
from lungseg_utils.segunet import SegUNet
from lungseg_utils.training import fit

JOBS = ("caching", "training", "prediction")
INPUTS = 3
SHORT = dataclasses.replace(TINY, epochs=3)


def make_inputs(folder: Path) -> list[Case]:
    """Write some scans with a ball in them, their labels, and the weights of a network."""
    cases = []
    for number in range(INPUTS):
        scan = make_scan(
            np.random.default_rng(number).integers(-900, 200, (30, 34, 38)).astype(np.int16)
        )
        image, label = (
            folder / "images" / f"scan_{number}.nii.gz",
            folder / "labels" / f"scan_{number}.nii.gz",
        )
        volume.write_nifti(image, scan.hu, scan.affine)
        volume.write_nifti(
            label, ball(scan.hu.shape, (15, 17, 19), 5).astype(np.uint8), scan.affine
        )
        cases.append(Case(f"scan_{number}", image, label))
    torch.manual_seed(0)
    checkpoint.save_weights(
        folder / "weights.safetensors", SegUNet(channels=(2, 4)), {"spacing_mm": 6.0}
    )
    return cases


def do(job: str, inputs: Path, cases: list[Case], out: Path) -> None:
    """Do the job, leaving its result in `out`; first look at what an earlier run has left under final names."""
    for path in out.rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            require_whole(path)
    if job == "caching":
        cache.prepare_cases(cases, folder=out)
    elif job == "training":
        prepared = [make_prepared(seed) for seed in range(3)]
        fit(prepared[:2], prepared[2:], run_dir=out, config=SHORT, device="cpu", resume=True)
    else:
        for _row in predict_files(
            [inputs / "images"],
            out,
            checkpoint=inputs / "weights.safetensors",
            device="cpu",
            probabilities=True,
            report=out / "report.jsonl",
        ):
            pass


def require_whole(path: Path) -> None:
    """Fail where a file with a final name is not whole."""
    if path.name.endswith("_probability.nii.gz"):
        volume.read_header(path)
    elif path.name.endswith(".nii.gz"):
        volume.read_label(path)
    elif path.name == "best.safetensors":
        checkpoint.load_weights(path)
    elif path.suffix == ".safetensors":
        assert cache.load(path) is not None, path
    elif path.suffix == ".pt":
        checkpoint.load_state(path)
    elif path.suffix in (".json", ".jsonl"):
        assert (
            [json.loads(line) for line in path.read_text().splitlines()]
            if path.suffix == ".jsonl"
            else json.loads(path.read_text())
        )


def start(*arguments) -> int:
    child = os.fork()
    if not child:
        code = 1
        try:
            do(*arguments)
            code = 0
        finally:
            os._exit(code)
    return child


def kill_and_end(job: str, inputs: Path, cases: list[Case], folder: Path, kills: int) -> dict:
    """Do a job undisturbed, then `kills` times with a kill -9 in it and a second run after; give the times."""
    for name in (
        "warm-up",
        "undisturbed",
    ):  # the first run fills the disk's cache, the second is timed
        (folder / name).mkdir(parents=True)
        started = time.monotonic()
        assert wait(start(job, inputs, cases, folder / name)) == 0, (
            f"{job}: the undisturbed run failed"
        )
        took_s = time.monotonic() - started
    undisturbed_s, killed_at_s, moments = took_s, [], random.Random(job)
    for _try in range(20 + 5 * kills):
        if len(killed_at_s) == kills:
            break
        out = folder / str(len(killed_at_s))
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        moment = moments.uniform(0, took_s)
        started, child = time.monotonic(), start(job, inputs, cases, out)
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
        if wait(child) == 0:  # over before the kill: again, sooner
            took_s = min(took_s, time.monotonic() - started)
            continue
        killed_at_s.append(round(moment, 3))
        assert wait(start(job, inputs, cases, out)) == 0, (
            f"{job}: the run after a kill at {moment:.3f} s failed"
        )
    return {"undisturbed_s": round(undisturbed_s, 3), "killed_at_s": killed_at_s}


def wait(child: int) -> int:
    return os.waitpid(child, 0)[1]


def main(folder: Path, kills: int) -> None:
    torch.set_num_threads(1)  # and no computation before the forks: they inherit no pool of threads
    cases = make_inputs(folder / "inputs")
    for job in ("caching", "prediction"):
        (folder / job / "race").mkdir(parents=True)
        both = [start(job, folder / "inputs", cases, folder / job / "race") for _ in range(2)]
        assert [wait(child) for child in both] == [0, 0], f"{job}: two at once"
    times = {job: kill_and_end(job, folder / "inputs", cases, folder / job, kills) for job in JOBS}
    (folder / "kills.json").write_text(json.dumps(times))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
