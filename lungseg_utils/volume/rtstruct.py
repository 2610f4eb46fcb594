"""Contours of an RTSTRUCT -> a mask of slices: the pixels whose centres lie inside."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom import Dataset

from lungseg_utils.runtime import LungsegError, warn
from lungseg_utils.volume.grid import spacing_of
from lungseg_utils.volume.scan import Volume

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")  # types of contours that enclose an area
OFF_PLANE = 0.2  # of the distance of two slices: farther from its slice no contour may lie
DRAW_IT = "Draw it, or leave it out of --roi"


def rasterise(
    path: Path, dataset: Dataset, number: int, like: Volume, depths: np.ndarray
) -> np.ndarray:
    """Return the ROI `number` as (slices, rows, columns) uint8 of 0 and 1 on the slices of `like`.

    `depths` are where these lie, in planes of its stored grid. Contours on one slice are combined
    by exclusive or, so that one within another is a hole; an inner one that a keyhole joins to the
    outer one is a hole too. Raises LungsegError for a ROI without closed contours, and for contours
    that lie on no slice.
    """
    listed = dataset.StructureSetROISequence
    name = next(str(one.get("ROIName")) for one in listed if int(one.ROINumber) == number)
    what = f"the ROI {name!r}"
    drawn = _by_slice(path, what, _contours(path, what, dataset, number), like, depths)
    columns, rows, _ = like.grid.shape
    slices = np.zeros((len(depths), rows, columns), np.uint8)
    for index, polygons in drawn.items():
        slices[index] = fill(polygons, (rows, columns))
    if not slices.any():
        raise LungsegError(
            path,
            f"{what} holds the centre of no voxel of {like.source.name}: too small, or beside it",
            DRAW_IT,
        )
    if len(drawn) > 2 and np.median(np.diff(sorted(drawn))) > 1:
        warn(f"{path}: {what} is drawn on every other slice or fewer; those between stay empty")
    return slices


def _contours(path: Path, what: str, dataset: Dataset, number: int) -> list[np.ndarray]:
    """Return the closed contours of a ROI as (points, 3) in LPS mm, each once."""
    drawn = [
        contour
        for one in dataset.get("ROIContourSequence") or []
        if int(one.ReferencedROINumber) == number
        for contour in one.get("ContourSequence") or []
    ]
    if not drawn:
        raise LungsegError(path, f"{what} has no contours", DRAW_IT)
    closed = {}  # by their points: exclusive or would undo a contour that is stored twice
    kinds = set()
    for contour in drawn:
        kind = str(contour.get("ContourGeometricType"))
        if kind in CLOSED:
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            if not np.isfinite(points).all():
                raise LungsegError(path, f"{what} has points that are no numbers", "Export again")
            closed[points.tobytes()] = points
        else:
            kinds.add(kind)
    others = ", ".join(sorted(kinds))
    if not closed:
        raise LungsegError(path, f"{what} has no closed contours, only {others}", DRAW_IT)
    if others:
        warn(f"{path}: {what} has contours of the kind {others} too, which enclose nothing")
    return list(closed.values())


def _by_slice(
    path: Path, what: str, contours: list[np.ndarray], like: Volume, depths: np.ndarray
) -> dict[int, list[np.ndarray]]:
    """Return the polygons of each slice, (points, 2) as (column, row), from contours in LPS mm."""
    to_voxels = np.linalg.inv(like.grid.affine) @ np.diag([-1, -1, 1, 1])
    slices: dict[int, list[np.ndarray]] = {}
    for points in contours:
        voxels = points @ to_voxels[:3, :3].T + to_voxels[:3, 3]
        nearest = int(np.abs(depths - np.median(voxels[:, 2])).argmin())
        off = float(np.abs(voxels[:, 2] - depths[nearest]).max())
        if off > OFF_PLANE:
            distance_mm = off * spacing_of(like.grid.affine)[2]
            raise LungsegError(
                path,
                f"{what} has a contour {distance_mm:.3g} mm off the nearest slice of "
                f"{like.source.name}",
                "Export it with the series that it was drawn on, slices and contours parallel",
            )
        slices.setdefault(nearest, []).append(voxels[:, :2])
    return slices


def fill(polygons: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Return which pixels (rows, columns) have their centre inside an odd number of polygons.

    A polygon is (points, 2) as (column, row), closed by an edge to its first point. Along a row of
    pixels the first one behind each edge changes sides.
    """
    rows, columns = shape
    changes = np.zeros((rows, columns + 1), bool)
    for points in polygons:
        x, y = points.T
        next_x, next_y = np.roll(points, -1, axis=0).T
        low = np.clip(np.ceil(np.minimum(y, next_y)), 0, rows).astype(int)
        high = np.clip(np.ceil(np.maximum(y, next_y)), 0, rows).astype(int)
        edge = np.repeat(np.arange(len(x)), high - low)  # of each crossing of an edge and a row
        row = np.concatenate([np.arange(start, stop) for start, stop in zip(low, high)])
        share = (row - y[edge]) / (next_y - y)[edge]
        crossing = x[edge] + share * (next_x - x)[edge]
        column = np.clip(np.ceil(crossing), 0, columns).astype(int)
        np.logical_xor.at(changes, (row, column), True)
    return np.logical_xor.accumulate(changes, axis=1)[:, :-1]
