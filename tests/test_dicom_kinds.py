"""DICOM series as other tools, archives and anonymisers leave them: read, or the cause is named."""

from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)
from test_dicom import AXIAL, CORONAL, FRAME, change, chest, make_slice, refuse, write_series

from lungseg_utils import volume
from lungseg_utils.runtime import LungsegError
from lungseg_utils.volume.dicom_seg import write_segmentation


def bare(path, syntax=ImplicitVRLittleEndian) -> bytes:
    """Return the elements of a slice alone: no preamble, no "DICM", no group 2."""
    one = dcmread(path)
    one.file_meta = FileMetaDataset()
    buffer = BytesIO()
    one.save_as(
        buffer,
        implicit_vr=syntax.is_implicit_VR,
        little_endian=syntax.is_little_endian,
        enforce_file_format=False,
    )
    content = buffer.getvalue()
    return content[132:] if content[128:132] == b"DICM" else content


def without(path, *tags) -> None:
    one = dcmread(path)
    for tag in tags:
        delattr(one, tag)
    one.save_as(path)


@pytest.mark.fault("DICOM: no Part 10 header")
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
@pytest.mark.parametrize("before", [b"", b"DICM", bytes(128)])
@pytest.mark.parametrize("suffix", ["", ".dcm", ".IMA"])
def test_slices_without_the_part_10_header_are_read(tmp_path, capsys, syntax, before, suffix):
    for path in write_series(tmp_path)[2:]:
        content = before + bare(path, syntax)
        path.unlink()
        path.with_suffix(suffix).write_bytes(content)
    scan = volume.read(tmp_path)
    assert np.array_equal(scan.hu, chest()) and capsys.readouterr().err == ""


@pytest.mark.fault("DICOM: no Part 10 header")
def test_a_file_meta_group_without_a_preamble_is_read(tmp_path):
    for path in write_series(tmp_path):
        path.write_bytes(path.read_bytes()[132:])
    assert np.array_equal(volume.read(tmp_path).hu, chest())


@pytest.mark.fault("DICOM: no Part 10 header")
@pytest.mark.parametrize("keep", [700, -100])
def test_a_bare_slice_that_is_cut_short_is_refused_by_name(tmp_path, keep):
    path = write_series(tmp_path)[2]
    content = bare(path)
    path.unlink()
    path.with_suffix("").write_bytes(content[:keep])
    refuse(tmp_path, f"{path.stem}: .*(truncated|cut short)")


@pytest.mark.fault("DICOM: no Part 10 header")
@pytest.mark.parametrize("content", [bytes(100), b"not a slice at all" * 20])
def test_no_file_named_as_the_slices_are_is_left_out_in_silence(tmp_path, capsys, content):
    for path in write_series(tmp_path):
        path.rename(path.with_suffix(""))
    (tmp_path / "IM0099").write_bytes(content)
    assert np.array_equal(volume.read(tmp_path).hu, chest())
    assert "IM0099: not readable as DICOM" in capsys.readouterr().err


@pytest.mark.fault("DICOM: sound, but refused for a false cause")
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_no_transfer_syntax(tmp_path, syntax):
    for path in write_series(tmp_path):
        meta = b"\2\0\2\0UI\x1a\x001.2.840.10008.5.1.4.1.1.2\0"
        path.write_bytes(bytes(128) + b"DICM" + meta + bare(path, syntax))
    assert np.array_equal(volume.read(tmp_path).hu, chest())


@pytest.mark.fault("DICOM: sound, but refused for a false cause")
def test_no_transfer_syntax_of_compressed_pixels(tmp_path):
    for path in write_series(tmp_path):
        one = dcmread(path)
        one.compress(JPEGLSLossless)
        one.save_as(path)
        meta = b"\2\0\2\0UI\x1a\x001.2.840.10008.5.1.4.1.1.2\0"
        content = path.read_bytes()
        path.write_bytes(bytes(128) + b"DICM" + meta + content[content.index(b"\x08\0\x08\0CS") :])
    refuse(tmp_path, "its pixels are compressed; its transfer syntax, missing or wrong")


