"""Bad and good images and labels as bytes: what the catalogue of `helpers_faults` is made from."""

from __future__ import annotations

import gzip
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
from test_volume import affine, chest, save

SHAPE = (8, 9, 10)


def ct(dtype="i2", hu=None, **options) -> bytes:
    """Return the bytes of a sound little CT as plain NIfTI."""
    hu = chest(SHAPE) if hu is None else hu
    with tempfile.TemporaryDirectory() as folder:
        return save(Path(folder, "a.nii"), hu, dtype=dtype, **options).read_bytes()


def patched(offset: int, fmt: str, *values, **options) -> bytes:
    data = bytearray(ct(**options))
    struct.pack_into("<" + fmt, data, offset, *values)
    return bytes(data)


def flipped(data: bytes, place: int) -> bytes:
    data = bytearray(data)
    data[place] ^= 4
    return bytes(data)


def disagreeing() -> bytes:
    image = nib.Nifti1Image.from_bytes(ct())
    image.set_qform(np.diag([-1, 1, 1, 1]) @ image.get_sform(), 1)
    return image.to_bytes()


def sheared() -> np.ndarray:
    matrix = affine()
    matrix[1, 0] += 1.5
    return matrix


def spotted(*values) -> np.ndarray:
    hu = chest(SHAPE).astype(float)
    hu[0, 0, : len(values)] = values
    return hu


