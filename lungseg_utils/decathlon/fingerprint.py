"""Look at every voxel of a dataset once: what each scan is like, and what is wrong or odd about it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lungseg_utils import runtime, volume
from lungseg_utils.decathlon.dataset import Dataset, DatasetError
from lungseg_utils.runtime import LungsegError

PERCENTILES = (5, 50, 95)
SMALL_SET = 200_000_000  # bytes of files: to read fewer, starting processes is not worth its time
MOST_WORKERS = 8  # more wait for the disk, or run out of memory
SLAB_MM = 120.0
THICK_SLICE_MM = 5.0
TINY_ML, TINY_VOXELS = 0.03, 3  # 0.03 mL is a ball of 4 mm
HUGE_ML = 1000.0  # Task06's largest tumour has 370 mL
TUMOUR_HU = (-870.0, 300.0)  # Task06's tumours have means of -840 to 10 HU


@dataclass(frozen=True)
class Task:
    """A case to look at; `image` or `label` is None where its header is already known to be bad, or there is none."""

    id: str
    part: str
    image: Path | None
    label: Path | None


@dataclass
class Examined:
    """What was seen of a case: a row of the fingerprint, a digest of the voxels, faults, warnings."""

    task: Task
    row: dict | None = None
    digest: str = ""
    faults: list[LungsegError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def place(self) -> tuple[bool, str]:
        """Give the key to sort by: training cases first, then by id."""
        return self.task.part == "test", self.task.id


def fingerprint(dataset: Dataset, workers: int | None = None) -> list[dict]:
    """Give a row for each training and test case: its shape, spacing, HU percentiles and tumours.

    Keys: case, part ("training" or "test"); shape, spacing_mm, extent_mm (D, H, W); hu_min, hu_p5, hu_p50, hu_p95,
    hu_max (percentiles of every 32nd voxel); and, None without a label, tumours (connected components), tumour_ml
    (their sum), tumour_hu (mean), tumour_centre (D, H, W as shares of the scan, 0 to 1; None if the label is empty).
    Raises LungsegError, one for all, if a case cannot be read.
    """
    seen = sorted(examine_all(tasks_of(dataset), workers), key=Examined.place)
    faults = [fault for case in seen for fault in case.faults]
    if faults:
        raise faults[0] if len(faults) == 1 else DatasetError(dataset.root, faults)
    return [case.row for case in seen]


def tasks_of(dataset: Dataset) -> list[Task]:
    """List the cases of a dataset, training first."""
    return [
        Task(case.id, part, case.image, case.label)
        for part, cases in (("training", dataset.training), ("test", dataset.test))
        for case in cases
    ]


def examine(task: Task) -> Examined:
    """Read image and label once each; nothing is raised: what is wrong is in the result, warnings of the reader too."""
    seen = Examined(task)

    def attempt(path: Path | None, read: Callable):
        try:
            return None if path is None else read(path)
        except LungsegError as fault:
            seen.faults.append(fault)
        except Exception as error:  # a fault of the reader must not hide those of the other cases
            seen.faults.append(
                LungsegError(
                    path, f"cannot be read ({type(error).__name__}: {error})", "report this"
                )
            )

    with contextlib.redirect_stderr(io.StringIO()) as said:
        ct = attempt(task.image, volume.read)
        label = attempt(task.label, lambda path: volume.read_label(path, like=ct))
    seen.warnings += [line.removeprefix("warning: ") for line in said.getvalue().splitlines()]
    if ct is not None:
        _describe_image(seen, ct)
        if label is not None:
            _describe_label(seen, ct, label)
    return seen


def _describe_image(seen: Examined, ct: volume.Volume) -> None:
    sample = np.ascontiguousarray(ct.hu[::2, ::4, ::4])
    extent = [n * step for n, step in zip(ct.hu.shape, ct.spacing_mm, strict=True)]
    seen.digest = hashlib.blake2b(
        np.rint(sample).astype(np.int16).tobytes() + repr(ct.hu.shape).encode()
    ).hexdigest()
    seen.row = {
        "case": seen.task.id,
        "part": seen.task.part,
        "shape": list(ct.hu.shape),
        "spacing_mm": [round(float(step), 4) for step in ct.spacing_mm],
        "extent_mm": [round(float(side), 1) for side in extent],
        "hu_min": float(ct.hu.min()),
        **{
            f"hu_p{p}": float(v)
            for p, v in zip(PERCENTILES, np.percentile(sample, PERCENTILES), strict=True)
        },
        "hu_max": float(ct.hu.max()),
        "tumours": None,
        "tumour_ml": None,
        "tumour_hu": None,
        "tumour_centre": None,
    }
    if extent[0] < SLAB_MM:
        seen.warnings.append(
            f"{seen.task.image}: covers only {extent[0]:.0f} mm from foot to head: not a whole chest"
        )
    if ct.spacing_mm[0] > THICK_SLICE_MM:
        seen.warnings.append(
            f"{seen.task.image}: slices are {ct.spacing_mm[0]:.3g} mm apart: small tumours are lost"
        )


def _describe_label(seen: Examined, ct: volume.Volume, label: np.ndarray) -> None:
    import cc3d

    path, voxel_ml = seen.task.label, float(np.prod(ct.spacing_mm)) / 1000
    spans = [np.flatnonzero(label.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    if not len(spans[0]):
        seen.row |= {"tumours": 0, "tumour_ml": 0.0}
        seen.warnings.append(f"{path}: the label is empty: no tumour is marked")
        return
    box = tuple(slice(span[0], span[-1] + 1) for span in spans)
    inside = label[box]
    count = int(np.count_nonzero(inside))
    if count > label.size / 2:
        cause = f"the label covers {count / label.size:.0%} of the scan: inverted, or not a tumour"
        seen.faults.append(
            LungsegError(path, cause, "mark the tumour with 1 and everything else with 0")
        )
        return
    sizes = np.bincount(cc3d.connected_components(inside, connectivity=26).ravel())[1:]
    mean_hu = float(ct.hu[box][inside > 0].mean())
    centre = [
        float(
            (np.arange(s.start, s.stop) * inside.sum(axis=axes, dtype=np.int64)).sum()
            / count
            / max(n - 1, 1)
        )
        for s, axes, n in zip(box, ((1, 2), (0, 2), (0, 1)), label.shape, strict=True)
    ]
    seen.row |= {
        "tumours": len(sizes),
        "tumour_ml": round(count * voxel_ml, 4),
        "tumour_hu": round(mean_hu, 1),
        "tumour_centre": [round(share, 3) for share in centre],
    }
    tiny = sizes[(sizes <= TINY_VOXELS) | (sizes * voxel_ml < TINY_ML)]
    if len(tiny):
        seen.warnings.append(
            f"{path}: {len(tiny)} of {len(sizes)} marked tumours are tiny (voxels of the "
            f"least: {tiny.min()}, {tiny.min() * voxel_ml:.2g} mL): a slip of the mouse perhaps"
        )
    if count * voxel_ml > HUGE_ML:
        seen.warnings.append(
            f"{path}: the label marks {count * voxel_ml:,.0f} mL: more than a tumour perhaps"
        )
    if not TUMOUR_HU[0] <= mean_hu <= TUMOUR_HU[1]:
        seen.warnings.append(
            f"{path}: what is marked has a mean of {mean_hu:.0f} HU, unlike a tumour: the label of "
            "another scan perhaps"
        )
    if any(s.start == 0 or s.stop == n for s, n in zip(box, label.shape, strict=True)):
        seen.warnings.append(
            f"{path}: what is marked reaches the edge of the scan: the tumour may be cut off"
        )


def examine_all(
    tasks: list[Task], workers: int | None = None, *, examine: Callable[[Task], Examined] = examine
) -> Iterator[Examined]:
    """Examine cases in `workers` processes, the largest first, and give the results as they come.

    None picks a number by the size of the set; 1 stays in this process. A process that dies (out of memory, say) does
    not take the others along: the cases that are left are read one at a time, and the one that kills its process
    again is named.
    """
    if workers is not None and (
        isinstance(workers, bool) or not isinstance(workers, int) or workers < 1
    ):
        raise LungsegError(
            "workers", f"{workers!r} is not a number of processes", "use a whole number from 1 up"
        )
    size = {
        task: sum(path.stat().st_size for path in (task.image, task.label) if path)
        for task in tasks
    }
    if workers is None:
        workers = 1 if sum(size.values()) < SMALL_SET else min(MOST_WORKERS, os.cpu_count() or 1)
    tasks = sorted(
        tasks, key=size.get, reverse=True
    )  # so that no process is left with a long one at the end
    yield from runtime.progress(
        _in_processes(tasks, min(workers, len(tasks)), examine), "reading", total=len(tasks)
    )


def _in_processes(
    tasks: list[Task], workers: int, examine: Callable[[Task], Examined]
) -> Iterator[Examined]:
    if workers <= 1:
        yield from map(examine, tasks)
        return
    # Not "fork": a copy of a process with torch's threads in it may hang.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    left = list(tasks)
    while left:
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context(method)) as pool:
            try:
                for future in [pool.submit(examine, task) for task in left]:
                    yield future.result()
                    left = left[1:]
            except BrokenProcessPool:
                if (
                    workers == 1
                ):  # one at a time and in order: the first without a result is the culprit
                    cause = "the process that read it died: out of memory, or a crash"
                    fault = LungsegError(
                        left[0].image or left[0].label,
                        cause,
                        "free some memory, or inspect the file",
                    )
                    yield Examined(left[0], faults=[fault])
                    left = left[1:]
                workers = 1
            finally:
                pool.shutdown(cancel_futures=True)
