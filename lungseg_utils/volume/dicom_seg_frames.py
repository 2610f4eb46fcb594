"""The frames of a DICOM SEG -> a mask of the slices that it was drawn on."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom import Dataset

from lungseg_utils.runtime import LungsegError
from lungseg_utils.volume.dicom_frames import frame_of
from lungseg_utils.volume.dicom_pixels import decode, find_decoder
from lungseg_utils.volume.dicom_stack import Slice, make_slice
from lungseg_utils.volume.scan import Volume

OFF_GRID = 0.2  # of a voxel: farther from a voxel of the scan none of a frame may lie


def read_segment(
    path: Path, dataset: Dataset, number: int, like: Volume, depths: np.ndarray
) -> np.ndarray:
    """Return the segment `number` as (slices, rows, columns) uint8 of 0 and 1.

    They are the slices of `like`; `depths` are where they lie, in planes of its stored grid. Frames
    that the SEG leaves out are empty; of a fractional one half and more counts. Raises LungsegError
    for a segment without any frame, and for frames on another grid.
    """
    kind = str(dataset.SegmentationType)
    listed = [
        make_slice(path, frame_of(dataset, index), dataset, index)
        for index in range(int(dataset.NumberOfFrames))
        if kind == "LABELMAP" or _segment_of(dataset, index) == number
    ]
    if not listed:
        raise LungsegError(
            path, f"its segment {number} has no frame", "Draw it, or leave it out of --roi"
        )
    columns, rows, _ = like.grid.shape
    slices = np.zeros((len(depths), rows, columns), np.uint8)
    frames = _decoded(path, dataset)
    for one in listed:
        pixels = frames(one)
        if kind == "LABELMAP":
            marked = pixels == number
        elif kind == "FRACTIONAL":
            marked = pixels * 2.0 >= int(dataset.MaximumFractionalValue)
        else:
            marked = pixels == 1
        slices[_place(one, like, depths)] |= marked
    return slices


def _segment_of(dataset: Dataset, index: int) -> int:
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    for groups in (dataset.PerFrameFunctionalGroupsSequence[index], shared):
        if items := groups.get("SegmentIdentificationSequence"):
            return int(items[0].ReferencedSegmentNumber)
    return 1


def _decoded(path: Path, dataset: Dataset) -> Callable[[Slice], np.ndarray]:
    """Return what decodes a frame; frames of bits that share a byte are all decoded at once."""
    decoder = find_decoder(path, dataset.file_meta.TransferSyntaxUID)
    bits = int(dataset.Rows) * int(dataset.Columns) * int(dataset.BitsAllocated)
    if bits % 8 == 0:
        return lambda one: decode(one, dataset, decoder)
    frames = decoder.as_array(dataset, raw=True)[0].reshape(-1, dataset.Rows, dataset.Columns)
    return lambda one: frames[one.frame]


def _place(one: Slice, like: Volume, depths: np.ndarray) -> tuple[int, slice, slice]:
    """Return where a frame lies in the scan's (slices, rows, columns)."""
    to_voxels = np.linalg.inv(like.grid.affine) @ np.diag([-1, -1, 1, 1])
    rows, columns = one.shape
    steps = one.directions * np.array(one.pixel_mm[::-1])[:, None]  # to the next column and row
    counts = np.array([[0, 0], [columns - 1, 0], [0, rows - 1]])  # of steps to three corners
    corners = (one.position + counts @ steps) @ to_voxels[:3, :3].T + to_voxels[:3, 3]
    nearest = int(np.abs(depths - corners[0, 2]).argmin())
    i, j = np.rint(corners[0, :2]).astype(int)
    expected = np.array([i, j, depths[nearest]]) + np.pad(counts, ((0, 0), (0, 1)))
    right, below = like.grid.shape[:2]
    is_inside = min(i, j) >= 0 and i + columns <= right and j + rows <= below
    if not is_inside or np.abs(corners - expected).max() > OFF_GRID:
        raise LungsegError(
            one.path,
            f"its frames lie on another grid than {like.source.name}",
            "Export it with the series that it was drawn on, not resampled",
        )
    return nearest, slice(j, j + rows), slice(i, i + columns)