def bad_images() -> Iterator[tuple[str, bytes]]:
    """Yield (file name, content) of what is no CT in Hounsfield units, or only with a warning."""
    plain = ct()
    packed, hu = gzip.compress(plain, mtime=0), chest(SHAPE).astype(float)
    yield "truncated.nii", plain[: len(plain) // 2]
    yield "truncated in the header.nii", plain[:200]
    yield "truncated.nii.gz", packed[: len(packed) // 2]
    yield "checksum cut off.nii.gz", packed[:-8]
    yield "checksum wrong.nii.gz", flipped(packed, -6)
    yield "bit flip in the middle.nii.gz", flipped(packed, len(packed) // 2)
    yield "empty.nii", b""
    yield "empty.nii.gz", gzip.compress(b"")
    yield "web page.nii.gz", b"<!DOCTYPE html><html>404</html>"
    yield "picture.nii", b"\x89PNG\r\n\x1a\n" + bytes(500)
    yield "text.nii", b"404 not found\n" * 50
    yield "gzipped twice.nii.gz", gzip.compress(packed)
    yield "wrong magic.nii", patched(344, "4s", b"xyz\0")
    yield "half of a pair.hdr", patched(344, "4s", b"ni1\0")
    yield "extension past its end.nii", _with_extension(plain)
    yield "30000 voxels a side.nii", patched(40, "4h", 3, 30000, 30000, 30000)
    yield "4096 voxels a side, float64.nii", patched(40, "4h", 3, 4096, 4096, 4096, dtype="f8")
    yield "claims 150 MB.nii.gz", gzip.compress(patched(40, "4h", 3, 512, 512, 300))
    yield "goes on for 50 MB.nii.gz", gzip.compress(plain + bytes(50 << 20), 1)
    yield "a side of 0.nii", patched(40, "4h", 3, 0, 9, 8)
    yield "a side of -7.nii", patched(40, "4h", 3, -7, 9, 8)
    yield "9 dimensions.nii", patched(40, "4h", 9, 10, 9, 8)
    yield "2-D.nii", patched(40, "4h", 2, 90, 8, 1)
    yield "4-D, 8 volumes.nii", patched(40, "5h", 4, 10, 9, 1, 8)
    yield "5-D.nii", patched(40, "6h", 5, 10, 3, 3, 1, 8)
    yield "RGB.nii", patched(70, "2h", 128, 24, dtype="i4")
    yield "complex.nii", patched(70, "2h", 32, 64, dtype="f8")
    yield "unknown type.nii", patched(70, "2h", 999, 16)
    yield "bitpix contradicts.nii", patched(72, "h", 32)
    yield "slope infinite.nii", patched(112, "2f", np.inf, 0)
    yield "no orientation.nii", ct(sform=0, qform=0)
    yield "sform and qform flipped.nii", disagreeing()
    yield "sheared.nii", ct(matrix=sheared(), qform=0)
    yield "affine of zeros.nii", patched(280, "12f", *[0.0] * 12)
    yield "affine of NaN.nii", patched(280, "12f", *[np.nan] * 12)
    yield "affine singular.nii", patched(280, "12f", 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0)
    yield "voxel size 0.nii", patched(80, "f", 0.0, sform=0)
    yield "voxel size lying.nii", patched(80, "f", 5.0, qform=0)
    yield "unknown unit.nii", patched(123, "B", 5)
    yield "voxels of 100 m.nii", ct(matrix=affine((1e5, 1e5, 1e5)))
    yield "voxels of 1 micrometre.nii", ct(matrix=affine((1e-3, 1e-3, 1e-3)))
    yield "some NaN.nii", ct(hu=spotted(np.nan, np.inf), dtype="f4")
    yield "1e300.nii", ct(hu=spotted(1e300), dtype="f8")
    yield "all NaN.nii", ct(hu=hu * np.nan, dtype="f4")
    yield "constant.nii", ct(hu=np.zeros(SHAPE))
    yield "air alone.nii", ct(hu=np.random.default_rng(0).integers(-1010, -990, SHAPE))
    yield "0 to 1.nii", ct(hu=(hu + 1000) / 1100, dtype="f4")
    yield "0 to 255.nii", ct(hu=np.clip((hu + 1000) / 5, 0, 255), dtype="u1")
    yield "MR.nii", ct(hu=(hu + 950) * 0.7 + 5)
    yield "inverted.nii", ct(hu=-hu)
    yield "offset missing.nii", ct(hu=hu + 1024)


def good_images() -> Iterator[tuple[str, bytes]]:
    """Yield sound scans in unusual forms; all hold the same HU in the same place."""
    for name, options in {
        "RAS": {"orientation": "RAS"},
        "PSR": {"orientation": "PSR"},
        "float64": {"dtype": "f8"},
        "int32": {"dtype": "i4"},
        "uint16 with an offset": {"dtype": "u2", "slope": 1.0, "inter": -1024.0},
        "big-endian": {"order": ">"},
        "NIfTI-2": {"nifti": 2},
        "qform alone": {"sform": 0},
        "sform alone": {"qform": 0},
        "oblique": {"matrix": affine(tilt_deg=12)},
        "thick slices": {"matrix": affine((10, 0.6, 0.6))},
        "far origin": {"matrix": affine(origin=(9000, 9000, 9000))},
    }.items():
        yield f"{name}.nii", ct(**options)
    yield "o'neill 50 % über 肺.v1.2.nii.gz", gzip.compress(ct())
    yield "4-D, one volume.nii", patched(40, "5h", 4, 10, 9, 8, 1)
    yield "slope 0.nii", patched(112, "2f", 0, 0)
    yield "slope NaN.nii", patched(112, "2f", np.nan, np.nan)
    yield "gzipped but named plain.nii", gzip.compress(ct())
    yield "two gzip members.nii.gz", gzip.compress(ct()[:400]) + gzip.compress(ct()[400:])
    yield "junk after the end.nii.gz", gzip.compress(ct()) + b"junk"


def _with_extension(plain: bytes) -> bytes:
    data = bytearray(plain)
    data[348:352] = b"\1\0\0\0"
    struct.pack_into("<f", data, 108, 352 + 32)
    return bytes(data[:352]) + struct.pack("<ii", 10**6, 4) + b"text".ljust(24) + bytes(data[352:])


def tumour(shape=SHAPE) -> np.ndarray:
    label = np.zeros(shape, np.uint8)
    label[2:4, 3:5, 4:7] = 1
    return label


def bad_labels() -> Iterator[tuple[str, bytes]]:
    """Yield labels that do not belong to the sound scan, or hold other values than 0 and 1."""
    mark = tumour()

    def shifted(change):
        return ct(hu=mark, dtype="u1", matrix=change @ affine())

    yield "255.nii", ct(hu=mark * 255, dtype="u1")
    yield "another class.nii", ct(hu=mark + 1, dtype="u1")
    yield "minus 1.nii", ct(hu=-mark.astype(int))
    yield "fractional.nii", ct(hu=mark * 0.5, dtype="f4")
    yield "NaN.nii", ct(hu=np.where(mark, np.nan, 0), dtype="f4")
    yield "a CT.nii", ct()
    yield "a slice less.nii", ct(hu=mark[1:], dtype="u1")
    yield "transposed.nii", ct(hu=mark.transpose(0, 2, 1), dtype="u1")
    yield "a voxel off.nii", shifted(np.eye(4) + 0.7 * np.eye(4, k=3))
    yield "flipped.nii", shifted(np.diag([-1, 1, 1, 1]))
    yield "header lost.nii", ct(hu=mark, dtype="u1", sform=0, qform=0)
    yield "empty.nii", ct(hu=mark * 0, dtype="u1")
    yield "inverted.nii", ct(hu=1 - mark, dtype="u1")


def good_labels() -> Iterator[tuple[str, bytes]]:
    """Yield labels that do belong to the sound scan."""
    yield "int64.nii", ct(hu=tumour(), dtype="i8")
    yield "by a slope.nii", ct(hu=tumour(), dtype="u1", slope=1 / 255)
    yield "stored along other axes.nii", ct(hu=tumour(), dtype="u1", orientation="RAS")
    yield (
        "origin rounded.nii",
        ct(hu=tumour(), dtype="u1", matrix=affine(origin=(20.0001, -30, 40))),
    )
