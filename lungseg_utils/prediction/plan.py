"""What is to be predicted: the scans of the inputs, and where the results of each one go."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from lungseg_utils import decathlon, volume
from lungseg_utils.runtime import LungsegError

NIFTI = (".nii", ".nii.gz")


@dataclass(frozen=True)
class Job:
    """One scan: where it is read from, where its mask goes, and what else was asked for."""

    name: str
    source: Path
    mask: Path
    probabilities: Path | None = None
    dicom_seg: Path | None = None

    @property
    def outputs(self) -> list[Path]:
        """Return every file that this job writes."""
        return [path for path in (self.mask, self.probabilities, self.dicom_seg) if path]


def plan(
    inputs: Sequence[str | Path],
    output: str | Path,
    *,
    dicom_seg: bool = False,
    probabilities: bool = False,
    report: str | Path | None = None,
) -> list[Job]:
    """Return a job for each scan of `inputs`.

    Raises LungsegError for outputs that would collide or overwrite an input.
    """
    sources = [scan for path in inputs for scan in find_scans(Path(path))]
    output = Path(output)
    is_file = output.name.lower().endswith(NIFTI) and not os.path.isdir(output)
    if is_file and len(sources) > 1:
        raise LungsegError(output, f"one file for {len(sources)} scans", "Name a folder")
    jobs = []
    for source in sources:
        name = _name_of(source)
        mask = output if is_file else output / f"{name}.nii.gz"
        base = volume.stem(mask)
        map_path = mask.with_name(f"{base}_probability.nii.gz") if probabilities else None
        seg_path = mask.with_name(f"{base}.dcm") if dicom_seg else None
        if dicom_seg and not os.path.isdir(source):
            raise LungsegError(
                source,
                "not a DICOM series, which a DICOM SEG has to refer to",
                "Predict it without --dicom-seg",
            )
        jobs.append(Job(name, source, mask, map_path, seg_path))
    outputs = _outputs_of(jobs)
    if report:
        _refuse_report(Path(report), outputs)
        outputs.append(Path(report))
    _refuse_overwriting(outputs, sources)
    return jobs


def _name_of(source: Path) -> str:
    """Return the name of a scan: that of its file without the ending, or of its folder."""
    is_folder = os.path.isdir(source)
    return volume.stem(os.path.basename(os.path.realpath(source)) if is_folder else source)


def _outputs_of(jobs: Sequence[Job]) -> list[Path]:
    """Return all outputs; raise where two scans share one."""
    taken: dict[Path, Path] = {}
    for job in jobs:
        for path in job.outputs:
            other = taken.setdefault(path, job.source)
            if other != job.source:
                raise LungsegError(
                    job.source,
                    f"{path.name} would be named as that of {other}",
                    "Predict them one by one",
                )
    return list(taken)


def _refuse_report(report: Path, outputs: Sequence[Path]) -> None:
    is_output = os.path.realpath(report) in map(os.path.realpath, outputs)
    if is_output or os.path.isdir(report):
        raise LungsegError(
            report, "a folder, or an output of another kind", "Choose another file for the report"
        )


def _refuse_overwriting(outputs: Sequence[Path], sources: Sequence[Path]) -> None:
    originals = {os.path.realpath(source) for source in sources}
    for path in outputs:
        real = os.path.realpath(path)
        if real in originals:
            raise LungsegError(path, "it would overwrite a scan", "Choose another output")
        is_among_slices = any(str(folder) in originals for folder in Path(real).parents)
        if path.suffix == ".dcm" and is_among_slices:
            raise LungsegError(
                path, "it would lie among the slices of a scan", "Choose another output"
            )


def find_scans(path: Path) -> list[Path]:
    """Return the scans of `path`: itself, the NIfTI files of a folder, or a dataset's test scans.

    A folder without NIfTI files stands for one DICOM series.
    """
    if not os.path.isdir(path):
        return [path]
    if (path / "dataset.json").is_file():
        dataset = decathlon.load(path)
        return [case.image for case in dataset.test or dataset.training]
    files = list(path.iterdir())
    if not files:
        raise LungsegError(
            path, "the folder is empty", "Give a scan, a folder of scans or of one DICOM series"
        )
    found = sorted(file for file in files if _is_nifti(file))
    if found and _has_more_dicom_files(path, len(found)):  # a SEG beside each is ours
        raise LungsegError(
            path,
            f"holds DICOM slices and NIfTI files too ({found[0].name})",
            "Give a folder of one kind, or the files",
        )
    return found or [path]


def _is_nifti(path: Path) -> bool:
    return path.name.lower().endswith(NIFTI) and not path.name.startswith(".")


def _has_more_dicom_files(folder: Path, count: int) -> bool:
    return len(list(islice(_dicom_files(folder), count + 1))) > count


def _dicom_files(folder: Path) -> Iterator[str]:
    """Find the files below `folder` that begin as DICOM does."""
    for root, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(root, name)
            with contextlib.suppress(OSError), open(path, "rb") as file:
                if file.read(132)[128:] == b"DICM":
                    yield path
