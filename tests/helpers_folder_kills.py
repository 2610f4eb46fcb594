"""Predict a folder again and again, the process group killed each time but the last.

    python tests/helpers_folder_kills.py FOLDER KILLS

FOLDER/undisturbed holds the masks of a run that nobody disturbed, FOLDER/killed those of the runs
that were killed and of the last, which was not. Moments are numbers of files opened, renamed or
removed, so that they lie all over the work on any machine. `kills.json` has them, and which scans
were done by each: the inode and the time of their masks.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from helpers_kills import make_inputs, require_all_whole, wait

from lungseg_utils.prediction import predict_files
from lungseg_utils.prediction.manifest import states

SCANS = 24
EVENTS = ("open", "os.rename", "os.remove", "os.mkdir")
NEVER = -1


def predict(inputs: Path, out: Path, scans: str = "images") -> None:
    """Predict what is not done yet, with a report at the end."""
    options = {"checkpoint": inputs / "weights.safetensors", "device": "cpu", "skip_done": True}
    list(predict_files([inputs / scans], out, report=out / "report.jsonl", **options))


def start(folder: Path, out: Path, moment: int, delay_s: float = 0) -> int:
    """Begin a run in a process group of its own, which is killed at an event and a little later.

    A run that ends writes the number of its events to FOLDER/events.
    """
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setsid()
        require_all_whole(out)
        events = itertools.count(1)
        last = 0

        def count(event: str, _: tuple) -> None:
            nonlocal last
            if event in EVENTS:
                last = next(events)
                if last == moment:
                    time.sleep(delay_s)  # the other threads go on meanwhile
                    os.killpg(0, signal.SIGKILL)

        sys.addaudithook(count)
        predict(folder / "inputs", out)
        (folder / "events").write_text(str(last))
        code = 0
    finally:
        os._exit(code)


def events_of(folder: Path, out: Path) -> int:
    """Do what is left to do; return how many events that took."""
    assert wait(start(folder, out, NEVER)) == 0
    return int((folder / "events").read_text())


def done(out: Path) -> dict[str, tuple[int, int]]:
    """Return the inode and the time of each mask that has a row."""
    if not (out / "plan.jsonl").exists():
        return {}
    found = {row["mask"]: (out / row["mask"]).stat() for row in states(out)["done"]}
    return {mask: (status.st_ino, status.st_mtime_ns) for mask, status in found.items()}


def main(folder: Path, kills: int) -> None:
    """Run undisturbed, and then with kills spread over the work."""
    torch.set_num_threads(1)  # the forks inherit no pool of threads
    make_inputs(folder / "inputs", SCANS)
    predict(folder / "inputs", folder / "warm-up", "images/scan_0.nii.gz")  # with all its imports
    undisturbed, out = folder / "undisturbed", folder / "killed"
    for each in (undisturbed, out):
        each.mkdir()
    all_events = events_of(folder, undisturbed)
    fixed = events_of(folder, undisturbed)  # of a run that finds all done
    rng = random.Random(0)
    found = []
    for kills_left in range(kills, 0, -1):
        rest = (all_events - fixed) * (1 - len(done(out)) / SCANS)
        moment = rng.randint(1, fixed + int(1.6 * rest / (kills_left + 1)))
        status = wait(start(folder, out, moment, rng.uniform(0, 0.01)))
        assert status == signal.SIGKILL, f"event {moment}: ended with {status}"
        found.append({"moment": moment, "done": done(out)})
    events_of(folder, out)
    found.append({"moment": None, "done": done(out)})
    (folder / "kills.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
