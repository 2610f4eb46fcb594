"""A folder of DICOM files -> one CT series in Hounsfield units, sorted by position and checked."""

from pathlib import Path

import numpy as np

from lungseg_utils.runtime import LungsegError, warn
from lungseg_utils.volume.dicom_files import ONE_SERIES, choose, find_series, warn_of_class
from lungseg_utils.volume.dicom_join import join_nameless
from lungseg_utils.volume.dicom_pixels import read_pixels
from lungseg_utils.volume.dicom_stack import (
    Slice,
    distances,
    levels_of,
    make_affine,
    run_spacings,
    slices_of,
    sort_slices,
)
from lungseg_utils.volume.grid import grid_of, spacing_of
from lungseg_utils.volume.header import MAX_VOXELS
from lungseg_utils.volume.intensity import HounsfieldWriter, check_rescale_type
from lungseg_utils.volume.scan import Volume

ROUNDING = 1e-3  # of a plane: so close, a plane of the grid is a slice


def read_series(folder: str | Path, *, series: str | int | None = None) -> Volume:
    """Read the CT series in `folder`.

    `series` picks one of several, by its UID, number or description.
    """
    folder = Path(folder)
    slices = _find_slices(folder, series)
    levels = levels_of(slices)
    firsts = [level[0] for level in levels]
    affine = make_affine(folder, firsts)
    depths = distances(firsts) / (spacing_of(affine)[2] or 1)
    count = max(len(levels), round(depths[-1]) + 1)
    rows, columns = firsts[0].shape
    if rows * columns * count > MAX_VOXELS:
        raise LungsegError(
            folder, f"implausibly large: {count} slices of {rows}x{columns}", ONE_SERIES
        )
    grid = grid_of((columns, rows, count), affine)
    writer = HounsfieldWriter(folder, grid)
    is_even = count == len(levels)
    if is_even:
        for index, level in enumerate(levels):
            pixels, writer.scaling = _read_level(level)
            writer.add(index, pixels[None])
    else:
        depths *= (count - 1) / depths[-1]
        _resample(writer, levels, depths)
        spacings = ", ".join(f"{mm:g}" for mm in run_spacings(np.diff(distances(firsts))))
        warn(
            f"{folder}: its slices lie {spacings} mm apart; they are resampled to "
            f"{spacing_of(affine)[2]:.4g} mm"
        )
    if len(slices) > len(levels):
        warn(f"{folder}: {len(slices) - len(levels)} duplicate slices are left out")
    return Volume(
        writer.finish(),
        spacing_of(grid.canonical_affine),
        grid.canonical_affine,
        folder.resolve().name,
        folder,
        grid,
        _files_of(firsts),
        () if is_even else tuple(depths.tolist()),
    )


def _find_slices(folder: Path, series: str | int | None) -> list[Slice]:
    """Return the slices of the series that is asked for, from the feet upwards."""
    files = choose(folder, join_nameless(find_series(folder)), series).files
    warn_of_class(folder, files)
    slices = slices_of(files)
    for unit in sorted({str(one.dataset.get("RescaleType") or "") for one in slices}):
        check_rescale_type(folder, unit)
    return sort_slices(slices)


def _files_of(slices: list[Slice]) -> tuple[Path, ...]:
    """Return the file of each slice, or the one of all frames; none of several with frames."""
    if all(one.file is one.dataset for one in slices):
        return tuple(one.path for one in slices)
    paths = {one.path for one in slices}
    return tuple(paths) if len(paths) == 1 else ()


def _read_level(level: list[Slice]) -> tuple[np.ndarray, tuple[float, float]]:
    """Decode the slice of a place; others in the same place must be its copies."""
    pixels, scaling = read_pixels(level[0])
    for other in level[1:]:
        copied, other_scaling = read_pixels(other)
        if scaling != other_scaling or not np.array_equal(pixels, copied):
            raise LungsegError(
                other.path,
                f"lies where {level[0].path.name} lies, and differs from it",
                "The series mixes acquisitions: keep the slices of one",
            )
    return pixels, scaling


def _resample(writer: HounsfieldWriter, levels: list[list[Slice]], depths: np.ndarray) -> None:
    """Fill the evenly spaced planes of `writer` linearly from slices at `depths`, in planes."""
    below = np.zeros(0)
    plane = 0
    for index, level in enumerate(levels):
        pixels, (slope, intercept) = _read_level(level)
        above = pixels * slope + intercept
        while plane <= depths[index] + ROUNDING:
            gap = depths[index] - depths[index - 1] if index else 1.0
            weight = min(1.0, 1 - (depths[index] - plane) / gap)
            mixed = above if weight > 1 - ROUNDING else (1 - weight) * below + weight * above
            writer.add(plane, np.rint(mixed)[None])
            plane += 1
        below = above
