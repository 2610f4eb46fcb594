"""Folders of patients: scan and masks told apart by their content, DICOM or NIfTI."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lungseg_utils import volume
from lungseg_utils.decathlon.entries import is_nifti
from lungseg_utils.decathlon.importing.outlines import (
    SHOWN,
    Case,
    Outline,
    of_label,
    of_roi,
    select,
)
from lungseg_utils.runtime import LungsegError, file_error, warn
from lungseg_utils.volume.dicom_files import Series, files_below, find_series
from lungseg_utils.volume.rois import MODALITIES, list_rois

JUNK = (".", "__MACOSX")


@dataclass(frozen=True)
class Scan:
    """A scan below a patient's folder: a NIfTI file or, by its UIDs, a CT series."""

    path: Path
    description: str
    series: str = ""
    frame: str = ""


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
                scans.append(Scan(path, path.name))
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
        if volume.read_header(path).dtype == np.uint8:
            return True
        volume.read_label(path)
        return True
    except LungsegError:
        return False  # whoever reads it as a scan says what is wrong with it


def _scan_of(folder: Path, series: Series) -> Scan:
    frame = str(series.files[0][1].get("FrameOfReferenceUID") or "")
    return Scan(folder, f"series {series}", series.uid, frame)


def case_of(folder: Folder, wanted: Sequence[str]) -> Case:
    """Return the case of a patient's folder, with the ROIs of the `wanted` names and patterns.

    Raises LungsegError where the scan, the mask or which belongs to which is not clear.
    """
    if folder.fault is not None:
        raise folder.fault
    if not folder.scans:
        masks = ", ".join(sorted({outline.path.name for outline in folder.outlines})[:SHOWN])
        cause = f"holds a mask ({masks}), but no scan" if masks else "holds neither scan nor mask"
        raise LungsegError(
            folder.path, cause, "Put the CT that it was drawn on there: NIfTI or a DICOM series"
        )
    if not folder.outlines:
        count = "a scan" if len(folder.scans) == 1 else f"{len(folder.scans)} scans"
        raise LungsegError(
            folder.path,
            f"holds {count} ({_listed(folder.scans)}), but no mask",
            "Put its mask there (RTSTRUCT, SEG, or NIfTI of 0 and 1), or take the folder out",
        )
    chosen = select(folder.path, folder.outlines, wanted)
    scans = {_scan_for(folder, outline) for outline in chosen}
    if len(scans) > 1:
        _refuse(folder, scans, "the ROIs are drawn on several scans", "Give each scan its folder")
    scan = scans.pop()
    name = os.path.basename(os.path.abspath(folder.path))  # of a link its own, not the target's
    return Case(name, scan.path, tuple(chosen), scan.series)


def _scan_for(folder: Folder, outline: Outline) -> Scan:
    """Return the scan that an outline was drawn on: the one it refers to, else the only one."""
    roi = outline.roi
    fitting = [scan for scan in folder.scans if roi is None or scan.series]
    if roi is not None and roi.series:
        fitting = [scan for scan in fitting if scan.series in roi.series]
    if roi is not None and roi.frame:
        fitting = [scan for scan in fitting if scan.frame in ("", roi.frame)]
    if len(fitting) > 1:
        _refuse(
            folder,
            fitting,
            f"{outline.path.name} may be drawn on any of {len(fitting)} scans",
            "Keep the one that it was drawn on",
        )
    if not fitting and roi is not None:
        raise LungsegError(
            outline.path,
            f"refers to another series or frame of reference than {_listed(folder.scans)}",
            "Put the series that it was drawn on into this patient's folder",
        )
    return fitting[0]


def _refuse(folder: Folder, scans: Iterable[Scan], cause: str, remedy: str) -> None:
    raise LungsegError(folder.path, f"{cause}: {_listed(scans)}", remedy)


def _listed(scans: Iterable[Scan]) -> str:
    return ", ".join(sorted(scan.description for scan in scans)[:SHOWN])
