"""The checked reader of CT scans and labels, and the writer that puts masks back on their grid."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from lungseg_utils.runtime import LungsegError
from lungseg_utils.volume import dicom, header, nifti
from lungseg_utils.volume.grid import grid_along
from lungseg_utils.volume.scan import Volume
from lungseg_utils.volume.stream import Stream


def stem(path: str | Path) -> str:
    """Return the file name without .nii or .nii.gz (in any case); dots within it stay."""
    name = Path(path).name
    suffix = next((end for end in (".nii.gz", ".nii") if name.lower().endswith(end)), "")
    return name[: len(name) - len(suffix)] or name


def read(path: str | Path, *, series: str | int | None = None) -> Volume:
    """Read a CT from a NIfTI file or from a folder of DICOM slices.

    `series` picks one of several DICOM series, by its UID, number or description. Raises
    LungsegError for whatever is wrong with the scan.
    """
    path = Path(path)
    if os.path.isdir(path):  # unlike Path.is_dir, False for whatever cannot be looked at
        return dicom.read_series(path, series=series)
    if path.name.lower().endswith((".hdr", ".img", ".hdr.gz", ".img.gz")):
        raise LungsegError(path, *header.HALF_OF_A_PAIR)
    hu, own = nifti.read_hu(path)
    return Volume(hu, own.spacing_mm, own.grid.canonical_affine, stem(path), path, own.grid)


def read_header(path: str | Path) -> header.Header:
    """Read and check a NIfTI header alone; no voxel is read.

    It has `.shape` (D, H, W), `.spacing_mm`, `.dtype` and `.grid`.
    """
    with Stream(Path(path)) as stream:
        return header.read_header(stream)


def write_scan(path: str | Path, scan: Volume) -> None:
    """Write a scan as NIfTI: its HU in the shape and affine in which it is stored, nothing else."""
    nifti.write(Path(path), scan.hu, scan.grid)


def write_mask(path: str | Path, mask: np.ndarray, like: Volume) -> None:
    """Write a (D, H, W) mask as uint8 NIfTI in the stored shape and affine of `like`."""
    _write_like(path, np.asarray(mask), like, np.uint8)


def write_map(path: str | Path, probability: np.ndarray, like: Volume) -> None:
    """Write a (D, H, W) map of probabilities as float32 NIfTI on the stored grid of `like`."""
    _write_like(path, np.asarray(probability), like, np.float32)


def write_nifti(
    path: str | Path,
    array: np.ndarray,
    affine: np.ndarray,
    *,
    orientation: str = "LPS",
    dtype: DTypeLike | None = None,
) -> None:
    """Write a (D, H, W) array as NIfTI; `affine` maps (d, h, w) to RAS+ mm.

    The letters of `orientation` name where the stored i, j and k run to: any of the 48, such as
    "LPS", "RAS", "SAL".
    """
    array = np.asarray(array, dtype)
    grid = grid_along(orientation, array.shape, np.asarray(affine, float))
    nifti.write(Path(path), array, grid)


def _write_like(path: str | Path, array: np.ndarray, like: Volume, dtype: DTypeLike) -> None:
    if array.shape != like.hu.shape:
        raise ValueError(
            f"an array of shape {array.shape} does not fit {like.name} of shape {like.hu.shape}"
        )
    nifti.write(Path(path), array.astype(dtype, copy=False), like.grid)