@pytest.mark.fault("DICOM: sound, but refused for a false cause")
@pytest.mark.parametrize("uid", ["1.2.840.113619.5.2", "1.3.6.1.4.1.5962.99.1"])
def test_a_private_transfer_syntax_is_named(tmp_path, uid):
    for path in write_series(tmp_path):
        content = path.read_bytes()
        plain = b"UI\x14\0" + b"1.2.840.10008.1.2.1\0"
        private = b"UI" + (len(uid) + len(uid) % 2).to_bytes(2, "little")
        private += uid.encode() + b"\0" * (len(uid) % 2)
        path.write_bytes(content.replace(plain, private, 1))
    refuse(tmp_path, f"{uid}, a private transfer syntax, which cannot be read")


@pytest.mark.fault("DICOM: sound, but refused for a false cause")
def test_no_series_uid(tmp_path):
    for path in write_series(tmp_path):
        without(path, "SeriesInstanceUID")
    assert np.array_equal(volume.read(tmp_path).hu, chest())


def test_two_series_without_a_uid_are_told_apart(tmp_path):
    for number in "12":
        for path in write_series(tmp_path, chest() + int(number), series=number):
            change(path, SeriesInstanceUID="")
    refuse(tmp_path, "2 CT series in it")
    assert np.array_equal(volume.read(tmp_path, series=2).hu, chest() + 2)


@pytest.mark.fault("DICOM: sound, but refused for a false cause")
def test_slices_that_lost_their_series_uid_are_put_back_between_the_others(tmp_path, capsys):
    for path in write_series(tmp_path)[1::2]:
        change(path, SeriesInstanceUID="")
    assert np.array_equal(volume.read(tmp_path).hu, chest())
    assert "3 slices have no UID" in capsys.readouterr().err


@pytest.mark.parametrize(
    "tags",
    [
        {"FrameOfReferenceUID": "1.2.3"},
        {"StudyInstanceUID": "1.2.3"},
        {"SeriesNumber": "9"},
        {"PixelSpacing": [0.9, 0.7]},
        {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]},
    ],
)
def test_slices_without_a_uid_of_something_else_stay_a_series_of_their_own(tmp_path, tags):
    for path in write_series(tmp_path)[1::2]:
        change(path, SeriesInstanceUID="", **tags)
    refuse(tmp_path, "2 CT series in it")


def test_slices_without_a_uid_in_the_same_places_are_another_series(tmp_path):
    write_series(tmp_path)
    for path in write_series(tmp_path / "more"):
        change(path, SeriesInstanceUID="")
    refuse(tmp_path, "2 CT series in it")


@pytest.mark.fault("DICOM: sound, but refused for a false cause")
@pytest.mark.parametrize(
    "sop_class, warning",
    [
        ("", "no SOP class"),
        (SecondaryCaptureImageStorage, "Secondary Capture Image Storage"),
        ("1.2.840.113619.4.30", "1.2.840.113619.4.30"),
    ],
)
def test_another_sop_class_with_modality_ct(tmp_path, capsys, sop_class, warning):
    for path in write_series(tmp_path):
        change(path, SOPClassUID=sop_class)
    assert np.array_equal(volume.read(tmp_path).hu, chest())
    assert warning in capsys.readouterr().err


def test_a_modality_that_contradicts_the_sop_class_is_reported(tmp_path, capsys):
    for path in write_series(tmp_path):
        change(path, Modality="PT")
    assert np.array_equal(volume.read(tmp_path).hu, chest())
    assert "Modality 'PT' contradicts the SOP class" in capsys.readouterr().err
    for path in tmp_path.iterdir():
        change(path, Modality="CT", SOPClassUID=MRImageStorage)
    refuse(tmp_path, "Modality CT contradicts its SOP class, MR Image Storage")


@pytest.mark.fault("DICOM: sound, but refused for a false cause")
@pytest.mark.parametrize("word", ["SCOUT", "TOPOGRAM", "SURVIEW", "LOCALIZER"])
def test_a_scout_by_its_image_type_is_left_out(tmp_path, capsys, word):
    write_series(tmp_path)
    scout = make_slice(chest()[0, :, :4], (0, 0, 0), image_type=word, orientation=CORONAL)
    scout.save_as(tmp_path / "0.dcm")
    assert np.array_equal(volume.read(tmp_path).hu, chest())
    assert "localizer" in capsys.readouterr().err


