"""The rows of a run: kept in memory and, where masks go into a folder, in its manifest."""

import contextlib
import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

from lungseg_utils.prediction import manifest
from lungseg_utils.prediction.failures import failure_of
from lungseg_utils.prediction.plan import Job
from lungseg_utils.runtime import LungsegError, warn, writing

REPORTED = (
    "name",
    "source",
    "mask",
    "tumours",
    "seconds",
    "device",
    "threshold",
    "warnings",
    "version",
    "weights",
)


class Ledger:
    """What became of each of `jobs`; `path` is the manifest, if there is one.

    failures: of the scans that have none of the results they should.
    """

    def __init__(self, jobs: Sequence[Job], path: Path | None, weights: str, settings: Mapping):
        self.path = path
        self.planned = {job.mask.name: manifest.planned_row(job, weights, settings) for job in jobs}
        self.rows: manifest.Rows = {}
        self.failures: list[LungsegError] = []
        self.begun = time.time()
        if path:
            manifest.write_plan(path.parent, list(self.planned.values()))
            if path.exists():
                manifest.complete(path, {})  # an earlier run may have been killed within a line

    def not_done(self, jobs: Sequence[Job]) -> list[Job]:
        """Return those of `jobs` that are missing, failed or stale; keep the rows of the others."""
        self.rows |= {row["mask"]: row for row in self.done(jobs)}
        return [job for job in jobs if job.mask.name not in self.rows]

    def add(self, job: Job, row: Mapping) -> None:
        """Note that a scan is done: its masks have been written."""
        self._note(job, {**row, "status": "done"})

    def add_failure(self, job: Job, error: Exception) -> None:
        """Note that a scan failed."""
        failure = failure_of(job, error)
        self.failures.append(failure)
        row = {"host": platform.node(), "status": "failed", "error": str(failure)}
        self._note(job, row)
        # unlike pathlib, os.path does not raise for a name that is too long
        if os.path.exists(job.mask) and os.path.getmtime(job.mask) < self.begun:
            warn(f"{job.mask}: is left from an earlier run; this one made none")

    def _note(self, job: Job, row: Mapping) -> None:
        planned = self.planned[job.mask.name]
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        whole = {**planned, **row, "finished": now}
        self.rows[job.mask.name] = whole
        if self.path:
            with contextlib.suppress(OSError):  # of a full disk: `close` writes them all again
                manifest.add_row(self.path, whole)

    def close(self) -> None:
        """Complete the manifest."""
        if self.path:
            manifest.complete(self.path, self.rows)

    def done(self, jobs: Sequence[Job]) -> list[manifest.Row]:
        """Return the rows of those of `jobs` that are done, by whichever process."""
        masks = [job.mask.name for job in jobs]
        if not self.path:
            rows = self.rows
            return [rows[mask] for mask in masks if mask in rows and rows[mask]["status"] == "done"]
        folder, rows = self.path.parent, manifest.read_manifests(self.path.parent)
        states = {
            mask: manifest.state_of(self.planned[mask], rows.get(mask), folder) for mask in masks
        }
        return [rows[mask] for mask in masks if states[mask] == "done"]

    def write_report(self, path: str | Path, own: Sequence[Job], planned: Sequence[Job]) -> None:
        """Write what `--json` asks for: a line for each of this shard's `own` jobs that is done.

        Those of other shards of what is `planned` stay where they share the report.
        """
        with manifest.locked(self.path.parent) if self.path else contextlib.nullcontext():
            masks = {job.mask.name for job in own} | _masks_in(Path(path))
            rows = [row for row in self.done(planned) if row["mask"] in masks]
            lines = [json.dumps({name: row[name] for name in REPORTED}) for row in rows]
            with writing(path) as partial:
                partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _masks_in(report: Path) -> set[str]:
    """Return the masks that an earlier report has a line for."""
    masks = set()
    if report.is_file():
        for line in report.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError):  # no line of a report
                masks.add(json.loads(line)["mask"])
    return masks
