"""Where a NIfTI header puts its voxels: sform or qform, in millimetres, checked."""

from pathlib import Path

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.spatialimages import HeaderDataError

from lungseg_utils.runtime import LungsegError, warn
from lungseg_utils.volume.grid import (
    CANONICAL,
    RECONVERT,
    Grid,
    check_affine,
    displacement_mm,
    grid_of,
    spacing_of,
)

GEOMETRY = (  # the fields that say how voxels lie, all that is written back
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
MILLIMETRES = {  # per unit of length
    0: 1.0,  # unknown
    1: 1000.0,  # metre
    2: 1.0,  # millimetre
    3: 0.001,  # micrometre
}


@np.errstate(all="ignore")  # what is not finite is refused
def read_grid(
    path: Path,
    raw: Nifti1Header,
    shape: tuple[int, int, int],
    towards: np.ndarray | None = None,
) -> Grid:
    """Choose between sform and qform, and refuse what is no grid.

    The axes (D, H, W) follow those of `towards`, a canonical affine; None takes `CANONICAL`.
    """
    unit = MILLIMETRES.get(int(raw["xyzt_units"]) & 7)
    if unit is None:
        raise LungsegError(
            path, f"unknown unit of length (xyzt_units = {int(raw['xyzt_units'])})", RECONVERT
        )
    to_mm = np.diag([unit, unit, unit, 1])
    sform = to_mm @ raw.get_sform() if raw["sform_code"] > 0 else None
    qform = to_mm @ _qform(path, raw, needed=sform is None) if raw["qform_code"] > 0 else None
    affine = qform if sform is None else sform
    if affine is None:
        affine = to_mm @ raw.get_base_affine()
        warn(
            f"{path}: orientation unknown (sform and qform codes are 0); "
            "the usual one, LAS, is assumed"
        )
    check_affine(path, affine)
    sizes = spacing_of(affine)
    if sform is not None and qform is not None:
        apart = displacement_mm(shape, sform, qform)
        if not apart <= 0.1 * min(sizes):
            far = f"{apart:.3g} mm apart" if np.isfinite(apart) else "and qform is no grid"
            warn(f"{path}: sform and qform disagree ({far}); sform is used")
    elif sform is not None and not np.allclose(raw["pixdim"][1:4] * unit, sizes, rtol=0.01):
        written = "x".join(f"{size:.4g}" for size in sizes)
        warn(
            f"{path}: pixdim and sform disagree on the voxel size; "
            f"{written} mm, from sform, is used"
        )
    # The version, too: what is written back is NIfTI-2 where this is.
    fields = {name: np.array(raw[name]) for name in GEOMETRY} | {"is_nifti2": raw.sizeof_hdr == 540}
    return grid_of(shape, affine, fields=fields, towards=CANONICAL if towards is None else towards)


def _qform(path: Path, raw: Nifti1Header, *, needed: bool) -> np.ndarray:
    """Return the qform; a bad one is an error if it is `needed`, else an affine of NaN."""
    raw = raw.copy()
    raw["pixdim"][0] = -1 if raw["pixdim"][0] < 0 else 1  # NIfTI: a zero means 1
    sizes = raw["pixdim"][1:4]
    try:
        if not (np.isfinite(sizes).all() and (sizes > 0).all()):
            raise ValueError("voxel size " + " x ".join(f"{size:g}" for size in sizes))
        return raw.get_qform()
    except (ValueError, HeaderDataError) as error:
        if needed:
            raise LungsegError(
                path, f"no usable orientation: qform is no grid ({error})", RECONVERT
            ) from error
        return np.full((4, 4), np.nan)
