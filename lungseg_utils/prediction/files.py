"""From files to files: find the scans, read one while another is segmented and a third is written."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lungseg_utils import __version__, volume
from lungseg_utils.prediction import Predictor, measure_tumours
from lungseg_utils.prediction.oblique import put_back, straighten
from lungseg_utils.preprocess import Prepared, prepare, resampled_slabs
from lungseg_utils.runtime import LungsegError, require_writable, warn, writing


@dataclass(frozen=True)
class Job:
    """One scan: where it is read from and where its mask goes."""

    name: str
    source: Path
    mask: Path


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
    """Segment every scan of `inputs` into `output`; yield a row a scan: name, tumours, seconds, mask, versions.

    The probabilities of several checkpoints are averaged; "weights" then has all their digests, joined by "+".
    A scan that cannot be read does not stop the others: its error is raised after them, LungsegError of all at
    once. `report` names a file that gets every row as a line of JSON.
    """
    jobs = plan(inputs, output)
    for folder in {job.mask.parent for job in jobs}:
        require_writable(folder)
    rows, failures = [], []
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        ahead: Future = reader.submit(volume.read, jobs[0].source, series=series)
        predictor = Predictor(checkpoint, device)
        waiting: list[tuple[dict, Future]] = []

        def settle() -> None:  # what fails on its way to the disk fails its own scan, not the present one
            row, written = waiting.pop(0)
            try:
                written.result()
                rows.append(row)
            except LungsegError as error:
                failures.append(error)

        for number, job in enumerate(jobs):
            current = ahead
            if number + 1 < len(jobs):
                ahead = reader.submit(volume.read, jobs[number + 1].source, series=series)
            try:
                scan = current.result()
                started = time.perf_counter()
                upright = straighten(scan)
                prepared = prepare(upright, spacing_mm=predictor.facts["spacing_mm"], device=predictor.device)
                probability = predictor.probabilities(prepared)
                mask = put_back(predictor.mask(upright, prepared, probability), upright, scan)
                row = {"name": job.name, "tumours": measure_tumours(mask, scan), "mask": job.mask.name,
                       "version": __version__, "weights": predictor.facts["digest"]}
                extra = _full_map(probability, prepared, upright, scan) if probabilities else None
                while len(waiting) > 1:  # at most one scan waits for the disk
                    settle()
                waiting.append((row, writer.submit(_write, job, scan, mask, extra, dicom_seg)))
                if number + 1 == len(jobs):
                    waiting[-1][1].result()
                row["seconds"] = round(time.perf_counter() - started, 2)
            except LungsegError as error:
                failures.append(error)
                if job.mask.exists():
                    warn(f"{job.mask}: is left from an earlier run; this one made none")
                continue
            yield row
        while waiting:
            settle()
    if report:
        with writing(report) as partial:
            partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    failures = list(dict.fromkeys(failures))
    if len(failures) == 1:
        raise failures[0]
    if failures:
        raise LungsegError(f"{len(failures)} of {len(jobs)} scans", "; ".join(str(f).rstrip(".") for f in failures))


def plan(inputs: Sequence[str | Path], output: str | Path) -> list[Job]:
    """Give a job for each scan of `inputs`; refuse outputs that would collide or overwrite an input."""
    sources = [scan for path in inputs for scan in find_scans(Path(path))]
    output = Path(output)
    is_file = output.name.lower().endswith((".nii", ".nii.gz")) and not output.is_dir()
    if is_file and len(sources) > 1:
        raise LungsegError(output, f"one file for {len(sources)} scans", "name a folder")
    jobs = []
    for source in sources:
        name = volume.stem(source.resolve().name if source.is_dir() else source)
        jobs.append(Job(name, source, output if is_file else output / f"{name}.nii.gz"))
    taken: dict[Path, Path] = {}
    for job in jobs:
        other = taken.setdefault(job.mask, job.source)
        if other != job.source:
            raise LungsegError(job.source, f"its mask would be named as that of {other}", "predict them one by one")
    originals = {source.resolve() for source in sources}
    for job in jobs:
        if job.mask.resolve() in originals:
            raise LungsegError(job.mask, "the mask would overwrite a scan", "choose another output")
    return jobs


def find_scans(path: Path) -> list[Path]:
    """Give the scans of `path`: a file or DICOM series itself, the NIfTI files of a folder, a set's test scans."""
    if not path.is_dir():
        return [path]
    if (path / "dataset.json").is_file():
        from lungseg_utils import decathlon

        dataset = decathlon.load(path)
        return [case.image for case in dataset.test or dataset.training]
    found = sorted(p for p in path.iterdir() if p.name.lower().endswith((".nii", ".nii.gz")) and p.name[0] != ".")
    if not found and not any(path.iterdir()):
        raise LungsegError(path, "the folder is empty", "give a scan, a folder of scans or of one DICOM series")
    return found or [path]


def _full_map(probability, prepared: Prepared, upright: volume.Volume, scan: volume.Volume) -> np.ndarray:
    full = np.zeros(upright.hu.shape, np.float32)
    for planes, piece in resampled_slabs(probability, full[prepared.box].shape):
        full[prepared.box][planes] = piece.cpu().numpy()
    return put_back(full, upright, scan)


def _write(job: Job, scan: volume.Volume, mask: np.ndarray, full_map: np.ndarray | None, dicom_seg: bool) -> None:
    volume.write_mask(job.mask, mask, scan)
    if full_map is not None:
        volume.write_map(job.mask.with_name(f"{job.name}_probability.nii.gz"), full_map, scan)
    if dicom_seg:
        from lungseg_utils.volume.dicom_seg import write_segmentation

        write_segmentation(job.mask.with_name(f"{volume.stem(job.mask)}.dcm"), mask, scan)