@pytest.mark.fault("DICOM: sound, but refused for a false cause")
@pytest.mark.parametrize("width", [10, 4])
def test_a_scout_by_its_plane_is_left_out(tmp_path, capsys, width):
    for k, plane in enumerate(chest((12, 8, 10))):
        make_slice(plane, (0, 0, 3.0 * k), number=k).save_as(tmp_path / f"{k:02d}x.dcm")
    scout = make_slice(chest()[0, :, :width], (0, 0, 0), orientation=CORONAL)
    scout.FrameOfReferenceUID = generate_uid()
    scout.save_as(tmp_path / "00.dcm")
    assert np.array_equal(volume.read(tmp_path).hu, chest((12, 8, 10)))
    assert "00.dcm of another plane (a scout?) is left out" in capsys.readouterr().err


@pytest.mark.fault("DICOM: sound, but refused for a false cause")
@pytest.mark.parametrize(
    "tag, value",
    [("PixelSpacing", [2, 2]), ("PatientID", "1.2.3"), ("FrameOfReferenceUID", FRAME + ".1")],
)
def test_the_odd_file_is_named_not_the_good_ones(tmp_path, tag, value):
    path = min(write_series(tmp_path))  # the first that is read
    change(path, **{tag: value})
    refuse(tmp_path, f"{path.name}: .*than? .* of|{path.name}: .*differs from")


@pytest.mark.fault("RescaleType other than HU")
@pytest.mark.parametrize("unit", ["HU_MOD", "US", "hounsfield"])
def test_a_rescale_type_that_may_be_hu_is_reported(tmp_path, capsys, unit):
    change(write_series(tmp_path)[3], RescaleType=unit)
    assert np.array_equal(volume.read(tmp_path).hu, chest())
    assert f"RescaleType is {unit.upper()}" in capsys.readouterr().err


@pytest.mark.fault("RescaleType other than HU")
@pytest.mark.parametrize("unit", ["OD", "MGML", "Z_EFF", "ED", "EDW", "PCT"])
def test_a_rescale_type_of_another_quantity_is_refused(tmp_path, unit):
    for path in write_series(tmp_path):
        change(path, RescaleType=unit)
    refuse(tmp_path, f"not HU: its RescaleType is {unit}, ")


def ramp(places_mm) -> np.ndarray:
    """Return slices whose HU rise linearly along z, 10 HU a mm, behind a half of air."""
    hu = np.zeros((len(places_mm), 8, 10), np.int16) + np.int16(-900)
    hu[:, 4:] = (np.array(places_mm) * 10 - 300)[:, None, None].astype(np.int16)
    return hu


@pytest.mark.fault("DICOM: sound, but refused for a false cause")
@pytest.mark.parametrize(
    "gaps, finest",
    [
        ([3] * 4 + [6] * 4, 3),
        ([6] * 3 + [3] * 5, 3),
        ([5] * 4 + [2] * 4 + [5] * 4, 2),
        ([3] * 4 + [4] + [6] * 4, 3),  # a gap between the two spacings where they meet
        ([2] * 3 + [3] * 3 + [5] * 3, 2),
    ],
)
@pytest.mark.parametrize("shift", [0, 0.005])
def test_several_spacings_are_resampled_to_the_finest(tmp_path, capsys, gaps, finest, shift):
    places = np.cumsum([0, *gaps])
    for k, (plane, z) in enumerate(zip(ramp(places), places)):
        make_slice(plane, (0, shift * z, z), number=k).save_as(tmp_path / f"{k:02d}.dcm")
    scan = volume.read(tmp_path)
    assert scan.spacing_mm[0] == pytest.approx(finest, rel=0.1)
    assert "mm apart; they are resampled to" in capsys.readouterr().err
    expected = np.linspace(0, places[-1], len(scan.hu)) * 10 - 300
    assert np.abs(scan.hu[:, 5, 5] - expected).max() <= 1 and (scan.hu[:, 0] == -900).all()


def test_a_mask_of_a_resampled_series_fits_its_slices(tmp_path):
    places = np.cumsum([0, *[3] * 4, *[6] * 4])
    for k, (plane, z) in enumerate(zip(ramp(places), places)):
        make_slice(plane, (0, 0, z), number=k).save_as(tmp_path / f"{k:02d}.dcm")
    scan = volume.read(tmp_path)
    mask = scan.hu > -100
    write_segmentation(tmp_path / "seg", mask, scan)
    frames = dcmread(tmp_path / "seg").pixel_array
    assert np.array_equal(frames, [plane > -100 for plane in ramp(places) if plane.max() > -100])


