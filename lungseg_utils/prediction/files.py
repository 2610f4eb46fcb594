"""From files to files: find the scans, read one while another is segmented and a third is written."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from lungseg_utils import __version__, volume
from lungseg_utils.prediction.predictor import Predictor
from lungseg_utils.prediction.tumours import measure_tumours
from lungseg_utils.preprocess import Prepared, resampled_slabs
from lungseg_utils.preprocess.oblique import put_back, straighten
from lungseg_utils.runtime import (
    LungsegError,
    file_error,
    is_out_of_memory,
    require_writable,
    warn,
    writing,
)


@dataclass(frozen=True)
class Job:
    """One scan: where it is read from and where its mask goes, and what else was asked for."""

    name: str
    source: Path
    mask: Path
    probabilities: Path | None = None
    dicom_seg: Path | None = None

    @property
    def outputs(self) -> list[Path]:
        return [path for path in (self.mask, self.probabilities, self.dicom_seg) if path]


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
    A scan that fails does not stop the others: its error is raised after them, LungsegError of all at once.
    `report` names a file that gets every row as a line of JSON.
    """
    jobs = plan(inputs, output, dicom_seg=dicom_seg, probabilities=probabilities, report=report)
    for folder in {job.mask.parent for job in jobs} | ({Path(report).parent} if report else set()):
        require_writable(folder)
    rows, failures, begun = [], [], time.time()
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        ahead: Future = reader.submit(volume.read, jobs[0].source, series=series)
        predictor = Predictor(checkpoint, device)
        waiting: list[tuple[Job, dict, Future]] = []

        def settle() -> (
            None
        ):  # what fails on its way to the disk fails its own scan, not the present one
            job, row, written = waiting.pop(0)
            try:
                written.result()
                rows.append(row)
            except Exception as error:
                failures.append(_failure_of(job, error))

        for number, job in enumerate(jobs):
            current = ahead
            if number + 1 < len(jobs):
                ahead = reader.submit(volume.read, jobs[number + 1].source, series=series)
            try:
                scan = current.result()
                started = time.perf_counter()
                upright = straighten(scan)
                prepared = predictor.prepare(upright)
                probability = predictor.probabilities(prepared)
                mask = put_back(predictor.mask(upright, prepared, probability), upright, scan)
                row = {
                    "name": job.name,
                    "tumours": measure_tumours(mask, scan),
                    "mask": job.mask.name,
                    "version": __version__,
                    "weights": predictor.facts["digest"],
                }
                extra = (
                    _full_map(probability, prepared, upright, scan) if job.probabilities else None
                )
                while len(waiting) > 1:  # at most one scan waits for the disk
                    settle()
                waiting.append((job, row, writer.submit(_write, job, scan, mask, extra)))
                if number + 1 == len(jobs):
                    waiting[-1][2].result()
                row["seconds"] = round(time.perf_counter() - started, 2)
            except Exception as error:
                failures.append(_failure_of(job, error))
                if job.mask.exists() and job.mask.stat().st_mtime < begun:
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
        raise LungsegError(
            f"{len(failures)} of {len(jobs)} scans", "; ".join(str(f).rstrip(".") for f in failures)
        )


def _failure_of(job: Job, error: Exception) -> LungsegError:
    """Give the failure of one scan, of whatever kind, as one that names it."""
    if isinstance(error, LungsegError):
        return error
    if isinstance(error, OSError) and error.filename is not None:
        return file_error(error.filename, error)
    # what it says is not quoted: it may name the patient
    cause = (
        "not enough memory" if is_out_of_memory(error) else f"failed with {type(error).__name__}"
    )
    failure = LungsegError(job.source, cause, "Predict it alone, with --debug, to see where")
    failure.__cause__ = error
    return failure


