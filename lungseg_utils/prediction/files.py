"""From files to files: one scan is read while another is segmented and a third is written."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from lungseg_utils import __version__, volume
from lungseg_utils.prediction.plan import Job, plan
from lungseg_utils.prediction.predictor import Predictor
from lungseg_utils.prediction.tumours import measure_tumours
from lungseg_utils.runtime import (
    LungsegError,
    file_error,
    is_out_of_memory,
    require_writable,
    warn,
    writing,
)


def predict_files(
    inputs: Sequence[str | Path],
    output: str | Path,
    *,
    checkpoint: str | Path | Sequence[str | Path] | None = None,
    device: str = "auto",
    series: str | int | None = None,
    dicom_seg: bool = False,
    probabilities: bool = False,
    report: str | Path | None = None,
) -> Iterator[dict]:
    """Segment every scan of `inputs` into `output`; yield a row a scan.

    A row holds name, tumours, seconds, mask and versions. The probabilities of several checkpoints
    are averaged; "weights" then has all their digests, joined by "+". A scan that fails does not
    stop the others: its error is raised after them, LungsegError of all at once. `report` names a
    file that gets every row as a line of JSON.
    """
    jobs = plan(inputs, output, dicom_seg=dicom_seg, probabilities=probabilities, report=report)
    folders = {job.mask.parent for job in jobs} | ({Path(report).parent} if report else set())
    for folder in folders:
        require_writable(folder)
    begun = time.time()
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        scans = _read_ahead(reader, jobs, series)
        predictor = Predictor(checkpoint, device)
        outbox = Outbox(writer)
        for job, scan in scans:
            try:
                row = _predict_one(predictor, job, scan, outbox, wait=job is jobs[-1])
            except Exception as error:
                outbox.failures.append(_failure_of(job, error))
                _warn_of_leftover(job.mask, begun)
                continue
            yield row
        outbox.settle()
    if report:
        with writing(report) as partial:
            lines = [json.dumps(row) + "\n" for row in outbox.rows]
            partial.write_text("".join(lines), encoding="utf-8")
    _raise_all(outbox.failures, len(jobs))


def _read_ahead(
    reader: ThreadPoolExecutor, jobs: Sequence[Job], series: str | int | None
) -> Iterator[tuple[Job, Future]]:
    """Begin to read; return each job with its scan to be, while the next one is read."""

    def read(job: Job) -> Future:
        return reader.submit(volume.read, job.source, series=series)

    def scans(coming: Future) -> Iterator[tuple[Job, Future]]:
        for number, job in enumerate(jobs):
            current = coming
            if number + 1 < len(jobs):
                coming = read(jobs[number + 1])
            yield job, current

    return scans(read(jobs[0]))


class Outbox:
    """What waits for the disk: at most one scan, while the next is segmented.

    rows: of the scans that have been written. failures: of those that have not.
    """

    def __init__(self, writer: ThreadPoolExecutor):
        self.writer = writer
        self.waiting: list[tuple[Job, dict, Future]] = []
        self.rows: list[dict] = []
        self.failures: list[LungsegError] = []

    def put(
        self,
        job: Job,
        row: dict,
        scan: volume.Volume,
        mask: np.ndarray,
        full_map: np.ndarray | None,
    ) -> Future:
        """Write the results of `job` in the background; wait first if another one still waits."""
        self.settle(but=1)
        written = self.writer.submit(_write, job, scan, mask, full_map)
        self.waiting.append((job, row, written))
        return written

    def settle(self, but: int = 0) -> None:
        """Wait until all `but` the last scans are on the disk; a failure is that scan's own."""
        while len(self.waiting) > but:
            job, row, written = self.waiting.pop(0)
            try:
                written.result()
                self.rows.append(row)
            except Exception as error:
                self.failures.append(_failure_of(job, error))


def _predict_one(
    predictor: Predictor, job: Job, coming: Future, outbox: Outbox, wait: bool
) -> dict:
    """Segment one scan, hand its results to the outbox and return its row."""
    scan = coming.result()
    started = time.perf_counter()
    found = predictor.segment(scan)
    row = {
        "name": job.name,
        "tumours": measure_tumours(found.mask, scan),
        "mask": job.mask.name,
        "version": __version__,
        "weights": predictor.facts["digest"],
    }
    full_map = found.prepared.back(found.probability) if job.probabilities else None
    written = outbox.put(job, row, scan, found.mask, full_map)
    if wait:
        written.result()
    row["seconds"] = round(time.perf_counter() - started, 2)
    return row


def _write(job: Job, scan: volume.Volume, mask: np.ndarray, full_map: np.ndarray | None) -> None:
    volume.write_mask(job.mask, mask, scan)
    if job.probabilities and full_map is not None:
        volume.write_map(job.probabilities, full_map, scan)
    if job.dicom_seg:
        from lungseg_utils.volume.dicom_seg import write_segmentation

        write_segmentation(job.dicom_seg, mask, scan)


def _failure_of(job: Job, error: Exception) -> LungsegError:
    """Return the failure of one scan, of whatever kind, as one that names it."""
    if isinstance(error, LungsegError):
        return error
    if isinstance(error, OSError) and error.filename is not None:
        return file_error(error.filename, error)
    # its own text is not quoted: it may name the patient
    cause = f"failed with {type(error).__name__}"
    if is_out_of_memory(error):
        cause = "not enough memory"
    failure = LungsegError(job.source, cause, "Predict it alone, with --debug, to see where")
    failure.__cause__ = error
    return failure


def _warn_of_leftover(mask: Path, begun: float) -> None:
    if mask.exists() and mask.stat().st_mtime < begun:
        warn(f"{mask}: is left from an earlier run; this one made none")


def _raise_all(failures: Sequence[LungsegError], count: int) -> None:
    """Raise the failures of `count` scans, each once, as one error; return where there is none."""
    different = list({str(failure): failure for failure in failures}.values())
    if len(different) == 1:
        raise different[0]
    if different:
        causes = "; ".join(str(failure).rstrip(".") for failure in different)
        raise LungsegError(f"{len(different)} of {count} scans", causes)
