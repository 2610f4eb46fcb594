"""Enhanced multi-frame CT: the frames of one file, each as the dataset of a single slice."""

from pathlib import Path

from pydicom import Dataset

from lungseg_utils.runtime import LungsegError
from lungseg_utils.volume.stream import AGAIN

ENHANCED = (
    "1.2.840.10008.5.1.4.1.1.2.1",  # Enhanced CT Image Storage
    "1.2.840.10008.5.1.4.1.1.2.2",  # Legacy Converted Enhanced CT Image Storage
)
PADDING = ("PixelPaddingValue", "PixelPaddingRangeLimit")
PLACES = {  # functional group -> the elements of it that a single slice holds itself
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept", "RescaleType"),
    "UnassignedSharedConvertedAttributesSequence": PADDING,  # converted from single slices
}
OF_ALL = (
    "PatientID",
    "FrameOfReferenceUID",
    "SOPClassUID",
    "Modality",
    "Rows",
    "Columns",
    *PADDING,
)


def frames_of(path: Path, dataset: Dataset) -> list[Dataset]:
    """Return a header a slice of `dataset`: its own, or that of each frame of an enhanced CT.

    The header of a frame holds its place, rescale and padding; its pixels stay with those of its
    file.
    """
    if dataset.get("SOPClassUID") not in ENHANCED:
        return [dataset]
    try:
        return [frame_of(dataset, index) for index in range(int(dataset.NumberOfFrames))]
    except Exception:
        raise LungsegError(
            path, "the places of its frames are missing or cannot be parsed", AGAIN
        ) from None


def frame_of(dataset: Dataset, index: int) -> Dataset:
    """Return the header of one frame, with what single slices hold themselves."""
    frame = Dataset()
    for tag in OF_ALL:
        if tag in dataset:
            frame[tag] = dataset[tag]
    own = dataset.PerFrameFunctionalGroupsSequence[index]
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    for group, tags in PLACES.items():
        items = own.get(group) or shared.get(group) or dataset.get(group)
        for tag in tags:
            if items and tag in items[0]:
                frame[tag] = items[0][tag]
    return frame
