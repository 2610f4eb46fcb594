"""The one checked reader of CT scans and labels, and the writer that puts masks back on the scan's own grid."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from lungseg_utils.runtime import LungsegError
from lungseg_utils.volume import nifti
from lungseg_utils.volume.header import Header
from lungseg_utils.volume.header import read_header as _read_header
from lungseg_utils.volume.scan import Volume
from lungseg_utils.volume.stream import Stream


def stem(path: str | Path) -> str:
    """Give the file name without .nii or .nii.gz (in any case); dots within it stay."""
    name = Path(path).name
    for suffix in (".nii.gz", ".nii"):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def read(path: str | Path, *, series: str | int | None = None) -> Volume:
    """Read a CT from a NIfTI file or from a folder of DICOM slices; raise LungsegError on what is wrong with it.

    `series` picks one of several DICOM series, by its UID, number or description.
    """
    path = Path(path)
    if os.path.isdir(path):  # unlike Path.is_dir, False for whatever cannot be looked at
        from lungseg_utils.volume import dicom

        return dicom.read_series(path, series=series)
    if path.name.lower().endswith((".hdr", ".img", ".hdr.gz", ".img.gz")):
        raise LungsegError(
            path, "one half of a .hdr/.img pair", "Convert the pair to a single .nii.gz file"
        )
    hu, header = nifti.read_hu(path)
    return Volume(
        hu, header.spacing_mm, header.grid.canonical_affine, stem(path), path, header.grid
    )


def read_label(path: str | Path, *, like: Volume | None = None) -> np.ndarray:
    """Read a tumour label as (D, H, W) uint8 of 0 and 1, on the grid of `like` where it is given.

    A label stored along other axes is turned by its own affine; one that lies elsewhere, or holds other values,
    raises LungsegError.
    """
    return nifti.read_binary(Path(path), like)[0]


def read_header(path: str | Path) -> Header:
    """Read and check a NIfTI header alone: `.shape` (D, H, W), `.spacing_mm`, `.dtype`, `.grid`; no voxel is read."""
    with Stream(Path(path)) as stream:
        return _read_header(stream)


def write_mask(path: str | Path, mask: np.ndarray, like: Volume) -> None:
    """Write a (D, H, W) mask as uint8 NIfTI in the stored shape, orientation and affine of `like`."""
    _write_like(path, np.asarray(mask), like, np.uint8)


def write_map(path: str | Path, probability: np.ndarray, like: Volume) -> None:
    """Write a (D, H, W) map of probabilities as float32 NIfTI on the stored grid of `like`."""
    _write_like(path, np.asarray(probability), like, np.float32)


def write_nifti(
    path: str | Path, array: np.ndarray, affine: np.ndarray, *, orientation="LPS", dtype=None
) -> None:
    """Write a (D, H, W) array as NIfTI; `affine` maps (d, h, w) to RAS+ mm, `orientation` is how it is stored.

    The letters of `orientation` name where i, j and k run to: any of the 48, such as "LPS", "RAS", "SAL".
    """
    nifti.write_array(_nifti_path(path), array, affine, orientation=orientation, dtype=dtype)


def _write_like(path: str | Path, array: np.ndarray, like: Volume, dtype) -> None:
    if array.shape != like.hu.shape:
        raise ValueError(
            f"an array of shape {array.shape} does not fit {like.name} of shape {like.hu.shape}"
        )
    nifti.write(_nifti_path(path), array.astype(dtype, copy=False), like.grid)


def _nifti_path(path: str | Path) -> Path:
    path = Path(path)
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise LungsegError(path, "a NIfTI file must be named .nii or .nii.gz", "Choose such a name")
    return path
