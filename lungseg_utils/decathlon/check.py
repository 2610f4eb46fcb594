"""Check a dataset from its first brace to its last voxel, and report every fault at once."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lungseg_utils.decathlon.dataset import inspect
from lungseg_utils.decathlon.fingerprint import Examined, examine_all, tasks_of
from lungseg_utils.runtime import LungsegError, printable

QUANTITIES = ("hu_min", "hu_p5", "hu_p50", "hu_p95", "hu_max", "tumours", "tumour_ml", "tumour_hu")


@dataclass
class Report:
    """What `check` found; `fingerprint` has the rows that `fingerprint.fingerprint` describes."""

    root: Path
    name: str
    faults: list[LungsegError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    fingerprint: list[dict[str, Any]] = field(default_factory=list)

    def summary(self) -> dict[str, dict[str, float]]:
        """Return min, median and max over the training cases, by quantity."""
        rows = [row for row in self.fingerprint if row["part"] == "training"]
        columns = {
            "slices": [row["shape"][0] for row in rows],
            **{
                f"spacing_{letter}_mm": [row["spacing_mm"][axis] for row in rows]
                for axis, letter in enumerate("dhw")
            },
            **{key: [row[key] for row in rows if row[key] is not None] for key in QUANTITIES},
        }
        return {
            key: {
                "min": float(min(values)),
                "median": float(np.median(values)),
                "max": float(max(values)),
            }
            for key, values in columns.items()
            if values
        }

    def as_dict(self) -> dict[str, Any]:
        """Return the whole report as what JSON can hold."""
        return {
            "dataset": self.name,
            "root": str(self.root),
            "faults": [
                {"file": f.subject, "cause": f.cause, "remedy": f.remedy} for f in self.faults
            ],
            "warnings": [printable(message) for message in self.warnings],
            "summary": self.summary(),
            "fingerprint": self.fingerprint,
        }

    def text(self) -> str:
        """Return the report for reading: what the set is like, its faults, its warnings."""
        parts = [row["part"] for row in self.fingerprint]
        lines = [
            printable(f"{self.name} in {self.root}"),
            f"{parts.count('training')} training and {parts.count('test')} test cases "
            "could be read",
            "",
        ]
        if self.fingerprint:
            lines.append(f"{'training cases':16}{'min':>10}{'median':>10}{'max':>10}")
            lines += [
                f"{key:16}{row['min']:10.5g}{row['median']:10.5g}{row['max']:10.5g}"
                for key, row in self.summary().items()
            ] + [""]
        for title, items in (("fault", self.faults), ("warning", self.warnings)):
            end = ("" if len(items) == 1 else "s") + (":" if items else "")
            lines.append(f"{len(items) or 'no'} {title}{end}")
            lines += [f"  {printable(item)}" for item in items]
        return "\n".join(lines)


def check(dataset_dir: str | Path, *, workers: int | None = None) -> Report:
    """Check dataset.json, then every header and voxel once; return all that is wrong.

    Nothing is raised for a bad dataset: it is in `report.faults`. Voxels are read in `workers`
    processes (None picks their number; see `fingerprint.examine_all`).
    """
    dataset, faults, warnings = inspect(dataset_dir)
    report = Report(dataset.root, dataset.name, faults, warnings)
    seen = sorted(examine_all(tasks_of(dataset), workers), key=Examined.place)
    for case in seen:
        report.faults += case.faults
        report.warnings += case.warnings
        report.fingerprint += [case.row] if case.row else []
    report.faults += _find_twins(seen)
    counts = [case.row["tumours"] for case in seen if case.row.get("part") == "training"]
    if counts and not any(count is None or count for count in counts):
        cause = "all training labels are empty"
        if dataset.is_tumour_free:
            report.warnings.append(f"labels: {cause}, as this set says: train on others too")
        else:
            fault = LungsegError("labels", cause, "Restore the labels of the dataset")
            report.faults.append(fault)
    return report


def _find_twins(seen: Iterable[Examined]) -> list[LungsegError]:
    """Find scans that are there under two names."""
    faults = []
    first: dict[object, Examined] = {}
    for case in seen:
        earlier = first.setdefault(case.digest or case.task, case)
        if earlier is not case and earlier.task.image:
            cause = f"holds the same scan as {earlier.task.image.name}"
            if earlier.task.part != case.task.part:
                cause += " (one for training, one for testing: a leak)"
            faults.append(LungsegError(case.task.image, cause, "Keep one of the two"))
    return faults
