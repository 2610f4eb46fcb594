"""NIfTI files, read once and whole into memory and written back on their own grid."""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from isal import isal_zlib
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header

from lungseg_utils.runtime import LungsegError, writing
from lungseg_utils.volume.grid import Grid, displacement_mm
from lungseg_utils.volume.header import Header, read_header
from lungseg_utils.volume.intensity import HounsfieldWriter
from lungseg_utils.volume.orientation import GEOMETRY
from lungseg_utils.volume.scan import Volume
from lungseg_utils.volume.stream import Stream

BLOCK_BYTES = 4 << 20  # planes of the file are handled in such blocks, to stay in the cache
NUMBERS = "Save each class as a whole number, the background as 0"
ROUNDING = 1e-4  # so far from 0 or 1 a label may lie that was scaled or resampled


def read_hu(path: Path) -> tuple[np.ndarray, Header]:
    """Read a CT: (D, H, W) in HU, int16 or float32, and its header."""
    with Stream(path) as stream:
        header = read_header(stream)
        writer = HounsfieldWriter(path, header.grid, header.scaling)
        for first, block in _blocks(stream, header):
            writer.add(first, block)
        return writer.finish(), header


def read_label(
    path: str | Path, *, like: Volume | None = None, values: Sequence[int] = ()
) -> np.ndarray:
    """Read a tumour label as (D, H, W) uint8 of 0 and 1, on the grid of `like` if that is given.

    A label stored along other axes is turned by its own affine. Of a label of several classes
    `values` are those that become 1. Raises LungsegError for one that lies elsewhere or holds
    other values.
    """
    path = Path(path)
    with Stream(path) as stream:
        header = read_header(stream, towards=None if like is None else like.affine)
        if like is not None:
            _check_same_grid(path, header, like)
        label = np.empty(header.shape, np.uint8)
        view = header.grid.on_disk(label)
        for first, block in _blocks(stream, header):
            if header.scaling is not None:
                block = block * header.scaling[0] + header.scaling[1]
            view[first : first + len(block)] = _find_ones(path, block, values)
        return label


def _find_ones(path: Path, block: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """Return where a block of a label is 1, and refuse other values than 0 and 1.

    With `values`: where it is one of them, and refuse what is no number of a class.
    """
    if values:
        classes = np.rint(block)
        if not ((np.abs(block - classes) < ROUNDING) & (classes >= 0)).all():
            raise LungsegError(
                path, "not a label: it holds values below 0 or between whole numbers", NUMBERS
            )
        return np.isin(classes, values)
    if block.dtype.kind == "f":
        ones, zeros = np.abs(block - 1) < ROUNDING, np.abs(block) < ROUNDING
    else:
        ones, zeros = block == 1, block == 0
    if not (ones | zeros).all():
        wrong = np.unique(block[~(ones | zeros)])
        shown = ", ".join(f"{value:g}" for value in wrong[:5]) + (", …" if len(wrong) > 5 else "")
        raise LungsegError(
            path,
            f"not a label of 0 and 1: it holds {shown}",
            "Save the tumour as 1 and everything else as 0",
        )
    return ones


def _check_same_grid(path: Path, header: Header, like: Volume) -> None:
    shape = like.hu.shape
    if header.shape != shape:
        sizes = " against ".join("x".join(map(str, sides)) for sides in (header.shape, shape))
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
            "Give the label that was drawn on this scan, or fix its affine",
        )


def _blocks(stream: Stream, header: Header) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the voxels as (first plane, block (k, j, i)), then check that the file ends there.

    A block is valid until the next one is asked for.
    """
    i, j, k = header.grid.shape
    planes = max(1, BLOCK_BYTES // (i * j * header.dtype.itemsize))
    buffer = np.empty((min(planes, k), j, i), header.dtype)
    for first in range(0, k, planes):
        block = buffer[: min(planes, k - first)]
        stream.fill(memoryview(block.data).cast("B"), header.file_bytes)
        yield first, block
    stream.finish()


def write(path: Path, array: np.ndarray, grid: Grid) -> None:
    """Write a (D, H, W) array on `grid`; the same array always makes the same bytes.

    ".gz" is compressed with isal.
    """
    name = path.name.lower()
    if not name.endswith((".nii", ".nii.gz")):
        raise LungsegError(path, "a NIfTI file must be named .nii or .nii.gz", "Choose such a name")
    view = grid.on_disk(array)
    header = _new_header(grid, array.dtype)
    planes = max(1, BLOCK_BYTES // view[0].nbytes)
    blocks = (view[first : first + planes] for first in range(0, len(view), planes))
    packer = isal_zlib.compressobj(1, isal_zlib.DEFLATED, 31) if name.endswith(".gz") else None
    with writing(path) as partial, open(partial, "wb") as file:
        for data in chain([header.binaryblock + bytes(4)], map(np.ascontiguousarray, blocks)):
            file.write(memoryview(data) if packer is None else packer.compress(data))
        if packer is not None:
            file.write(packer.flush())


def _new_header(grid: Grid, dtype: np.dtype) -> Nifti1Header:
    """Return a header with the grid's geometry and nothing of the patient's."""
    is_nifti2 = max(grid.shape) > 32767 or bool(grid.fields and grid.fields["is_nifti2"])
    header = Nifti2Header() if is_nifti2 else Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(grid.shape)
    header["vox_offset"] = header.sizeof_hdr + 4
    header.set_slope_inter(1, 0)
    if grid.fields is None:
        header.set_sform(grid.affine, 1)
        header.set_qform(grid.affine, 1)
        header["xyzt_units"] = 2
    else:
        for name in GEOMETRY:
            header[name] = grid.fields[name]
        header["pixdim"][4:] = 1
        header["xyzt_units"] &= 7
    return header
