"""From files to files: one scan is read while another is segmented and a third is written."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lungseg_utils import parameters
from lungseg_utils.prediction.failures import raise_all
from lungseg_utils.prediction.inputs import Scan, expand
from lungseg_utils.prediction.ledger import Ledger, write_report
from lungseg_utils.prediction.manifest import is_taken, manifest_name
from lungseg_utils.prediction.plan import Job, plan
from lungseg_utils.prediction.predictor import Predictor
from lungseg_utils.prediction.reading import identify_and_read, read_ahead, read_scan
from lungseg_utils.prediction.segmenting import Draw, Outbox, segment
from lungseg_utils.prediction.shards import Shard
from lungseg_utils.runtime import LungsegError, progress, require_writable


@dataclass(frozen=True)
class Options:
    """What holds for all scans of a run: see `predict_files`."""

    checkpoint: str | Path | Sequence[str | Path] | None
    device: str
    series: str | int | None
    threshold: float
    preview: Draw | None
    report: str | Path | None
    folder: Path | None  # of the masks; None for one file
    skip_done: bool
    shard: Shard | None
    process: Shard | None


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
    skip_done: bool = False,
    shard: Shard | None = None,
    process: Shard | None = None,
) -> Iterator[dict]:
    """Plan to segment every scan of `inputs` into `output`; return the rows to come, one a scan.

    `inputs` and `checkpoint` may be patterns. A row holds name, source, mask, tumours, seconds,
    device, threshold, warnings, version and weights. The probabilities of several checkpoints are
    averaged; "weights" then has all their digests, joined by "+". A scan that fails does not stop
    the others: its error is raised after them, LungsegError of all at once; what is wrong with the
    plan is raised here. `preview` draws a picture beside each mask. `report` names a file that gets
    every row as a line of JSON.

    A folder of masks gets a manifest: see `prediction.manifest`. With `skip_done` only what is
    missing, failed or stale by it is done. `shard` is the part of the scans to do here, with a
    manifest of its own; `process` is this one's part of that, in the manifest of all.
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
    for each in folders:
        require_writable(each)
    folder = None if jobs[0].mask == Path(output) else Path(output)
    if folder is None and (skip_done or shard):
        raise LungsegError(
            output, "one file: nothing to skip and no shards", "Name a folder for the masks"
        )
    if report and folder and is_taken(Path(report)):
        raise LungsegError(report, "a name of the masks' manifest", "Choose another for the report")
    return _predict_all(
        jobs,
        Options(
            checkpoint,
            device,
            series,
            threshold,
            preview,
            report,
            folder,
            skip_done,
            shard,
            process,
        ),
    )


def _predict_all(planned: Sequence[Job], options: Options) -> Iterator[dict]:
    """Carry out this process's share of the jobs that are planned; yield a row a scan."""
    shared = options.shard.of(planned) if options.shard else planned
    jobs = options.process.of(shared) if options.process else shared
    predictor = Predictor(options.checkpoint, options.device)
    manifest = options.folder / manifest_name(options.shard) if options.folder else None
    settings = {"threshold": options.threshold, "series": options.series}
    ledger = Ledger(planned, manifest, predictor.facts["digest"], settings)
    todo = ledger.not_done(jobs) if options.skip_done else jobs
    if options.skip_done:
        count = len(jobs) - len(todo)
        print(f"note: {count} of {len(jobs)} scans are done already", file=sys.stderr, flush=True)
    yield from _predict_here(todo, options, predictor, ledger)
    ledger.close()
    if options.report:
        write_report(options.report, ledger.done(shared))
    raise_all(ledger.failures, len(jobs))


def _predict_here(
    jobs: Sequence[Job], options: Options, predictor: Predictor, ledger: Ledger
) -> Iterator[dict]:
    """Segment `jobs` in this process; yield a row a scan."""
    read = partial(identify_and_read if options.folder else read_scan, series=options.series)
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        outbox = Outbox(writer, options.preview, ledger)
        scans = read_ahead(reader, jobs, read)
        for job, coming in progress(scans, "segmenting", total=len(jobs)):
            try:
                reading = coming.result()
                started = time.perf_counter()
                row, result = segment(predictor, job, reading, options.threshold)
                written = outbox.put(job, row, result)
                if job is jobs[-1]:
                    written.result()
            except Exception as error:
                ledger.add_failure(job, error)
                continue
            row["seconds"] = round(time.perf_counter() - started, 2)
            yield row
        outbox.settle()
