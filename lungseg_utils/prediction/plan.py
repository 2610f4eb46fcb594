"""What is to be predicted: the scans of the inputs, and where the results of each one go."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lungseg_utils import volume
from lungseg_utils.decathlon.source import FOLDERS
from lungseg_utils.prediction.inputs import Scan, list_scans
from lungseg_utils.prediction.patients import NIFTI
from lungseg_utils.prediction.rows import PLAN
from lungseg_utils.prediction.sources import RESULTS
from lungseg_utils.runtime import LungsegError

FORMAT = re.compile(
    r"\.(?=.*[a-z])[a-z0-9]{1,8}", re.IGNORECASE
)  # .mha, .h5; a version's .2 is none
OTHER_WAYS = {
    ".dcm": "; --dicom-seg adds a DICOM SEG to a NIfTI mask",
    ".png": "; --preview adds pictures to NIfTI masks",
}


@dataclass(frozen=True)
class Job:
    """One scan: where its mask goes, and what else was asked for."""

    scan: Scan
    mask: Path
    probabilities: Path | None = None
    dicom_seg: Path | None = None
    preview: Path | None = None

    @property
    def outputs(self) -> list[Path]:
        """Return every file that this job writes."""
        files = (self.mask, self.probabilities, self.dicom_seg, self.preview)
        return [path for path in files if path]


def plan(
    inputs: Sequence[str | Path | Scan],
    output: str | Path,
    *,
    dicom_seg: bool = False,
    probabilities: bool = False,
    preview: bool = False,
    report: str | Path | None = None,
) -> list[Job]:
    """Return a job for each scan of `inputs`.

    Raises LungsegError for outputs that would collide or overwrite an input, or have the name of
    another format than NIfTI.
    """
    is_file = _is_file(output)
    scans = list_scans(inputs)
    output = Path(output)
    if is_file and len(scans) > 1:
        raise LungsegError(output, f"one file for {len(scans)} scans", "Name a folder")
    jobs = []
    for scan in scans:
        if dicom_seg and not scan.is_dicom:
            raise LungsegError(
                scan.source,
                "not a DICOM series, which a DICOM SEG has to refer to",
                "Predict it without --dicom-seg",
            )
        mask = output if is_file else output / f"{scan.name}.nii.gz"
        base = volume.stem(mask)
        job = Job(
            scan,
            mask,
            mask.with_name(f"{base}_probability.nii.gz") if probabilities else None,
            mask.with_name(f"{base}.dcm") if dicom_seg else None,
            mask.with_name(f"{base}.png") if preview else None,
        )
        jobs.append(job)
    outputs = _outputs_of(jobs)
    if report:
        _refuse_report(Path(report), outputs)
        outputs.append(Path(report))
    _refuse_overwriting(outputs, scans)
    return jobs


def _is_file(output: str | Path) -> bool:
    """Return whether masks go to a file of that name, not into a folder; refuse other formats."""
    text = os.fspath(output)
    if os.path.isdir(text):
        return False
    if text.lower().endswith(NIFTI):
        return True
    ending = Path(text).suffix
    if FORMAT.fullmatch(ending) and not text.endswith(("/", os.sep)):
        raise LungsegError(
            text,
            f"a mask must be named .nii or .nii.gz, not {ending}",
            "Name it so, or name a folder: one that exists, or a name without an ending"
            + OTHER_WAYS.get(ending.lower(), ""),
        )
    return False


def _outputs_of(jobs: Sequence[Job]) -> list[Path]:
    """Return all outputs; raise where two scans share one."""
    taken: dict[Path, Path] = {}
    for job in jobs:
        for path in job.outputs:
            other = taken.setdefault(path, job.scan.path)
            if other != job.scan.path:
                raise LungsegError(
                    job.scan.source,
                    f"{path.name} would be named as that of {other}",
                    "Predict them into folders of their own",
                )
    return list(taken)


def _refuse_report(report: Path, outputs: Sequence[Path]) -> None:
    if report.name == "dataset.json":
        raise LungsegError(
            report, "the description of a dataset has this name", "Choose another for the report"
        )
    is_output = os.path.realpath(report) in map(os.path.realpath, outputs)
    if is_output or os.path.isdir(report):
        raise LungsegError(
            report, "a folder, or an output of another kind", "Choose another file for the report"
        )


def _refuse_overwriting(outputs: Sequence[Path], scans: Sequence[Scan]) -> None:
    originals = {os.path.realpath(scan.source) for scan in scans}
    for path in outputs:
        folder = Path(os.path.realpath(path.parent))
        is_among_slices = any(str(each) in originals for each in (folder, *folder.parents))
        is_nifti = path.name.lower().endswith(NIFTI)
        cause = ""
        if os.path.realpath(path) in originals:
            cause = "it would overwrite a scan"
        elif is_among_slices and not path.name.lower().endswith(RESULTS):
            cause = "it would lie among the slices of a scan"
        elif is_nifti and any(map(_is_of_dataset, (folder, path.absolute().parent))):
            cause = "it would lie among the scans or labels of a dataset"
        if cause:
            raise LungsegError(path, cause, "Choose another output")


def _is_of_dataset(folder: Path) -> bool:
    """Return whether scans or labels of a dataset are in `folder`, not masks of an earlier run."""
    is_named_so = folder.name in FOLDERS and (folder.parent / "dataset.json").is_file()
    return is_named_so and any(folder.glob("*.nii*")) and not (folder / PLAN).is_file()
