"""A folder of DICOM files -> one CT series in Hounsfield units, sorted by position and checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.pixels import get_decoder
from pydicom.uid import UID

from lungseg_utils.runtime import LungsegError, warn
from lungseg_utils.volume.dicom_files import ONE_SERIES, choose, find_series, read_file
from lungseg_utils.volume.grid import check_affine, grid_of, spacing_of
from lungseg_utils.volume.header import MAX_VOXELS
from lungseg_utils.volume.intensity import HounsfieldWriter
from lungseg_utils.volume.scan import Volume
from lungseg_utils.volume.stream import AGAIN

ONE_EACH = ("PatientID", "FrameOfReferenceUID")  # in a series
CODECS = {  # word in a transfer syntax's name -> what pip installs for it
    "JPEG 2000": "pylibjpeg pylibjpeg-openjpeg",  # High-Throughput, too
    "JPEG-LS": "pyjpegls",
    "JPEG": "pylibjpeg pylibjpeg-libjpeg",
}


@dataclass(frozen=True)
class Slice:
    """One CT image: where it is in LPS mm, and how its pixels lie.

    `directions` are those of a row and of a column.
    """

    path: Path
    dataset: Dataset
    position: np.ndarray
    directions: np.ndarray
    pixel_mm: tuple[float, ...]
    shape: tuple[int, int]
    thickness_mm: float


def read_series(folder: str | Path, *, series: str | int | None = None) -> Volume:
    """Read the CT series in `folder`.

    `series` picks one of several, by its UID, number or description.
    """
    folder = Path(folder)
    files = choose(folder, find_series(folder), series).files
    slices = _sorted([_slice(path, dataset) for path, dataset in files])
    levels = _levels(slices)
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
            copied, scaling = _pixels(other)
            if scaling != writer.scaling or not np.array_equal(pixels, copied):
                raise LungsegError(
                    other.path,
                    f"lies where {level[0].path.name} lies, and differs from it",
                    "The series mixes acquisitions: keep the slices of one",
                )
        writer.add(index, pixels[None])
    if len(slices) > len(levels):
        warn(f"{folder}: {len(slices) - len(levels)} duplicate slices are left out")
    return Volume(
        writer.finish(),
        spacing_of(grid.canonical_affine),
        grid.canonical_affine,
        folder.resolve().name,
        folder,
        grid,
        tuple(one.path for one in firsts),
    )


def _slice(path: Path, dataset: Dataset) -> Slice:
    try:
        position = np.array(dataset.ImagePositionPatient, float)
        directions = np.array(dataset.ImageOrientationPatient, float).reshape(2, 3)
        pixel_mm = tuple(float(size) for size in dataset.PixelSpacing)
        shape = (int(dataset.Rows), int(dataset.Columns))
        thickness_mm = float(dataset.get("SliceThickness") or 1)
        is_usable = (
            position.shape == (3,)
            and len(pixel_mm) == 2
            and min(*pixel_mm, *shape) > 0
            and int(dataset.get("SamplesPerPixel") or 1) == 1
            and np.abs(np.linalg.norm(directions, axis=1) - 1).max() <= 1e-3
            and np.isfinite([*position, *directions.flat, *pixel_mm, thickness_mm]).all()
        )
    except Exception:
        is_usable = False
    if not is_usable:
        raise LungsegError(
            path, "no usable position, orientation, pixel size or shape in its header", AGAIN
        )
    return Slice(path, dataset, position, directions, pixel_mm, shape, thickness_mm)


def _sorted(slices: list[Slice]) -> list[Slice]:
    """Sort slices along their common normal, and refuse what is not one stack."""
    first = slices[0]
    for other in slices:
        if any(other.dataset.get(tag) != first.dataset.get(tag) for tag in ONE_EACH):
            raise LungsegError(
                other.path,
                f"its patient or frame of reference is another than that of {first.path.name}",
                "Keep the slices of one scan",
            )
        if not (
            other.shape == first.shape
            and np.allclose(other.pixel_mm, first.pixel_mm, rtol=1e-3)
            and np.allclose(other.directions, first.directions, atol=1e-3)
        ):
            raise LungsegError(
                other.path,
                f"its shape, pixel size or orientation differs from that of {first.path.name}",
                "Keep the slices of one stack",
            )
    normal = np.cross(*first.directions)
    return sorted(slices, key=lambda one: (round(float(one.position @ normal), 3), one.path.name))


def _levels(slices: list[Slice]) -> list[list[Slice]]:
    """Group sorted slices that share a position."""
    levels: list[list[Slice]] = []
    for one in slices:
        if levels and np.linalg.norm(one.position - levels[-1][0].position) < 0.01:
            levels[-1].append(one)
        else:
            levels.append([one])
    return levels


def _affine(folder: Path, slices: list[Slice]) -> np.ndarray:
    """Return the map of (column, row, slice) to RAS+ mm.

    Gaps and uneven stacks are refused, and a tilted gantry as a sheared grid.
    """
    first = slices[0]
    normal = np.cross(*first.directions)
    step = normal * first.thickness_mm
    if len(slices) > 1:
        positions = np.array([one.position for one in slices])
        gaps = np.diff(positions @ normal)
        usual = float(np.median(gaps))
        for before, after, gap in zip(slices, slices[1:], gaps):
            if not 0.7 * usual < gap < 1.3 * usual:
                names = f"{before.path.name} and {after.path.name}"
                raise LungsegError(
                    folder,
                    f"slices are missing: {gap:.4g} mm between {names}, {usual:.4g} mm elsewhere",
                    "Export the whole series again",
                )
        step = (positions[-1] - first.position) / (len(slices) - 1)
        expected = first.position + step * np.arange(len(slices))[:, None]
        strays = np.linalg.norm(positions - expected, axis=1)
        if strays.max() > 0.5 * usual:  # gaps that change along the series, or sideways slices
            worst = int(np.argmax(strays))
            raise LungsegError(
                folder,
                f"not one even stack: {slices[worst].path.name} lies {strays[worst]:.3g} mm "
                "from where it should",
                "Export slices of one spacing, none shifted",
            )
    affine = np.eye(4)
    in_plane = first.directions.T * first.pixel_mm[::-1]  # columns: along a row, along a column
    affine[:3] = np.column_stack([in_plane, step, first.position])
    affine = np.diag([-1, -1, 1, 1]) @ affine  # LPS to RAS
    check_affine(folder, affine)
    return affine


def _pixels(one: Slice) -> tuple[np.ndarray, tuple[float, float]]:
    """Decode one slice: stored values (rows, columns), and their slope and intercept to HU."""
    dataset = one.dataset
    try:
        scaling = (float(dataset.RescaleSlope), float(dataset.RescaleIntercept))
        is_scaled = scaling[0] != 0 and np.isfinite(scaling).all()
    except Exception:
        is_scaled = False
    if not is_scaled:
        raise LungsegError(
            one.path, "no usable rescale slope and intercept: its values are not HU", ONE_SERIES
        )
    try:
        syntax = dataset.file_meta.TransferSyntaxUID
        if syntax.is_deflated:  # its large elements cannot be read later
            dataset = read_file(one.path) or dataset
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
    pixels = _decode(one, dataset, syntax)
    del dataset.PixelData  # the dataset lives on with its series
    return pixels, scaling


def _decode(one: Slice, dataset: Dataset, syntax: UID) -> np.ndarray:
    """Return the stored values (rows, columns) of a slice whose pixels are compressed or not."""
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
        )
    try:
        pixels = decoder.as_array(dataset, raw=True)[0]
        if pixels.shape != one.shape:
            raise ValueError
        return pixels
    except Exception as error:
        raise LungsegError(
            one.path,
            f"its pixels ({syntax.name}) are damaged or beyond the codec at hand "
            f"({type(error).__name__})",
            f"{AGAIN}, or install another codec: pip install {package}"
            if syntax.is_encapsulated
            else AGAIN,
        ) from None
