"""The DICOM files under a folder: separated from junk, grouped into series; one CT is chosen."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset
from pydicom.uid import UID

from lungseg_utils.runtime import LungsegError, file_error, warn
from lungseg_utils.volume.dicom_frames import ENHANCED
from lungseg_utils.volume.dicom_headers import LARGE_BYTES, read_file
from lungseg_utils.volume.stream import AGAIN

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"  # SOP class
DIRECTORY = "1.2.840.10008.1.3.10"  # SOP class
OTHER_MODALITIES = ("MR", "PET", "Positron", "Nuclear", "Ultrasound", "RT", "X-Ray", "Mammo")
SCOUTS = ("LOCALIZER", "LOCALISER", "SCOUT", "TOPOGRAM", "SURVIEW", "SCANOGRAM", "SCANO")
SHARED = ("StudyInstanceUID", "FrameOfReferenceUID", "SeriesNumber", "SeriesDescription")
ONE_SERIES = "Give the folder of one CT series"
WHICH = "Choose one with --series (in Python: series=…), by its number, description or UID"


@dataclass(frozen=True)
class Series:
    """The files of one DICOM series, each a path and its dataset without the large elements.

    `kind` is "CT", "localizer", or the modality of what is no stack of CT slices.
    """

    uid: str
    number: str
    description: str
    kind: str
    files: list[tuple[Path, Dataset]]

    def __str__(self) -> str:
        return f"{self.number or '?'} {self.description!r} ({self.kind}, {len(self.files)} files)"


def find_series(folder: str | Path) -> list[Series]:
    """List the DICOM series under `folder`, the largest first; what is not DICOM is skipped."""
    found: dict[tuple[str, str], list[tuple[Path, Dataset]]] = {}
    others = []
    for path in files_below(folder):
        header = _header(path)
        if header is None:
            others.append(path)
            continue
        found.setdefault((_identity(header), _kind(header)), []).append((path, header))
    listed = [
        Series(
            str(files[0][1].get("SeriesInstanceUID") or ""),
            _text(files, "SeriesNumber"),
            _text(files, "SeriesDescription"),
            kind,
            files,
        )
        for (_, kind), files in found.items()
    ]
    _warn_of_others(others, listed)
    return sorted(listed, key=lambda series: -len(series.files))


def files_below(folder: str | Path) -> Iterator[Path]:
    """Find the files below `folder`, in order, each folder once whatever links lead to it."""
    visited = set()
    for root, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        folders.sort()
        if os.path.realpath(root) in visited:  # a link back, or a second one to the same slices
            folders.clear()
            continue
        visited.add(os.path.realpath(root))
        yield from (Path(root, name) for name in sorted(names) if not name.startswith("."))


def _identity(header: Dataset) -> str:
    """Return the UID of a file's series; where it has none, what the series' slices share."""
    uid = header.get("SeriesInstanceUID")
    return str(uid or [str(header.get(tag) or "") for tag in SHARED])


def _suffix(path: Path) -> str:
    """Return the suffix in lower case; a number, as at the end of a UID, is none."""
    suffix = path.suffix.lower()
    return "" if suffix[1:].isdigit() else suffix


def _warn_of_others(others: list[Path], listed: list[Series]) -> None:
    """Warn of files that are no DICOM, yet are named as the slices are: one may be lost."""
    suffixes = {_suffix(path) for series in listed for path, _ in series.files}
    for path in others:
        if _suffix(path) in suffixes and path.is_file() and path.stat().st_size:
            warn(f"{path}: not readable as DICOM, though named as the slices are; it is left out")


def _text(files: list[tuple[Path, Dataset]], tag: str) -> str:
    return str(files[0][1].get(tag) or "")


def _refuse(error: OSError) -> None:
    raise file_error(error.filename, error)


def choose(folder: Path, listed: list[Series], wanted: str | int | None) -> Series:
    """Return the one CT series, or the wanted one; where that is not clear, list what there is."""
    usable = [series for series in listed if series.kind == "CT"]
    names = "; ".join(map(str, listed))
    if not listed:
        raise LungsegError(
            folder, "no DICOM file in this folder", f"{ONE_SERIES}, or a .nii.gz file"
        )
    if not usable:
        raise LungsegError(folder, f"no CT series of single slices in it, only {names}", ONE_SERIES)
    if wanted is not None and str(wanted):
        word = str(wanted)
        usable = (
            [series for series in usable if series.uid == word]
            or [series for series in usable if series.number == word]
            or [series for series in usable if word.casefold() in series.description.casefold()]
        )
        if len(usable) != 1:
            raise LungsegError(folder, f"{len(usable)} CT series fit {word!r} among {names}", WHICH)
    elif len(usable) > 1:
        raise LungsegError(folder, f"{len(usable)} CT series in it: {names}", WHICH)
    elif len(listed) > 1:
        others = "; ".join(str(series) for series in listed if series is not usable[0])
        warn(f"{folder}: read series {usable[0]}; left out: {others}")
    return usable[0]


def _header(path: Path) -> Dataset | None:
    """Return the header of a DICOM file that belongs to a series, None for other files."""
    if not path.is_file():  # a dangling link, a socket
        return None
    header = read_file(path, defer_size=LARGE_BYTES)
    if header is None:
        if path.suffix.lower() == ".dcm":
            raise LungsegError(
                path,
                "named .dcm, but empty, no DICOM file, or without its start",
                f"{AGAIN}, or remove it",
            )
        if path.stat().st_size == 0:  # junk, or a slice that was lost in a copy
            warn(f"{path}: empty; it is skipped")
        return None
    try:
        stored_as = str(
            header.file_meta.get("MediaStorageSOPClassUID") or header.get("SOPClassUID") or ""
        )
        if stored_as == DIRECTORY:
            return None
        for tag in ("Modality", "ImageType", "SOPClassUID", "SeriesInstanceUID", *SHARED):
            header.get(tag)  # values are parsed when they are asked for; here a failure is caught
        is_whole = "PixelData" in header or (
            header.get("SeriesInstanceUID") and stored_as != CT_IMAGE
        )
    except Exception:
        is_whole = False
    if not is_whole:
        raise LungsegError(
            path,
            "damaged or truncated: its header ends too soon or cannot be parsed",
            f"{AGAIN}, or remove it",
        )
    return header


def _kind(header: Dataset) -> str:
    """Return "CT" for a slice of one, else what the file holds."""
    image_type = str(header.get("ImageType")).upper()
    if any(word in image_type for word in SCOUTS):
        return "localizer"
    sop_class = UID(str(header.get("SOPClassUID") or ""))
    if sop_class == CT_IMAGE or sop_class in ENHANCED:
        return "CT"
    modality = str(header.get("Modality") or "?")
    if modality != "CT":
        return modality
    name = sop_class.name or "no SOP class"
    if any(word in name for word in OTHER_MODALITIES):
        return f"Modality CT contradicts its SOP class, {name}"
    if "NumberOfFrames" in header and str(header.NumberOfFrames) not in ("", "0", "1"):
        return f"CT of several frames in a file, {name}"
    if "PixelData" not in header or "ImagePositionPatient" not in header:
        return f"CT without a position, {name}"
    return "CT"


def warn_of_class(folder: Path, files: list[tuple[Path, Dataset]]) -> None:
    """Warn of CT slices whose SOP class or Modality is another."""
    classes = {UID(str(header.get("SOPClassUID") or "")) for _, header in files}
    for one in sorted(classes - {CT_IMAGE, *ENHANCED}):
        what = f"the SOP class {one.name}" if one else "no SOP class"
        warn(f"{folder}: its slices have {what}; they are read as CT for their Modality")
    for modality in sorted({str(header.get("Modality") or "") for _, header in files}):
        if modality not in ("CT", ""):
            warn(
                f"{folder}: the Modality {modality[:16]!r} contradicts the SOP class of its "
                "slices, CT Image Storage; they are read as CT"
            )
