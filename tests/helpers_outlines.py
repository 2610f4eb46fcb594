"""DICOM series of a given orientation, and RTSTRUCTs of a mask, made without the package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from contourpy import contour_generator
from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid
from test_dicom import make_slice

FRAME = generate_uid(entropy_srcs=["frame"])  # of every slice that make_slice makes
PIXEL_MM = (0.7, 0.8)  # along a row, and along a column
STEP_MM = 3.0
HEAD_FIRST = ((1, 0, 0), (0, 1, 0), (0, 0, 1))  # a row, a column, and to the next slice, in LPS
DESCENDING = ((1, 0, 0), (0, 1, 0), (0, 0, -1))
FEET_FIRST_PRONE = ((1, 0, 0), (0, -1, 0), (0, 0, -1))
CORONAL = ((1, 0, 0), (0, 0, -1), (0, 1, 0))


def oblique() -> tuple[tuple[float, ...], ...]:
    """Return directions that are turned by 12 degrees about one axis and 7 about another."""
    a, b = np.radians([12, 7])
    one = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    other = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return tuple(tuple(float(x) for x in column) for column in (one @ other).T)


def place(directions, columns, rows, k: float) -> np.ndarray:
    """Return pixels (column, row) of slice k as points in LPS mm."""
    row, column, normal = np.array(directions, float)
    origin = np.array([-12.0, -9.5, 30.25]) + k * STEP_MM * normal
    steps = np.outer(columns, row * PIXEL_MM[0]) + np.outer(rows, column * PIXEL_MM[1])
    return origin + steps


def write_dicom(folder: Path, frames: np.ndarray, directions=HEAD_FIRST, series="1", levels=None):
    """Write (slices, rows, columns) HU as a CT series, at `levels` in slices, and return it."""
    folder.mkdir(parents=True)
    for number, plane in enumerate(frames):
        k = number if levels is None else levels[number]
        orientation = [*directions[0], *directions[1]]
        one = make_slice(
            plane,
            place(directions, [0], [0], k)[0],
            number=number,
            series=series,
            orientation=orientation,
        )
        one.PixelSpacing, one.SliceThickness = list(PIXEL_MM[::-1]), STEP_MM
        one.save_as(folder / f"{series}-{(number * 7) % len(frames):03d}-{number}.dcm")
    return folder


def outlines_of(mask: np.ndarray, directions=HEAD_FIRST, shift: float = 0.0) -> list[np.ndarray]:
    """Return the contours of (slices, rows, columns), holes too, as points in LPS mm.

    They run half-way between voxels inside and outside; `shift` moves them, in slices.
    """
    return [
        place(directions, *line[:-1].T, k + shift)
        for k, plane in enumerate(mask)
        for line in contour_generator(z=plane.astype(float)).lines(0.5)
    ]


def write_rtstruct(
    path: Path,
    rois: dict[str, Sequence[np.ndarray]],
    *,
    series: str = "1",
    frame: str = FRAME,
    kind: str = "CLOSED_PLANAR",
) -> Path:
    """Write an RTSTRUCT of `rois`, name and contours in LPS mm, that refers to `series`."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = RTStructureSetStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    one.SOPClassUID, one.SOPInstanceUID = RTStructureSetStorage, meta.MediaStorageSOPInstanceUID
    one.PatientID, one.PatientName, one.Modality = "ID-4711", "DoeJane", "RTSTRUCT"
    one.StudyInstanceUID = generate_uid(entropy_srcs=["study"])
    one.SeriesInstanceUID, one.SeriesNumber = generate_uid(), "9"
    drawn_on = item(SeriesInstanceUID=generate_uid(entropy_srcs=[series]))
    study = item(RTReferencedSeriesSequence=[drawn_on])
    one.ReferencedFrameOfReferenceSequence = [
        item(FrameOfReferenceUID=frame, RTReferencedStudySequence=[study])
    ]
    one.StructureSetROISequence = [
        item(ROINumber=number, ROIName=name, ReferencedFrameOfReferenceUID=frame)
        for number, name in enumerate(rois, 1)
    ]
    one.ROIContourSequence = [
        item(ReferencedROINumber=number, ContourSequence=[contour(line, kind) for line in lines])
        for number, lines in enumerate(rois.values(), 1)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    one.save_as(path)
    return path


def contour(points: np.ndarray, kind: str) -> Dataset:
    return item(
        ContourGeometricType=kind,
        NumberOfContourPoints=len(points),
        ContourData=[f"{x:.3f}" for x in points.ravel()],
    )


def item(**elements) -> Dataset:
    one = Dataset()
    for name, value in elements.items():
        setattr(one, name, value)
    return one
