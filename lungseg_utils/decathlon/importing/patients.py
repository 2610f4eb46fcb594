"""Folders of patients: scan and masks told apart by their content, DICOM or NIfTI."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import Dataset

from lungseg_utils import volume
from lungseg_utils.decathlon.entries import is_nifti
from lungseg_utils.decathlon.importing.outlines import Outline, of_label, of_roi
from lungseg_utils.runtime import LungsegError, file_error, warn
from lungseg_utils.volume.dicom_files import Series, files_below, find_series
from lungseg_utils.volume.rois import MODALITIES, list_rois

JUNK = (".", "__MACOSX")
DATES = ("AcquisitionDate", "SeriesDate", "StudyDate")
TIMES = ("AcquisitionTime", "SeriesTime", "StudyTime")


@dataclass(frozen=True)
class Scan:
    """A scan below a patient's folder: a NIfTI file or, by its UIDs, a CT series.

    Its files are in `place`. `taken` is its date and time; `patient_id` only ever tells whether two
    folders are of one patient.
    """

    path: Path
    description: str
    place: Path
    series: str = ""
    frame: str = ""
    taken: str = ""
    patient_id: str = ""


@dataclass(frozen=True)
class Folder:
    """What lies below a folder: scans, what is drawn on them, and why it cannot be read."""

    path: Path
    scans: tuple[Scan, ...] = ()
    outlines: tuple[Outline, ...] = ()
    fault: LungsegError | None = None


def patients_in(source: Path) -> list[Folder]:
    """Return the patients' folders in `source`, or `source` itself where it is one.

    It is where scans or masks lie in it directly, or where no folder in it has both.
    """
    entries = [path for path in sorted(source.iterdir()) if not path.name.startswith(JUNK)]
    folders = [path for path in entries if path.is_dir()]
    files = [path for path in entries if path.is_file() and path.name != "DICOMDIR"]
    is_one = any(is_nifti(path.name) or _begins_as_dicom(path) for path in files)
    below = [] if is_one else [look_into(folder) for folder in folders]
    if len(below) != 1 and not any(one.scans and one.outlines for one in below):
        return [look_into(source)]
    found = [one for one in below if one.scans or one.outlines or one.fault]
    for folder in below:
        if folder not in found:
            warn(f"{folder.path}: holds neither scan nor mask; it is skipped")
    return found or below


def _begins_as_dicom(path: Path) -> bool:
    if path.suffix.lower() == ".dcm":
        return True
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def look_into(folder: Path) -> Folder:
    """Find the scans and masks below `folder`; a fault is kept for the report of all."""
    scans = []
    outlines = []
    try:
        for path in filter(_is_visible_nifti, files_below(folder)):
            if _is_mask(path):
                outlines.append(of_label(path, volume.stem(path)))
            else:
                scans.append(Scan(path, path.name, path.parent))
        for series in find_series(folder):
            if series.kind == "CT":
                scans.append(_scan_of(folder, series))
            elif series.kind in MODALITIES:
                rois = [roi for path, header in series.files for roi in list_rois(path, header)]
                outlines += map(of_roi, rois)
        return Folder(folder, tuple(scans), tuple(outlines))
    except LungsegError as fault:
        return Folder(folder, fault=fault)
    except OSError as error:
        return Folder(folder, fault=file_error(error.filename or folder, error))


def _is_visible_nifti(path: Path) -> bool:
    return is_nifti(path.name) and not any(part.startswith(JUNK) for part in path.parts[-2:])


def _is_mask(path: Path) -> bool:
    """Return whether a NIfTI file holds 0 and 1 alone, or is stored in bytes, as no CT is."""
    try:
        if volume.read_header(path).dtype != np.uint8:
            volume.read_label(path)
        return True
    except LungsegError:
        return False  # whoever reads it as a scan says what is wrong with it


def _scan_of(folder: Path, series: Series) -> Scan:
    header = series.files[0][1]
    return Scan(
        folder,
        f"series {series}",
        Path(os.path.commonpath([path.parent for path, _ in series.files])),
        series.uid,
        str(header.get("FrameOfReferenceUID") or ""),
        min(_taken(one) for _, one in series.files),
        str(header.get("PatientID") or ""),
    )


def _taken(header: Dataset) -> str:
    """Return the date and time of a slice as text that sorts by them."""
    found = [[header.get(tag) for tag in tags if header.get(tag)] for tags in (DATES, TIMES)]
    return " ".join(str(one[0]) if one else "" for one in found)
