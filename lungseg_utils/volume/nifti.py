"""NIfTI files, read once and whole into memory and written back on their own grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lungseg_utils.runtime import LungsegError, writing
from lungseg_utils.volume.grid import Grid, displacement_mm, grid_along, spacing_of
from lungseg_utils.volume.header import GEOMETRY, Header, read_header
from lungseg_utils.volume.intensity import HounsfieldWriter
from lungseg_utils.volume.stream import Stream

BLOCK_BYTES = (
    4 << 20
)  # planes of the file are handled in blocks of about this size, to stay in the cache
ROUNDING = 1e-4  # so far from 0 or 1 a label may lie that was scaled or resampled


def read_hu(path: Path) -> tuple[np.ndarray, Header]:
    """Read a CT: (D, H, W) in HU, int16 or float32, and its header."""
    with Stream(path) as stream:
        header = read_header(stream)
        writer = HounsfieldWriter(path, header.grid, header.scaling)
        _each_block(stream, header, writer.add)
        return writer.finish(), header


def read_binary(path: Path, like=None) -> tuple[np.ndarray, Header]:
    """Read a label: (D, H, W) uint8 of 0 and 1, turned to the axes of the volume `like` by its own affine."""
    with Stream(path) as stream:
        header = read_header(stream, towards=None if like is None else like.affine)
        if like is not None:
            _check_same_grid(path, header, like)
        label = np.empty(header.shape, np.uint8)
        view = header.grid.on_disk(label)

        def add(first: int, block: np.ndarray) -> None:
            if header.scaling is not None:
                block = block * header.scaling[0] + header.scaling[1]
            if block.dtype.kind == "f":
                ones, zeros = np.abs(block - 1) < ROUNDING, np.abs(block) < ROUNDING
            else:
                ones, zeros = block == 1, block == 0
            if not (ones | zeros).all():
                wrong = np.unique(block[~(ones | zeros)])
                shown = ", ".join(f"{value:g}" for value in wrong[:5]) + (
                    ", …" if len(wrong) > 5 else ""
                )
                raise LungsegError(
                    path,
                    f"not a label of 0 and 1: it holds {shown}",
                    "Save the tumour as 1 and everything else as 0",
                )
            view[first : first + len(block)] = ones

        _each_block(stream, header, add)
        return label, header


def _check_same_grid(path: Path, header: Header, like) -> None:
    shape = like.hu.shape
    if header.shape != shape:
        sizes = " against ".join("x".join(map(str, s)) for s in (header.shape, shape))
        raise LungsegError(
            path,
            f"its shape differs from that of {like.source.name}: {sizes} (D, H, W)",
            "Give the label that was drawn on this scan",
        )
    apart = displacement_mm(shape, header.grid.canonical_affine, like.affine)
    if apart > 0.05 * min(like.spacing_mm):
        raise LungsegError(
            path,
            f"its affine puts it up to {apart:.3g} mm away from {like.source.name}",
            "Give the label that was drawn on this scan, or mend its affine",
        )


def _each_block(stream: Stream, header: Header, add) -> None:
    """Hand the voxels to `add(first plane, block (k, j, i))`, then see that the file ends there."""
    i, j, k = header.grid.shape
    planes = max(1, BLOCK_BYTES // (i * j * header.dtype.itemsize))
    buffer = np.empty((min(planes, k), j, i), header.dtype)
    for first in range(0, k, planes):
        block = buffer[: min(planes, k - first)]
        stream.fill(memoryview(block).cast("B"), header.file_bytes)
        add(first, block)
    stream.finish()


def write(path: Path, array: np.ndarray, grid: Grid) -> None:
    """Write a (D, H, W) array on `grid`; ".gz" is compressed with isal, and the same array gives the same bytes."""
    from isal import isal_zlib

    view, header = grid.on_disk(array), _new_header(grid, array.dtype)
    planes = max(1, BLOCK_BYTES // view[0].nbytes)
    packer = (
        isal_zlib.compressobj(1, isal_zlib.DEFLATED, 31)
        if path.name.lower().endswith(".gz")
        else None
    )
    with writing(path) as partial, open(partial, "wb") as file:
        put = file.write if packer is None else lambda data: file.write(packer.compress(data))
        put(header.binaryblock + bytes(4))
        for first in range(0, len(view), planes):
            put(np.ascontiguousarray(view[first : first + planes]))
        if packer is not None:
            file.write(packer.flush())


def _new_header(grid: Grid, dtype: np.dtype):
    """Make a header with the grid's geometry and nothing of the patient's."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    is_large = max(grid.shape) > 32767 or bool(grid.fields and grid.fields["is_nifti2"])
    header = (Nifti2Header if is_large else Nifti1Header)()
    header.set_data_dtype(dtype)
    header.set_data_shape(grid.shape)
    header["vox_offset"] = header.sizeof_hdr + 4
    header["magic"] = b"n+2" if is_large else b"n+1"
    header["scl_slope"], header["scl_inter"] = 1, 0
    if grid.fields is None:
        header["pixdim"][1:4] = spacing_of(grid.affine)
        header.set_sform(grid.affine, 1)
        header.set_qform(grid.affine, 1)
        header["xyzt_units"] = 2
    else:
        for name in GEOMETRY:
            header[name] = grid.fields[name]
        header["pixdim"][4:] = 1
        header["xyzt_units"] &= 7
    return header


def write_array(
    path: Path, array: np.ndarray, affine: np.ndarray, *, orientation: str, dtype=None
) -> None:
    """Write a (D, H, W) array whose canonical `affine` maps to RAS+ mm, stored along `orientation`."""
    array = np.asarray(array if dtype is None else np.asarray(array).astype(dtype))
    write(path, array, grid_along(orientation, array.shape, np.asarray(affine, float)))
