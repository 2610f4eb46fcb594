"""Look at every voxel of a dataset once: what each scan is like, and what is wrong or odd."""

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
from typing import Any

import numpy as np

from lungseg_utils import components, volume
from lungseg_utils.decathlon.dataset import Dataset, raise_faults
from lungseg_utils.decathlon.label_place import doubt_place
from lungseg_utils.runtime import LungsegError, progress
from lungseg_utils.volume.plausibility import check_geometry

PERCENTILES = (5, 50, 95)
SMALL_SET = 200_000_000  # bytes of files: to read fewer, starting processes is not worth its time
MOST_WORKERS = 8  # more wait for the disk, or run out of memory
SLAB_MM = 120.0
THICK_SLICE_MM = 5.0
TINY_ML = 0.03  # a ball of 4 mm
TINY_VOXELS = 3
HUGE_ML = 1000.0  # Task06's largest tumour has 370 mL


@dataclass(frozen=True)
class Task:
    """A case to look at; `image` or `label` is None if there is none, or its header is bad."""

    id: str
    part: str
    image: Path | None
    label: Path | None


@dataclass
class Examined:
    """What a look at a case found: a row of the fingerprint, a digest of the voxels, faults."""

    task: Task
    row: dict[str, Any] = field(default_factory=dict)  # empty without a readable image
    digest: str = ""
    faults: list[LungsegError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def place(self) -> tuple[bool, str]:
        """Return the key to sort by: training cases first, then by id."""
        return self.task.part == "test", self.task.id


def fingerprint(dataset: Dataset, workers: int | None = None) -> list[dict[str, Any]]:
    """Return a row for each training and test case: its shape, spacing, HU percentiles and tumours.

    Keys: case, part ("training" or "test"); shape, spacing_mm, extent_mm (D, H, W); hu_min, hu_p5,
    hu_p50, hu_p95, hu_max (percentiles of every 32nd voxel); and, None without a label, tumours
    (connected components), tumour_ml (their sum), tumour_hu (mean), tumour_centre (D, H, W as
    shares of the scan, 0 to 1; None if the label is empty). Raises LungsegError, one for all, if a
    case cannot be read.
    """
    seen = sorted(examine_all(tasks_of(dataset), workers), key=Examined.place)
    raise_faults(dataset.root, [fault for case in seen for fault in case.faults])
    return [case.row for case in seen]


def tasks_of(dataset: Dataset) -> list[Task]:
    """List the cases of a dataset, training first."""
    return [
        Task(case.id, part, case.image, case.label)
        for part, cases in (("training", dataset.training), ("test", dataset.test))
        for case in cases
    ]


def examine(task: Task) -> Examined:
    """Read image and label once each; nothing is raised: faults and warnings are in the result."""
    seen = Examined(task)

    def attempt(path: Path | None, read: Callable[[Path], Any]) -> Any:
        try:
            return None if path is None else read(path)
        except LungsegError as fault:
            seen.faults.append(fault)
        except Exception as error:  # a fault of the reader must not hide those of the other cases
            seen.faults.append(
                LungsegError(
                    path, f"cannot be read ({type(error).__name__}: {error})", "Report this"
                )
            )

    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        ct = attempt(task.image, volume.read)
        label = attempt(task.label, lambda path: volume.read_label(path, like=ct))
        attempt(task.image if ct else None, lambda _path: check_geometry(ct))
    seen.warnings += [line.removeprefix("warning: ") for line in stderr.getvalue().splitlines()]
    if ct is not None:
        _describe_image(seen, ct)
        if label is not None:
            _describe_label(seen, ct, label)
    return seen


def _describe_image(seen: Examined, ct: volume.Volume) -> None:
    sample = np.ascontiguousarray(ct.hu[::2, ::4, ::4])
    content = np.rint(sample).astype(np.int16).tobytes() + repr(ct.hu.shape).encode()
    seen.digest = hashlib.blake2b(content).hexdigest()
    extent_mm = np.multiply(ct.hu.shape, ct.spacing_mm)
    percentiles = zip(PERCENTILES, np.percentile(sample, PERCENTILES), strict=True)
    seen.row = {
        "case": seen.task.id,
        "part": seen.task.part,
        "shape": list(ct.hu.shape),
        "spacing_mm": [round(float(step), 4) for step in ct.spacing_mm],
        "extent_mm": [round(float(side), 1) for side in extent_mm],
        "hu_min": float(ct.hu.min()),
        **{f"hu_p{percent}": float(hu) for percent, hu in percentiles},
        "hu_max": float(ct.hu.max()),
        "tumours": None,
        "tumour_ml": None,
        "tumour_hu": None,
        "tumour_centre": None,
    }
    if extent_mm[0] < SLAB_MM:
        seen.warnings.append(
            f"{seen.task.image}: covers only {extent_mm[0]:.0f} mm from foot to head: "
            "not a whole chest"
        )
    if ct.spacing_mm[0] > THICK_SLICE_MM:
        seen.warnings.append(
            f"{seen.task.image}: slices are {ct.spacing_mm[0]:.3g} mm apart: small tumours are lost"
        )


def _describe_label(seen: Examined, ct: volume.Volume, label: np.ndarray) -> None:
    path = seen.task.label
    voxel_ml = float(np.prod(ct.spacing_mm)) / 1000
    box = components.bounding_box(label)
    inside = label[box]
    count = int(np.count_nonzero(inside))
    if count == 0:
        seen.row |= {"tumours": 0, "tumour_ml": 0.0}
        seen.warnings.append(f"{path}: the label is empty: no tumour is marked")
        return
    if count > label.size / 2:
        cause = f"the label covers {count / label.size:.0%} of the scan: inverted, or not a tumour"
        seen.faults.append(
            LungsegError(path, cause, "Mark the tumour with 1 and everything else with 0")
        )
        return
    sizes = np.bincount(components.label_components(inside).ravel())[1:]
    tiny = sizes[(sizes <= TINY_VOXELS) | (sizes * voxel_ml < TINY_ML)]
    mean_hu = float(ct.hu[box][inside > 0].mean())
    counts = [inside.sum(axis=others, dtype=np.int64) for others in ((1, 2), (0, 2), (0, 1))]
    centre = [
        float(np.average(np.arange(side.start, side.stop), weights=weights)) / max(n - 1, 1)
        for side, weights, n in zip(box, counts, label.shape, strict=True)
    ]
    seen.row |= {
        "tumours": len(sizes),
        "tumour_ml": round(count * voxel_ml, 4),
        "tumour_hu": round(mean_hu, 1),
        "tumour_centre": [round(share, 3) for share in centre],
    }
    if len(tiny):
        seen.warnings.append(
            f"{path}: {len(tiny)} of {len(sizes)} marked tumours are tiny (voxels of the "
            f"smallest: {tiny.min()}, {tiny.min() * voxel_ml:.2g} mL): a slip of the mouse perhaps"
        )
    if count * voxel_ml > HUGE_ML:
        seen.warnings.append(
            f"{path}: the label marks {count * voxel_ml:,.0f} mL: more than a tumour perhaps"
        )
    if doubt := doubt_place(ct, label, box):
        seen.warnings.append(f"{path}: what is marked {doubt}")
    if any(side.start == 0 or side.stop == n for side, n in zip(box, label.shape, strict=True)):
        seen.warnings.append(
            f"{path}: what is marked reaches the edge of the scan: the tumour may be cut off"
        )


def examine_all(
    tasks: list[Task], workers: int | None = None, *, examine: Callable[[Task], Examined] = examine
) -> Iterator[Examined]:
    """Examine cases in `workers` processes, the largest first, and yield the results as they come.

    None picks a number by the size of the set; 1 stays in this process. A case whose process dies
    (out of memory, say) is a fault; the others are examined all the same.
    """
    if workers is not None and (
        isinstance(workers, bool) or not isinstance(workers, int) or workers < 1
    ):
        raise LungsegError(
            "workers", f"{workers!r} is not a number of processes", "Use a whole number from 1 up"
        )
    sizes = {
        task: sum(path.stat().st_size for path in (task.image, task.label) if path)
        for task in tasks
    }
    if workers is None:
        workers = 1 if sum(sizes.values()) < SMALL_SET else min(MOST_WORKERS, os.cpu_count() or 1)
    # The largest first, so that no process is left with a long one at the end.
    tasks = sorted(tasks, key=lambda task: sizes[task], reverse=True)
    yield from progress(
        _in_processes(tasks, min(workers, len(tasks)), examine), "reading", total=len(tasks)
    )


def _in_processes(
    tasks: list[Task], workers: int, examine: Callable[[Task], Examined]
) -> Iterator[Examined]:
    """Yield the results in order; when a process dies, go on with one case at a time.

    The case that kills its process again is the one to blame; the others lose nothing.
    """
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
                if workers == 1:
                    fault = LungsegError(
                        left[0].image or left[0].label,
                        "the process that read it died: out of memory, or a crash",
                        "Free some memory, or inspect the file",
                    )
                    yield Examined(left[0], faults=[fault])
                    left = left[1:]
                workers = 1
            finally:
                pool.shutdown(cancel_futures=True)
