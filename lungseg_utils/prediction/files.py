"""From files to files: one scan is read while another is segmented and a third is written."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lungseg_utils import __version__, parameters, volume
from lungseg_utils.prediction.failures import failure_of, raise_all
from lungseg_utils.prediction.inputs import Scan, expand
from lungseg_utils.prediction.plan import Job, plan
from lungseg_utils.prediction.predictor import Predictor
from lungseg_utils.prediction.reading import Reading, collected_warnings, read_ahead
from lungseg_utils.prediction.tumours import measure_tumours
from lungseg_utils.runtime import LungsegError, progress, require_writable, warn, writing

Draw = Callable[[Path, volume.Volume, np.ndarray], object]  # a picture's file, a scan, its mask


@dataclass(frozen=True)
class Options:
    """What holds for all scans of a run: see `predict_files`."""

    checkpoint: str | Path | Sequence[str | Path] | None
    device: str
    series: str | int | None
    threshold: float
    preview: Draw | None
    report: str | Path | None


def predict_files(
    inputs: Sequence[str | Path | Scan],
    output: str | Path,
    *,
    checkpoint: str | Path | Sequence[str | Path] | None = None,
    device: str = "auto",
    series: str | int | None = None,
    threshold: float = 0.5,
    dicom_seg: bool = False,
    probabilities: bool = False,
    preview: Draw | None = None,
    report: str | Path | None = None,
) -> Iterator[dict]:
    """Plan to segment every scan of `inputs` into `output`; return the rows to come, one a scan.

    `inputs` and `checkpoint` may be patterns. A row holds name, source, mask, tumours, seconds,
    device, threshold, warnings, version and weights. The probabilities of several checkpoints are
    averaged; "weights" then has all their digests, joined by "+". A scan that fails does not stop
    the others: its error is raised after them, LungsegError of all at once; what is wrong with the
    plan is raised here. `preview` draws a picture beside each mask. `report` names a file that gets
    every row as a line of JSON.
    """
    jobs = plan(
        inputs,
        output,
        dicom_seg=dicom_seg,
        probabilities=probabilities,
        preview=preview is not None,
        report=report,
    )
    parameters.check({"threshold": threshold})
    if checkpoint not in (None, ""):
        files = [checkpoint] if isinstance(checkpoint, (str, Path)) else checkpoint
        checkpoint = [path for file in files for path in expand(file)]
    folders = {job.mask.parent for job in jobs} | ({Path(report).parent} if report else set())
    for folder in folders:
        require_writable(folder)
    return _predict_all(jobs, Options(checkpoint, device, series, threshold, preview, report))


def _predict_all(jobs: Sequence[Job], options: Options) -> Iterator[dict]:
    """Carry out `jobs`; yield a row a scan."""
    begun = time.time()
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        scans = read_ahead(reader, jobs, options.series)
        predictor = Predictor(options.checkpoint, options.device)
        outbox = Outbox(writer, options.preview)
        for job, coming in progress(scans, "segmenting", total=len(jobs)):
            wait = job is jobs[-1]
            try:
                row = _predict_one(predictor, job, coming, options.threshold, outbox, wait)
            except Exception as error:
                outbox.failures.append(failure_of(job, error))
                _warn_of_leftover(job.mask, begun)
                continue
            yield row
        outbox.settle()
    if options.report:
        with writing(options.report) as partial:
            lines = [json.dumps(row) + "\n" for row in outbox.rows]
            partial.write_text("".join(lines), encoding="utf-8")
    raise_all(outbox.failures, len(jobs))


@dataclass(frozen=True)
class Result:
    """What is to be written of one scan."""

    reading: Reading
    mask: np.ndarray
    full_map: np.ndarray | None


class Outbox:
    """What waits for the disk: at most one scan, while the next is segmented.

    rows: of the scans that have been written. failures: of those that have not.
    """

    def __init__(self, writer: ThreadPoolExecutor, draw: Draw | None):
        self.writer = writer
        self.draw = draw
        self.waiting: list[tuple[Job, dict, Future]] = []
        self.rows: list[dict] = []
        self.failures: list[LungsegError] = []

    def put(self, job: Job, row: dict, result: Result) -> Future:
        """Write the results of `job` in the background; wait first if another one still waits."""
        self.settle(but=1)
        written = self.writer.submit(_write, job, result, self.draw)
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
                self.failures.append(failure_of(job, error))


def _predict_one(
    predictor: Predictor,
    job: Job,
    coming: Future[Reading],
    threshold: float,
    outbox: Outbox,
    wait: bool,
) -> dict:
    """Segment one scan, hand its results to the outbox and return its row."""
    reading = coming.result()
    started = time.perf_counter()
    try:
        with collected_warnings() as warnings:
            found = predictor.segment(reading.scan, threshold=threshold)
        row = {
            "name": job.scan.name,
            "source": job.scan.source,
            "mask": job.mask.name,
            "tumours": measure_tumours(found.mask, reading.scan, found),
            "seconds": 0.0,
            "device": str(predictor.device),
            "threshold": threshold,
            "warnings": reading.warnings + warnings,
            "version": __version__,
            "weights": predictor.facts["digest"],
        }
        full_map = found.prepared.back(found.probability) if job.probabilities else None
    except BaseException:
        reading.close()
        raise
    written = outbox.put(job, row, Result(reading, found.mask, full_map))
    if wait:
        written.result()
    row["seconds"] = round(time.perf_counter() - started, 2)
    return row


def _write(job: Job, result: Result, draw: Draw | None) -> None:
    scan = result.reading.scan
    try:
        volume.write_mask(job.mask, result.mask, scan)
        if job.probabilities and result.full_map is not None:
            volume.write_map(job.probabilities, result.full_map, scan)
        if job.dicom_seg:
            from lungseg_utils.volume.dicom_seg import write_segmentation

            write_segmentation(job.dicom_seg, result.mask, scan)
        if job.preview and draw:
            draw(job.preview, scan, result.mask)
    finally:
        result.reading.close()


def _warn_of_leftover(mask: Path, begun: float) -> None:
    if mask.exists() and mask.stat().st_mtime < begun:
        warn(f"{mask}: is left from an earlier run; this one made none")
