"""From stored numbers to HU, block by block, and the doubts whether they are Hounsfield units."""

from pathlib import Path

import numpy as np

from lungseg_utils.runtime import LungsegError, warn
from lungseg_utils.volume.grid import Grid

# What a scanner stores where it has not measured: the lowest value of 12 bits, a little below air.
PADDING_HU = -1024

INTEGER_TOLERANCE_HU = 1e-3  # a float32 slope of 0.1 leaves less than this
RESCALE = "Give the scan in Hounsfield units (air -1000, water 0)"

NOT_HU = {  # RescaleType, DICOM PS3.3 C.11.1.1.2 -> what it is
    "OD": "optical density",
    "MGML": "mg/mL of a material",
    "Z_EFF": "effective atomic number",
    "ED": "electron density",
    "EDW": "electron density relative to water",
    "PCT": "percent",
}
MAYBE_HU = {"US": "unspecified", "HU_MOD": "modified Hounsfield units"}


class HounsfieldWriter:
    """Fill a (D, H, W) array of HU from blocks in the file's order.

    It is int16 while all values are integers, else float32. Values beyond 16 bits are clipped, NaN
    and infinity become padding; `finish` warns of both.
    """

    def __init__(self, path: Path, grid: Grid, scaling: tuple[float, float] | None = None):
        self.path = path
        self.grid = grid
        self.scaling = scaling
        self.hu = np.empty(grid.canonical_shape, np.int16)
        self.view = grid.on_disk(self.hu)
        self.clipped = self.not_finite = 0  # voxels

    @np.errstate(all="ignore")  # what is odd is counted and reported
    def add(self, first: int, block: np.ndarray) -> None:
        """Put `block`, planes `first` and following of the file, in its place."""
        place = slice(first, first + len(block))
        if self.scaling is None and np.can_cast(block.dtype, np.int16):
            self.view[place] = block
            return
        slope, intercept = self.scaling or (1.0, 0.0)
        is_short = block.dtype.kind in "iu" and block.dtype.itemsize <= 2
        if is_short and all(n.is_integer() and abs(n) < 2**14 for n in (slope, intercept)):
            values: np.ndarray = block.astype(np.int32) * int(slope) + int(intercept)
        else:
            values = block.astype(np.float64) * slope + intercept
        if not np.isfinite(values.sum()):
            finite = np.isfinite(values)
            self.not_finite += finite.size - int(finite.sum())
            values[~finite] = PADDING_HU
        if values.min() < -32768 or values.max() > 32767:
            self.clipped += int(((values < -32768) | (values > 32767)).sum())
            np.clip(values, -32768, 32767, out=values)
        if self.hu.dtype == np.int16:
            whole = values if values.dtype.kind == "i" else np.rint(values)
            if whole is values or np.abs(whole - values).max() <= INTEGER_TOLERANCE_HU:
                self.view[place] = whole
                return
            self.hu = self.hu.astype(np.float32)
            self.view = self.grid.on_disk(self.hu)
        self.view[place] = values

    def finish(self) -> np.ndarray:
        """Return the array, after a warning of what was replaced; refuse what is not HU."""
        if self.not_finite == self.hu.size:
            raise LungsegError(self.path, "every voxel is NaN or infinite: no image", RESCALE)
        if self.not_finite:
            warn(
                f"{self.path}: {self.not_finite:,} of {self.hu.size:,} voxels are NaN or infinite; "
                "they are taken for air"
            )
        if self.clipped:
            warn(f"{self.path}: {self.clipped:,} voxels beyond +-32768 HU are clipped")
        check_hounsfield(self.path, self.hu)
        return self.hu


def check_rescale_type(path: Path, rescale_type: str) -> None:
    """Refuse a DICOM RescaleType of another quantity than HU, and warn of one that may be HU."""
    unit = rescale_type.strip().upper()
    if unit in ("", "HU"):
        return
    shown = unit if len(unit) <= 16 else f"{unit[:16]}…"
    if unit in NOT_HU:
        raise LungsegError(path, f"not HU: its RescaleType is {shown}, {NOT_HU[unit]}", RESCALE)
    what = MAYBE_HU.get(unit, "no unit of the standard")
    warn(f"{path}: its RescaleType is {shown}, {what}: its values may not be HU")


def check_hounsfield(path: Path, hu: np.ndarray) -> None:
    """Refuse what cannot be HU, and warn of what is odd.

    Refused are a constant, [0, 1], 8 bits, a missing offset, inverted values and most MR.
    """
    low, high = float(hu.min()), float(hu.max())
    span = f"values run from {low:g} to {high:g}"
    if low == high:
        raise LungsegError(
            path, f"constant: every voxel is {low:g}", "Give a CT, not an empty volume"
        )
    if high < -300:
        warn(f"{path}: nothing denser than {high:g} HU: there is no patient in this scan")
        return
    if high - low <= 256:
        raise LungsegError(path, f"not HU: {span}, as in a normalised or 8-bit image", RESCALE)
    if low >= 0:
        raise LungsegError(
            path,
            f"not HU: {span}, none below 0 (the offset of -1024 may be missing, or it is no CT)",
            RESCALE,
        )
    steps = [max(1, side // most) for side, most in zip(hu.shape, (64, 128, 128), strict=True)]
    sample = hu[:: steps[0], :: steps[1], :: steps[2]]
    dense = float((sample > 500).mean())
    if dense > 0.15:
        raise LungsegError(
            path,
            f"not HU: {dense:.0%} of the voxels are denser than bone (inverted, the offset of "
            "-1024 missing, or no CT)",
            RESCALE,
        )
    if not (sample < -300).any():
        warn(f"{path}: no air and no lung in it ({span})")
