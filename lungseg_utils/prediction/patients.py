"""Patients' folders, each with a DICOM series or one NIfTI file, told from one series."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lungseg_utils import volume
from lungseg_utils.prediction.rows import results_in
from lungseg_utils.runtime import LungsegError, warn

if TYPE_CHECKING:
    from pydicom import Dataset

NIFTI = (".nii", ".nii.gz")
JUNK = (".", "__MACOSX")


@dataclass(frozen=True)
class Folder:
    """What lies below a folder: NIfTI files, the header of the first DICOM file, other files."""

    path: str
    niftis: list[str]
    header: Dataset | None
    has_others: bool


def is_nifti(name: str) -> bool:
    """Return whether a file of that name is NIfTI; hidden files, as macOS's doubles, are not."""
    return name.lower().endswith(NIFTI) and not name.startswith(".")


def has_more_slices(folder: str, count: int) -> bool:
    """Return whether more than `count` files below `folder` are DICOM."""
    others = (path for path in files_below(folder) if not is_nifti(os.path.basename(path)))
    slices = (path for path in others if _read_header(path) is not None)
    return len(list(islice(slices, count + 1))) > count


def patients_in(folder: str) -> dict[str, str | LungsegError]:
    """Return each patient's scan, by the name of the patient's folder: a NIfTI file or a folder.

    It is an error where the scan is not clear: that stops no other patient. The result is empty
    where `folder` does not hold patients' folders, but one series, or one study of one patient.
    """
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    others = results_in(folder) | {"DICOMDIR"}
    entries = [entry for entry in entries if not entry.name.startswith(JUNK)]
    subfolders = [entry.path for entry in entries if entry.is_dir()]
    files = [entry.path for entry in entries if entry.is_file() and entry.name not in others]
    if not subfolders or any(_read_header(path) is not None for path in files):
        return {}
    below = [_look_into(path) for path in subfolders]
    headers = [one.header for one in below if one.header is not None]
    below = [_without_masks(one) if headers or len(one.niftis) > 1 else one for one in below]
    if not any(one.niftis for one in below) and (len(headers) < 2 or _are_one_study(headers)):
        return {}
    scans = {os.path.basename(one.path): _scan_of(one) for one in below}
    return {name: scan for name, scan in scans.items() if scan}


def _scan_of(patient: Folder) -> str | LungsegError:
    """Return the path of a patient's scan; "" where there is none, with a warning."""
    path = patient.path
    niftis = patient.niftis
    if niftis and patient.header is not None:
        return LungsegError(
            path,
            f"holds DICOM slices and NIfTI files too ({os.path.basename(niftis[0])})",
            "Give a folder of one kind, or the files",
        )
    if len(niftis) > 1:
        return LungsegError(
            path,
            f"holds {len(niftis)} NIfTI files that may be the scan, "
            f"{os.path.basename(niftis[0])} and {os.path.basename(niftis[1])} among them",
            f"Name the scans by a pattern, such as '{os.path.dirname(path)}/*/ct.nii.gz'",
        )
    if niftis:
        return niftis[0]
    if patient.header is None and not patient.has_others:
        warn(f"{path}: holds no scan; it is skipped")
        return ""
    return path


def _look_into(folder: str) -> Folder:
    niftis: list[str] = []
    others: list[str] = []
    for path in files_below(folder):
        (niftis if is_nifti(os.path.basename(path)) else others).append(path)
    headers = (header for path in others if (header := _read_header(path)) is not None)
    return Folder(folder, niftis, next(headers, None), bool(others))


def _without_masks(folder: Folder) -> Folder:
    """Return `folder` without the files that are stored as masks are, in bytes: no CT is."""
    return replace(folder, niftis=[path for path in folder.niftis if not _is_mask(path)])


def _is_mask(path: str) -> bool:
    try:
        return volume.read_header(path).dtype == np.uint8
    except (LungsegError, OSError):
        return False  # whoever reads it says what is wrong with it


def _are_one_study(headers: Sequence[Dataset]) -> bool:
    """Return whether the first slices of several folders are of one study of one patient.

    They are not where two of them claim one place in one series.
    """
    try:
        studies = {(str(one.get("PatientID")), one.get("StudyInstanceUID")) for one in headers}
        places = {
            (str(one.get("SeriesInstanceUID")), str(one.get("ImagePositionPatient")))
            for one in headers
        }
    except Exception:  # a value that cannot be parsed: its reader reports it
        return False
    (_, study), *others = studies
    return bool(study) and not others and len(places) == len(headers)


def _read_header(path: str) -> Dataset | None:
    """Return the header of a DICOM file, an empty one of a damaged file; None for another file."""
    from pydicom import Dataset

    from lungseg_utils.volume.dicom_files import LARGE_BYTES, read_file

    try:
        return read_file(Path(path), defer_size=LARGE_BYTES)
    except LungsegError:
        return Dataset()
    except OSError:
        return None


def files_below(folder: str) -> Iterator[str]:
    """Find the files below `folder`, in order, each folder once whatever links lead to it.

    What earlier predictions have left there is left out.
    """
    visited = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        folders[:] = sorted(name for name in folders if not name.startswith(JUNK))
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        for name in sorted({*names} - results_in(root)):
            path = os.path.join(root, name)
            if not name.startswith(JUNK) and os.path.isfile(path):
                yield path
