"""A NIfTI header: read, doubted, and turned into a grid, a voxel type and a scaling."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header

from lungseg_utils.runtime import LungsegError, warn
from lungseg_utils.volume.grid import RECONVERT, Grid, spacing_of, triple
from lungseg_utils.volume.orientation import read_grid
from lungseg_utils.volume.stream import AGAIN, GZIP, NIFTI_NEEDED, Stream, describe

MAX_VOXELS = 2**31
MAX_SIDE = 8192
MAX_EXTENSION_BYTES = 1 << 24
HALF_OF_A_PAIR = ("one half of a .hdr/.img pair", "Convert the pair to a single .nii.gz file")
STARTS = {  # the first four bytes -> the size that they hold, and the byte order
    (348).to_bytes(4, "little"): (348, "<"),
    (348).to_bytes(4, "big"): (348, ">"),
    (540).to_bytes(4, "little"): (540, "<"),
    (540).to_bytes(4, "big"): (540, ">"),
}
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


@dataclass(frozen=True)
class Header:
    """What a NIfTI header states of its voxels; `scaling` is (slope, intercept), None for none."""

    grid: Grid
    dtype: np.dtype
    scaling: tuple[float, float] | None
    offset: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (D, H, W)."""
        return self.grid.canonical_shape

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Return the voxel sizes along (D, H, W)."""
        return spacing_of(self.grid.canonical_affine)

    @property
    def file_bytes(self) -> int:
        """Return the size of the whole file, uncompressed."""
        return self.offset + math.prod(self.grid.shape) * self.dtype.itemsize


def read_header(stream: Stream, *, towards: np.ndarray | None = None) -> Header:
    """Read and check the header at the start of `stream`, and leave the stream at the first voxel.

    `towards` is the canonical affine of another image whose axes (D, H, W) are to be followed.
    """
    path = stream.path
    start = stream.read(352)
    is_nifti2, order = _version(stream, start)
    size = 544 if is_nifti2 else 352
    start += stream.read(size - len(start))
    if len(start) < size:
        raise stream.truncated(size)
    header_class = Nifti2Header if is_nifti2 else Nifti1Header
    raw = header_class(start[: size - 4], endianness=order, check=False)
    if bytes(raw["magic"]).startswith(b"ni"):
        raise LungsegError(path, *HALF_OF_A_PAIR)
    shape = _shape(path, raw)
    header = Header(
        dtype=_dtype(path, raw),
        offset=_offset(stream, raw, size),
        grid=read_grid(path, raw, shape, towards),
        scaling=_scaling(path, raw),
    )
    # Deflate never does better than 1032 to 1.
    if header.file_bytes > stream.size * (1032 if stream.gzipped else 1):
        got = f"{stream.size:,}" + (" compressed" if stream.gzipped else "")
        raise LungsegError(
            path, f"truncated: expected {header.file_bytes:,} bytes, got {got}", AGAIN
        )
    return header


def _version(stream: Stream, start: bytes) -> tuple[bool, str]:
    """Return whether it is NIfTI-2, and the byte order, by content; refuse anything but NIfTI."""
    path = stream.path
    name = path.name.lower()
    if start.startswith(GZIP):
        raise LungsegError(path, "gzipped twice", "Run gunzip on it once")
    if start[:4] not in STARTS:
        if stream.cut:
            raise stream.truncated(352)
        raise LungsegError(path, f"not a NIfTI file: it looks like {describe(start)}", NIFTI_NEEDED)
    size, order = STARTS[start[:4]]
    if len(start) < 352:
        raise stream.truncated(size + 4)
    magic = start[4:12] if size == 540 else start[344:348]
    if magic[:3] not in ((b"n+2", b"ni2") if size == 540 else (b"n+1", b"ni1")):
        raise LungsegError(path, f"not a NIfTI file: wrong magic {magic!r}", RECONVERT)
    if name.endswith((".nii", ".nii.gz")) and name.endswith(".gz") != stream.gzipped:
        warn(
            f"{path}: {'' if stream.gzipped else 'not '}gzipped, although its name says otherwise; "
            "read by its content"
        )
    return size == 540, order


def _shape(path: Path, raw: Nifti1Header) -> tuple[int, int, int]:
    dims = [int(n) for n in raw["dim"]]
    count = dims[0]
    sizes = dims[1 : max(count, 0) + 1]
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
        limits = f"at most {MAX_VOXELS:,}, and {MAX_SIDE:,} a side, are read"
        raise LungsegError(path, f"implausibly large: {written} voxels ({limits})", RECONVERT)
    return triple(sizes[:3])


def _dtype(path: Path, raw: Nifti1Header) -> np.dtype:
    code = int(raw["datatype"])
    if code not in SCALARS:
        kind = NOT_SCALARS.get(code, "an unknown type")
        raise LungsegError(
            path, f"voxels are {kind} (datatype {code}), one number each is needed", RECONVERT
        )
    dtype = np.dtype(SCALARS[code]).newbyteorder(raw.endianness)
    if raw["bitpix"] != dtype.itemsize * 8:
        warn(
            f"{path}: bitpix is {raw['bitpix']}, but datatype {code} has {dtype.itemsize * 8}; "
            "the datatype is believed"
        )
    return dtype


def _offset(stream: Stream, raw: Nifti1Header, size: int) -> int:
    """Skip to the first voxel and return its place.

    The header's extensions must end before it; their content is not kept.
    """
    offset = float(raw["vox_offset"]) or size
    if not (size <= offset <= size + MAX_EXTENSION_BYTES and offset == int(offset)):
        raise LungsegError(
            stream.path, f"impossible start of the voxels (vox_offset = {offset:g})", RECONVERT
        )
    between = stream.read(int(offset) - size)
    if len(between) < offset - size:
        raise stream.truncated(int(offset))
    order: Literal["little", "big"] = "little" if raw.endianness == "<" else "big"
    at = 0  # an extension begins with its length, 8 or more
    while 8 <= (length := int.from_bytes(between[at : at + 4], order)) <= len(between) - at:
        at += length
    if at + 8 <= len(between) and any(between[at:]):
        warn(f"{stream.path}: a header extension runs past the start of the voxels; it is ignored")
    return int(offset)


def _scaling(path: Path, raw: Nifti1Header) -> tuple[float, float] | None:
    slope, intercept = float(raw["scl_slope"]), float(raw["scl_inter"])
    if slope == 0 or math.isnan(slope):
        return None
    if math.isinf(slope) or math.isinf(intercept):
        raise LungsegError(
            path, f"infinite scaling (scl_slope {slope}, scl_inter {intercept})", RECONVERT
        )
    scaling = (slope, 0.0 if math.isnan(intercept) else intercept)
    return None if scaling == (1.0, 0.0) else scaling
