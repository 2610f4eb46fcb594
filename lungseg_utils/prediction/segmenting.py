"""One scan: segmented, and its results written while the next one is segmented."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lungseg_utils import __version__, volume
from lungseg_utils.prediction.failures import failure_of
from lungseg_utils.prediction.ledger import Ledger
from lungseg_utils.prediction.plan import Job
from lungseg_utils.prediction.predictor import Predictor
from lungseg_utils.prediction.reading import Reading, collected_warnings, identify_and_read
from lungseg_utils.prediction.tumours import measure_tumours

Draw = Callable[[Path, volume.Volume, np.ndarray], object]  # a picture's file, a scan, its mask


@dataclass(frozen=True)
class Options:
    """What holds for all scans of a run: see `predict_files`."""

    checkpoint: str | Path | Sequence[str | Path] | None
    device: str
    series: str | int | None
    threshold: float
    preview: Draw | None


@dataclass(frozen=True)
class Result:
    """What is to be written of one scan."""

    reading: Reading
    mask: np.ndarray
    full_map: np.ndarray | None


class Outbox:
    """What waits for the disk: at most one scan, while the next is segmented."""

    def __init__(self, writer: ThreadPoolExecutor, draw: Draw | None, ledger: Ledger):
        self.writer = writer
        self.draw = draw
        self.ledger = ledger
        self.waiting: list[tuple[Job, dict, dict, Future]] = []

    def put(self, job: Job, row: dict, result: Result) -> Future:
        """Write the results of `job` in the background; wait first if another one still waits."""
        self.settle(but=1)
        written = self.writer.submit(write, job, result, self.draw)
        self.waiting.append((job, row, result.reading.facts, written))
        return written

    def settle(self, but: int = 0) -> None:
        """Wait until all `but` the last scans are on the disk; a failure is that scan's own."""
        while len(self.waiting) > but:
            job, row, facts, written = self.waiting.pop(0)
            try:
                written.result()
                self.ledger.add(job, row | facts)
            except Exception as error:
                self.ledger.add_failure(job, error)


def segment(
    predictor: Predictor, job: Job, reading: Reading, threshold: float
) -> tuple[dict, Result]:
    """Segment one scan; return its row and what is to be written of it."""
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
    return row, Result(reading, found.mask, full_map)


def write(job: Job, result: Result, draw: Draw | None) -> None:
    """Write all that is to be written of one scan."""
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


class ScanWork:
    """The whole way of one scan after another, several of which may be on it at a time."""

    def __init__(self, options: Options):
        self.options = options
        self.predictor = Predictor(options.checkpoint, options.device)
        self.turn = threading.Lock()  # of the network

    def __call__(self, job: Job) -> dict:
        """Segment one scan, write its results and return its row for the manifest."""
        try:
            reading = identify_and_read(job.scan, self.options.series)
            started = time.perf_counter()
            with self.turn:
                row, result = segment(self.predictor, job, reading, self.options.threshold)
            write(job, result, self.options.preview)
        except Exception as error:
            raise failure_of(job, error) from None  # whatever it is, it can be sent
        return row | reading.facts | {"seconds": round(time.perf_counter() - started, 2)}
