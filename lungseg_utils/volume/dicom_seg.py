"""A mask as a DICOM SEG that refers to the CT series it was drawn on, for PACS and viewers."""

import warnings
from pathlib import Path

import highdicom
import numpy as np
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.valuerep import DA, TM

from lungseg_utils import __version__
from lungseg_utils.runtime import LungsegError, warn, writing
from lungseg_utils.volume.dicom_files import CT_IMAGE
from lungseg_utils.volume.dicom_frames import frames_of
from lungseg_utils.volume.dicom_headers import LARGE_BYTES, read_file
from lungseg_utils.volume.grid import spacing_of
from lungseg_utils.volume.scan import Volume

MAY_BE_EMPTY = {  # Type 2 elements, copied from the source where they are valid
    "PatientID": str,
    "PatientName": str,
    "PatientBirthDate": DA,
    "PatientSex": str,
    "StudyID": str,
    "StudyDate": DA,
    "StudyTime": TM,
    "AccessionNumber": str,
}
NEEDED = (  # from the source
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "FrameOfReferenceUID",
)
SEXES = ("M", "F", "O", "")  # as the standard has them


def write_segmentation(
    path: str | Path, mask: np.ndarray, like: Volume, *, by_hand: bool = False
) -> None:
    """Write a (D, H, W) mask as a binary DICOM SEG on the series of `like`, a DICOM folder.

    Of the patient and the study it holds what the standard asks to be copied from the source. An
    empty mask makes empty frames. One that was corrected `by_hand` is called semi-automatic.
    """
    if not like.slices:
        raise LungsegError(
            like.source,
            "not a DICOM series of single slices or one file, which a DICOM SEG has to refer to",
            "Write a NIfTI mask instead",
        )
    sources = _read_sources(like)
    frames = np.ascontiguousarray(like.grid.on_disk(np.asarray(mask, np.uint8)))  # (k, rows, cols)
    own = [frame for path, one in zip(like.slices, sources) for frame in frames_of(path, one)]
    if len(frames) != len(sources):  # resampled, or frames in any order: each takes its plane
        frames = frames[_planes(like, own)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote the patient's name
            segmentation = highdicom.seg.Segmentation(
                source_images=sources,
                pixel_array=frames,
                segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=[_tumour(by_hand)],
                series_instance_uid=highdicom.UID(),
                series_number=1000,
                sop_instance_uid=highdicom.UID(),
                instance_number=1,
                manufacturer="lungseg_utils",
                manufacturer_model_name="SegUNet",
                software_versions=__version__,
                device_serial_number="0",
                series_description="Lung tumour, " + ("corrected" if by_hand else "automatic"),
                omit_empty_frames=bool(frames.any()),
            )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # What reading does not need is wrong; the patient's data are not quoted.
        is_sex_wrong = any((source.PatientSex or "") not in SEXES for source in sources)
        element = "PatientSex, " if is_sex_wrong else ""
        raise LungsegError(
            like.source,
            "its headers do not suffice for a DICOM SEG; they are wrong "
            f"({element}{type(error).__name__})",
            "Take the NIfTI mask, or fix the headers",
        ) from error
    with writing(path) as partial:
        segmentation.save_as(partial)


def _tumour(by_hand: bool) -> highdicom.seg.SegmentDescription:
    types = highdicom.seg.SegmentAlgorithmTypeValues
    return highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label="Lung tumour",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Neoplasm,
        algorithm_type=types.SEMIAUTOMATIC if by_hand else types.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name="lungseg_utils SegUNet",
            version=__version__,
            family=codes.DCM.ArtificialIntelligence,
        ),
        anatomic_regions=[codes.SCT.Lung],
    )


def _read_sources(like: Volume) -> list[Dataset]:
    """Return the headers of the slices, fit to be copied: in Unicode, Type 2 elements filled.

    Dates and times that are none are left empty, with a warning.
    """
    sources = []
    emptied = set()
    for path in like.slices:
        source = read_file(path, defer_size=LARGE_BYTES) or Dataset()
        source.pop("PixelData", None)
        missing = [tag for tag in NEEDED if not source.get(tag)]
        if missing:
            raise LungsegError(
                path,
                f"its header does not suffice for a DICOM SEG: it lacks {', '.join(missing)}",
                "Take the NIfTI mask, or fix the headers",
            )
        source.SOPClassUID = source.get("SOPClassUID") or CT_IMAGE
        source.SliceThickness = source.get("SliceThickness") or spacing_of(like.grid.affine)[2]
        source.Modality = source.get("Modality") or "CT"
        _share_places(source)
        emptied |= _fill(path, source)
        sources.append(source)
    if emptied:
        names = ", ".join(sorted(emptied))
        warn(f"{like.source}: {names} is not valid DICOM; it is left empty in the DICOM SEG")
    return sources


def _share_places(source: Dataset) -> None:
    """Set for the frames of an enhanced CT in common what each has, where highdicom asks it.

    They are alike in it, or they were not read.
    """
    for first in (source.get("PerFrameFunctionalGroupsSequence") or [])[:1]:
        if not source.get("SharedFunctionalGroupsSequence"):
            source.SharedFunctionalGroupsSequence = [Dataset()]
        shared = source.SharedFunctionalGroupsSequence[0]
        for group in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
            if group in first and group not in shared:
                shared[group] = first[group]


def _planes(like: Volume, slices: list[Dataset]) -> np.ndarray:
    """Return the plane of the stored grid that lies closest to each slice."""
    lps = np.array([[*one.ImagePositionPatient, 1] for one in slices], float)
    stored = np.linalg.inv(like.grid.affine) @ np.diag([-1, -1, 1, 1]) @ lps.T
    return np.clip(np.rint(stored[2]).astype(int), 0, like.grid.shape[2] - 1)


def _fill(path: Path, source: Dataset) -> set[str]:
    """Make the Type 2 elements of `source` Unicode text; return the names of the invalid ones."""
    texts = {}
    for tag in MAY_BE_EMPTY:
        try:
            texts[tag] = str(source.get(tag) or "")
        except Exception:
            raise LungsegError(
                path,
                f"its {tag} cannot be read, which a DICOM SEG has to hold",
                "Take the NIfTI mask, or fix the headers",
            ) from None
    source.SpecificCharacterSet = "ISO_IR 192"
    invalid = {tag for tag, kind in MAY_BE_EMPTY.items() if not _is_valid(kind, texts[tag])}
    for tag, text in texts.items():
        setattr(source, tag, "" if tag in invalid else text)
    return invalid


def _is_valid(kind: type, value: str) -> bool:
    """Return whether a date or a time is one; any text is a text."""
    try:
        kind(value)
    except (ValueError, OverflowError):
        return False
    return True
