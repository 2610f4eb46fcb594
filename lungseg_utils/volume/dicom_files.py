"""The DICOM files under a folder: separated from junk, grouped into series; one CT is chosen."""

from __future__ import annotations

import io
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset, config, dcmread
from pydicom.errors import InvalidDicomError

from lungseg_utils.runtime import LungsegError, file_error, warn
from lungseg_utils.volume.stream import AGAIN

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"  # SOP class
DIRECTORY = "1.2.840.10008.1.3.10"  # SOP class
ONE_SERIES = "Give the folder of one CT series"
WHICH = "Choose one with --series (in Python: series=…), by its number, description or UID"
LARGE_BYTES = 4096  # larger elements, the pixels, are read from the file when they are asked for
MOST_DEFLATED_BYTES = 1 << 20  # deflate makes up to 1032 times as many of them


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
    visited = set()
    for root, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        folders.sort()
        if os.path.realpath(root) in visited:  # a link back, or a second one to the same slices
            folders.clear()
            continue
        visited.add(os.path.realpath(root))
        for path in (Path(root, name) for name in sorted(names) if not name.startswith(".")):
            header = _header(path)
            if header is not None:
                key = (str(header.SeriesInstanceUID), _kind(header))
                found.setdefault(key, []).append((path, header))
    listed = [
        Series(uid, _text(files, "SeriesNumber"), _text(files, "SeriesDescription"), kind, files)
        for (uid, kind), files in found.items()
    ]
    return sorted(listed, key=lambda series: -len(series.files))


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


class _File(io.BufferedReader):
    """A file that returns no more than it has: pydicom allots whatever length an element claims."""

    def __init__(self, path: str | Path, mode: str = "rb"):
        super().__init__(io.FileIO(os.fspath(path), mode))
        self.size = os.fstat(self.fileno()).st_size

    def read(self, count: int | None = -1) -> bytes:
        if count is not None and count >= 0:
            return super().read(min(count, self.size))
        if self.size > MOST_DEFLATED_BYTES:  # the whole is asked for to be inflated at once
            raise LungsegError(
                self.name,
                f"deflated, and larger than {MOST_DEFLATED_BYTES:,} bytes",
                "Export it uncompressed",
            )
        return super().read(self.size)


def read_file(path: Path, *, defer_size: int | None = None) -> Dataset | None:
    """Read one file, None where it is no DICOM; elements above `defer_size` bytes are read later.

    Whatever pydicom stumbles over is reported without quoting the file.
    """
    config.settings.reading_validation_mode = config.IGNORE  # a warning may quote the patient
    warnings.filterwarnings("ignore", module="pydicom")
    try:
        with _File(path) as file:
            header = dcmread(file, defer_size=defer_size)
        header.fileobj_type = _File  # what is read later is read through it too
        return header
    except InvalidDicomError:
        return None
    except LungsegError:
        raise
    except Exception as error:
        raise LungsegError(
            path, f"a DICOM file that is damaged or cut short ({type(error).__name__})", AGAIN
        ) from None


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
        stored_as = str(header.file_meta.get("MediaStorageSOPClassUID", ""))
        if stored_as == DIRECTORY:
            return None
        for tag in ("SeriesNumber", "SeriesDescription", "Modality", "ImageType", "SOPClassUID"):
            header.get(tag)  # values are parsed when they are asked for; here a failure is caught
        is_whole = header.get("SeriesInstanceUID") and (
            stored_as != CT_IMAGE or "PixelData" in header
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
    if "LOCALIZER" in str(header.get("ImageType")).upper():
        return "localizer"
    if header.get("SOPClassUID") == CT_IMAGE:
        return "CT"
    modality = str(header.get("Modality") or "?")
    return "CT, not in single slices" if modality == "CT" else modality
