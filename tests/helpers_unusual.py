"""DICOM series and sets as other tools and archives leave them, sound or not: of the catalogue."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

from helpers_bad_files import ct, tumour
from helpers_bad_folders import Input
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless, SecondaryCaptureImageStorage
from test_dicom import CORONAL, change, make_slice, write_series
from test_dicom import chest as series_of
from test_dicom_kinds import NAMES, bare, enhanced, without
from test_foreign_sets import CASES, COMMON, COPIES, TEST, copy_as_decathlon, entries, write_json
from test_volume import chest

VOXELS = series_of().size
META = b"\2\0\2\0UI\x1a\x001.2.840.10008.5.1.4.1.1.2\0"  # file meta without a transfer syntax


def unnamed_syntax(path: Path, syntax=None) -> None:
    """Take the transfer syntax out of a slice's file meta."""
    content = path.read_bytes()
    elements = content[content.index(b"\x08\0\x08\0CS") :] if syntax is None else bare(path, syntax)
    path.write_bytes(bytes(128) + b"DICM" + META + elements)


def odd_series(folder: Path) -> Iterator[Input]:
    """Make DICOM series that hold something else, or less, than a reader takes them for."""

    def each(name, spoil, **options):
        for path in write_series(folder / name, **options):
            spoil(path)
        return Input(name, folder / name)

    for unit in ("HU_MOD", "US", "MGML", "Z_EFF", "ED", "PCT"):
        yield each(f"RescaleType {unit}", lambda path, unit=unit: change(path, RescaleType=unit))
    yield each(
        "PET called CT", lambda path: change(path, SOPClassUID="1.2.840.10008.5.1.4.1.1.128")
    )

    def compress(path):
        one = dcmread(path)
        one.compress(JPEGLSLossless)
        one.save_as(path)
        unnamed_syntax(path)

    yield each("compressed, no transfer syntax", compress)
    yield each("a scout among them", lambda path: None)
    scout = make_slice(series_of()[0, :, :4], (0, 0, 0), image_type="SCOUT", orientation=CORONAL)
    scout.save_as(folder / "a scout among them" / "0.dcm")
    yield each("a slice of another patient", lambda path: None)
    change(folder / "a slice of another patient" / "1-00.dcm", PatientID="another")
    two = folder / "two spacings"
    two.mkdir()
    for number, level in enumerate([0, 1, 2, 3, 5, 7, 9]):
        hu = series_of()[number % 6]
        make_slice(hu, (0, 0, 3.0 * level), number=number).save_as(two / f"{number}.dcm")
    yield Input("two spacings", two)
    for number in "12":
        for path in write_series(folder / "two series, no UID", series=number):
            change(path, SeriesInstanceUID="")
    yield Input("two series, no UID", folder / "two series, no UID")


def good_series(folder: Path) -> Iterator[Input]:
    """Make sound DICOM series in unusual forms, each of all slices."""

    def each(name, alter, *, first=0):
        for number, path in enumerate(write_series(folder / name)):
            if number >= first:
                alter(path)
        return Input(name, folder / name, VOXELS)

    def to_bare(path, syntax=None):
        path.write_bytes(bare(path, syntax) if syntax else bare(path))

    yield each("no Part 10 header", to_bare)
    yield each("no Part 10 header on some", to_bare, first=4)
    yield each("no Part 10 header, Explicit VR", lambda path: to_bare(path, ExplicitVRLittleEndian))
    yield each("no preamble", lambda path: path.write_bytes(path.read_bytes()[132:]))
    yield each("no transfer syntax", lambda path: unnamed_syntax(path, ExplicitVRLittleEndian))
    yield each("no suffix", lambda path: path.rename(path.with_suffix("")))
    yield each("no series UID", lambda path: without(path, "SeriesInstanceUID"))
    yield each("no series UID on some", lambda path: change(path, SeriesInstanceUID=""), first=4)
    yield each("no SOP class", lambda path: without(path, "SOPClassUID"))
    yield each(
        "Secondary Capture", lambda path: change(path, SOPClassUID=SecondaryCaptureImageStorage)
    )
    japanese = {"SpecificCharacterSet": ["", "ISO 2022 IR 87"]}
    japanese["PatientName"] = NAMES["ISO 2022 IR 87"]
    yield each("Japanese name", lambda path: change(path, **japanese))
    yield each("no patient", lambda path: without(path, "PatientID", "PatientName"))
    (folder / "enhanced").mkdir()
    enhanced(folder / "enhanced" / "one.dcm", series_of())
    yield Input("enhanced", folder / "enhanced", VOXELS)


def good_sets(folder: Path) -> Iterator[Input]:
    """Make one sound set in the layouts of other tools."""
    source = folder / "source"
    for number, case in enumerate([*CASES, TEST]):
        part = "Ts" if case == TEST else "Tr"
        for kind, content in (
            ("images", ct(hu=chest((8, 9, 10)) + 3 * number)),
            ("labels", ct(hu=tumour(), dtype="u1")),
        ):
            if (kind, part) != ("labels", "Ts"):
                path = source / f"{kind}{part}" / f"{case}.nii.gz"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(gzip.compress(content))
    training = entries("./imagesTr/{}", "./labelsTr/{}")
    test = [f"./imagesTs/{TEST}.nii.gz"]
    write_json(source, numTraining=4, training=training, test=test, **COMMON)
    for copy in (copy_as_decathlon, *COPIES):
        name = copy.__name__.removeprefix("copy_as_")
        yield Input(name, copy(source, folder / name))
