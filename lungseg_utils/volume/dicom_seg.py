"""A mask as a DICOM SEG that refers to the CT series it was drawn on, for PACS and viewers."""

from __future__ import annotations

import warnings
from pathlib import Path

import highdicom
import numpy as np
from pydicom import dcmread
from pydicom.sr.codedict import codes

from lungseg_utils import __version__
from lungseg_utils.runtime import LungsegError, writing
from lungseg_utils.volume.scan import Volume

COPIED = (  # from the source; some may be empty
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
)
TUMOUR = highdicom.seg.SegmentDescription(
    segment_number=1,
    segment_label="Lung tumour",
    segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
    segmented_property_type=codes.SCT.Neoplasm,
    algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
    algorithm_identification=highdicom.AlgorithmIdentificationSequence(
        name="lungseg_utils SegUNet",
        version=__version__,
        family=codes.DCM.ArtificialIntelligence,
    ),
    anatomic_regions=[codes.SCT.Lung],
)


def write_segmentation(path: str | Path, mask: np.ndarray, like: Volume) -> None:
    """Write a (D, H, W) mask as a binary DICOM SEG on the series of `like`.

    Of the patient and the study it holds what the standard asks to be copied from the source, no
    more. An empty mask makes a SEG of empty frames. `like` must come from a DICOM folder.
    """
    if not like.slices:
        raise LungsegError(
            like.source,
            "not a DICOM series, which a DICOM SEG has to refer to",
            "Write a NIfTI mask instead",
        )
    sources = [dcmread(source, stop_before_pixels=True) for source in like.slices]
    frames = np.ascontiguousarray(like.grid.on_disk(np.asarray(mask, np.uint8)))  # (k, rows, cols)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote the patient's name
            segmentation = highdicom.seg.Segmentation(
                source_images=sources,
                pixel_array=frames,
                segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=[TUMOUR],
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
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # Tags are missing or wrong that reading does not need; the patient's data are not quoted.
        missing = [tag for tag in COPIED if any(tag not in source for source in sources)]
        what = f"lack {', '.join(missing)}" if missing else f"are wrong ({type(error).__name__})"
        raise LungsegError(
            like.source,
            f"its headers do not suffice for a DICOM SEG; they {what}",
            "Take the NIfTI mask, or fix the headers",
        ) from error
    with writing(path) as partial:
        segmentation.save_as(partial)
