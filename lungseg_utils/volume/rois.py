"""The ROIs of a DICOM RTSTRUCT or SEG: listed from its header, read as masks on a scan's grid."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import Dataset

from lungseg_utils.runtime import LungsegError, warn
from lungseg_utils.volume import dicom_seg_frames, rtstruct
from lungseg_utils.volume.dicom_headers import read_file
from lungseg_utils.volume.scan import Volume
from lungseg_utils.volume.stream import AGAIN

MODALITIES = ("RTSTRUCT", "SEG")


@dataclass(frozen=True)
class Roi:
    """A region that a file outlines: what it is called there, and its number.

    `series` are the UIDs of the series that it was drawn on, `frame` is that of their frame of
    reference, as far as the file states them.
    """

    name: str
    path: Path
    number: int
    series: frozenset[str] = frozenset()
    frame: str = ""


def list_rois(path: Path, header: Dataset) -> list[Roi]:
    """Return the ROIs of an RTSTRUCT, or the segments of a SEG; its pixels are not read."""
    try:
        listed = _of_rtstruct if header.Modality == "RTSTRUCT" else _of_seg
        rois = listed(path, header)
    except Exception as error:
        raise LungsegError(
            path, f"its list of ROIs cannot be parsed ({type(error).__name__})", AGAIN
        ) from None
    if not rois:
        warn(f"{path}: lists no ROI")
    return rois


def read_roi(roi: Roi, like: Volume) -> np.ndarray:
    """Return a ROI as (D, H, W) uint8 of 0 and 1 on the grid of `like`, a DICOM series.

    Of a series of several spacings, which was resampled, each plane takes what is drawn on the
    slice that lies nearest to it. Raises LungsegError where nothing is drawn, and for what does not
    lie on the slices of `like`.
    """
    planes = np.arange(like.grid.shape[2])
    depths = np.array(like.depths or planes, float)
    dataset = read_file(roi.path)
    try:
        if dataset is None:
            raise ValueError
        is_drawn = dataset.Modality == "RTSTRUCT"
        read = rtstruct.rasterise if is_drawn else dicom_seg_frames.read_segment
        slices = read(roi.path, dataset, roi.number, like, depths)
    except (LungsegError, OSError, MemoryError):
        raise
    except Exception as error:
        raise LungsegError(
            roi.path, f"the ROI {roi.name!r} cannot be parsed ({type(error).__name__})", AGAIN
        ) from None
    mask = np.zeros(like.grid.canonical_shape, np.uint8)
    nearest = np.abs(depths - planes[:, None]).round(3).argmin(axis=1)  # of two, the first
    like.grid.on_disk(mask)[:] = slices[nearest] if like.depths else slices
    return mask


def _of_rtstruct(path: Path, header: Dataset) -> list[Roi]:
    drawn_on: dict[str, set[str]] = {}  # series, by their frame of reference
    for frame in header.get("ReferencedFrameOfReferenceSequence") or []:
        series = drawn_on.setdefault(str(frame.get("FrameOfReferenceUID") or ""), set())
        series.update(
            str(one.SeriesInstanceUID)
            for study in frame.get("RTReferencedStudySequence") or []
            for one in study.get("RTReferencedSeriesSequence") or []
        )
    rois = []
    for one in header.StructureSetROISequence:
        frame_uid = str(one.get("ReferencedFrameOfReferenceUID") or "")
        if not frame_uid and len(drawn_on) == 1:
            frame_uid = next(iter(drawn_on))
        name = str(one.get("ROIName") or one.ROINumber).strip()
        series = drawn_on.get(frame_uid) or set().union(*drawn_on.values())
        rois.append(Roi(name, path, int(one.ROINumber), frozenset(series), frame_uid))
    return rois


def _of_seg(path: Path, header: Dataset) -> list[Roi]:
    listed = header.get("ReferencedSeriesSequence") or []
    series = frozenset(str(one.SeriesInstanceUID) for one in listed)
    frame = str(header.get("FrameOfReferenceUID") or "")
    return [
        Roi(str(one.get("SegmentLabel") or number).strip(), path, number, series, frame)
        for one in header.SegmentSequence
        if (number := int(one.SegmentNumber))  # 0 is the background of a label map
    ]
