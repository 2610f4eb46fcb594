"""Whole chests whose geometry was lost or that a frame encloses, and labels beside their tumour."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import nibabel as nib
import numpy as np
from helpers_bodies import MIDDLE, SPACING_MM, ellipse, lung_masks, make_chest
from scipy.ndimage import rotate

from lungseg_utils import phantom

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
PLACED = LPS + np.outer([123, 45, -67, 0], [0, 0, 0, 1])
RIGHT, LEFT = lung_masks()
TUMOUR = ellipse((34, *(MIDDLE[0], MIDDLE[1] - 19)), (4, 4, 4))


@cache
def chest() -> np.ndarray:
    """Return (D, H, W) HU of a chest with a tumour in its right lung; 4 mm voxels."""
    hu = make_chest()
    hu[TUMOUR] = 35
    return hu


def spaced(*spacing_mm: float) -> np.ndarray:
    """Return an affine of voxels of so many mm along D, H and W, stored as (W, H, D)."""
    return LPS @ np.diag([*spacing_mm[::-1], 1])


def stored(array: np.ndarray, affine: np.ndarray | None, dtype=np.int16) -> bytes:
    """Return a (D, H, W) array as NIfTI, as tools save it that know no geometry."""
    return nib.Nifti1Image(np.rint(array).astype(dtype).transpose(2, 1, 0), affine).to_bytes()


def framed(*widths: tuple[int, int], value: float = 0) -> bytes:
    return stored(np.pad(chest(), widths, constant_values=value), spaced(*SPACING_MM))


def bad_bodies() -> Iterator[tuple[str, bytes]]:
    """Yield (file name, content) of scans in which a look at the body shows what is wrong."""
    coarse = chest()
    thin = coarse.repeat(4, axis=1).repeat(4, axis=2)  # slices 4 mm apart, pixels of 1 mm
    quick, _ = phantom.make_case(1, tier="quick")
    depth_mm, *pixel_mm = quick.spacing_mm
    yield "identity affine.nii", stored(thin, np.eye(4))
    yield "identity affine, whole body small.nii", stored(coarse, np.eye(4))
    yield "voxels of 1 mm from the origin.nii", stored(thin, LPS)
    yield "no affine given.nii", stored(thin, None)
    yield "voxels of 1 mm, flat lungs.nii", stored(thin, PLACED)
    yield "axes z, y, x.nii", stored(coarse.transpose(2, 1, 0), np.diag([*SPACING_MM, 1]))
    yield "axes z, y, x, identity affine.nii", stored(thin.transpose(2, 1, 0), np.eye(4))
    yield "axes z, x, y.nii", stored(coarse.transpose(1, 0, 2), np.diag([*SPACING_MM, 1]))
    yield "turned by 90 degrees.nii", stored(np.rot90(coarse, axes=(1, 2)), spaced(*SPACING_MM))
    yield "front to back.nii", stored(coarse[:, ::-1], spaced(*SPACING_MM))
    yield "upside down.nii", stored(quick.hu[::-1], spaced(depth_mm, *pixel_mm))
    yield "slices 1 mm apart.nii", stored(quick.hu, spaced(1, *pixel_mm))
    yield "slices 9 mm apart.nii", stored(quick.hu, spaced(9, *pixel_mm))
    yield "body of 2 cm.nii", stored(quick.hu, spaced(0.3, 0.3, 0.3))
    yield "frame of 0 HU.nii", framed((3, 3), (12, 12), (12, 12))
    yield "planes of 0 HU below.nii", framed((5, 0), (0, 0), (0, 0))
    yield (
        "turned, corners of 0 HU.nii",
        stored(rotate(coarse, 8, axes=(1, 2), order=1, cval=0), spaced(*SPACING_MM)),
    )


def good_bodies() -> Iterator[tuple[str, bytes]]:
    """Yield sound chests that look odd: small, padded with air, with voxels that are truly 1 mm."""
    coarse = chest()
    yield "chest.nii", stored(coarse, spaced(*SPACING_MM))
    yield "child.nii", stored(coarse, spaced(1.6, 1.6, 1.6))
    yield "voxels of 1 mm.nii", stored(coarse.repeat(4, 0).repeat(4, 1).repeat(4, 2), PLACED)
    yield "padded with -1024.nii", framed((3, 3), (12, 12), (12, 12), value=-1024)
    yield "padded with -3024.nii", framed((3, 3), (12, 12), (12, 12), value=-3024)


def misplaced_labels() -> Iterator[tuple[str, bytes]]:
    """Yield labels of the chest that mark lung or air, on its own grid."""
    for name, mark in {
        "left to right": TUMOUR[:, :, ::-1],
        "upside down": TUMOUR[::-1],
        "shifted within the lung": np.roll(TUMOUR, 10, axis=0),
        "in the air beside the body": np.roll(TUMOUR, -26, axis=2),
    }.items():
        yield f"label {name}.nii", stored(mark, spaced(*SPACING_MM), np.uint8)
