"""Check a dataset from its first brace to its last voxel, and report every fault at once."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from lungseg_utils import runtime, volume
from lungseg_utils.decathlon.dataset import inspect
from lungseg_utils.decathlon.fingerprint import Examined, Task, examine_all, tasks_of
from lungseg_utils.runtime import LungsegError


@dataclass
class Report:
    """What `check` found; `fingerprint` has the rows that `fingerprint.fingerprint` describes."""

    root: Path
    name: str
    faults: list[LungsegError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    fingerprint: list[dict] = field(default_factory=list)

    def summary(self) -> dict[str, dict[str, float]]:
        """Give least, median and most over the training cases, by quantity."""
        rows = [row for row in self.fingerprint if row["part"] == "training"]
        columns = {"slices": [row["shape"][0] for row in rows]}
        columns |= {
            f"spacing_{axis}_mm": [row["spacing_mm"][i] for row in rows]
            for i, axis in enumerate("dhw")
        }
        columns |= {
            key: [row[key] for row in rows if row[key] is not None]
            for key in (
                "hu_min",
                "hu_p5",
                "hu_p50",
                "hu_p95",
                "hu_max",
                "tumours",
                "tumour_ml",
                "tumour_hu",
            )
        }
        return {
            key: {
                "least": float(min(values)),
                "median": float(np.median(values)),
                "most": float(max(values)),
            }
            for key, values in columns.items()
            if values
        }

    def as_dict(self) -> dict:
        """Give the whole report as what JSON can hold."""
        return {
            "dataset": self.name,
            "root": str(self.root),
            "faults": [
                {"file": f.subject, "cause": f.cause, "remedy": f.remedy} for f in self.faults
            ],
            "warnings": [runtime.printable(message) for message in self.warnings],
            "summary": self.summary(),
            "fingerprint": self.fingerprint,
        }

    def text(self) -> str:
        """Give the report for reading: what the set is like, its faults, its oddities."""
        count = {
            part: sum(row["part"] == part for row in self.fingerprint)
            for part in ("training", "test")
        }
        lines = [
            runtime.printable(f"{self.name} in {self.root}"),
            f"{count['training']} training and {count['test']} test cases could be read",
            "",
        ]
        if self.fingerprint:
            lines.append(f"{'training cases':16}{'least':>10}{'median':>10}{'most':>10}")
            lines += [
                f"{key:16}{row['least']:10.5g}{row['median']:10.5g}{row['most']:10.5g}"
                for key, row in self.summary().items()
            ] + [""]
        for title, items in (("faults", self.faults), ("warnings", self.warnings)):
            lines.append(
                f"{len(items) or 'no'} {title[:-1] if len(items) == 1 else title}"
                + (":" if items else "")
            )
            lines += [f"  {runtime.printable(item)}" for item in items]
        return "\n".join(lines)


def check(dataset_dir: str | Path, *, workers: int | None = None) -> Report:
    """Look at dataset.json, at every header, then at every voxel once; give all that is wrong in one Report.

    Nothing is raised for a bad dataset: `report.faults` says it. Voxels are read in `workers` processes (None picks
    their number; see `fingerprint.examine_all`).
    """
    dataset, faults, warnings = inspect(dataset_dir)
    if dataset is None:
        return Report(Path(dataset_dir), Path(dataset_dir).name, faults, warnings)
    report = Report(dataset.root, dataset.name, faults, warnings)
    sound = [_check_headers(task, report) for task in tasks_of(dataset)]
    seen = sorted(examine_all(sound, workers), key=Examined.place)
    for case in seen:
        report.faults += case.faults
        report.warnings += case.warnings
        report.fingerprint += [case.row] if case.row else []
    report.faults += _compare(seen)
    return report


def _check_headers(task: Task, report: Report) -> Task:
    """Read the headers of a case; a file with a bad one is a fault, and is left out of the task that is given back."""
    for kind in ("image", "label"):
        path = getattr(task, kind)
        if path is None:
            continue
        try:
            with contextlib.redirect_stderr(
                io.StringIO()
            ):  # the warnings come again with the voxels
                volume.read_header(path)
        except LungsegError as fault:
            report.faults.append(fault)
            task = replace(task, **{kind: None})
    return task


def _compare(seen: Iterable[Examined]) -> list[LungsegError]:
    """Find what only the cases together show: one scan under two names, and a set without a tumour."""
    faults, first = [], {}
    for case in seen:
        earlier = first.setdefault(case.digest or case.task, case)
        if earlier is not case:
            leak = (
                " (one for training, one for testing: a leak)"
                if earlier.task.part != case.task.part
                else ""
            )
            faults.append(
                LungsegError(
                    case.task.image,
                    f"holds the same scan as {earlier.task.image.name}{leak}",
                    "keep one of the two",
                )
            )
    marked = [
        case.row["tumours"]
        for case in first.values()
        if case.row and case.row["part"] == "training"
    ]
    if marked and not any(count is None or count for count in marked):
        faults.append(
            LungsegError(
                "labels", "all training labels are empty", "restore the labels of the dataset"
            )
        )
    return faults
