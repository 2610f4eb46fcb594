"""Run jobs in forked children, kill -9 each at a random moment, and let the next run finish it.

    python tests/helpers_kills.py FOLDER KILLS

FOLDER/JOB/undisturbed holds the result of a run that nobody disturbed, FOLDER/JOB/0, FOLDER/JOB/1 …
those of runs that were killed and finished by another, FOLDER/JOB/race that of two at once;
`kills.json` has the moments. Imports are made once.
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


def make_inputs(folder: Path, count: int = INPUTS) -> list[Case]:
    """Write `count` scans with a ball in them, their labels, and the weights of a network."""
    cases = []
    for number in range(count):
        hu = np.random.default_rng(number).integers(-900, 200, (30, 34, 38)).astype(np.int16)
        affine = make_scan(hu).affine
        image = folder / "images" / f"scan_{number}.nii.gz"
        label = folder / "labels" / f"scan_{number}.nii.gz"
        volume.write_nifti(image, hu, affine)
        volume.write_nifti(label, ball(hu.shape, (15, 17, 19), 5).astype(np.uint8), affine)
        cases.append(Case(f"scan_{number}", image, label))
    torch.manual_seed(0)
    weights = folder / "weights.safetensors"
    checkpoint.save_weights(weights, SegUNet(channels=(2, 4)), {"spacing_mm": 6.0})
    return cases


def do(job: str, inputs: Path, cases: list[Case], out: Path) -> None:
    """Do the job and leave its result in `out`; what an earlier run left there must be whole."""
    require_all_whole(out)
    if job == "caching":
        cache.prepare_cases(cases, folder=out)
    elif job == "training":
        prepared = [make_prepared(seed) for seed in range(3)]
        fit(prepared[:2], prepared[2:], run_dir=out, config=SHORT, device="cpu", resume=True)
    else:
        options = {"checkpoint": inputs / "weights.safetensors", "device": "cpu", "skip_done": True}
        report = out / "report.jsonl"
        list(predict_files([inputs / "images"], out, probabilities=True, report=report, **options))


def require_all_whole(out: Path) -> None:
    """Fail where a file with a final name is not whole."""
    for path in out.rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            require_whole(path)


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
    elif path.suffix == ".json":
        assert json.loads(path.read_text())
    elif path.suffix == ".jsonl":
        assert [json.loads(line) for line in path.read_text().splitlines()]


def start(*arguments) -> int:
    """Begin a job in a child; return its process number."""
    child = os.fork()
    if not child:
        code = 1
        try:
            do(*arguments)
            code = 0
        finally:
            os._exit(code)
    return child


def kill_and_finish(
    job: str, inputs: Path, cases: list[Case], folder: Path, kills: int
) -> dict[str, float | list[float]]:
    """Do a job undisturbed, then `kills` times with a kill -9 in it and a second run after.

    Returns how long the undisturbed run took and the moments of the kills, in seconds.
    """
    for name in ("warm-up", "undisturbed"):  # the first fills the disk's cache
        (folder / name).mkdir(parents=True)
        started = time.monotonic()
        assert wait(start(job, inputs, cases, folder / name)) == 0, f"{job}: undisturbed, it failed"
        undisturbed_s = time.monotonic() - started
    latest_s = undisturbed_s
    killed_at_s: list[float] = []
    rng = random.Random(job)
    while len(killed_at_s) < kills:
        out = folder / str(len(killed_at_s))
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        moment = rng.uniform(0, latest_s)
        child = start(job, inputs, cases, out)
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
        status = wait(child)
        if status == 0:  # over before the kill: again, sooner
            latest_s = moment
            continue
        assert status == signal.SIGKILL, f"{job}: it failed by itself, before {moment:.3f} s"
        killed_at_s.append(round(moment, 3))
        finished = wait(start(job, inputs, cases, out)) == 0
        assert finished, f"{job}: the run after a kill at {moment:.3f} s failed"
    return {"undisturbed_s": round(undisturbed_s, 3), "killed_at_s": killed_at_s}


def wait(child: int) -> int:
    """Wait for the end of a child; return its status, 0 for a success."""
    return os.waitpid(child, 0)[1]


def main(folder: Path, kills: int) -> None:
    """Let two runs of a job race, then kill runs of each job."""
    torch.set_num_threads(1)  # and no computation before the forks: they inherit no pool of threads
    cases = make_inputs(folder / "inputs")
    for job in ("caching", "prediction"):
        (folder / job / "race").mkdir(parents=True)
        both = [start(job, folder / "inputs", cases, folder / job / "race") for _ in range(2)]
        assert [wait(child) for child in both] == [0, 0], f"{job}: two at once"
    times = {
        job: kill_and_finish(job, folder / "inputs", cases, folder / job, kills) for job in JOBS
    }
    (folder / "kills.json").write_text(json.dumps(times))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
