"""What Ray takes for each of many items, and plan and manifest for each of many scans."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from lungseg_utils import runtime

ITEMS = 2000  # that do nothing
ROWS = 5000  # of a manifest


def seconds_of(work: Callable) -> float:
    """Return the seconds of a core that `work` takes."""
    started = time.process_time()
    work()
    return time.process_time() - started


def measure_ray(count: int = ITEMS) -> dict[str, float] | None:
    """Return the seconds until a first result, and those of an item more; None: no start."""
    from lungseg_utils.on_ray import work_on_ray

    nothing = partial(partial, str)  # its work is `str`, which every worker has
    began = time.perf_counter()
    try:
        came = [time.perf_counter() for _ in work_on_ray(range(count), nothing)]
    except runtime.LungsegError as error:
        print(error, flush=True)
        return None
    return {"start": came[0] - began, "item": (came[-1] - came[0]) / (count - 1)}


def measure_manifest(count: int = ROWS) -> dict[str, float]:
    """Return the seconds that plan and manifest take of a scan: the first time, and when done."""
    from lungseg_utils.prediction.ledger import Ledger
    from lungseg_utils.prediction.plan import plan

    with tempfile.TemporaryDirectory() as name:
        scans, masks = Path(name, "scans"), Path(name, "masks")
        for folder in (scans, masks):
            folder.mkdir()
        for number in range(count):
            for folder in (scans, masks):
                (folder / f"scan_{number:07d}.nii.gz").touch()

        def begin() -> tuple[Ledger, list]:
            jobs = plan([scans], masks)
            return Ledger(jobs, masks / "manifest.jsonl", "0" * 64, {"threshold": 0.5}), jobs

        def first() -> None:
            ledger, jobs = begin()
            for job in jobs:
                ledger.add(job, {"tumours": [], "warnings": [], "stamp": "", "content": "0" * 32})
            ledger.close()

        def again() -> None:
            ledger, jobs = begin()
            ledger.not_done(jobs)
            ledger.close()

        took = {"first": seconds_of(first) / count, "again": seconds_of(again) / count}
        took["bytes"] = (masks / "manifest.jsonl").stat().st_size / count
    return took
