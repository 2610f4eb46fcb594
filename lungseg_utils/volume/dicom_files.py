"""The DICOM files under a folder: told from junk, grouped into series, one CT series chosen."""

from __future__ import annotations

import io
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

from lungseg_utils.runtime import LungsegError, file_error, warn
from lungseg_utils.volume.stream import AGAIN

CT_IMAGE, DIRECTORY = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.3.10"
ONE_SERIES = "Give the folder of one CT series"
WHICH = "Choose one with --series (in Python: series=…), by its number, description or UID"
LARGE_BYTES = (
    4096  # elements above this, the pixels, are read from the file when they are asked for
)
MOST_DEFLATED_BYTES = 1 << 20  # deflate makes up to 1032 times as many of them


@dataclass(frozen=True)
class Series:
    """The files of one DICOM series; `kind` is "CT", "localizer", or the modality of what is no stack of CT slices."""

    uid: str
    number: str
    description: str
    kind: str
    files: tuple  # of (Path, pydicom Dataset without its large elements)

    def __str__(self) -> str:
        return f"{self.number or '?'} {self.description!r} ({self.kind}, {len(self.files)} files)"


def find_series(folder: str | Path) -> list[Series]:
    """List the DICOM series under `folder`, the largest first; what is not DICOM is skipped."""
    found, visited = {}, set()
    for root, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        folders.sort()
        if os.path.realpath(root) in visited:  # a link back, or a second one to the same slices
            folders.clear()
            continue
        visited.add(os.path.realpath(root))
        for path in (Path(root, name) for name in sorted(names) if not name.startswith(".")):
            header = _header(path)
            if header is not None:
                found.setdefault((str(header.SeriesInstanceUID), _kind(header)), []).append(
                    (path, header)
                )
    listed = []
    for (uid, kind), files in found.items():
        number, description = (
            str(files[0][1].get(tag) or "") for tag in ("SeriesNumber", "SeriesDescription")
        )
        listed.append(Series(uid, number, description, kind, tuple(files)))
    return sorted(listed, key=lambda series: -len(series.files))


def _refuse(error: OSError) -> None:
    raise file_error(error.filename, error)


def choose(folder: Path, listed: list[Series], wanted: str | int | None) -> Series:
    """Take the one CT series, or the wanted one; where that is not clear, list what there is."""
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
            cause = f"{len(usable)} CT series fit {word!r} among {names}"
            raise LungsegError(folder, cause, WHICH)
    elif len(usable) > 1:
        raise LungsegError(folder, f"{len(usable)} CT series in it: {names}", WHICH)
    elif len(listed) > 1:
        others = "; ".join(str(series) for series in listed if series is not usable[0])
        warn(f"{folder}: read series {usable[0]}; left out: {others}")
    return usable[0]


class _File(io.BufferedReader):
    """A file that gives no more than it has: pydicom asks for, and allots, whatever length an element claims."""

    def __init__(self, path: str | Path, mode: str = "rb"):
        super().__init__(io.FileIO(os.fspath(path), mode))
        self.size = os.fstat(self.fileno()).st_size

    def read(self, count: int | None = -1) -> bytes:
        if (
            count is None or count < 0
        ) and self.size > MOST_DEFLATED_BYTES:  # the whole: it is to be inflated at once
            raise LungsegError(
                self.name,
                f"deflated, and larger than {MOST_DEFLATED_BYTES:,} bytes",
                "Export it uncompressed",
            )
        return super().read(self.size if count is None or count < 0 else min(count, self.size))


def read_file(path: Path, **options):
    """Read one file, None where it is no DICOM; whatever pydicom trips over is told without quoting the file."""
    from pydicom import config, dcmread
    from pydicom.errors import InvalidDicomError

    config.settings.reading_validation_mode = (
        config.IGNORE
    )  # what it warns of may quote the patient's data
    warnings.filterwarnings("ignore", module="pydicom")
    try:
        with _File(path) as file:
            header = dcmread(file, **options)
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


def _header(path: Path):
    """Give the header of a DICOM file that belongs to a series, None for other files."""
    if not path.is_file():  # a dangling link, a socket
        return None
    header = read_file(path, defer_size=LARGE_BYTES)
    if header is None:
        if path.suffix.lower() == ".dcm":
            cause = "named .dcm, but empty, no DICOM file, or without its start"
            raise LungsegError(path, cause, f"{AGAIN}, or remove it")
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


def _kind(header) -> str:
    if "LOCALIZER" in str(header.get("ImageType")).upper():
        return "localizer"
    if header.get("SOPClassUID") == CT_IMAGE:
        return "CT"
    modality = str(header.get("Modality") or "?")
    return "CT, not in single slices" if modality == "CT" else modality
