"""`check`: every fault of a dataset in one report; `fingerprint`: what its scans are like."""

import json
import os
import time

import numpy as np
import pytest

from lungseg_utils import volume
from lungseg_utils.decathlon import DatasetError, check, fingerprint, load
from lungseg_utils.decathlon.fingerprint import Examined, Task, examine_all
from lungseg_utils.runtime import LungsegError

SHAPE, SPACING = (40, 24, 20), (4.0, 3.0, 2.0)  # mm; D, H, W
AFFINE = np.array(
    [[0, 0, -2.0, 0], [0, -3.0, 0, 0], [4.0, 0, 0, 0], [0, 0, 0, 1]]
)  # (d, h, w) -> RAS+


def scan(seed):
    """Make a body of 40 HU in air, lungs of -850 HU, a tumour of 6 x 4 x 5 voxels (2.88 mL)."""
    hu = np.full(SHAPE, -1000, np.int16)
    hu[:, 2:22, 2:18] = 40
    hu[4:36, 5:18, 4:16] = -850
    hu += np.random.default_rng(seed).integers(-20, 20, SHAPE, dtype=np.int16)
    label = np.zeros(SHAPE, np.uint8)
    label[10:16, 8:12, 6:11] = 1
    hu[label > 0] = -100
    return hu, label


