"""From files to files: one scan is read while another is segmented and a third is written."""

import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

from lungseg_utils import parameters
from lungseg_utils.checkpoint import SHIPPED, load_networks
from lungseg_utils.on_ray import work_on_ray
from lungseg_utils.prediction.failures import raise_all
from lungseg_utils.prediction.inputs import Scan, expand
from lungseg_utils.prediction.ledger import Ledger
from lungseg_utils.prediction.manifest import manifest_name, refuse_other_scans
from lungseg_utils.prediction.plan import Job, plan
from lungseg_utils.prediction.predictor import Predictor
from lungseg_utils.prediction.reading import Reading, identify_and_read, read_ahead, read_scan
from lungseg_utils.prediction.rows import is_taken
from lungseg_utils.prediction.segmenting import Draw, Options, Outbox, ScanWork, segment
from lungseg_utils.prediction.shards import Shard
from lungseg_utils.prediction.sources import size_of
from lungseg_utils.runtime import LungsegError, progress, require_writable, warn


@dataclass(frozen=True)
class Share:
    """What of the planned scans a process does, where their masks go, and by which engine."""

    report: str | Path | None
    folder: Path | None  # None: the one mask is a file
    skip_done: bool
    shard: Shard | None
    process: Shard | None
    ray: bool


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
    ray: bool = False,
) -> Iterator[dict]:
    """Plan to segment every scan of `inputs` into `output`; return the rows to come, one a scan.

    `inputs` and `checkpoint` may be patterns. A row holds name, source, mask, tumours, seconds,
    device, threshold, warnings, version and weights: of several checkpoints, whose probabilities
    are averaged, all digests joined by "+". What is wrong with the plan is raised here; a scan that
    fails stops no other, and its error comes after all. `preview` draws a picture beside each mask.
    `report` names a file for the rows, as lines of JSON.

    A folder of masks gets a manifest (`prediction.manifest`). With `skip_done` only what is
    missing, failed or stale by it is done. `shard` is the part to do here, with a manifest of its
    own; `process` this one's part of that. With `ray` a cluster's workers do them, largest first.
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
    folder = None if jobs[0].mask == Path(output) else Path(output)
    if folder is None and (skip_done or shard):
        raise LungsegError(
            output, "one file: nothing to skip and no shards", "Name a folder for the masks"
        )
    _require_places(jobs, folder, report)
    skips = folder is not None and (skip_done or ray or shard is not None)
    share = Share(report, folder, skips, shard, process, ray)
    return _predict_all(jobs, Options(checkpoint, device, series, threshold, preview), share)


def _require_places(jobs: Sequence[Job], folder: Path | None, report: str | Path | None) -> None:
    """Raise LungsegError where masks or report cannot be written, before the work begins."""
    if folder:
        refuse_other_scans(folder, jobs)
    folders = {job.mask.parent for job in jobs} | ({Path(report).parent} if report else set())
    for each in folders:
        require_writable(each)
    if report and folder and is_taken(Path(report)):
        raise LungsegError(report, "a name of the masks' manifest", "Choose another for the report")


def _predict_all(planned: Sequence[Job], options: Options, share: Share) -> Iterator[dict]:
    """Carry out this process's share of the jobs that are planned; yield a row a scan."""
    shared = share.shard.of(planned) if share.shard else planned
    jobs = share.process.of(shared) if share.process else shared
    manifest = share.folder / manifest_name(share.shard) if share.folder else None
    read = partial(identify_and_read if manifest else read_scan, series=options.series)
    with ThreadPoolExecutor(1) as reader:
        scans = None
        if not share.ray and not share.skip_done:  # it reads while the network is made ready
            scans = read_ahead(reader, jobs, read)
            for late in ("scipy.ndimage", "scipy.spatial"):  # imported while the network works
                reader.submit(import_module, late)
        if share.ray:
            _, facts = load_networks(options.checkpoint or SHIPPED)
        else:
            predictor = Predictor(options.checkpoint, options.device)
            facts = predictor.facts
        settings = {"threshold": options.threshold, "series": options.series}
        ledger = Ledger(planned, manifest, facts["digest"], settings)
        todo = ledger.not_done(jobs) if share.skip_done else jobs
        if share.skip_done:
            count = len(jobs) - len(todo)
            print(
                f"note: {count} of {len(jobs)} scans are done already", file=sys.stderr, flush=True
            )
        if share.ray:
            yield from _predict_on_ray(todo, options, ledger)
        else:
            scans = scans or read_ahead(reader, todo, read)
            yield from _predict_here(todo, scans, options, predictor, ledger)
    ledger.close()
    if share.report:
        ledger.write_report(share.report, shared, planned)
    raise_all(ledger.failures, len(jobs))


def _predict_on_ray(jobs: Sequence[Job], options: Options, ledger: Ledger) -> Iterator[dict]:
    """Segment `jobs` by the workers of a Ray cluster; yield a row a scan."""
    jobs = sorted(jobs, key=lambda job: size_of(job.scan.source), reverse=True)
    results = work_on_ray(jobs, partial(ScanWork, options), options.device)
    for job, row in progress(results, "segmenting", total=len(jobs)):
        if isinstance(row, Exception):
            ledger.add_failure(job, row)
            continue
        for message in row["warnings"]:
            warn(message)
        ledger.add(job, row)
        yield row


def _predict_here(
    jobs: Sequence[Job],
    scans: Iterator[tuple[Job, Future[Reading]]],
    options: Options,
    predictor: Predictor,
    ledger: Ledger,
) -> Iterator[dict]:
    """Segment `jobs` in this process, as their `scans` are read; yield a row a scan."""
    with ThreadPoolExecutor(1) as writer:
        outbox = Outbox(writer, options.preview, ledger)
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
