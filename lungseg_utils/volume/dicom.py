"""A folder of DICOM files -> one CT series in Hounsfield units, sorted by position and checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lungseg_utils.runtime import LungsegError, warn
from lungseg_utils.volume.dicom_files import ONE_SERIES, choose, find_series, read_file
from lungseg_utils.volume.grid import check_affine, grid_of, spacing_of
from lungseg_utils.volume.header import MAX_VOXELS
from lungseg_utils.volume.intensity import HounsfieldWriter
from lungseg_utils.volume.scan import Volume
from lungseg_utils.volume.stream import AGAIN

__all__ = ["find_series", "read_series"]

ONE_EACH = ("PatientID", "FrameOfReferenceUID")  # in a series
CODECS = {
    "JPEG 2000": "pylibjpeg pylibjpeg-openjpeg",
    "High-Throughput": "pylibjpeg and pylibjpeg-openjpeg",
    "JPEG-LS": "pyjpegls",
    "JPEG": "pylibjpeg pylibjpeg-libjpeg",
}


@dataclass(frozen=True)
class Slice:
    """One CT image: where it is in LPS mm, and how its pixels lie; `directions` are those of a row and a column."""

    path: Path
    dataset: object
    position: np.ndarray
    directions: np.ndarray
    pixel_mm: tuple[float, float]
    shape: tuple[int, int]
    thickness_mm: float


def read_series(folder: str | Path, *, series: str | int | None = None):
    """Read the CT series in `folder` as a Volume; `series` picks one of several by UID, number or description."""
    folder = Path(folder)
    slices = [
        _slice(path, dataset) for path, dataset in choose(folder, find_series(folder), series).files
    ]
    levels = _levels(_sorted(slices))
    firsts = [level[0] for level in levels]
    rows, columns = firsts[0].shape
    if rows * columns * len(levels) > MAX_VOXELS:
        raise LungsegError(
            folder, f"implausibly large: {len(levels)} slices of {rows}x{columns}", ONE_SERIES
        )
    grid = grid_of((columns, rows, len(levels)), _affine(folder, firsts))
    writer = HounsfieldWriter(folder, grid)
    for index, level in enumerate(levels):
        pixels, writer.scaling = _pixels(level[0])
        for other in level[1:]:
            again, scaling = _pixels(other)
            if scaling != writer.scaling or not np.array_equal(pixels, again):
                raise LungsegError(
                    other.path,
                    f"lies where {level[0].path.name} lies, and differs from it",
                    "The series mixes acquisitions: keep the slices of one",
                )
        writer.add(index, pixels[None])
    if len(slices) > len(levels):
        warn(f"{folder}: {len(slices) - len(levels)} duplicate slices are left out")
    affine, files = grid.canonical_affine, tuple(one.path for one in firsts)
    return Volume(
        writer.finish(), spacing_of(affine), affine, folder.resolve().name, folder, grid, files
    )


def _slice(path: Path, dataset) -> Slice:
    try:
        position = np.array(dataset.ImagePositionPatient, float)
        directions = np.array(dataset.ImageOrientationPatient, float).reshape(2, 3)
        pixel_mm = tuple(float(size) for size in dataset.PixelSpacing)
        shape = int(dataset.Rows), int(dataset.Columns)
        thickness_mm = float(dataset.get("SliceThickness") or 1)
        one_number_each = int(dataset.get("SamplesPerPixel") or 1) == 1
        if not (
            position.shape == (3,) and len(pixel_mm) == 2 and min(shape) > 0 and one_number_each
        ):
            raise ValueError
        if min(pixel_mm) <= 0 or np.abs(np.linalg.norm(directions, axis=1) - 1).max() > 1e-3:
            raise ValueError
        if not np.isfinite([*position, *directions.flat, *pixel_mm, thickness_mm]).all():
            raise ValueError
    except Exception:
        raise LungsegError(
            path, "no usable position, orientation, pixel size or shape in its header", AGAIN
        ) from None
    return Slice(path, dataset, position, directions, pixel_mm, shape, thickness_mm)


def _sorted(slices: list[Slice]) -> list[Slice]:
    """Sort slices along their common normal, and refuse what is not one stack."""
    first = slices[0]
    for other in slices:
        same_pixels = other.shape == first.shape and np.allclose(
            other.pixel_mm, first.pixel_mm, rtol=1e-3
        )
        same_patient = all(other.dataset.get(tag) == first.dataset.get(tag) for tag in ONE_EACH)
        if not same_patient:
            cause = f"its patient or frame of reference is another than that of {first.path.name}"
            raise LungsegError(other.path, cause, "Keep the slices of one scan")
        if not (same_pixels and np.allclose(other.directions, first.directions, atol=1e-3)):
            cause = f"its shape, pixel size or orientation differs from that of {first.path.name}"
            raise LungsegError(other.path, cause, "Keep the slices of one stack")
    normal = np.cross(*first.directions)
    return sorted(slices, key=lambda one: (round(float(one.position @ normal), 3), one.path.name))


def _levels(slices: list[Slice]) -> list[list[Slice]]:
    """Group sorted slices that share a position."""
    levels = [[slices[0]]]
    for one in slices[1:]:
        if np.linalg.norm(one.position - levels[-1][0].position) < 0.01:
            levels[-1].append(one)
        else:
            levels.append([one])
    return levels


def _affine(folder: Path, slices: list[Slice]) -> np.ndarray:
    """Give (column, row, slice) -> RAS+ mm, and refuse gaps, uneven stacks and, as a sheared grid, a tilted gantry."""
    first, last, normal = slices[0], slices[-1], np.cross(*slices[0].directions)
    step = normal * first.thickness_mm
    if len(slices) > 1:
        gaps = np.diff([one.position @ normal for one in slices])
        usual = float(np.median(gaps))
        for index, gap in enumerate(gaps):
            if not 0.7 * usual < gap < 1.3 * usual:
                names = f"{slices[index].path.name} and {slices[index + 1].path.name}"
                cause = (
                    f"slices are missing: {gap:.4g} mm between {names}, {usual:.4g} mm elsewhere"
                )
                raise LungsegError(folder, cause, "Export the whole series again")
        step = (last.position - first.position) / (len(slices) - 1)
        strays = [
            np.linalg.norm(one.position - first.position - step * index)
            for index, one in enumerate(slices)
        ]
        if (
            max(strays) > 0.5 * usual
        ):  # gaps that change along the series, or slices that lie sideways
            worst = int(np.argmax(strays))
            cause = f"not one even stack: {slices[worst].path.name} lies {strays[worst]:.3g} mm from where it should"
            raise LungsegError(folder, cause, "Export slices of one spacing, none shifted")
    affine = np.eye(4)
    affine[:3, 0] = first.directions[0] * first.pixel_mm[1]
    affine[:3, 1] = first.directions[1] * first.pixel_mm[0]
    affine[:3, 2], affine[:3, 3] = step, first.position
    affine = np.diag([-1, -1, 1, 1]) @ affine  # LPS to RAS
    check_affine(folder, affine)
    return affine


def _pixels(one: Slice) -> tuple[np.ndarray, tuple[float, float]]:
    """Decode one slice: stored values (rows, columns), and the slope and intercept that turn them into HU."""
    from pydicom.pixels import get_decoder

    dataset = one.dataset
    try:
        slope, intercept = float(dataset.RescaleSlope), float(dataset.RescaleIntercept)
        if not np.isfinite([slope, intercept]).all() or slope == 0:
            raise ValueError
    except Exception:
        raise LungsegError(
            one.path, "no usable rescale slope and intercept: its values are not HU", ONE_SERIES
        ) from None
    try:
        syntax = dataset.file_meta.TransferSyntaxUID
        if syntax.is_deflated:  # its large elements cannot be read later
            dataset = read_file(one.path)
        expected = one.shape[0] * one.shape[1] * int(dataset.BitsAllocated) // 8
        got = len(dataset.PixelData)
    except Exception:
        raise LungsegError(
            one.path, "truncated: its pixels are missing or cut short", AGAIN
        ) from None
    if not syntax.is_encapsulated and got < expected:
        raise LungsegError(
            one.path, f"truncated: expected {expected:,} bytes of pixels, got {got:,}", AGAIN
        )
    package = next((package for word, package in CODECS.items() if word in syntax.name), None)
    how = f"compressed as {syntax.name}"
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise LungsegError(
            one.path, f"{how}, which cannot be read", "Export it uncompressed"
        ) from None
    if not decoder.is_available:
        raise LungsegError(
            one.path, f"{how}, which needs a codec", f"Install it: pip install {package}"
        ) from None
    try:
        pixels = decoder.as_array(dataset, raw=True)[0]
        if pixels.shape != one.shape:
            raise ValueError
    except Exception as error:
        remedy = AGAIN + (
            f", or install another codec: pip install {package}" if syntax.is_encapsulated else ""
        )
        cause = f"its pixels ({syntax.name}) are damaged or beyond the codec at hand ({type(error).__name__})"
        raise LungsegError(one.path, cause, remedy) from None
    del dataset.PixelData  # the dataset lives on with its series
    return pixels, (slope, intercept)
