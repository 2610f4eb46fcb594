"""Import: outlined scans in the layouts of others become a checked set, voxel for voxel."""

import json
import os
import shutil

import highdicom
import nibabel as nib
import numpy as np
import pytest
from helpers_outlines import (
    CORONAL,
    DESCENDING,
    FEET_FIRST_PRONE,
    HEAD_FIRST,
    item,
    oblique,
    outlines_of,
    place,
    write_dicom,
    write_rtstruct,
)
from matplotlib.path import Path as Polygon
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, generate_uid
from test_dicom import change, make_slice
from test_dicom import chest as series_chest
from test_dicom_kinds import enhanced
from test_foreign_sets import (
    CASES,
    COMMON,
    COPIES,
    TEST,
    copy_as_decathlon,
    entries,
    write_json,
)

from lungseg_utils import cli, decathlon, phantom, volume
from lungseg_utils.runtime import LungsegError
from lungseg_utils.volume import dicom_seg
from lungseg_utils.volume.grid import CANONICAL
from lungseg_utils.volume.rtstruct import fill

SHAPE = (9, 30, 34)  # slices, rows, columns
AFFINE = CANONICAL * [3.0, 0.8, 0.7, 1]
MOVED = AFFINE + np.outer([0, 0, 3, 0], [0, 0, 0, 1])
DIRECTIONS = {
    "head first": HEAD_FIRST,
    "descending": DESCENDING,
    "feet first, prone": FEET_FIRST_PRONE,
    "coronal": CORONAL,
    "oblique": oblique(),
}


