"""DICOM series in, DICOM SEG out: slices made here, and the real series where they are at hand."""

import os
import re
import struct
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
    generate_uid,
)

from lungseg_utils import volume
from lungseg_utils.runtime import LungsegError
from lungseg_utils.volume import dicom, dicom_seg
from lungseg_utils.volume.grid import CANONICAL

REAL_CT = os.environ.get("LUNGSEG_REAL_CT")
needs_real_ct = pytest.mark.skipif(
    not REAL_CT, reason="LUNGSEG_REAL_CT names no folder of real CTs"
)
STUDY, FRAME = generate_uid(entropy_srcs=["study"]), generate_uid(entropy_srcs=["frame"])
AXIAL, CORONAL = (1, 0, 0, 0, 1, 0), (1, 0, 0, 0, 0, -1)
PATIENT = "DoeJane"  # a single component: highdicom warns of it, and quotes it


def chest(shape=(6, 8, 10)) -> np.ndarray:
    hu = np.random.default_rng(0).integers(-100, 100, shape).astype(np.int16)
    hu[:, : shape[1] // 2] -= 850
    return hu


def make_slice(
    hu, position, *, series="1", number=0, orientation=AXIAL, kind="CT", image_type="AXIAL"
) -> FileDataset:
    """Make one slice of (rows, columns) HU at `position` in LPS mm."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage if kind == "CT" else MRImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    one.SOPClassUID, one.SOPInstanceUID = (
        meta.MediaStorageSOPClassUID,
        meta.MediaStorageSOPInstanceUID,
    )
    one.PatientName, one.PatientID, one.PatientBirthDate, one.PatientSex = (
        PATIENT,
        "ID-4711",
        "19500101",
        "F",
    )
    one.StudyInstanceUID, one.FrameOfReferenceUID, one.PositionReferenceIndicator = STUDY, FRAME, ""
    one.SeriesInstanceUID = generate_uid(entropy_srcs=[series])
    one.StudyID = one.AccessionNumber = one.ReferringPhysicianName = one.Manufacturer = ""
    one.StudyDate, one.StudyTime, one.ContentDate, one.ContentTime = (
        "20200101",
        "120000",
        "20200101",
        "120000",
    )
    one.Modality, one.SeriesNumber, one.SeriesDescription = kind, series, f"Thorax kernel {series}"
    one.ImageType, one.InstanceNumber = ["ORIGINAL", "PRIMARY", image_type], number + 1
    one.ImagePositionPatient, one.ImageOrientationPatient = (
        [float(x) for x in position],
        list(orientation),
    )
    one.PixelSpacing, one.SliceThickness = [0.8, 0.7], 3
    one.Rows, one.Columns = hu.shape
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 0
    one.RescaleSlope, one.RescaleIntercept = 1, -1024
    one.PixelData = (hu + 1024).astype("<u2").tobytes()
    return one


def write_series(folder: Path, hu=None, *, step=(0, 0, 3.0), names=None, **options) -> list[Path]:
    """Write (slices, rows, columns) HU as slices `step` apart; names do not follow positions."""
    hu, folder = chest() if hu is None else hu, Path(folder)
    folder.mkdir(exist_ok=True)
    paths = []
    for k, plane in enumerate(hu):
        path = folder / f"{options.get('series', '1')}-{(k * 5) % 7:02d}.dcm"
        make_slice(
            plane, np.array([-5.0, -6.0, 7.0]) + k * np.array(step), number=k, **options
        ).save_as(path)
        paths.append(path)
    return paths


def change(path: Path, **tags) -> None:
    one = dcmread(path)
    for tag, value in tags.items():
        setattr(one, tag, value)
    one.save_as(path)


def refuse(folder, pattern, **options):
    with pytest.raises(LungsegError, match=pattern) as caught:
        volume.read(folder, **options)
    assert PATIENT not in str(caught.value) and "4711" not in str(caught.value)


@pytest.mark.fault("DICOM: shuffled names, junk")
def test_shuffled_names_and_junk(tmp_path, capsys):
    paths = write_series(tmp_path)
    (tmp_path / "readme.txt").write_text("hello")
    (tmp_path / "Thumbs.db").write_bytes(bytes(300))
    (tmp_path / "._1-00.dcm").write_bytes(b"\0\5\x16\7")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    scan = volume.read(tmp_path)
    assert (
        np.array_equal(scan.hu, chest())
        and scan.hu.dtype == np.int16
        and scan.slices == tuple(paths)
    )
    assert scan.spacing_mm == pytest.approx((3.0, 0.8, 0.7)) and capsys.readouterr().err == ""
    assert np.allclose(scan.affine[:3, 3], [5, 6, 7]) and np.allclose(
        scan.affine[:3, 0], CANONICAL[:3, 0] * 3
    )


@pytest.mark.parametrize(
    "step, orientation", [((0, 0, -3.0), AXIAL), ((0, 3.0, 0), CORONAL), ((0, -3.0, 0), CORONAL)]
)
def test_any_plane_and_direction_lands_in_the_patient_s_axes(tmp_path, step, orientation):
    write_series(tmp_path, step=step, orientation=orientation)
    scan = volume.read(tmp_path)
    expected = chest()[::-1] if step[2] < 0 else chest()
    if orientation == CORONAL:  # rows run down, slices from front to back
        expected = chest().transpose(1, 0, 2)[::-1, :: 1 if step[1] > 0 else -1]
    assert np.array_equal(scan.hu, expected)
    inside = np.linalg.inv(scan.affine) @ [5.0, 6.0, 7.0, 1.0]  # the first pixel, in RAS
    assert scan.hu[tuple(np.rint(inside[:3]).astype(int))] == chest()[0, 0, 0]


def test_the_mask_lies_on_the_series_grid(tmp_path):
    write_series(tmp_path / "series")
    scan = volume.read(tmp_path / "series")
    volume.write_mask(tmp_path / "mask.nii.gz", scan.hu > 0, scan)
    mask = nib.load(tmp_path / "mask.nii.gz")
    assert "".join(nib.aff2axcodes(mask.affine)) == "LPS" and np.allclose(
        mask.affine[:3, 3], [5, 6, 7]
    )
    assert np.array_equal(np.asanyarray(mask.dataobj).transpose(2, 1, 0), chest() > 0)


@pytest.mark.fault("DICOM: missing, duplicate, truncated slices")
def test_missing_slice(tmp_path):
    write_series(tmp_path)[3].unlink()
    refuse(tmp_path, "slices are missing: 6 mm between 1-03.dcm and 1-06.dcm, 3 mm elsewhere")


@pytest.mark.fault("DICOM: missing, duplicate, truncated slices")
@pytest.mark.parametrize(
    "moved",
    [
        [(0, 0, 0)] * 20
        + [
            (0, 0, 0.75 * k) for k in range(20)
        ],  # from 3 to 3.75 mm: no gap is far from the usual one
        [(0, 0, 0)] * 10 + [(40, 0, 0)] * 20 + [(0, 0, 0)] * 10,
    ],
)
def test_uneven_or_shifted_slices(tmp_path, moved):
    for k, (plane, shift) in enumerate(zip(chest((40, 8, 10)), moved)):
        make_slice(plane, np.array([0, 0, 3.0 * k]) + shift, number=k).save_as(
            tmp_path / f"{k:02d}.dcm"
        )
    refuse(tmp_path, r"not one even stack: \d\d.dcm lies [\d.]+ mm from where it should")


@pytest.mark.fault("DICOM: missing, duplicate, truncated slices")
def test_duplicate_slices(tmp_path, capsys):
    paths = write_series(tmp_path)
    copy = dcmread(paths[2])
    copy.save_as(tmp_path / "copy.dcm")
    assert np.array_equal(volume.read(tmp_path).hu, chest())
    assert "1 duplicate slices are left out" in capsys.readouterr().err
    copy.PixelData = bytes(len(copy.PixelData))
    copy.save_as(tmp_path / "copy.dcm")
    refuse(tmp_path, "copy.dcm: lies where .* lies, and differs")


@pytest.mark.fault("DICOM: missing, duplicate, truncated slices")
@pytest.mark.parametrize("keep", [0, 60, 140, 300, 700, -100])
def test_truncated_slice(tmp_path, keep):
    path = write_series(tmp_path)[2]
    path.write_bytes(path.read_bytes()[:keep])
    refuse(tmp_path, f"{path.name}: .*(truncated|cut short|its start|empty)")


@pytest.mark.fault("DICOM: missing, duplicate, truncated slices")
def test_an_empty_file_is_reported(tmp_path, capsys):
    write_series(tmp_path)
    (tmp_path / "IM0007").touch()
    assert np.array_equal(volume.read(tmp_path).hu, chest())
    assert "IM0007: empty; it is skipped" in capsys.readouterr().err


@pytest.mark.fault("DICOM: missing, duplicate, truncated slices")
@pytest.mark.parametrize("tag", ["0008103e", "7fe00010"])
def test_an_element_that_claims_gigabytes_takes_no_memory(tmp_path, tag):
    path = write_series(tmp_path)[2]
    content = bytearray(path.read_bytes())
    place = content.index(struct.pack("<HH", int(tag[:4], 16), int(tag[4:], 16))) + 8
    content[place - 4 : place + 4] = b"OW\0\0" + struct.pack("<I", 0xFFFF_FFF0)
    path.write_bytes(content)
    tracemalloc.start()
    if tag == "0008103e":
        refuse(tmp_path, f"{path.name}: ")
    else:  # the last element: all of its pixels are there
        assert np.array_equal(volume.read(tmp_path).hu, chest())
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 20_000_000


@pytest.mark.fault("DICOM: no codec, broken or deflated data")
def test_deflated_files_are_read_but_not_large_ones(tmp_path):
    for path in write_series(tmp_path):
        one = dcmread(path)
        one.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        one.save_as(path)
    assert np.array_equal(volume.read(tmp_path).hu, chest())
    with path.open("ab") as file:
        file.truncate(1 << 21)  # a bomb would begin like this
    refuse(
        tmp_path, f"{path.name}: deflated, and larger than 1,048,576 bytes. Export it uncompressed"
    )


@pytest.mark.fault("DICOM: several series, localizer, MR, tilt, rescale")
def test_two_series_are_asked_for(tmp_path, capsys):
    write_series(tmp_path, series="1")
    write_series(tmp_path, chest() + 1, series="2")
    refuse(tmp_path, "2 CT series in it: .*'Thorax kernel 1'.*Choose one with --series")
    uid = generate_uid(entropy_srcs=["2"])
    for wanted in (2, "2", "KERNEL 2", uid):
        assert np.array_equal(volume.read(tmp_path, series=wanted).hu, chest() + 1)
    refuse(tmp_path, "0 CT series fit '9'", series=9)
    refuse(tmp_path, "2 CT series fit 'thorax'", series="thorax")
    assert [series.number for series in dicom.find_series(tmp_path)] == ["1", "2"]


@pytest.mark.fault("DICOM: several series, localizer, MR, tilt, rescale")
def test_localizer_and_mr_are_left_out_or_refused(tmp_path, capsys):
    write_series(tmp_path / "both")
    make_slice(chest()[0], (0, 0, 0), image_type="LOCALIZER").save_as(
        tmp_path / "both" / "scout.dcm"
    )
    make_slice(chest()[0], (0, 0, 0), series="8", kind="MR").save_as(tmp_path / "both" / "mr.dcm")
    assert np.array_equal(volume.read(tmp_path / "both").hu, chest())
    stderr = capsys.readouterr().err
    assert "localizer" in stderr and "MR" in stderr and PATIENT not in stderr
    write_series(tmp_path / "mr", kind="MR")
    refuse(tmp_path / "mr", "no CT series .* only 1 'Thorax kernel 1' .MR, 6 files.")


@pytest.mark.fault("DICOM: several series, localizer, MR, tilt, rescale")
def test_gantry_tilt(tmp_path):
    write_series(tmp_path, step=(0, 0.6, 3.0))
    refuse(tmp_path, "sheared grid .gantry tilt")


@pytest.mark.fault("DICOM: several series, localizer, MR, tilt, rescale")
def test_every_slice_has_its_own_rescale(tmp_path):
    paths = write_series(tmp_path, chest() // 2 * 2)
    for path, (slope, inter) in zip(
        paths, [(1, -1024), (2, -2000), (0.5, -1500), (1, -1000), (2, -1024), (1, -3000)]
    ):
        one = dcmread(path)
        hu = one.pixel_array.astype(float) - 1024
        one.RescaleSlope, one.RescaleIntercept = slope, inter
        one.PixelData = np.rint((hu - inter) / slope).astype("<u2").tobytes()
        one.save_as(path)
    assert np.array_equal(volume.read(tmp_path).hu, chest() // 2 * 2)
    change(paths[0], RescaleSlope=None)
    refuse(tmp_path, "no usable rescale slope")


@pytest.mark.parametrize(
    "tag, value", [("PixelSpacing", [0.9, 0.9]), ("ImageOrientationPatient", CORONAL)]
)
def test_slices_that_do_not_belong_together(tmp_path, tag, value):
    change(write_series(tmp_path)[4], **{tag: list(value)})
    refuse(tmp_path, "differs from that of")


@pytest.mark.parametrize("tag", ["PatientID", "FrameOfReferenceUID"])
def test_slices_of_two_patients_or_two_scans_are_refused_without_naming_them(tmp_path, tag):
    change(write_series(tmp_path)[4], **{tag: "1.2.4711"})
    refuse(tmp_path, "its patient or frame of reference is another")


@pytest.mark.fault("voxel size zero, negative, NaN or lying")
@pytest.mark.parametrize(
    "tag, value",
    [
        ("PixelSpacing", [-2, 2]),
        ("PixelSpacing", [0, 2]),
        ("ImageOrientationPatient", [0.5, 0, 0, 0, 0.5, 0]),
    ],
)
def test_pixels_of_no_size_and_directions_of_another_length_are_refused(tmp_path, tag, value):
    for path in write_series(tmp_path):
        change(path, **{tag: value})
    refuse(tmp_path, "no usable position, orientation, pixel size")


@pytest.mark.fault("links: sound, dangling, in a circle")
def test_slices_behind_a_linked_folder_are_read_once(tmp_path):
    paths = write_series(tmp_path / "elsewhere")
    (tmp_path / "series").mkdir()
    for path in paths[:3]:
        path.rename(tmp_path / "series" / path.name)
    for number in (1, 2):
        (tmp_path / "series" / f"rest {number}").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "series" / "loop").symlink_to(tmp_path / "series")
    assert np.array_equal(volume.read(tmp_path / "series").hu, chest())


@pytest.mark.fault("DICOM: missing, duplicate, truncated slices")
def test_a_closed_folder_among_the_slices_is_reported(tmp_path, monkeypatch):
    write_series(tmp_path)
    (tmp_path / "rest").mkdir()
    real = os.scandir

    def scandir(path):
        if Path(path).name == "rest":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    refuse(tmp_path, "rest: permission denied")


@pytest.mark.fault("the patient's data in a header or extension")
def test_what_a_segmentation_cannot_take_is_not_quoted(tmp_path):
    for path in write_series(tmp_path / "series"):
        change(path, PatientSex=PATIENT)
    scan = volume.read(tmp_path / "series")
    with pytest.raises(
        LungsegError, match=r"do not suffice for a DICOM SEG; they are wrong \("
    ) as caught:
        dicom_seg.write_segmentation(tmp_path / "seg.dcm", scan.hu > 0, scan)
    assert PATIENT not in str(caught.value)


def test_header_without_a_position(tmp_path):
    change(write_series(tmp_path)[4], ImagePositionPatient=None)
    refuse(tmp_path, "no usable position")


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_compressed_series_are_read(tmp_path, syntax):
    for path in write_series(tmp_path):
        one = dcmread(path)
        one.compress(syntax)
        one.save_as(path)
    assert np.array_equal(volume.read(tmp_path).hu, chest())


@pytest.mark.fault("DICOM: no codec, broken or deflated data")
@pytest.mark.parametrize(
    "uid, package",
    [
        ("1.2.840.10008.1.2.4.70", "pylibjpeg pylibjpeg-libjpeg"),
        ("1.2.840.10008.1.2.4.201", "pylibjpeg pylibjpeg-openjpeg"),
        ("1.2.840.10008.1.2.4.80", "pyjpegls"),
    ],
)
def test_no_codec_or_broken_data(tmp_path, uid, package):
    from pydicom.encaps import encapsulate

    one = dcmread(write_series(tmp_path)[1])
    one.PixelData = encapsulate([b"\xff\xd8 this is no picture \xff\xd9"])
    one["PixelData"].is_undefined_length = True
    one.file_meta.TransferSyntaxUID = uid
    one.save_as(tmp_path / "1-05.dcm")
    refuse(
        tmp_path,
        f"1-05.dcm: .*{re.escape(one.file_meta.TransferSyntaxUID.name)}.*pip install {package}",
    )


def test_a_single_slice_file_is_refused_by_name(tmp_path):
    refuse(
        write_series(tmp_path)[0], "a single DICOM file .give a scan as the folder of its series"
    )


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("step, orientation", [((0, 0, -3.0), AXIAL), ((0, 3.0, 0), CORONAL)])
def test_a_segmentation_reads_back_exactly(tmp_path, step, orientation, empty, capfd, recwarn):
    from highdicom.seg import segread

    write_series(tmp_path / "series", step=step, orientation=orientation)
    scan = volume.read(tmp_path / "series")
    mask = np.zeros(scan.hu.shape, np.uint8) if empty else (scan.hu > 50).astype(np.uint8)
    mask[:2] = 0
    dicom_seg.write_segmentation(tmp_path / "seg.dcm", mask, scan)
    segmentation = segread(tmp_path / "seg.dcm")
    sources = [dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in scan.slices]
    pixels = segmentation.get_pixels_by_source_instance(
        sources,
        segment_numbers=[1],
        ignore_spatial_locations=True,
        assert_missing_frames_are_empty=True,
    )
    assert np.array_equal(pixels[..., 0], scan.grid.on_disk(mask))
    assert dcmread(tmp_path / "seg.dcm").SegmentSequence[0].SegmentLabel == "Lung tumour"
    assert segmentation.StudyInstanceUID == STUDY and segmentation.FrameOfReferenceUID == FRAME
    assert PATIENT not in capfd.readouterr().err and not any(
        PATIENT in str(w.message) for w in recwarn
    )


def test_a_segmentation_needs_a_series(tmp_path):
    volume.write_nifti(tmp_path / "a.nii", chest(), CANONICAL)
    scan = volume.read(tmp_path / "a.nii")
    with pytest.raises(LungsegError, match="not a DICOM series"):
        dicom_seg.write_segmentation(tmp_path / "seg.dcm", scan.hu > 0, scan)
    assert not (tmp_path / "seg.dcm").exists()


@needs_real_ct
@pytest.mark.parametrize("series", ["b40f", "b70f"])
def test_a_real_series_equals_simpleitk_to_the_voxel(series):
    sitk = pytest.importorskip("SimpleITK")
    folder = Path(REAL_CT, "lungdx-a0002-dicom", series)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image, scan = reader.Execute(), volume.read(folder)
    assert np.array_equal(sitk.GetArrayFromImage(image), scan.hu)
    assert np.allclose(scan.affine[:3, 3], np.array(image.GetOrigin()) * [-1, -1, 1])
    assert scan.spacing_mm == pytest.approx(image.GetSpacing()[::-1])
    assert scan.slices == tuple(map(Path, reader.GetFileNames()))


@needs_real_ct
def test_a_real_label_fits_its_series():
    folder = Path(REAL_CT, "lungdx-a0002-dicom")
    label = volume.read_label(folder / "tumour_box_b40f.nii.gz", like=volume.read(folder / "b40f"))
    assert label.any()
