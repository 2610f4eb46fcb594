"""What is drawn on a scan, whatever the file, and which of it was asked for."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

import numpy as np

from lungseg_utils import volume
from lungseg_utils.runtime import LungsegError
from lungseg_utils.volume.rois import Roi, read_roi

SHOWN = 20


@dataclass(frozen=True)
class Outline:
    """A ROI in a file: `read(scan)` returns its mask; `roi` is what a DICOM file states of it."""

    name: str
    path: Path
    read: Callable[[volume.Volume], np.ndarray]
    roi: Roi | None = None


@dataclass(frozen=True)
class Case:
    """A scan to import: `series` is the UID of a DICOM series; `part` is "Tr" or "Ts".

    `patient`, `fold` and `is_crop` are those that its set states, if it does.
    """

    name: str
    scan: Path
    outlines: tuple[Outline, ...]
    series: str = ""
    part: str = "Tr"
    patient: str = ""
    fold: int | None = None
    is_crop: bool = False


def of_roi(roi: Roi) -> Outline:
    """Return the outline of a ROI in an RTSTRUCT or SEG."""
    return Outline(roi.name, roi.path, partial(read_roi, roi), roi)


def of_label(path: Path, name: str, values: Sequence[int] = ()) -> Outline:
    """Return the outline of a NIfTI label; `values` are those of its class."""
    return Outline(name, path, lambda scan: volume.read_label(path, like=scan, values=values))


def select(subject: Path, outlines: Sequence[Outline], wanted: Sequence[str]) -> list[Outline]:
    """Return those of the `wanted` names and patterns; without them the only one there is.

    Raises LungsegError, which lists them, where there are several or none fits, and where two
    files hold one of that name.
    """
    names = sorted({outline.name for outline in outlines})
    files = sorted({outline.path.name for outline in outlines})
    listed = ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
    subject = outlines[0].path if len(files) == 1 else subject
    if not wanted and len(outlines) > 1:
        within = "" if len(files) == 1 else f" in {', '.join(files[:SHOWN])}"
        raise LungsegError(
            subject,
            f"holds {len(outlines)} ROIs{within}: {listed}",
            "Choose the tumour's with --roi NAME; it may be a pattern, and repeated",
        )
    chosen = [one for one in outlines if is_wanted(one, wanted)]
    if not chosen:
        raise LungsegError(
            subject,
            f"no ROI fits --roi {' --roi '.join(wanted)}; it holds {listed}",
            "Name one of these",
        )
    for name, count in Counter(one.name for one in chosen).items():
        if count > 1:
            places = ", ".join(sorted({one.path.name for one in chosen if one.name == name}))
            raise LungsegError(
                subject,
                f"{count} ROIs are called {name!r}, in {places}",
                "Keep one, or rename one",
            )
    return chosen


def is_wanted(outline: Outline, wanted: Sequence[str]) -> bool:
    """Return whether an outline fits one of the `wanted` names and patterns, if there are any."""
    name = outline.name
    return not wanted or any(name == one or fnmatchcase(name, one) for one in wanted)