def chest(seed: int = 0) -> np.ndarray:
    hu = np.random.default_rng(seed).integers(-100, 100, SHAPE).astype(np.int16)
    hu[:, : SHAPE[1] // 2] -= 850
    return hu


def tumour() -> np.ndarray:
    """Return a ball with a hole in it, and a second one beside it that touches the first."""
    z, y, x = np.indices(SHAPE)
    distance = np.sqrt((z - 4) ** 2 * 9 + (y - 14) ** 2 + (x - 15) ** 2)
    other = np.sqrt((z - 5) ** 2 * 9 + (y - 20) ** 2 + (x - 24) ** 2) < 4
    return ((distance < 9) & (distance > 3.5) | other).astype(np.uint8)


def write_nifti(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    volume.write_nifti(path, array, affine)


def import_one(source, out, *rois):
    """Import a single case and return its scan and label as they were written."""
    decathlon.import_set(source, out, rois)
    (case,) = decathlon.load(out).training
    scan = volume.read(case.image)
    return case.id, scan, volume.read_label(case.label, like=scan)


def refuse(source, out, pattern, *rois):
    with pytest.raises(LungsegError, match=pattern) as caught:
        decathlon.import_set(source, out, rois)
    assert caught.value.remedy and not out.exists()
    return str(caught.value)


# --- the rasteriser -------------------------------------------------------------------------------


def test_a_pixel_is_inside_where_matplotlib_says_so():
    rng = np.random.default_rng(0)
    shape = (25, 31)
    centres = np.indices(shape)[::-1].reshape(2, -1).T  # as (column, row)
    for _ in range(20):
        sides = rng.integers(3, 12)
        angles = np.sort(rng.uniform(0, 2 * np.pi, sides))
        round_it = np.column_stack([np.cos(angles), np.sin(angles)])
        star = [15, 12] + round_it * rng.uniform(4, 20, (sides, 1))  # some beyond the borders
        triangle = rng.uniform(2, 24, (3, 2))
        one, other = (Polygon(shape).contains_points(centres) for shape in (star, triangle))
        assert np.array_equal(fill([star], shape).ravel(), one)
        assert np.array_equal(fill([star, triangle], shape).ravel(), one ^ other)


# --- DICOM ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("directions", DIRECTIONS.values(), ids=DIRECTIONS)
def test_an_rtstruct_comes_back_voxel_for_voxel_with_its_hole(directions, tmp_path):
    write_dicom(tmp_path / "source/P1/ct", chest(), directions)
    write_rtstruct(tmp_path / "source/P1/rt.dcm", {"GTV-1": outlines_of(tumour(), directions)})
    name, scan, label = import_one(tmp_path / "source", tmp_path / "out")
    read = volume.read(tmp_path / "source/P1/ct")
    assert name == "P1"
    assert np.array_equal(scan.hu, read.hu) and np.allclose(scan.affine, read.affine, atol=1e-5)
    assert scan.grid.shape == read.grid.shape and scan.grid.axes == read.grid.axes
    stored = read.grid.on_disk(label)
    is_turned = np.array_equal(read.grid.on_disk(read.hu), chest()[::-1])
    assert np.array_equal(stored[::-1] if is_turned else stored, tumour())


def test_a_hole_that_a_keyhole_joins_is_a_hole(tmp_path):
    write_dicom(tmp_path / "P1/ct", chest())
    outer = [[8.5, 8.5], [8.5, 20.5], [20.5, 20.5], [20.5, 8.5]]
    inner = [[12.5, 12.5], [16.5, 12.5], [16.5, 16.5], [12.5, 16.5]]
    keyhole = np.array([*outer, outer[0], *inner, inner[0], outer[0]])
    expected = np.zeros(SHAPE, np.uint8)
    expected[4, 9:21, 9:21] = 1
    expected[4, 13:17, 13:17] = 0
    contours = [place(HEAD_FIRST, *keyhole.T, 4)] * 2  # stored twice, as some systems do
    write_rtstruct(tmp_path / "P1/rt.dcm", {"GTV": contours})
    _, scan, label = import_one(tmp_path / "P1", tmp_path / "out")
    assert np.array_equal(scan.grid.on_disk(label), expected)


@pytest.mark.parametrize("directions", DIRECTIONS.values(), ids=DIRECTIONS)
def test_our_own_seg_comes_back_voxel_for_voxel(directions, tmp_path):
    write_dicom(tmp_path / "P1/study/ct", chest(), directions)
    scan = volume.read(tmp_path / "P1/study/ct")
    mask = np.zeros(scan.hu.shape, np.uint8)
    scan.grid.on_disk(mask)[:] = tumour()
    dicom_seg.write_segmentation(tmp_path / "P1/study/seg/1.dcm", mask, scan)
    name, _, label = import_one(tmp_path / "P1/study", tmp_path / "out")
    assert name == "study" and np.array_equal(label, mask)


def test_a_phantom_comes_back_from_seg_and_from_rtstruct(tmp_path):
    ct, label = phantom.make_case(1)
    slices = np.flatnonzero(label.any(axis=(1, 2)))
    slab = slice(slices[0] - 3, slices[-1] + 4)
    hu, label = ct.hu[slab], label[slab]
    for name in ("seg", "rtstruct"):
        write_dicom(tmp_path / "source" / name / "ct", hu + (name == "seg"))
    scan = volume.read(tmp_path / "source/seg/ct")
    dicom_seg.write_segmentation(tmp_path / "source/seg/seg.dcm", label, scan)
    write_rtstruct(tmp_path / "source/rtstruct/rt.dcm", {"tumour": outlines_of(label)})
    imported = decathlon.import_set(tmp_path / "source", tmp_path / "out")
    assert [case.name for case in imported] == ["rtstruct", "seg"]
    for case in decathlon.load(tmp_path / "out").training:
        assert np.array_equal(volume.read_label(case.label), label)
    assert not decathlon.check(tmp_path / "out").faults


def test_a_patient_id_is_nowhere(tmp_path):
    write_dicom(tmp_path / "P1/ct", chest())
    write_rtstruct(tmp_path / "P1/rt.dcm", {"GTV": outlines_of(tumour())})
    decathlon.import_set(tmp_path / "P1", tmp_path / "out")
    for path in (tmp_path / "out").rglob("*.*"):
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = nib.load(path).header.binaryblock
        assert b"4711" not in content and b"DoeJane" not in content


def test_rois_are_listed_chosen_and_joined(tmp_path):
    write_dicom(tmp_path / "P1/ct", chest())
    left, right = np.zeros((2, *SHAPE), np.uint8)
    left[3:6, 5:12, 5:12] = 1
    right[3:6, 10:20, 9:20] = 1
    rois = {"GTV-1": outlines_of(left), "GTV-2": outlines_of(right), "Lung": outlines_of(tumour())}
    write_rtstruct(tmp_path / "P1/rt.dcm", rois)
    source, out = tmp_path / "P1", tmp_path / "out"
    refuse(source, out, "rt.dcm: holds 3 ROIs: GTV-1, GTV-2, Lung.*--roi NAME")
    refuse(source, out, "no ROI fits --roi ptv --roi G.*GTV-1, GTV-2, Lung", "ptv", "G")
    for number, (wanted, expected) in enumerate(
        ((["GTV-1"], left), (["GTV*"], left | right), (["GTV-2", "GTV-1"], left | right))
    ):
        _, scan, label = import_one(source, tmp_path / f"out_{number}", *wanted)
        assert np.array_equal(scan.grid.on_disk(label), expected)


def test_the_scan_is_the_series_that_the_rois_were_drawn_on(tmp_path):
    for series in "12":
        write_dicom(tmp_path / "P1" / series, chest(int(series)), series=series)
    write_rtstruct(tmp_path / "P1/rt.dcm", {"GTV": outlines_of(tumour())}, series="2")
    _, scan, _ = import_one(tmp_path / "P1", tmp_path / "out")
    assert np.array_equal(scan.grid.on_disk(scan.hu), chest(2))
    one = dcmread(tmp_path / "P1/rt.dcm")
    del one.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence
    one.save_as(tmp_path / "P1/rt.dcm")
    refuse(tmp_path / "P1", tmp_path / "none", "rt.dcm may be drawn on any of 2 scans: series 1")


@pytest.mark.fault("outlines that do not fit their scan")
@pytest.mark.parametrize("options", [{"series": "7"}, {"frame": generate_uid()}])
def test_rois_of_another_series_are_refused(options, tmp_path):
    write_dicom(tmp_path / "P1/ct", chest())
    write_rtstruct(tmp_path / "P1/rt.dcm", {"GTV": outlines_of(tumour())}, **options)
    refuse(tmp_path / "P1", tmp_path / "out", "rt.dcm: refers to another series or frame")


@pytest.mark.fault("outlines that do not fit their scan")
@pytest.mark.parametrize(
    "contours, options, cause",
    [
        ([], {}, "'GTV' has no contours"),
        (outlines_of(tumour()), {"kind": "POINT"}, "has no closed contours, only POINT"),
        (outlines_of(tumour(), shift=0.4), {}, "a contour 1.2 mm off the nearest slice of ct|P1"),
        (outlines_of(tumour(), shift=20), {}, "mm off the nearest slice"),
        (outlines_of(tumour(), CORONAL), {}, "mm off the nearest slice"),
        ([place(HEAD_FIRST, [4.1, 4.2, 4.1], [4.1, 4.1, 4.2], 3)], {}, "the centre of no voxel"),
        ([np.array([[np.nan, 0, 0]] * 3)], {}, "points that are no numbers"),
    ],
)
def test_rois_that_mark_nothing_on_the_scan_are_refused(contours, options, cause, tmp_path):
    write_dicom(tmp_path / "P1/ct", chest())
    write_rtstruct(tmp_path / "P1/rt.dcm", {"GTV": contours}, **options)
    refuse(tmp_path / "P1", tmp_path / "out", f"rt.dcm: .*{cause}")


LEVELS = (0, 1, 2, 3, 4, 6, 8, 10, 12)  # of slices at two spacings, in the smaller
NEAREST = (0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8)  # slice of each plane; of two, the lower


def contours_at_levels(mask) -> list[np.ndarray]:
    lifted = np.zeros((LEVELS[-1] + 1, *SHAPE[1:]), np.uint8)
    lifted[list(LEVELS)] = mask
    return outlines_of(lifted)


@pytest.mark.fault("outlines that do not fit their scan")
@pytest.mark.parametrize("kind", ["rtstruct", "seg"])
def test_rois_on_a_scan_of_two_spacings_are_put_on_the_planes_nearest_to_their_slices(
    kind, tmp_path
):
    write_dicom(tmp_path / "P1/ct", chest(), levels=LEVELS)
    drawn = tumour()
    if kind == "rtstruct":
        write_rtstruct(tmp_path / "P1/rt.dcm", {"GTV": contours_at_levels(drawn)})
    else:
        scan = volume.read(tmp_path / "P1/ct")
        mask = np.zeros(scan.hu.shape, np.uint8)
        scan.grid.on_disk(mask)[list(LEVELS)] = drawn
        dicom_seg.write_segmentation(tmp_path / "P1/seg.dcm", mask, scan)
    _, scan, label = import_one(tmp_path / "P1", tmp_path / "out")
    assert scan.hu.shape == (13, *SHAPE[1:])
    assert np.array_equal(scan.grid.on_disk(label), drawn[list(NEAREST)])


@pytest.mark.parametrize("shift", [0.005, -0.005])
def test_rounded_positions_of_two_spacings_are_taken_for_the_same(shift, tmp_path):
    levels = [level * (1 + shift * (level > 4)) for level in LEVELS]
    write_dicom(tmp_path / "P1/ct", chest(), levels=levels)
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[6, 10:20, 10:20] = 1
    line = np.array([[9.5, 9.5], [19.5, 9.5], [19.5, 19.5], [9.5, 19.5]])
    contour = place(HEAD_FIRST, *line.T, levels[6])
    write_rtstruct(tmp_path / "P1/rt.dcm", {"GTV": [contour]})
    _, scan, label = import_one(tmp_path / "P1", tmp_path / "out")
    assert np.array_equal(scan.grid.on_disk(label), drawn[list(NEAREST)])


@pytest.mark.fault("outlines that do not fit their scan")
def test_a_contour_between_slices_of_two_spacings_is_refused(tmp_path):
    write_dicom(tmp_path / "P1/ct", chest(), levels=LEVELS)
    lifted = np.zeros((13, *SHAPE[1:]), np.uint8)
    lifted[7] = tumour()[4]  # a plane of the scan as it is read, but none of its slices
    write_rtstruct(tmp_path / "P1/rt.dcm", {"GTV": outlines_of(lifted)})
    refuse(tmp_path / "P1", tmp_path / "out", "rt.dcm: .* 3 mm off the nearest slice")


@pytest.mark.parametrize("files", [1, 2])
def test_rois_of_an_enhanced_ct_of_one_or_several_files(files, tmp_path):
    hu = series_chest((12, 30, 34))
    mask = np.zeros(hu.shape, np.uint8)
    mask[3:9, 8:20, 10:22] = 1
    (tmp_path / "single").mkdir()
    for k, plane in enumerate(hu):  # as `enhanced` places its frames
        make_slice(plane, (0, 0, 3.0 * k), number=k).save_as(tmp_path / f"single/{k}.dcm")
    scan = volume.read(tmp_path / "single")
    (tmp_path / "P1/ct").mkdir(parents=True)
    dicom_seg.write_segmentation(tmp_path / "P1/seg.dcm", mask, scan)
    half = len(hu) // files
    for number in range(files):
        path = tmp_path / f"P1/ct/{number}.dcm"
        enhanced(path, hu[number * half : (number + 1) * half], first=number * half)
    _, scan, label = import_one(tmp_path / "P1", tmp_path / "out")
    assert np.array_equal(scan.hu, hu) and np.array_equal(label, mask)


# --- several scans of a patient -------------------------------------------------------------------


def write_scan_of(folder, number, *, path, kind="rtstruct", **tags):
    """Write a scan of a patient and what is drawn on it below `folder`; return its mask."""
    drawn = np.roll(tumour(), number, axis=2)
    write_dicom(folder / path / "ct", chest(number), series=str(number))
    for one in (folder / path / "ct").iterdir():
        change(one, StudyInstanceUID=f"1.2.{number}", **tags)
    if kind == "rtstruct":
        rois = {"GTV-1": outlines_of(drawn)}
        write_rtstruct(folder / path / "rt.dcm", rois, series=str(number))
    else:
        scan = volume.read(folder / path / "ct")
        mask = np.zeros(scan.hu.shape, np.uint8)
        scan.grid.on_disk(mask)[:] = drawn
        dicom_seg.write_segmentation(folder / path / "seg.dcm", mask, scan)
    return drawn


@pytest.mark.fault("several scans of one patient")
@pytest.mark.parametrize("kind", ["rtstruct", "seg"])
def test_a_test_and_a_retest_are_two_cases_of_one_patient(kind, tmp_path):
    drawn = {}
    for number, path in enumerate(("P1/test", "P1/retest", "P2"), 1):
        name = path.replace("/", "_")
        drawn[name] = write_scan_of(tmp_path / "source", number, path=path, kind=kind)
    decathlon.import_set(tmp_path / "source", tmp_path / "out")
    imported = decathlon.load(tmp_path / "out")
    patients = {case.id: case.patient for case in imported.training}
    assert patients == {"P1_test": "P1", "P1_retest": "P1", "P2": "P2"}
    for case in imported.training:
        scan = volume.read(case.image)
        assert np.array_equal(
            scan.grid.on_disk(volume.read_label(case.label, like=scan)), drawn[case.id]
        )
    for fold in (0, 1):
        parts = decathlon.split(imported, fold)
        assert sorted(len(part) for part in parts) == [1, 2]


@pytest.mark.fault("several scans of one patient")
@pytest.mark.parametrize(
    "paths",
    [
        ("P1/1.2.840.9.2", "P1/1.2.840.9.1"),
        ("P1/a", "P1/A/b"),
        ("P1/b", "P1/b/ct"),
    ],
    ids=["UIDs", "letter case", "one in the other"],
)
def test_scans_without_folders_to_name_them_are_numbered_by_date(paths, tmp_path):
    for number, path in enumerate(paths, 1):
        date = f"2020010{3 - number}"  # the second was taken first
        write_scan_of(tmp_path / "source", number, path=path, AcquisitionDate=date)
    decathlon.import_set(tmp_path / "source", tmp_path / "out")
    cases = decathlon.load(tmp_path / "out").training
    assert [(case.id, case.patient) for case in cases] == [("P1_1", "P1"), ("P1_2", "P1")]
    for case, number in zip(cases, (2, 1), strict=True):
        scan = volume.read(case.image)
        assert np.array_equal(scan.grid.on_disk(scan.hu), chest(number))


@pytest.mark.fault("several scans of one patient")
def test_scans_in_one_folder_are_numbered(tmp_path):
    for number in (1, 2):
        write_scan_of(tmp_path / "source", number, path=f"{number}", AcquisitionDate="20200101")
    (tmp_path / "P1").mkdir()
    for number, path in enumerate([*(tmp_path / "source").rglob("*.dcm")]):
        path.rename(tmp_path / f"P1/{number}.dcm")
    decathlon.import_set(tmp_path / "P1", tmp_path / "out")
    assert [case.id for case in decathlon.load(tmp_path / "out").training] == ["P1_1", "P1_2"]


@pytest.mark.fault("several scans of one patient")
def test_a_nifti_mask_belongs_to_the_scan_nearest_to_it(tmp_path):
    for number, day in enumerate(("day1", "day2")):
        write_nifti(tmp_path / f"source/P1/{day}/ct.nii.gz", chest(number))
        mask = np.roll(tumour(), number, axis=2)
        write_nifti(tmp_path / f"source/P1/{day}/masks/tumour.nii.gz", mask)
    decathlon.import_set(tmp_path / "source", tmp_path / "out")
    for number, case in enumerate(decathlon.load(tmp_path / "out").training):
        assert (case.id, case.patient) == (f"P1_day{number + 1}", "P1")
        assert np.array_equal(volume.read(case.image).hu, chest(number))
        assert np.array_equal(volume.read_label(case.label), np.roll(tumour(), number, axis=2))
    (tmp_path / "source/P1/mask.nii.gz").write_bytes(
        (tmp_path / "source/P1/day1/masks/tumour.nii.gz").read_bytes()
    )
    refuse(tmp_path / "source", tmp_path / "none", "mask.nii.gz may be drawn on any of 2 scans")


@pytest.mark.fault("several scans of one patient")
def test_a_scan_without_the_roi_that_was_asked_for_is_left_out_with_a_warning(tmp_path, capsys):
    write_scan_of(tmp_path / "source", 1, path="P1/test")
    write_scan_of(tmp_path / "source", 2, path="P1/retest")
    rois = {"lungs": outlines_of(tumour())}
    write_rtstruct(tmp_path / "source/P1/retest/rt.dcm", rois, series="2")
    name, _, _ = import_one(tmp_path / "source", tmp_path / "out", "GTV*")
    assert name == "P1"
    assert (
        "no ROI of series 2 'Thorax kernel 2' (CT, 9 files) fits --roi" in capsys.readouterr().err
    )


@pytest.mark.fault("several scans of one patient")
def test_folders_of_one_patient_are_reported_and_a_folder_of_several_is_refused(tmp_path, capsys):
    for number, path in enumerate(("all/P1", "all/P2"), 1):
        write_scan_of(tmp_path, number, path=path)
    decathlon.import_set(tmp_path / "all", tmp_path / "out")
    assert "P1, P2 have the same PatientID" in capsys.readouterr().err
    for path in (tmp_path / "all/P2/ct").iterdir():
        change(path, PatientID="another")
    decathlon.import_set(tmp_path / "all", tmp_path / "out_2")
    assert "PatientID" not in capsys.readouterr().err
    (tmp_path / "above").mkdir()
    (tmp_path / "all").rename(tmp_path / "above/all")
    text = refuse(tmp_path / "above", tmp_path / "none", "all: holds scans of several patients")
    assert "4711" not in text and "another" not in text


def make_seg(folder):
    write_dicom(folder / "ct", chest())
    scan = volume.read(folder / "ct")
    mask = np.zeros(SHAPE, np.uint8)
    scan.grid.on_disk(mask)[:] = tumour()
    dicom_seg.write_segmentation(folder / "seg.dcm", mask, scan)
    return folder / "seg.dcm"


def test_a_seg_of_several_segments(tmp_path):
    path = make_seg(tmp_path / "P1")
    one = dcmread(path)
    one.SegmentSequence.append(item(SegmentNumber=2, SegmentLabel="Lung"))
    groups = one.PerFrameFunctionalGroupsSequence[1]
    groups.SegmentIdentificationSequence = [item(ReferencedSegmentNumber=2)]
    z = groups.PlanePositionSequence[0].ImagePositionPatient[2]
    one.save_as(path)
    refuse(tmp_path / "P1", tmp_path / "out", "seg.dcm: holds 2 ROIs: Lung, Lung tumour.*--roi")
    _, scan, label = import_one(tmp_path / "P1", tmp_path / "out", "Lung tumour")
    expected = tumour()
    expected[round((z - 30.25) / 3)] = 0
    assert expected.sum() < tumour().sum()
    assert np.array_equal(scan.grid.on_disk(label), expected)


@pytest.mark.filterwarnings("ignore::UserWarning")  # highdicom's, of the patient's name
@pytest.mark.parametrize("kind", ["FRACTIONAL", "LABELMAP"])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_segs_of_other_kinds_are_read(kind, syntax, tmp_path):
    make_seg(tmp_path / "P1").unlink()
    marked = tumour().astype(np.float32 if kind == "FRACTIONAL" else np.uint8)
    marked[marked == 0] = 0.4 if kind == "FRACTIONAL" else 0
    sources = [dcmread(path) for path in volume.read(tmp_path / "P1/ct").slices]
    segmentation = highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=marked,
        segmentation_type=kind,
        segment_descriptions=[dicom_seg._tumour(by_hand=False)],
        series_instance_uid=highdicom.UID(),
        series_number=9,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="x",
        manufacturer_model_name="x",
        software_versions="1",
        device_serial_number="0",
        transfer_syntax_uid=syntax,
    )
    segmentation.save_as(tmp_path / "P1/seg.dcm")
    _, scan, label = import_one(tmp_path / "P1", tmp_path / "out")
    assert np.array_equal(scan.grid.on_disk(label), tumour())


@pytest.mark.fault("outlines that do not fit their scan")
@pytest.mark.parametrize(
    "tag, value, cause",
    [
        ("PlanePositionSequence", [-12, -9.5, 31.5], "another grid than"),
        ("PlanePositionSequence", [-10, -9.5, 33.25], "another grid than"),
        ("PlanePositionSequence", [-12, -9.5, 900], "another grid than"),
    ],
)
def test_a_seg_on_another_grid_is_refused(tag, value, cause, tmp_path):
    path = make_seg(tmp_path / "P1")
    one = dcmread(path)
    one.PerFrameFunctionalGroupsSequence[0][tag].value[0].ImagePositionPatient = value
    one.save_as(path)
    refuse(tmp_path / "P1", tmp_path / "out", f"seg.dcm: .*{cause}")


@pytest.mark.parametrize("keep", [100, 700, 1100, -5000, -300])
def test_a_damaged_structure_set_is_refused(keep, tmp_path):
    write_dicom(tmp_path / "P1/ct", chest())
    path = write_rtstruct(tmp_path / "P1/rt.dcm", {"GTV": outlines_of(tumour())})
    path.write_bytes(path.read_bytes()[:keep])
    refuse(tmp_path / "P1", tmp_path / "out", "rt.dcm: ")


# --- NIfTI ----------------------------------------------------------------------------------------


def test_patients_folders_of_nifti_are_told_apart_by_their_content(tmp_path):
    source = tmp_path / "source"
    for number, (scan, mask) in enumerate((("a", "b"), ("b", "a"))):
        write_nifti(source / f"p{number}" / f"{scan}.nii.gz", chest(number))
        write_nifti(source / f"p{number}" / f"{mask}.nii", tumour().astype(np.int16))
    (source / "empty").mkdir()
    decathlon.import_set(source, tmp_path / "out")
    for number, case in enumerate(decathlon.load(tmp_path / "out").training):
        assert case.id == f"p{number}"
        assert np.array_equal(volume.read(case.image).hu, chest(number))
        assert np.array_equal(volume.read_label(case.label), tumour())


def test_several_masks_of_a_patient_are_rois(tmp_path):
    write_nifti(tmp_path / "p/ct.nii.gz", chest())
    write_nifti(tmp_path / "p/lung.nii.gz", (chest() < -500).astype(np.uint8))
    write_nifti(tmp_path / "p/tumour.nii.gz", tumour())
    refuse(tmp_path / "p", tmp_path / "out", "holds 2 ROIs in .*: lung, tumour.*--roi")
    _, _, label = import_one(tmp_path / "p", tmp_path / "out", "tum*")
    assert np.array_equal(label, tumour())


@pytest.mark.parametrize("folders", [("images", "labels"), ("images", "masks")])
@pytest.mark.parametrize("channel", ["", "_0000"])
def test_pairs_keep_voxels_and_affine(folders, channel, tmp_path):
    images, labels = folders
    turned = np.array([[0, 0.8, 0, 5], [-0.7, 0, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1]])
    scan = nib.Nifti1Image(chest().transpose(2, 1, 0) / np.float32(2), turned)
    mask = nib.Nifti1Image(tumour().transpose(2, 1, 0), turned)
    for path, image in ((f"{images}/a b{channel}.nii", scan), (f"{labels}/a b.nii.gz", mask)):
        (tmp_path / "source" / path).parent.mkdir(parents=True)
        nib.save(image, tmp_path / "source" / path)
    decathlon.import_set(tmp_path / "source", tmp_path / "out")
    for original, part in (
        (f"{images}/a b{channel}.nii", "images"),
        (f"{labels}/a b.nii.gz", "labels"),
    ):
        image = nib.load(tmp_path / "source" / original)
        written = nib.load(tmp_path / f"out/{part}Tr/a b.nii.gz")
        assert np.array_equal(written.get_fdata(), image.get_fdata())
        assert np.array_equal(written.affine, image.affine)


@pytest.mark.parametrize("names", [["a_0000"], ["a_0000", "a_0002"], ["a_0000", "a_0001"]])
def test_pairs_of_equal_names_that_end_as_a_channel_does(names, tmp_path):
    expected = []
    for number, name in enumerate(names):
        for seed, (part, case) in enumerate((("Tr", name), ("Ts", f"t{name}"))):
            write_nifti(tmp_path / f"source/images{part}/{case}.nii.gz", chest(2 * number + seed))
            write_nifti(tmp_path / f"source/labels{part}/{case}.nii.gz", tumour())
            expected.append((case, part))
    cases = decathlon.import_set(tmp_path / "source", tmp_path / "out")
    assert sorted((case.name, case.part) for case in cases) == sorted(expected)
    written = decathlon.load(tmp_path / "out")
    labels = [volume.read_label(case.label) for case in (*written.training, *written.test)]
    assert len(labels) == len(expected)
    assert all(np.array_equal(label, tumour()) for label in labels)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A set of four scans and a fifth to test on, in the Decathlon's layout."""
    root = tmp_path_factory.mktemp("import") / "set"
    for number, case in enumerate([*CASES, TEST]):
        part = "Tr" if case in CASES else "Ts"
        write_nifti(root / f"images{part}/{case}.nii.gz", chest(number))
        if part == "Tr":
            write_nifti(root / f"labelsTr/{case}.nii.gz", tumour())
    training = entries("./imagesTr/{}", "./labelsTr/{}")
    test = [f"./imagesTs/{TEST}.nii.gz"]
    return write_json(root, numTraining=4, training=training, test=test, **COMMON)


@pytest.mark.parametrize("copy", [copy_as_decathlon, *COPIES], ids=lambda copy: copy.__name__)
def test_what_is_a_set_already_stays_the_same(copy, original, tmp_path):
    decathlon.import_set(copy(original, tmp_path / "copy"), tmp_path / "out")
    one, other = decathlon.load(original), decathlon.load(tmp_path / "out")
    for part in ("training", "test"):
        pairs = list(zip(getattr(one, part), getattr(other, part), strict=True))
        for case, imported in pairs:
            assert (imported.id, imported.patient) == (case.id, case.patient)
            assert np.array_equal(volume.read(case.image).hu, volume.read(imported.image).hu)
            if part == "training":
                expected = volume.read_label(case.label)
                assert np.array_equal(volume.read_label(imported.label), expected)


def test_a_class_of_several_is_a_roi_and_what_a_set_states_is_kept(tmp_path):
    root = tmp_path / "source"
    write_nifti(root / "imagesTr/a_0000.nii.gz", chest())
    write_nifti(root / "labelsTr/a.nii.gz", tumour() * np.uint8(2) + (chest() < -900))
    content = {"channel_names": {"0": "CT"}, "file_ending": ".nii.gz", "numTraining": 1}
    labels = {"background": 0, "lung": [1, 2], "tumour": 2}
    (root / "dataset.json").write_text(json.dumps({**content, "labels": labels}))
    refuse(root, tmp_path / "out", "a.nii.gz: holds 2 ROIs: lung, tumour")
    write_nifti(root / "labelsTr/a.nii.gz", np.where(tumour() > 0, 2, chest() < -900), AFFINE)
    _, _, label = import_one(root, tmp_path / "out", "tumour")
    assert np.array_equal(label, tumour())
    entry = {"image": "imagesTr/a_0000.nii.gz", "label": "labelsTr/a.nii.gz"}
    entry |= {"patient": "x", "fold": 3}
    (root / "dataset.json").write_text(
        json.dumps({"labels": labels, "crops": True, "training": [entry]})
    )
    decathlon.import_set(root, tmp_path / "out_2", ["lung"])
    (case,) = decathlon.load(tmp_path / "out_2").training
    assert (case.patient, case.fold, case.is_crop) == ("x", 3, True)
    assert volume.read_label(case.label).sum() == ((tumour() > 0) | (chest() < -900)).sum()


@pytest.mark.parametrize("rois", [(), ("tumour",)])
@pytest.mark.parametrize(
    "labels, value",
    [
        ({"0": "background", "2": "tumour"}, 2),  # as the Decathlon declares it
        ({"background": 0, "tumour": 2}, 2),  # as nnU-Net does
        ({"background": 0, "tumour": [1, 2]}, 2),
        ({"0": "background", "1": "tumour"}, 1),
    ],
)
def test_the_only_class_of_a_set_has_any_value(labels, value, rois, tmp_path):
    _, _, label = import_one(one_class(tmp_path / "source", labels, value), tmp_path / "out", *rois)
    assert np.array_equal(label, tumour())


@pytest.mark.parametrize("odd", [{"²": "tumour"}, {"tumour": "²"}, {"tumour": ["1", "①"]}])
def test_a_class_without_a_number_is_passed_over(odd, tmp_path):
    """Digits that are no decimal number are a name at most."""
    source = one_class(tmp_path / "source", {"0": "background"} | odd, 1)
    assert np.array_equal(import_one(source, tmp_path / "out")[2], tumour())


def test_a_value_beside_the_only_class_of_1_is_refused(tmp_path):
    source = one_class(tmp_path / "source", {"0": "background", "1": "tumour"}, 2)
    refuse(source, tmp_path / "out", "a.nii.gz: not a label of 0 and 1: it holds 2")


def one_class(root, labels, value):
    """Write a set of one case whose tumour has `value`."""
    write_nifti(root / "imagesTr/a.nii.gz", chest())
    write_nifti(root / "labelsTr/a.nii.gz", tumour() * np.uint8(value))
    entry = {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}
    content = {"labels": labels, "numTraining": 1, "training": [entry], "test": []}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def test_scans_without_labels_in_imagests_are_test_scans(tmp_path):
    for number, part in enumerate(("Tr", "Ts")):
        write_nifti(tmp_path / f"source/images{part}/c{number}.nii.gz", chest(number))
    write_nifti(tmp_path / "source/labelsTr/c0.nii.gz", tumour())
    imported = decathlon.import_set(tmp_path / "source", tmp_path / "out")
    assert [(case.name, case.part) for case in imported] == [("c0", "Tr"), ("c1", "Ts")]
    (test,) = decathlon.load(tmp_path / "out").test
    assert np.array_equal(volume.read(test.image).hu, chest(1))


# --- what does not fit ----------------------------------------------------------------------------


@pytest.mark.fault("outlines that do not fit their scan")
def test_what_has_no_partner_is_named_all_at_once(tmp_path):
    for name in "ab":
        write_nifti(tmp_path / f"pairs/images/{name}.nii.gz", chest())
    for name in "ac":
        write_nifti(tmp_path / f"pairs/masks/{name}.nii.gz", tumour())
    text = refuse(
        tmp_path / "pairs", tmp_path / "out", "b.nii.gz: has no mask of its name in masks"
    )
    assert "c.nii.gz: has no scan of its name in images" in text
    for number in range(3):
        write_nifti(tmp_path / f"patients/p{number}/ct.nii.gz", chest(number))
        write_nifti(tmp_path / f"patients/p{number}/mask.nii.gz", tumour())
    (tmp_path / "patients/p0/mask.nii.gz").unlink()
    (tmp_path / "patients/p1/ct.nii.gz").unlink()
    text = refuse(
        tmp_path / "patients", tmp_path / "out", r"p0: holds a scan \(ct.nii.gz\), but no"
    )
    assert "p1: holds a mask (mask.nii.gz), but no scan" in text


@pytest.mark.fault("outlines that do not fit their scan")
@pytest.mark.parametrize(
    "mask, affine, cause",
    [
        (tumour()[:-1], AFFINE, "its shape differs from that of ct.nii.gz"),
        (tumour(), MOVED, "its affine puts it up to 3 mm away from ct.nii.gz"),
    ],
)
def test_a_mask_on_another_grid_is_refused(mask, affine, cause, tmp_path):
    write_nifti(tmp_path / "p/ct.nii.gz", chest())
    write_nifti(tmp_path / "p/mask.nii.gz", mask, affine)
    refuse(tmp_path / "p", tmp_path / "out", cause)


def test_one_scan_under_two_names_is_found_by_the_check(tmp_path):
    for name in "ab":
        write_nifti(tmp_path / f"source/images/{name}.nii.gz", chest())
        write_nifti(tmp_path / f"source/labels/{name}.nii.gz", tumour())
    refuse(tmp_path / "source", tmp_path / "out", "holds the same scan as a.nii.gz")


def test_a_filled_folder_is_left_alone(tmp_path):
    write_nifti(tmp_path / "p/ct.nii.gz", chest())
    write_nifti(tmp_path / "p/mask.nii.gz", tumour())
    (tmp_path / "out/imagesTr").mkdir(parents=True)
    with pytest.raises(LungsegError, match="is not empty: imagesTr, perhaps of an import"):
        decathlon.import_set(tmp_path / "p", tmp_path / "out")
    (tmp_path / "out/imagesTr").rmdir()
    decathlon.import_set(tmp_path / "p", tmp_path / "out")
    assert [case.id for case in decathlon.load(tmp_path / "out").training] == ["p"]


def test_an_interrupted_import_looks_like_no_set(tmp_path, monkeypatch):
    write_nifti(tmp_path / "p/ct.nii.gz", chest())
    write_nifti(tmp_path / "p/mask.nii.gz", tumour())

    def killed(path, *_):
        raise KeyboardInterrupt if "labels" in str(path) else AssertionError

    monkeypatch.setattr(volume, "write_mask", killed)
    with pytest.raises(KeyboardInterrupt):
        decathlon.import_set(tmp_path / "p", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- the command ----------------------------------------------------------------------------------


def test_the_command_prints_a_line_for_each_case(tmp_path, capsys):
    for number in range(2):
        write_dicom(tmp_path / f"source/P{number}/ct", chest(number))
        rois = {"GTV-1": outlines_of(tumour()), "Lung": outlines_of(tumour())}
        write_rtstruct(tmp_path / f"source/P{number}/rt.dcm", rois)
    source, out = str(tmp_path / "source"), str(tmp_path / "out")
    assert cli.main(["import", source, out, "--roi", "GTV*"]) == 0
    lines = capsys.readouterr().out.splitlines()
    millilitres = tumour().sum() * 3 * 0.8 * 0.7 / 1000
    assert lines == [
        f"P0: GTV-1, {millilitres:.1f} mL",
        f"P1: GTV-1, {millilitres:.1f} mL",
        f"{out}: 2 training and 0 test scans",
    ]
    assert cli.main(["check", out]) == 0


def test_the_command_refuses_with_exit_code_1(tmp_path, capsys):
    write_nifti(tmp_path / "p/ct.nii.gz", chest())
    assert cli.main(["import", str(tmp_path / "p"), str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and "but no mask" in captured.err
    assert not captured.out and not os.path.exists(tmp_path / "out")
    shutil.rmtree(tmp_path / "p")
    assert cli.main(["import", str(tmp_path / "p"), str(tmp_path / "out")]) == 1
    assert "no such folder" in capsys.readouterr().err
