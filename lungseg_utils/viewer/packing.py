"""A scan and its masks made small enough for a web page.

Grey levels are spent where the eye needs them: steps of 8 HU in lung, 4 HU in soft tissue, more in
bone. Each slice is a JPEG that the browser itself decodes, so that 300 slices of 512 × 512 stay
below 10 MB; a mask is its runs of voxels.
"""

import functools
import io
import zlib

import numpy as np
from PIL import Image

LEVELS_HU = np.concatenate(
    [np.arange(-1024, -200, 8), np.arange(-200, 300, 4), np.linspace(300, 2000, 28)]
)  # of the 256 grey levels
MOST_BYTES = 9_000_000
QUALITIES = (95, 90, 85, 80, 75, 70, 60, 50, 40, 30)  # of the JPEGs, the best that fits is taken
SAMPLED = 12  # slices that a quality is tried on


def grey_levels(hu: np.ndarray) -> np.ndarray:
    """Return HU as the numbers of the closest of `LEVELS_HU`, uint8 of the same shape."""
    if hu.dtype != np.int16:
        hu = np.rint(np.clip(hu, -32768, 32767)).astype(np.int16)
    return _levels_of_int16()[hu.view(np.uint16)]


@functools.cache
def _levels_of_int16() -> np.ndarray:
    """Return the level of each int16, in the order of their bits: 0 … 32767, -32768 … -1."""
    hu = np.arange(65536, dtype=np.uint16).view(np.int16)
    return np.interp(hu, LEVELS_HU, np.arange(len(LEVELS_HU))).round().astype(np.uint8)


def pack_slices(hu: np.ndarray, most_bytes: int = MOST_BYTES) -> tuple[bytes, list[int]]:
    """Return the axial slices of a scan (D, H, W) as JPEGs in a row, and the bytes of each.

    They are as good as `most_bytes` allow.
    """
    sampled = hu[:: max(1, len(hu) // SAMPLED)]
    for quality in QUALITIES:
        size = sum(len(_jpeg(section, quality)) for section in sampled)
        if size * len(hu) / len(sampled) <= 0.97 * most_bytes:  # the rest may be harder to pack
            break
    pictures = [_jpeg(section, quality) for section in hu]
    return b"".join(pictures), [len(picture) for picture in pictures]


def _jpeg(section: np.ndarray, quality: int) -> bytes:
    page = io.BytesIO()
    Image.fromarray(grey_levels(section)).save(page, "JPEG", quality=quality)
    return page.getvalue()


def pack_runs(voxels: np.ndarray) -> bytes:
    """Pack ascending flat indices (n,) as runs, deflated: uint32 of gap, length, gap, length …"""
    if not len(voxels):
        return b""
    first, last = run_ends(voxels)
    lengths = last - first + 1
    gaps = voxels[first] - np.append(0, voxels[last[:-1]] + 1)
    return zlib.compress(np.stack([gaps, lengths], axis=1).astype("<u4").tobytes(), 6)


def run_ends(voxels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where, in ascending flat indices (n,) of at least one, each run begins and ends."""
    last = np.append(np.flatnonzero(np.diff(voxels) != 1), len(voxels) - 1)
    return np.append(0, last[:-1] + 1), last
