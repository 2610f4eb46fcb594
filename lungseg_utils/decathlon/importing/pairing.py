"""The scans of a patient and what is drawn on each: its cases, and what they are called."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from lungseg_utils.decathlon.importing.outlines import SHOWN, Case, Outline, is_wanted, select
from lungseg_utils.decathlon.importing.patients import Folder, Scan
from lungseg_utils.runtime import LungsegError, warn

UID = re.compile(r"\d+(\.\d+){3,}")


def cases_of(folder: Folder, wanted: Sequence[str]) -> list[Case]:
    """Return a case for each scan of a patient on which ROIs of the `wanted` names are drawn.

    Several are marked as one patient's. Raises LungsegError where the scan, the mask or which
    belongs to which is not clear.
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
    drawn: dict[Scan, list[Outline]] = {}
    for outline in folder.outlines:
        if is_wanted(outline, wanted):
            drawn.setdefault(_scan_for(folder, outline), []).append(outline)
    if not drawn:
        select(folder.path, folder.outlines, wanted)  # lists them
    _warn_of_others(folder, drawn)
    chosen = {scan: select(folder.path, outlines, wanted) for scan, outlines in drawn.items()}
    if len({scan.patient_id for scan in chosen} - {""}) > 1:
        raise LungsegError(
            folder.path,
            f"holds scans of several patients, by their PatientID: {_listed(chosen)}",
            "Give the folder in which each patient has a folder",
        )
    names = _names_of(folder.path, list(chosen))
    patient = _name_of(folder.path) if len(names) > 1 else ""
    return [
        Case(names[scan], scan.path, tuple(outlines), scan.series, patient=patient)
        for scan, outlines in chosen.items()
    ]


def _name_of(folder: Path) -> str:
    return os.path.basename(os.path.abspath(folder))  # of a link its own, not the target's


def _names_of(folder: Path, scans: Sequence[Scan]) -> dict[Scan, str]:
    """Return what the case of each scan of a patient is called: PATIENT, of several PATIENT_FOLDER.

    FOLDER is the first that holds no other of the scans. Where there is none, or its name is a UID,
    a number takes its place, in the order in which the scans were taken.
    """
    patient = _name_of(folder)
    if len(scans) == 1:
        return {scans[0]: patient}
    shared = len(Path(os.path.commonpath([scan.place for scan in scans])).parts)
    names = ["".join(scan.place.parts[shared : shared + 1]) for scan in scans]
    is_clear = len({name.casefold() for name in names}) == len(names) and all(names)
    if not is_clear or any(UID.fullmatch(name) for name in names):
        scans = sorted(scans, key=lambda scan: (scan.taken, scan.series, scan.path))
        names = [str(number) for number in range(1, 1 + len(scans))]
    return {scan: f"{patient}_{name}" for scan, name in zip(scans, names, strict=True)}


def _warn_of_others(folder: Folder, drawn: Iterable[Scan]) -> None:
    """Warn of scans on which something is drawn, but nothing of what was asked for."""
    fitting = [_fitting(folder, outline) for outline in folder.outlines]
    others = {scans[0] for scans in fitting if len(scans) == 1} - {*drawn}
    if others:
        warn(f"{folder.path}: no ROI of {_listed(others)} fits --roi; it is left out")


def warn_of_repeats(source: Path, folders: Sequence[Folder]) -> None:
    """Warn of patients' folders with the same PatientID: their scans may come into two folds."""
    owners: dict[str, set[str]] = {}
    for folder in folders:
        for scan in folder.scans:
            owners.setdefault(scan.patient_id, set()).add(folder.path.name)
    for names in [names for one, names in owners.items() if one and len(names) > 1]:
        warn(
            f"{source}: {', '.join(sorted(names)[:SHOWN])} have the same PatientID; the scans of "
            "one patient need one folder, or training sees who is validated on"
        )


def _fitting(folder: Folder, outline: Outline) -> list[Scan]:
    """Return the scans that an outline may be drawn on: those that it refers to, else the nearest.

    The nearest to a NIfTI mask lie in its folder or, where none does, in the next one above.
    """
    roi = outline.roi
    if roi is None:
        around = (
            [scan for scan in folder.scans if scan.place.is_relative_to(above)]
            for above in outline.path.parents
        )
        return next(filter(None, around), [])
    fitting = [scan for scan in folder.scans if scan.series]
    if roi.series:
        fitting = [scan for scan in fitting if scan.series in roi.series]
    if roi.frame:
        fitting = [scan for scan in fitting if scan.frame in ("", roi.frame)]
    return fitting


def _scan_for(folder: Folder, outline: Outline) -> Scan:
    """Return the one scan that an outline was drawn on."""
    fitting = _fitting(folder, outline)
    if len(fitting) > 1:
        raise LungsegError(
            folder.path,
            f"{outline.path.name} may be drawn on any of {len(fitting)} scans: {_listed(fitting)}",
            "Keep the one that it was drawn on",
        )
    if not fitting:
        raise LungsegError(
            outline.path,
            f"refers to another series or frame of reference than {_listed(folder.scans)}",
            "Put the series that it was drawn on into this patient's folder",
        )
    return fitting[0]


def _listed(scans: Iterable[Scan]) -> str:
    return ", ".join(sorted(scan.description for scan in scans)[:SHOWN])
