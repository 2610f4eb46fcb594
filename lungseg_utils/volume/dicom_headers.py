"""One DICOM file -> its dataset: with or without the Part 10 header, never more than it has."""

import io
import os
import struct
import warnings
from pathlib import Path

from pydicom import Dataset, config, dcmread
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pydicom.valuerep import VR

from lungseg_utils.runtime import LungsegError
from lungseg_utils.volume.stream import AGAIN

LARGE_BYTES = 4096  # larger elements, the pixels, are read from the file when they are asked for
MOST_DEFLATED_BYTES = 1 << 20  # deflate makes up to 1032 times as many of them
START_BYTES = 140  # of a file: a preamble of 128, "DICM" and the head of an element
FIRST_GROUPS = (2, 8)  # of the File Meta Information, and of a dataset
VRS = {str(vr).encode() for vr in VR}
EXPLICIT: dict[tuple, UID] = {  # pydicom's original_encoding -> the transfer syntax
    (False, True): ExplicitVRLittleEndian,
    (False, False): ExplicitVRBigEndian,
}


class _File(io.BufferedReader):
    """A file that returns no more than it has: pydicom allots whatever length an element claims."""

    def __init__(self, path: str | Path, mode: str = "rb"):
        super().__init__(io.FileIO(os.fspath(path), mode))
        self.size = os.fstat(self.fileno()).st_size
        self.start = 0  # where the dataset begins in a file that is not Part 10

    def seek(self, target: int, whence: int = 0) -> int:
        return super().seek(target or self.start if whence == 0 else target, whence)

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

    A dataset without the Part 10 header is read as well. Whatever pydicom stumbles over is
    reported without quoting the file.
    """
    config.settings.reading_validation_mode = config.IGNORE  # a warning may quote the patient
    warnings.filterwarnings("ignore", module="pydicom")
    try:
        with _File(path) as file:
            beginning = file.read(START_BYTES)
            is_part_10 = beginning[128:132] == b"DICM"
            start = 0 if is_part_10 else _start_of_dataset(beginning)
            if start is None:
                return None
            file.start = start
            file.seek(0)
            header = dcmread(file, defer_size=defer_size, force=True)
        if not is_part_10 and not ("SOPClassUID" in header or "Modality" in header):
            return None
        if not header.file_meta.get("TransferSyntaxUID"):
            found = EXPLICIT.get(header.original_encoding, ImplicitVRLittleEndian)
            header.file_meta.TransferSyntaxUID = found
        header.fileobj_type = _File  # what is read later is read through it too
        return header
    except (LungsegError, OSError):
        raise
    except Exception as error:
        raise LungsegError(
            path, f"a DICOM file that is damaged or cut short ({type(error).__name__})", AGAIN
        ) from None


def _start_of_dataset(beginning: bytes) -> int | None:
    """Return where a dataset without the Part 10 header begins; None where none is to be seen.

    It may follow "DICM" alone, or a preamble that "DICM" does not follow.
    """
    for start in (0, 4, 128, 132):
        head = beginning[start : start + 8]
        if len(head) < 8 or (start == 4 and beginning[:4] != b"DICM"):
            continue
        order = ">HH" if head[0] == 0 else "<HH"
        group, element = struct.unpack(order, head[:4])
        is_short = int.from_bytes(head[4:], "little") < 1 << 16  # of an implicit VR: a length
        if group in FIRST_GROUPS and element < 0x100 and (head[4:6] in VRS or is_short):
            return start
    return None