@pytest.mark.fault("DICOM: sound, but refused for a false cause")
@pytest.mark.parametrize("gone", [(4,), (3, 9)])
def test_missing_slices_are_not_taken_for_a_second_spacing(tmp_path, gone):
    paths = []
    for k, plane in enumerate(chest((14, 8, 10))):
        paths.append(tmp_path / f"{k:02d}.dcm")
        make_slice(plane, (0, 0, 3.0 * k), number=k).save_as(paths[-1])
    for k in gone:
        paths[k].unlink()
    refuse(tmp_path, "slices are missing: 6 mm between")


NAMES = {
    "ISO 2022 IR 87": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "ISO 2022 IR 149": "Hong^Gildong=洪^吉洞=홍^길동",
    "ISO_IR 100": "Müller^Jörg",
    "ISO_IR 192": "Wang^XiaoDong=王^小東",
    "GB18030": "Wang^XiaoDong=王^小东",
}


def segment(folder):
    scan = volume.read(folder)
    write_segmentation(folder / "seg", scan.hu > 0, scan)
    return dcmread(folder / "seg")


@pytest.mark.fault("DICOM SEG from sound or anonymised headers")
@pytest.mark.parametrize("encoding", NAMES)
def test_a_segmentation_keeps_the_name_in_any_encoding(tmp_path, encoding):
    charset = ["", encoding] if "2022" in encoding else encoding
    for path in write_series(tmp_path):
        change(path, SpecificCharacterSet=charset, PatientName=NAMES[encoding], PatientID="ID=9")
    seg = segment(tmp_path)
    assert str(seg.PatientName) == NAMES[encoding] and seg.PatientID == "ID=9"


EMPTIES = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate")


@pytest.mark.fault("DICOM SEG from sound or anonymised headers")
@pytest.mark.parametrize("tag", [*EMPTIES, "StudyTime", "AccessionNumber", "SliceThickness"])
@pytest.mark.parametrize("is_deleted", [False, True])
def test_a_segmentation_of_empty_or_missing_elements_is_written(tmp_path, tag, is_deleted):
    for path in write_series(tmp_path):
        without(path, tag) if is_deleted else change(path, **{tag: None})
    assert not segment(tmp_path).get(tag)


@pytest.mark.parametrize("orientation, step", [(AXIAL, (0, 0, 3.0)), (CORONAL, (0, 3.0, 0))])
def test_a_segmentation_of_slices_without_a_thickness_has_their_distance(
    tmp_path, orientation, step
):
    for path in write_series(tmp_path, orientation=orientation, step=step):
        without(path, "SliceThickness")
    (measures,) = segment(tmp_path).SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    assert measures.SliceThickness == 3 and list(measures.PixelSpacing) == [0.8, 0.7]


@pytest.mark.fault("DICOM SEG from sound or anonymised headers")
@pytest.mark.parametrize("tag", ["PatientBirthDate", "StudyDate", "StudyTime"])
@pytest.mark.parametrize("value", ["ANONYMIZED", "00000000", "removed"])
def test_an_anonymised_date_is_left_empty_and_named(tmp_path, capsys, tag, value):
    for path in write_series(tmp_path):
        content = path.read_bytes()
        one = dcmread(path)
        old = one[tag]
        head = old.tag.group.to_bytes(2, "little") + old.tag.elem.to_bytes(2, "little")
        start = content.index(head + old.VR.encode())
        end = start + 8 + int.from_bytes(content[start + 6 : start + 8], "little")
        text = value.encode() + b" " * (len(value) % 2)
        new = head + old.VR.encode() + len(text).to_bytes(2, "little") + text
        path.write_bytes(content[:start] + new + content[end:])
    seg = segment(tmp_path)
    warning = capsys.readouterr().err
    assert not seg.get(tag) and f"{tag} is not valid DICOM" in warning


@pytest.mark.fault("DICOM SEG from sound or anonymised headers")
@pytest.mark.parametrize("tag", ["StudyInstanceUID", "FrameOfReferenceUID", "SeriesInstanceUID"])
def test_an_element_that_a_segmentation_cannot_do_without_is_named(tmp_path, tag):
    for path in write_series(tmp_path):
        change(path, **{tag: ""})
    with pytest.raises(LungsegError, match=f"it lacks {tag}"):
        segment(tmp_path)


def test_a_segmentation_of_slices_without_a_header_or_sop_class_is_written(tmp_path):
    for path in write_series(tmp_path):
        without(path, "SOPClassUID")
        path.write_bytes(bare(path))
    assert segment(tmp_path).NumberOfFrames == 6


