"""A NIfTI header: read, doubted, and turned into a grid, a voxel type and a scaling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lungseg_utils.runtime import LungsegError, warn
from lungseg_utils.volume.grid import (
    RECONVERT,
    Grid,
    check_affine,
    displacement_mm,
    grid_of,
    spacing_of,
)
from lungseg_utils.volume.stream import AGAIN, GZIP, Stream, describe

MAX_VOXELS, MAX_SIDE = 2**31, 8192
MAX_EXTENSION_BYTES = 1 << 24
GEOMETRY = (
    "pixdim",
    "qform_code",
    "sform_code",
    "quatern_b",
    "quatern_c",
    "quatern_d",
    "qoffset_x",
    "qoffset_y",
    "qoffset_z",
    "srow_x",
    "srow_y",
    "srow_z",
    "xyzt_units",
)
SCALARS = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}
NOT_SCALARS = {
    1: "single bits",
    32: "complex numbers",
    128: "RGB colours",
    1536: "128-bit floats",
    1792: "complex numbers",
    2048: "complex numbers",
    2304: "RGBA colours",
}
MILLIMETRES = {
    0: 1.0,
    1: 1000.0,
    2: 1.0,
    3: 0.001,
}  # per unit of length: unknown, metre, millimetre, micrometre


@dataclass(frozen=True)
class Header:
    """What a NIfTI header says of its voxels; `scaling` is (slope, intercept), or None where there is none."""

    path: Path
    grid: Grid
    dtype: np.dtype
    scaling: tuple[float, float] | None
    offset: int

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.grid.canonical_shape

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        return spacing_of(self.grid.canonical_affine)

    @property
    def file_bytes(self) -> int:
        """Give the size of the whole file, uncompressed."""
        return self.offset + math.prod(self.grid.shape) * self.dtype.itemsize


def read_header(stream: Stream, *, towards: np.ndarray | None = None) -> Header:
    """Read and check the header at the start of `stream`, and leave the stream at the first voxel.

    `towards` is the canonical affine of another image whose axes (D, H, W) are to be followed.
    """
    path = stream.path
    start = stream.read(352)
    nifti2, order = _version(stream, start)
    size = 544 if nifti2 else 352
    start += stream.read(size - len(start))
    if len(start) < size:
        raise stream.truncated(size)

    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    raw = (Nifti2Header if nifti2 else Nifti1Header)(
        start[: size - 4], endianness=order, check=False
    )
    if bytes(raw["magic"]).startswith(b"ni"):
        raise LungsegError(
            path, "one half of a .hdr/.img pair", "Convert the pair to a single .nii.gz file"
        )
    shape, dtype = _shape(path, raw), _dtype(path, raw)
    offset = _offset(stream, raw, size, order)
    with np.errstate(all="ignore"):
        grid = _grid(path, raw, shape, towards)
    grid.fields["is_nifti2"] = nifti2  # so that what is written back is of the same version
    header = Header(path, grid, dtype, _scaling(path, raw), offset)
    most = (
        stream.size * 1032 if stream.gzipped else stream.size
    )  # deflate never does better than 1032 to 1
    if header.file_bytes > most:
        got = f"{stream.size:,}" + (" compressed" if stream.gzipped else "")
        raise LungsegError(
            path, f"truncated: expected {header.file_bytes:,} bytes, got {got}", AGAIN
        )
    return header


def _version(stream: Stream, start: bytes) -> tuple[bool, str]:
    """Tell NIfTI-1 from NIfTI-2 and the byte order, by content, or say what the file is instead."""
    path = stream.path
    if start.startswith(GZIP):
        raise LungsegError(path, "gzipped twice", "Run gunzip on it once")
    for order in "<>":
        size = int.from_bytes(start[:4], "little" if order == "<" else "big")
        if size not in (348, 540):
            continue
        if len(start) < 352:
            raise stream.truncated(size + 4)
        magic = start[4:12] if size == 540 else start[344:348]
        if magic[:3] not in ((b"n+2", b"ni2") if size == 540 else (b"n+1", b"ni1")):
            raise LungsegError(path, f"not a NIfTI file: wrong magic {magic!r}", RECONVERT)
        if (
            path.name.lower().endswith((".nii", ".nii.gz"))
            and path.name.lower().endswith(".gz") != stream.gzipped
        ):
            is_gzipped = "gzipped" if stream.gzipped else "not gzipped"
            warn(f"{path}: {is_gzipped}, although its name says otherwise; read by its content")
        return size == 540, order
    if stream.cut:
        raise stream.truncated(352)
    raise LungsegError(
        path, f"not a NIfTI file: it looks like {describe(start)}", "Give a .nii or .nii.gz file"
    )


def _shape(path: Path, raw) -> tuple[int, int, int]:
    dims = [int(n) for n in raw["dim"]]
    count, sizes = dims[0], dims[1 : max(dims[0], 0) + 1]
    if not 1 <= count <= 7 or any(n < 1 for n in sizes):
        raise LungsegError(path, f"impossible shape (dim = {dims})", RECONVERT)
    written = "x".join(map(str, sizes))
    if count < 3:
        raise LungsegError(
            path,
            f"{count}-D ({written}), a 3-D volume is needed",
            "Give the whole scan, not a picture",
        )
    if math.prod(sizes[3:]) != 1:
        raise LungsegError(
            path,
            f"{math.prod(sizes[3:])} volumes in one file ({written})",
            "Save one 3-D volume alone",
        )
    if math.prod(sizes) > MAX_VOXELS or max(sizes) > MAX_SIDE:
        cause = f"implausibly large: {written} voxels (at most {MAX_VOXELS:,}, and {MAX_SIDE:,} a side, are read)"
        raise LungsegError(path, cause, RECONVERT)
    return tuple(sizes[:3])


def _dtype(path: Path, raw) -> np.dtype:
    code, bits = int(raw["datatype"]), int(raw["bitpix"])
    if code not in SCALARS:
        kind = NOT_SCALARS.get(code, "an unknown type")
        raise LungsegError(
            path, f"voxels are {kind} (datatype {code}), one number each is needed", RECONVERT
        )
    dtype = np.dtype(SCALARS[code]).newbyteorder(raw.endianness)
    if bits != dtype.itemsize * 8:
        warn(
            f"{path}: bitpix is {bits}, but datatype {code} has {dtype.itemsize * 8}; the datatype is believed"
        )
    return dtype


def _offset(stream: Stream, raw, size: int, order: str) -> int:
    """Go to the first voxel and see that the header's extensions end before it; their content is not kept."""
    offset = float(raw["vox_offset"])
    if offset == 0:
        offset = size
    if not (size <= offset <= size + MAX_EXTENSION_BYTES and offset == int(offset)):
        raise LungsegError(
            stream.path, f"impossible start of the voxels (vox_offset = {offset:g})", RECONVERT
        )
    between = stream.read(int(offset) - size)
    if len(between) < offset - size:
        raise stream.truncated(int(offset))
    at, byteorder = 0, "little" if order == "<" else "big"
    while at + 8 <= len(between):
        length = int.from_bytes(between[at : at + 4], byteorder)
        if not 8 <= length <= len(between) - at:
            if any(between[at:]):
                warn(
                    f"{stream.path}: a header extension runs past the start of the voxels; it is ignored"
                )
            break
        at += length
    return int(offset)


