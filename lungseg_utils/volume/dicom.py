"""A folder of DICOM files -> one CT series in Hounsfield units, sorted by position and checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lungseg_utils.runtime import LungsegError, warn
from lungseg_utils.volume.dicom_files import ONE_SERIES, choose, find_series, warn_of_class
from lungseg_utils.volume.dicom_pixels import read_pixels
from lungseg_utils.volume.dicom_stack import levels_of, make_affine, make_slice, sort_slices
from lungseg_utils.volume.grid import grid_of, spacing_of
from lungseg_utils.volume.header import MAX_VOXELS
from lungseg_utils.volume.intensity import HounsfieldWriter, check_rescale_type
from lungseg_utils.volume.scan import Volume


def read_series(folder: str | Path, *, series: str | int | None = None) -> Volume:
    """Read the CT series in `folder`.

    `series` picks one of several, by its UID, number or description.
    """
    folder = Path(folder)
    files = choose(folder, find_series(folder), series).files
    warn_of_class(folder, files)
    for unit in sorted({str(dataset.get("RescaleType") or "") for _, dataset in files}):
        check_rescale_type(folder, unit)
    slices = sort_slices([make_slice(path, dataset) for path, dataset in files])
    levels = levels_of(slices)
    firsts = [level[0] for level in levels]
    rows, columns = firsts[0].shape
    if rows * columns * len(levels) > MAX_VOXELS:
        raise LungsegError(
            folder, f"implausibly large: {len(levels)} slices of {rows}x{columns}", ONE_SERIES
        )
    grid = grid_of((columns, rows, len(levels)), make_affine(folder, firsts))
    writer = HounsfieldWriter(folder, grid)
    for index, level in enumerate(levels):
        pixels, writer.scaling = read_pixels(level[0])
        for other in level[1:]:
            copied, scaling = read_pixels(other)
            if scaling != writer.scaling or not np.array_equal(pixels, copied):
                raise LungsegError(
                    other.path,
                    f"lies where {level[0].path.name} lies, and differs from it",
                    "The series mixes acquisitions: keep the slices of one",
                )
        writer.add(index, pixels[None])
    if len(slices) > len(levels):
        warn(f"{folder}: {len(slices) - len(levels)} duplicate slices are left out")
    return Volume(
        writer.finish(),
        spacing_of(grid.canonical_affine),
        grid.canonical_affine,
        folder.resolve().name,
        folder,
        grid,
        tuple(one.path for one in firsts),
    )