def enhanced(path, hu, *, order=None, is_shared=True, first=0):
    """Write (frames, rows, columns) HU as one enhanced multi-frame CT, frames 3 mm apart.

    The `first` of them lies so many frames above 0 mm.
    """
    one = make_slice(hu[0], (0, 0, 0))
    one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    shared, own = Dataset(), []
    measures = {"PixelSpacing": one.PixelSpacing, "SliceThickness": 3}
    scaling = {"RescaleSlope": 1, "RescaleIntercept": -1024, "RescaleType": "HU"}
    for k in order or range(len(hu)):
        frame = Dataset()
        put(frame, "PlanePositionSequence", ImagePositionPatient=[0, 0, 3.0 * (first + k)])
        own.append(frame)
    for frame in [shared] if is_shared else own:
        put(frame, "PlaneOrientationSequence", ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
        put(frame, "PixelMeasuresSequence", **measures)
        put(frame, "PixelValueTransformationSequence", **scaling)
    for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(one, tag)
    del one.RescaleSlope, one.RescaleIntercept, one.SliceThickness
    one.NumberOfFrames = len(hu)
    one.SharedFunctionalGroupsSequence, one.PerFrameFunctionalGroupsSequence = [shared], own
    planes = [hu[k] for k in order or range(len(hu))]
    one.PixelData = (np.array(planes) + 1024).astype("<u2").tobytes()
    one.save_as(path)


def put(frame, group, **tags):
    item = Dataset()
    for tag, value in tags.items():
        setattr(item, tag, value)
    setattr(frame, group, [item])


@pytest.mark.fault("DICOM: sound, but refused for a false cause")
@pytest.mark.parametrize("order", [None, [3, 0, 5, 1, 4, 2]])
@pytest.mark.parametrize("is_shared", [True, False])
def test_enhanced_multi_frame_ct_is_read(tmp_path, capsys, order, is_shared):
    enhanced(tmp_path / "one.dcm", chest(), order=order, is_shared=is_shared)
    scan = volume.read(tmp_path)
    assert np.array_equal(scan.hu, chest()) and scan.spacing_mm == pytest.approx((3, 0.8, 0.7))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("order", [None, [3, 0, 5, 1, 4, 2]])
@pytest.mark.parametrize("is_shared", [True, False])
def test_a_segmentation_of_enhanced_ct_refers_to_its_frames(tmp_path, order, is_shared):
    enhanced(tmp_path / "one.dcm", chest(), order=order, is_shared=is_shared)
    scan = volume.read(tmp_path)
    write_segmentation(tmp_path / "seg", scan.hu > 0, scan)
    written, source = dcmread(tmp_path / "seg"), dcmread(tmp_path / "one.dcm")
    assert written.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
    heights = {}
    for frame, plane in zip(written.PerFrameFunctionalGroupsSequence, written.pixel_array):
        heights[frame.PlanePositionSequence[0].ImagePositionPatient[2]] = plane
    assert np.array_equal([heights[z] for z in sorted(heights)], scan.hu > 0)


def test_a_segmentation_of_several_enhanced_files_is_refused(tmp_path):
    hu = chest((12, 8, 10))
    enhanced(tmp_path / "one.dcm", hu[:6])
    enhanced(tmp_path / "two.dcm", hu[6:], first=6)
    scan = volume.read(tmp_path)
    assert np.array_equal(scan.hu, hu)
    with pytest.raises(LungsegError, match="not a DICOM series of single slices or one file"):
        write_segmentation(tmp_path / "seg", scan.hu > 0, scan)


@pytest.mark.parametrize("tag", ["PerFrameFunctionalGroupsSequence", "NumberOfFrames"])
def test_enhanced_ct_without_its_places_is_refused(tmp_path, tag):
    enhanced(tmp_path / "one.dcm", chest())
    without(tmp_path / "one.dcm", tag)
    refuse(tmp_path, "one.dcm: the places of its frames")
    enhanced(tmp_path / "one.dcm", chest())
    content = (tmp_path / "one.dcm").read_bytes()
    (tmp_path / "one.dcm").write_bytes(content[:-100])
    refuse(tmp_path, "one.dcm: .*(truncated|cut short)")


@pytest.mark.fault("DICOM: sound, but refused for a false cause")
@pytest.mark.parametrize("tag", ["PatientID", "FrameOfReferenceUID"])
def test_an_element_that_is_empty_in_some_slices_and_absent_in_others(tmp_path, tag):
    """Anonymised headers: neither names another patient or place."""
    for number, path in enumerate(write_series(tmp_path)):
        change(path, **{tag: ""}) if number % 2 else without(path, tag)
    assert np.array_equal(volume.read(tmp_path).hu, chest())


def pad(path, value, *, stored=None, vr="US", **tags) -> None:
    """Put the padding `value` into a slice's header, and what is `stored` of it in a corner."""
    one = dcmread(path)
    one.add_new("PixelPaddingValue", vr, value)
    for tag, other in tags.items():
        one.add_new(tag, vr, other)
    pixels = np.frombuffer(one.PixelData, "<u2").copy()
    pixels[:3] = value if stored is None else stored
    one.PixelData = pixels.tobytes()
    one.save_as(path)


def padded_chest() -> np.ndarray:
    hu = chest()
    hu[:, 0, :3] = volume.PADDING_HU
    return hu


@pytest.mark.fault("DICOM: sound, but refused for a false cause")
@pytest.mark.parametrize(
    "value, vr, stored, tags",
    [
        (63536, "US", 63536, {}),  # -2000 as 16 bits without a sign
        (65535, "US", 65535, {}),
        (-2000, "SS", 63536, {}),  # the sign in the header alone
        (65535, "US", 64000, {"PixelPaddingRangeLimit": 63536}),
        (63536, "US", 64000, {"PixelPaddingRangeLimit": 65535}),
    ],
)
def test_padding_denser_than_any_ct_number_is_air(tmp_path, capsys, value, vr, stored, tags):
    for path in write_series(tmp_path):
        pad(path, value, vr=vr, stored=stored, **tags)
    assert np.array_equal(volume.read(tmp_path).hu, padded_chest())
    assert capsys.readouterr().err == ""


def test_padding_is_air_whatever_its_numbers_can_hold(tmp_path):
    for path in write_series(tmp_path):
        pad(path, 65535)
        change(path, RescaleIntercept=-1000)  # no number without a sign is -1024 then
    hu = chest() + 24
    hu[:, 0, :3] = volume.PADDING_HU
    assert np.array_equal(volume.read(tmp_path).hu, hu)


@pytest.mark.fault("DICOM: sound, but refused for a false cause")
@pytest.mark.parametrize("group", ["", "UnassignedSharedConvertedAttributesSequence"])
def test_padding_of_enhanced_ct_is_air(tmp_path, group):
    hu = chest()
    hu[:, 0, :3] = 63536 - 1024 - 65536  # stored as 63536
    enhanced(tmp_path / "one.dcm", hu)
    one = dcmread(tmp_path / "one.dcm")
    where = one
    if group:  # where conversion from single slices puts it
        where = Dataset()
        setattr(one.SharedFunctionalGroupsSequence[0], group, [where])
    where.add_new("PixelPaddingValue", "US", 63536)
    one.save_as(tmp_path / "one.dcm")
    assert np.array_equal(volume.read(tmp_path).hu, padded_chest())


@pytest.mark.parametrize("value", [0, 24, 1024, 4095])  # stored as air, tissue or metal is
def test_padding_that_may_be_tissue_is_read_as_it_is(tmp_path, value):
    for path in write_series(tmp_path):
        pad(path, value)
    assert (volume.read(tmp_path).hu[:, 0, :3] == value - 1024).all()


@pytest.mark.parametrize("value, vr", [(b"\1\2\3", "OB"), ([63536, 63536], "US"), ("none", "LO")])
def test_padding_that_is_no_number_is_passed_over(tmp_path, value, vr):
    for path in write_series(tmp_path):
        pad(path, value, vr=vr, stored=1024)
    assert (volume.read(tmp_path).hu[:, 0, :3] == 0).all()


@pytest.mark.parametrize("value, vr", [(63536, "US"), (-2000, "SS")])
def test_padding_below_air_stays_as_it_is(tmp_path, value, vr):
    """Many scanners write it so: with a sign, and in the header with or without one."""
    for path in write_series(tmp_path):
        change(path, PixelRepresentation=1)
        pad(path, value, vr=vr, stored=63536)
    hu = chest()
    hu[:, 0, :3] = -2000 - 1024
    assert np.array_equal(volume.read(tmp_path).hu, hu)