def plan(
    inputs: Sequence[str | Path],
    output: str | Path,
    *,
    dicom_seg: bool = False,
    probabilities: bool = False,
    report: str | Path | None = None,
) -> list[Job]:
    """Give a job for each scan of `inputs`; refuse outputs that would collide or overwrite an input."""
    sources = [scan for path in inputs for scan in find_scans(Path(path))]
    output = Path(output)
    is_file = output.name.lower().endswith((".nii", ".nii.gz")) and not os.path.isdir(output)
    if is_file and len(sources) > 1:
        raise LungsegError(output, f"one file for {len(sources)} scans", "name a folder")
    jobs = []
    for source in sources:
        is_folder = os.path.isdir(source)
        if dicom_seg and not is_folder:
            raise LungsegError(
                source,
                "not a DICOM series, which a DICOM SEG has to refer to",
                "predict it without --dicom-seg",
            )
        name = volume.stem(os.path.basename(os.path.realpath(source)) if is_folder else source)
        mask = output if is_file else output / f"{name}.nii.gz"
        base = volume.stem(mask)
        jobs.append(
            Job(
                name,
                source,
                mask,
                mask.with_name(f"{base}_probability.nii.gz") if probabilities else None,
                mask.with_name(f"{base}.dcm") if dicom_seg else None,
            )
        )
    taken: dict[Path, Path] = {}
    for job in jobs:
        for path in job.outputs:
            other = taken.setdefault(path, job.source)
            if other != job.source:
                raise LungsegError(
                    job.source,
                    f"{path.name} would be named as that of {other}",
                    "predict them one by one",
                )
    originals = {os.path.realpath(source) for source in sources}
    if report and (
        os.path.isdir(report) or os.path.realpath(report) in map(os.path.realpath, taken)
    ):
        raise LungsegError(
            report, "a folder, or an output of another kind", "choose another file for the report"
        )
    for path in [*taken, *([Path(report)] if report else [])]:
        real = os.path.realpath(path)
        if real in originals:
            raise LungsegError(path, "it would overwrite a scan", "choose another output")
        if path.suffix == ".dcm" and any(str(folder) in originals for folder in Path(real).parents):
            raise LungsegError(
                path, "it would lie among the slices of a scan", "choose another output"
            )
    return jobs


def find_scans(path: Path) -> list[Path]:
    """Give the scans of `path`: a file or DICOM series itself, the NIfTI files of a folder, a set's test scans."""
    if not os.path.isdir(path):
        return [path]
    if (path / "dataset.json").is_file():
        from lungseg_utils import decathlon

        dataset = decathlon.load(path)
        return [case.image for case in dataset.test or dataset.training]
    found = sorted(
        p
        for p in path.iterdir()
        if p.name.lower().endswith((".nii", ".nii.gz")) and p.name[0] != "."
    )
    if not found and not any(path.iterdir()):
        raise LungsegError(
            path, "the folder is empty", "give a scan, a folder of scans or of one DICOM series"
        )
    if found and sum(1 for _ in islice(_dicom_files(path), len(found) + 1)) > len(
        found
    ):  # more than a SEG each
        raise LungsegError(
            path,
            f"holds DICOM slices and NIfTI files too ({found[0].name})",
            "give a folder of one kind, or the files",
        )
    return found or [path]


def _dicom_files(folder: Path) -> Iterator[str]:
    """Find the files below `folder` that begin as DICOM does."""
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError), open(os.path.join(root, name), "rb") as file:
                if file.read(132)[128:] == b"DICM":
                    yield os.path.join(root, name)


def _full_map(
    probability, prepared: Prepared, upright: volume.Volume, scan: volume.Volume
) -> np.ndarray:
    full = np.zeros(upright.hu.shape, np.float32)
    for planes, piece in resampled_slabs(probability, full[prepared.box].shape):
        full[prepared.box][planes] = piece.cpu().numpy()
    return put_back(full, upright, scan)


def _write(job: Job, scan: volume.Volume, mask: np.ndarray, full_map: np.ndarray | None) -> None:
    volume.write_mask(job.mask, mask, scan)
    if job.probabilities:
        volume.write_map(job.probabilities, full_map, scan)
    if job.dicom_seg:
        from lungseg_utils.volume.dicom_seg import write_segmentation

        write_segmentation(job.dicom_seg, mask, scan)
