"""CT slices -> one stack: sorted by position, all of one shape and plane, evenly spaced."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import Dataset

from lungseg_utils.runtime import LungsegError, warn
from lungseg_utils.volume.dicom_frames import frames_of
from lungseg_utils.volume.grid import check_affine
from lungseg_utils.volume.stream import AGAIN

ONE_EACH = ("PatientID", "FrameOfReferenceUID")  # in a series
SAME_GAP = 0.05  # gaps that differ by no more of their size are one spacing
RUN_GAPS = 3  # that follow each other at one spacing: those of a series of two spacings do


@dataclass(frozen=True)
class Slice:
    """One CT image: where it is in LPS mm, and how its pixels lie.

    `directions` are those of a row and of a column; `file` is the dataset that holds its pixels,
    as its frame number `frame`.
    """

    path: Path
    dataset: Dataset
    position: np.ndarray
    directions: np.ndarray
    pixel_mm: tuple[float, ...]
    shape: tuple[int, int]
    thickness_mm: float
    file: Dataset
    frame: int


def make_slice(path: Path, dataset: Dataset, file: Dataset, frame: int) -> Slice:
    """Return a slice and its place; refuse a header that does not hold it."""
    try:
        position = np.array(dataset.ImagePositionPatient, float)
        directions = np.array(dataset.ImageOrientationPatient, float).reshape(2, 3)
        pixel_mm = tuple(float(size) for size in dataset.PixelSpacing)
        shape = (int(dataset.Rows), int(dataset.Columns))
        thickness_mm = float(dataset.get("SliceThickness") or 1)
        is_usable = (
            position.shape == (3,)
            and len(pixel_mm) == 2
            and min(*pixel_mm, *shape) > 0
            and int(dataset.get("SamplesPerPixel") or 1) == 1
            and np.abs(np.linalg.norm(directions, axis=1) - 1).max() <= 1e-3
            and np.isfinite([*position, *directions.flat, *pixel_mm, thickness_mm]).all()
        )
    except Exception:
        is_usable = False
    if not is_usable:
        raise LungsegError(
            path, "no usable position, orientation, pixel size or shape in its header", AGAIN
        )
    return Slice(path, dataset, position, directions, pixel_mm, shape, thickness_mm, file, frame)


def slices_of(files: Iterable[tuple[Path, Dataset]]) -> list[Slice]:
    """Return the slices in `files` of a series, one a file or one a frame."""
    return [
        make_slice(path, header, dataset, frame)
        for path, dataset in files
        for frame, header in enumerate(frames_of(path, dataset))
    ]


def sort_slices(slices: list[Slice]) -> list[Slice]:
    """Sort slices along their common normal, and refuse what is not one stack."""
    stack = _without_strays(slices)
    first = stack[0]
    normal = np.cross(*first.directions)
    return sorted(stack, key=lambda one: (round(float(one.position @ normal), 3), one.path.name))


def _without_strays(slices: list[Slice]) -> list[Slice]:
    """Return the slices of the commonest kind; name what is another.

    A few of another plane are scouts, which are left out with a warning.
    """
    usual = _commonest(slices, fit)
    scouts = [one for one in slices if not _is_parallel(one, usual)]
    if 0 < len(scouts) <= min(3, len(slices) // 10):
        names = ", ".join(one.path.name for one in scouts)
        warn(f"{scouts[0].path.parent}: {names} of another plane (a scout?) is left out")
        slices = [one for one in slices if _is_parallel(one, usual)]
    for are_alike, difference, whole in (
        (fit, "shape, pixel size or orientation differs from", "stack"),
        (_is_of_one_scan, "patient or frame of reference is another than", "scan"),
    ):
        usual = _commonest(slices, are_alike)
        for one in slices:
            if not are_alike(one, usual):
                raise LungsegError(
                    one.path,
                    f"its {difference} that of {usual.path.name} and most others",
                    f"Keep the slices of one {whole}",
                )
    return slices


def _commonest(slices: list[Slice], are_alike: Callable[[Slice, Slice], bool]) -> Slice:
    """Return the first of the largest group of slices that are alike."""
    groups: list[list[Slice]] = []
    for one in slices:
        group = next((group for group in groups if are_alike(one, group[0])), None)
        if group is None:
            groups.append([one])
        else:
            group.append(one)
    return max(groups, key=len)[0]


def _is_parallel(one: Slice, other: Slice) -> bool:
    return np.allclose(one.directions, other.directions, atol=1e-3)


def fit(one: Slice, other: Slice) -> bool:
    """Return whether two slices have the same shape, pixel size and orientation."""
    return (
        one.shape == other.shape
        and np.allclose(one.pixel_mm, other.pixel_mm, rtol=1e-3)
        and _is_parallel(one, other)
    )


def _is_of_one_scan(one: Slice, other: Slice) -> bool:
    return all((one.dataset.get(tag) or "") == (other.dataset.get(tag) or "") for tag in ONE_EACH)


def levels_of(slices: list[Slice]) -> list[list[Slice]]:
    """Group sorted slices that share a position."""
    levels: list[list[Slice]] = []
    for one in slices:
        if levels and np.linalg.norm(one.position - levels[-1][0].position) < 0.01:
            levels[-1].append(one)
        else:
            levels.append([one])
    return levels


def make_affine(folder: Path, slices: list[Slice]) -> np.ndarray:
    """Return the map of (column, row, slice) to RAS+ mm.

    Gaps and uneven stacks are refused, and a tilted gantry as a sheared grid. A stack of several
    spacings gets the finest of them.
    """
    first = slices[0]
    step = np.cross(*first.directions) * first.thickness_mm
    if len(slices) > 1:
        step = _step(folder, slices)
    affine = np.eye(4)
    in_plane = first.directions.T * first.pixel_mm[::-1]  # columns: along a row, along a column
    affine[:3] = np.column_stack([in_plane, step, first.position])
    affine = np.diag([-1, -1, 1, 1]) @ affine  # LPS to RAS
    check_affine(folder, affine)
    return affine


def distances(slices: list[Slice]) -> np.ndarray:
    """Return how far each slice lies from the first along their normal, in mm."""
    positions = np.array([one.position for one in slices])
    return (positions - positions[0]) @ np.cross(*slices[0].directions)


def _step(folder: Path, slices: list[Slice]) -> np.ndarray:
    """Return the vector from one plane of the grid to the next, in LPS mm."""
    positions = np.array([one.position for one in slices])
    places = distances(slices)
    gaps = np.diff(places)
    usual = float(np.median(gaps))
    spacings = run_spacings(gaps)
    if len(spacings) > 1:
        usual = min(spacings)
        count = round(places[-1] / usual)
        expected = positions[0] + np.outer(places / places[-1], positions[-1] - positions[0])
    else:
        for before, after, gap in zip(slices, slices[1:], gaps):
            if not 0.7 * usual < gap < 1.3 * usual:
                names = f"{before.path.name} and {after.path.name}"
                raise LungsegError(
                    folder,
                    f"slices are missing: {gap:.4g} mm between {names}, {usual:.4g} mm elsewhere",
                    "Export the whole series again",
                )
        count = len(slices) - 1
        expected = np.linspace(positions[0], positions[-1], len(slices))
    strays = np.linalg.norm(positions - expected, axis=1)
    if strays.max() > 0.5 * usual:  # gaps that change along the series, or sideways slices
        worst = int(np.argmax(strays))
        raise LungsegError(
            folder,
            f"not one even stack: {slices[worst].path.name} lies {strays[worst]:.3g} mm "
            "from where it should",
            "Export slices of one spacing, none shifted",
        )
    return (positions[-1] - positions[0]) / count


def run_spacings(gaps: np.ndarray) -> list[float]:
    """Return the spacings of a stack that was reconstructed at several, the commonest first.

    Each must hold for a run of gaps: a lone gap is a missing slice, except between two runs and
    of a size between theirs. Where it is not so, nothing is returned.
    """
    runs: list[list[float]] = []
    for gap in gaps:
        if runs and abs(gap - runs[-1][0]) <= SAME_GAP * runs[-1][0]:
            runs[-1].append(gap)
        else:
            runs.append([gap])
    if min(len(runs[0]), len(runs[-1])) < RUN_GAPS:
        return []
    counts: dict[float, int] = {}
    for before, run, after in zip([runs[0], *runs], runs, [*runs[1:], runs[-1]]):
        if len(run) >= RUN_GAPS:
            spacing = round(float(np.median(run)), 2)
            counts[spacing] = counts.get(spacing, 0) + len(run)
        elif len(run) > 1 or not min(before[0], after[0]) < run[0] < max(before[0], after[0]):
            return []
    if max(counts) < 1.3 * min(counts):  # small differences are positions that were rounded
        return []
    return sorted(counts, key=lambda spacing: -counts[spacing])
