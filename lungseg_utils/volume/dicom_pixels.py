"""The pixels of one DICOM slice, compressed or not, and their slope and intercept to HU."""

from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.pixels import get_decoder
from pydicom.pixels.decoders.base import Decoder
from pydicom.uid import UID

from lungseg_utils.runtime import LungsegError
from lungseg_utils.volume.dicom_files import ONE_SERIES
from lungseg_utils.volume.dicom_headers import read_file
from lungseg_utils.volume.dicom_stack import Slice
from lungseg_utils.volume.intensity import PADDING_HU
from lungseg_utils.volume.stream import AGAIN

HIGHEST_HU = 3071  # that 12 bits hold

CODECS = {  # word in a transfer syntax's name -> what pip installs for it
    "JPEG 2000": "pylibjpeg pylibjpeg-openjpeg",  # High-Throughput, too
    "JPEG-LS": "pyjpegls",
    "JPEG": "pylibjpeg pylibjpeg-libjpeg",
}


def read_pixels(one: Slice) -> tuple[np.ndarray, tuple[float, float]]:
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
    dataset = one.file
    syntax = dataset.file_meta.TransferSyntaxUID
    decoder = find_decoder(one.path, syntax)
    try:
        if syntax.is_deflated:  # its large elements cannot be read later
            dataset = read_file(one.path) or dataset
        expected = one.shape[0] * one.shape[1] * int(dataset.BitsAllocated) // 8
        if one.file is not one.dataset:
            expected *= int(dataset.NumberOfFrames)
        got = len(dataset.PixelData)
    except Exception:
        raise LungsegError(
            one.path, "truncated: its pixels are missing or cut short", AGAIN
        ) from None
    if not syntax.is_encapsulated and dataset["PixelData"].is_undefined_length:
        raise LungsegError(
            one.path,
            "its pixels are compressed; its transfer syntax, missing or wrong, does not say how",
            "Export it uncompressed",
        )
    if not syntax.is_encapsulated and got < expected:
        raise LungsegError(
            one.path, f"truncated: expected {expected:,} bytes of pixels, got {got:,}", AGAIN
        )
    pixels = decode(one, dataset, decoder)
    if one.file is one.dataset:
        del dataset.PixelData  # the dataset lives on with its series
    return _without_padding(one, pixels, scaling), scaling


def _without_padding(one: Slice, pixels: np.ndarray, scaling: tuple[float, float]) -> np.ndarray:
    """Return `pixels` with their padding as air, where it would be denser than any CT number.

    So is a negative one in numbers without a sign: 63536 for -2000. What may be tissue stays, and
    what is below air already is padding to all that follows.
    """
    try:
        value = int(one.dataset.PixelPaddingValue)
        limit = int(one.dataset.get("PixelPaddingRangeLimit") or value)
        low, high = np.sort(np.array([value, limit]).astype(pixels.dtype))  # with its sign or none
    except (AttributeError, TypeError, ValueError, OverflowError):  # none, or no number
        return pixels
    slope, intercept = scaling
    if min(low * slope, high * slope) + intercept <= HIGHEST_HU:
        return pixels
    is_padding = (low <= pixels) & (pixels <= high)
    return np.where(is_padding, (PADDING_HU - intercept) / slope, pixels)


def find_decoder(path: Path, syntax: UID) -> Decoder:
    """Return pydicom's decoder of a transfer syntax; one that is private is refused by its UID."""
    private = ", a private transfer syntax" if syntax.is_private else ""
    try:
        decoder = get_decoder(syntax)
    except (NotImplementedError, ValueError):
        raise LungsegError(
            path,
            f"compressed or encoded as {syntax.name}{private}, which cannot be read",
            "Export it uncompressed, in Explicit VR Little Endian",
        ) from None
    if not decoder.is_available:
        raise LungsegError(
            path,
            f"compressed as {syntax.name}, which needs a codec",
            f"Install it: pip install {_package(syntax)}",
        )
    return decoder


def _package(syntax: UID) -> str | None:
    return next((package for word, package in CODECS.items() if word in syntax.name), None)


def decode(one: Slice, dataset: Dataset, decoder: Decoder) -> np.ndarray:
    """Return the stored values (rows, columns) of a slice whose pixels are compressed or not."""
    syntax = decoder.UID
    try:
        pixels = decoder.as_array(dataset, raw=True, index=one.frame)[0]
        if pixels.shape != one.shape:
            raise ValueError
        return pixels
    except Exception as error:
        raise LungsegError(
            one.path,
            f"its pixels ({syntax.name}) are damaged or beyond the codec at hand "
            f"({type(error).__name__})",
            f"{AGAIN}, or install another codec: pip install {_package(syntax)}"
            if syntax.is_encapsulated
            else AGAIN,
        ) from None
