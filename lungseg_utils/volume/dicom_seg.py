"""A mask as a DICOM SEG that refers to the CT series it was drawn on, for PACS and viewers."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from lungseg_utils import __version__
from lungseg_utils.runtime import LungsegError, writing

COPIED = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "FrameOfReferenceUID",
    "SliceThickness",
)  # from the source; some may be empty


def write_segmentation(path: str | Path, mask: np.ndarray, like) -> None:
    """Write a (D, H, W) mask as a binary DICOM SEG on the series of the Volume `like`.

    Of the patient and the study it holds what the standard asks to be copied from the source, no more.
    An empty mask gives a SEG of empty frames. `like` must have been read from a DICOM folder.
    """
    if not like.slices:
        cause = "not a DICOM series, which a DICOM SEG has to refer to"
        raise LungsegError(like.source, cause, "Write a NIfTI mask instead")
    import highdicom
    from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentDescription
    from pydicom import dcmread
    from pydicom.sr.codedict import codes

    software = highdicom.AlgorithmIdentificationSequence(
        name="lungseg_utils SegUNet", version=__version__, family=codes.DCM.ArtificialIntelligence
    )
    tumour = SegmentDescription(
        segment_number=1,
        segment_label="Lung tumour",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Neoplasm,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=software,
        anatomic_regions=[codes.SCT.Lung],
    )
    sources = [dcmread(source, stop_before_pixels=True) for source in like.slices]
    frames = np.ascontiguousarray(
        like.grid.on_disk(np.asarray(mask, dtype=np.uint8))
    )  # (slices, rows, columns)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote the patient's name
            segmentation = Segmentation(
                source_images=sources,
                pixel_array=frames,
                segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=[tumour],
                series_instance_uid=highdicom.UID(),
                series_number=1000,
                sop_instance_uid=highdicom.UID(),
                instance_number=1,
                manufacturer="lungseg_utils",
                manufacturer_model_name="SegUNet",
                software_versions=__version__,
                device_serial_number="0",
                series_description="Lung tumour, automatic",
                omit_empty_frames=bool(frames.any()),
            )
    except (
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
    ) as error:  # tags that reading does not need
        missing = [tag for tag in COPIED if any(tag not in source for source in sources)]
        what = (
            f"lack {', '.join(missing)}" if missing else f"are wrong ({type(error).__name__})"
        )  # no patient's data
        raise LungsegError(
            like.source,
            f"its headers do not suffice for a DICOM SEG; they {what}",
            "Take the NIfTI mask, or mend the headers",
        ) from error
    with writing(path) as partial:
        segmentation.save_as(partial)