@pytest.fixture
def toy(tmp_path):
    """Make a sound set of 3 training cases and 1 test case; return its root."""
    root = tmp_path / "Toy"
    names = ["toy_0", "toy_1", "toy_2"]
    for seed, name in enumerate(names):
        hu, label = scan(seed)
        put(root, f"imagesTr/{name}", hu)
        put(root, f"labelsTr/{name}", label)
    put(root, "imagesTs/toy_3", scan(3)[0])
    entries = [
        {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
        for name in names
    ]
    (root / "dataset.json").write_text(
        json.dumps(
            {
                "name": "Toy",
                "modality": {"0": "CT"},
                "labels": {"0": "background", "1": "cancer"},
                "numTraining": 3,
                "training": entries,
                "test": ["./imagesTs/toy_3.nii.gz"],
            }
        )
    )
    return root


def put(root, name, array, affine=AFFINE):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    volume.write_nifti(root / f"{name}.nii.gz", array, affine)


def test_a_sound_set_has_no_fault_and_no_warning(toy, capsys):
    report = check(toy)
    assert (report.faults, report.warnings) == ([], [])
    assert "no faults" in report.text() and "3 training and 1 test cases" in report.text()
    assert capsys.readouterr() == ("", "")


def test_the_fingerprint_describes_the_scans(toy):
    rows = fingerprint(load(toy))
    assert [(row["case"], row["part"]) for row in rows] == [
        ("toy_0", "training"),
        ("toy_1", "training"),
        ("toy_2", "training"),
        ("toy_3", "test"),
    ]
    first = rows[0]
    assert first["shape"] == list(SHAPE) and first["spacing_mm"] == list(SPACING)
    assert first["extent_mm"] == [160, 72, 40]
    assert first["tumours"] == 1 and first["tumour_hu"] == -100
    assert first["tumour_ml"] == pytest.approx(6 * 4 * 5 * 24 / 1000)
    assert first["tumour_centre"] == pytest.approx([12.5 / 39, 9.5 / 23, 8 / 19], abs=1e-3)
    assert first["hu_p5"] == pytest.approx(np.percentile(scan(0)[0], 5), abs=15)
    assert first["hu_min"] == scan(0)[0].min() and first["hu_max"] == scan(0)[0].max()
    assert rows[3]["tumours"] is None


def test_the_report_is_json_and_the_same_from_processes(toy):
    (toy / "labelsTr" / "toy_1.nii.gz").write_bytes(b"")
    (toy / "imagesTr" / "extra.nii.gz").touch()
    alone, together = check(toy, workers=1), check(toy, workers=2)
    assert json.loads(json.dumps(alone.as_dict())) == together.as_dict()
    report = together.as_dict()
    assert report["faults"][0]["file"].endswith("toy_1.nii.gz")
    assert "extra.nii.gz" in report["warnings"][0]
    assert report["summary"]["spacing_d_mm"] == {"min": 4, "median": 4, "max": 4}


@pytest.mark.fault("several faults at once")
def test_all_faults_come_in_one_report(toy):
    label = scan(9)[1]
    content = json.loads((toy / "dataset.json").read_text())
    content["training"].append(
        {"image": "./imagesTr/none.nii.gz", "label": "./labelsTr/none.nii.gz"}
    )
    (toy / "dataset.json").write_text(
        json.dumps(content)
    )  # 1: the count, 2 and 3: two files are missing
    data = (toy / "imagesTr" / "toy_0.nii.gz").read_bytes()
    (toy / "imagesTr" / "toy_0.nii.gz").write_bytes(data[: len(data) // 2])  # 4: cut
    put(toy, "labelsTr/toy_0", label * 255)  # 5: wrong values, found although its image is cut
    put(
        toy, "labelsTr/toy_1", label, AFFINE + np.outer([1, 0, 0, 0], [0, 0, 0, 50])
    )  # 6: 50 mm to the side
    (toy / "imagesTs" / "toy_3.nii.gz").write_bytes(b"<html>")  # 7: not NIfTI
    report = check(toy)
    text = report.text()
    assert len(report.faults) == 7, text
    for cause in ("numTraining", "none.nii.gz", "truncated", "255", "affine", "web page"):
        assert cause in text
    assert [row["case"] for row in report.fingerprint] == ["toy_1", "toy_2"]
    with pytest.raises(DatasetError) as caught:
        load(toy)
    assert [str(fault) for fault in caught.value.faults] == [
        str(fault) for fault in report.faults[:3]
    ]


def test_a_broken_dataset_json_is_reported_not_raised(toy):
    (toy / "dataset.json").write_text("{")
    report = check(toy)
    assert (
        len(report.faults) == 1
        and "line 1" in report.text()
        and report.as_dict()["fingerprint"] == []
    )


@pytest.mark.parametrize(
    ("paint", "warning"),
    [
        (lambda hu, label: label.fill(0), "label is empty"),
        (
            lambda hu, label: label.__setitem__((30, 15, slice(8, 11)), 1),
            "tiny (voxels of the smallest: 3, 0.072 mL",
        ),
        (lambda hu, label: hu.__setitem__(label > 0, -1000), "mean of -1000 HU"),
        (
            lambda hu, label: label.__setitem__((slice(0, 12), slice(8, 12), slice(6, 11)), 1),
            "edge of the scan",
        ),
    ],
)
def test_what_is_odd_but_legal_is_a_warning(toy, paint, warning):
    hu, label = scan(1)
    paint(hu, label)
    put(toy, "imagesTr/toy_1", hu)
    put(toy, "labelsTr/toy_1", label)
    report = check(toy)
    assert not report.faults and len(report.warnings) == 1
    assert warning in report.warnings[0] and "toy_1" in report.warnings[0]


def scan_with(tumour_hu, wall_hu=None):
    """Make a scan whose tumour, of 8 x 4 x 5 voxels, lies to one side of the lungs."""
    hu, label = scan(1)
    hu[label > 0] = -850
    label[:] = 0
    label[10:18, 6:10, 4:9] = 1
    hu[label > 0] += tumour_hu + 850
    if wall_hu is not None:
        hu[10:18, 6:10, (4, 8)] = wall_hu
    return hu, label


@pytest.mark.fault("label mirrored or in another place")
@pytest.mark.parametrize(
    ("axis", "how"), [(0, "upside down"), (1, "front to back"), (2, "left to right")]
)
def test_a_mirrored_label_is_a_warning_that_names_the_cause(toy, axis, how):
    hu, label = scan_with(-100)
    put(toy, "imagesTr/toy_1", hu)
    put(toy, "labelsTr/toy_1", np.flip(label, axis))
    (warning,) = check(toy).warnings
    assert "toy_1" in warning and "lies in lung or air (median -8" in warning
    assert f"mirrored {how}" in warning


@pytest.mark.fault("label mirrored or in another place")
def test_a_label_in_lung_is_a_warning_without_a_guess_where_no_mirror_fits(toy):
    put(toy, "imagesTr/toy_1", scan_with(-850)[0])
    put(toy, "labelsTr/toy_1", scan_with(-850)[1])
    (warning,) = check(toy).warnings
    assert "lies in lung or air" in warning and "shifted" in warning and "mirrored" not in warning


@pytest.mark.parametrize(("tumour_hu", "wall_hu"), [(-750, None), (-500, None), (-870, -100)])
def test_ground_glass_and_cavities_are_tumours(toy, tumour_hu, wall_hu):
    hu, label = scan_with(tumour_hu, wall_hu)
    put(toy, "imagesTr/toy_1", hu)
    put(toy, "labelsTr/toy_1", label)
    assert check(toy).warnings == []


def test_a_slab_and_thick_slices_are_warnings(toy):
    hu, label = (array[4:20] for array in scan(1))
    affine = AFFINE * [[1], [1], [1.5], [1]]
    put(toy, "imagesTr/toy_1", hu, affine)
    put(toy, "labelsTr/toy_1", label, affine)
    warnings = "\n".join(check(toy).warnings)
    assert "covers only 96 mm" in warnings and "slices are 6 mm apart" in warnings


def test_warnings_of_the_reader_land_in_the_report(toy, capsys):
    with open(toy / "imagesTr" / "toy_2.nii.gz", "ab") as file:
        file.write(b"junk after the end")
    for workers in (1, 2):
        report = check(toy, workers=workers)
        assert len(report.warnings) == 1 and "toy_2.nii.gz" in report.warnings[0]
    assert capsys.readouterr().err == ""


@pytest.mark.fault("empty and inverted labels")
def test_an_inverted_label_is_a_fault(toy):
    put(toy, "labelsTr/toy_1", 1 - scan(1)[1])
    assert "inverted" in check(toy).faults[0].cause


@pytest.mark.fault("empty and inverted labels")
def test_a_set_without_any_tumour_is_a_fault(toy):
    for i in range(3):
        put(toy, f"labelsTr/toy_{i}", np.zeros(SHAPE, np.uint8))
    report = check(toy)
    assert [fault.cause for fault in report.faults] == ["all training labels are empty"] and len(
        report.warnings
    ) == 3


@pytest.mark.fault("one case twice; a training scan among the test scans")
@pytest.mark.parametrize(
    ("name", "cause"), [("imagesTr/toy_2", "same scan as toy_0"), ("imagesTs/toy_3", "a leak")]
)
def test_one_scan_under_two_names_is_a_fault_however_it_is_stored(toy, name, cause):
    volume.write_nifti(
        toy / f"{name}.nii.gz", scan(0)[0].astype(np.float32), AFFINE, orientation="RAS"
    )
    assert [cause in fault.cause for fault in check(toy).faults] == [True]


def test_inputs_are_left_as_they_are(toy):
    before = {path: path.read_bytes() for path in toy.rglob("*") if path.is_file()}
    check(toy)
    assert before == {path: path.read_bytes() for path in toy.rglob("*") if path.is_file()}


def test_fingerprint_raises_what_it_cannot_read(toy):
    (toy / "imagesTr" / "toy_0.nii.gz").write_bytes(b"")
    with pytest.raises(LungsegError, match=r"toy_0\.nii\.gz: empty"):
        fingerprint(load(toy))


# --- processes ------------------------------------------------------------------------------------


def die_at_b(task):
    if task.id == "b":
        os._exit(9)
    return Examined(task, row={"case": task.id})


@pytest.mark.fault("dead worker process, few open files")
def test_a_dead_process_is_named_and_takes_no_other_case_along(tmp_path):
    for name in "abcd":
        (tmp_path / name).touch()
    tasks = [Task(name, "training", tmp_path / name, None) for name in "abcd"]
    started = time.monotonic()
    seen = list(examine_all(tasks, 2, examine=die_at_b))
    assert [case.task.id for case in seen] == list("abcd") and time.monotonic() - started < 60
    assert [bool(case.row) for case in seen] == [True, False, True, True]
    assert "process that read it died" in str(seen[1].faults[0]) and seen[1].faults[
        0
    ].subject.endswith("b")


@pytest.mark.parametrize("workers", [0, -3, 1.5, "2", True])
def test_a_number_of_workers_out_of_range_is_refused(toy, workers):
    with pytest.raises(LungsegError, match="workers"):
        check(toy, workers=workers)