def _scaling(path: Path, raw) -> tuple[float, float] | None:
    slope, intercept = float(raw["scl_slope"]), float(raw["scl_inter"])
    if math.isinf(slope) or (slope and not math.isnan(slope) and math.isinf(intercept)):
        raise LungsegError(
            path, f"infinite scaling (scl_slope {slope}, scl_inter {intercept})", RECONVERT
        )
    if slope == 0 or math.isnan(slope):
        return None
    intercept = 0.0 if math.isnan(intercept) else intercept
    return None if (slope, intercept) == (1.0, 0.0) else (slope, intercept)


def _grid(path: Path, raw, shape, towards: np.ndarray | None) -> Grid:
    """Choose between sform and qform, in millimetres, and refuse what is no grid."""
    unit = MILLIMETRES.get(int(raw["xyzt_units"]) & 7)
    if unit is None:
        raise LungsegError(
            path, f"unknown unit of length (xyzt_units = {int(raw['xyzt_units'])})", RECONVERT
        )
    scale = np.diag([unit, unit, unit, 1])
    sform = scale @ raw.get_sform() if raw["sform_code"] > 0 else None
    qform = scale @ _qform(path, raw, needed=sform is None) if raw["qform_code"] > 0 else None
    if sform is None and qform is None:
        warn(
            f"{path}: orientation unknown (sform and qform codes are 0); the usual one, LAS, is assumed"
        )
    affine = (
        sform
        if sform is not None
        else qform
        if qform is not None
        else scale @ raw.get_base_affine()
    )
    check_affine(path, affine)
    if sform is not None and qform is not None:
        apart = displacement_mm(shape, sform, qform)
        if not apart <= 0.1 * min(spacing_of(sform)):
            far = f"{apart:.3g} mm apart" if np.isfinite(apart) else "and qform is no grid"
            warn(f"{path}: sform and qform disagree ({far}); sform is used")
    elif sform is not None and not np.allclose(
        raw["pixdim"][1:4] * unit, spacing_of(sform), rtol=0.01
    ):
        sizes = "x".join(f"{size:.4g}" for size in spacing_of(sform))
        warn(
            f"{path}: pixdim and sform disagree on the voxel size; {sizes} mm, from sform, is used"
        )
    fields = {name: np.array(raw[name]) for name in GEOMETRY}
    return grid_of(
        shape, affine, fields=fields, **({} if towards is None else {"towards": towards})
    )


def _qform(path: Path, raw, *, needed: bool) -> np.ndarray:
    from nibabel.spatialimages import HeaderDataError

    raw = raw.copy()
    raw["pixdim"][0] = -1 if raw["pixdim"][0] < 0 else 1  # NIfTI: a zero means 1
    sizes = raw["pixdim"][1:4]
    try:
        if not (np.isfinite(sizes).all() and (sizes > 0).all()):
            raise ValueError("voxel size " + " x ".join(f"{size:g}" for size in sizes))
        with np.errstate(all="ignore"):
            return raw.get_qform()
    except (ValueError, HeaderDataError) as error:
        if needed:
            raise LungsegError(
                path, f"no usable orientation: qform is no grid ({error})", RECONVERT
            ) from error
        return np.full((4, 4), np.nan)
