"""Slices of one stack of which some lost the UID of their series, as anonymisers leave them."""

from dataclasses import replace

import numpy as np
from pydicom import Dataset

from lungseg_utils.runtime import LungsegError, warn
from lungseg_utils.volume.dicom_files import Series
from lungseg_utils.volume.dicom_stack import distances, fit, slices_of

ONE_EACH = ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "SeriesNumber")
EVEN = (
    0.7,
    1.3,
)  # of the usual gap: slices closer are doubles, slices further apart are two stacks


def join_nameless(listed: list[Series]) -> list[Series]:
    """Return `listed` with the slices without a UID put into the one series that they belong to.

    They belong to a series of the same study, frame of reference and number, whose slices have
    their orientation, pixel size and shape, and with which they make one even stack. Where none
    or several fit, they stay a series of their own.
    """
    for nameless in [one for one in listed if one.kind == "CT" and not one.uid]:
        fitting = [one for one in listed if one.kind == "CT" and one.uid and _fit(one, nameless)]
        if len(fitting) == 1:
            (named,) = fitting
            joined = replace(named, files=named.files + nameless.files)
            listed = [one for one in listed if one not in (named, nameless)]
            listed.insert(0, joined)
            warn(
                f"{nameless.files[0][0].parent}: {len(nameless.files)} slices have no UID of "
                f"their series; with {named} they make one even stack, and are read as part of it"
            )
    return listed


def _fit(named: Series, nameless: Series) -> bool:
    """Return whether two series are one stack."""
    if _facts(named.files[0][1]) != _facts(nameless.files[0][1]):
        return False
    try:
        slices = slices_of(named.files + nameless.files)
    except LungsegError:
        return False  # whoever reads it says what is wrong with it
    if not all(fit(one, slices[0]) for one in slices):
        return False
    gaps = np.diff(np.sort(distances(slices)))
    return bool(gaps.min() > EVEN[0] * np.median(gaps) and gaps.max() < EVEN[1] * np.median(gaps))


def _facts(header: Dataset) -> list[str]:
    return [str(header.get(tag) or "") for tag in ONE_EACH]
