"""`lungseg predict`: what it takes, how masks are called, what is reported of each tumour."""

import json
import os
import re
import shutil
import stat
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers_cases import ball, make_oblique, make_scan
from PIL import Image
from test_dicom import chest, write_series
from test_dicom_kinds import bare

from lungseg_utils import cli, decathlon, volume
from lungseg_utils.evaluation import evaluate
from lungseg_utils.plotting.preview import MOST_TUMOURS, preview, save_preview
from lungseg_utils.prediction import Predictor, files, measure_tumours, predict_files, zips
from lungseg_utils.prediction.inputs import expand, find_scans, list_scans
from lungseg_utils.prediction.plan import plan
from lungseg_utils.runtime import LungsegError, printable
from lungseg_utils.segunet import SegUNet
from lungseg_utils.volume import CANONICAL

SHAPE = (12, 30, 32)
SPACING_MM = (3.0, 2.0, 2.0)


class Bright(torch.nn.Module):
    """A network that is as certain as a voxel is bright."""

    pools = ((2, 2, 2),)

    def forward(self, x):
        return 10 * (x + 0.5)


def make_bright(_checkpoint=None, _device="cpu", min_peak=0.0):
    facts = {"spacing_mm": 2.0, "digest": "bright", "min_peak": min_peak}
    one = Predictor(model=SegUNet(channels=(2, 4)), facts=facts, device="cpu")
    one.models = [Bright()]
    return one


@pytest.fixture
def bright(monkeypatch):
    """Prediction by a network that marks what is dense."""
    monkeypatch.setattr(files, "Predictor", make_bright)


def balls(*centres, shape=SHAPE, radius=4, spacing_mm=SPACING_MM) -> volume.Volume:
    """Return a scan of air with dense balls in it."""
    hu = np.full(shape, -900, np.int16)
    for centre in centres:
        hu[ball(shape, centre, radius)] = 40
    return make_scan(hu, spacing_mm)


def write_scan(path: Path, *centres, **options) -> Path:
    scan = balls(*centres or [(6, 15, 16)], **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    volume.write_nifti(path, scan.hu, scan.affine)
    return path


def predict(*arguments) -> int:
    return cli.main(["predict", *map(str, arguments)])


def written(folder: Path) -> list[str]:
    """Return what lies in a folder beside the manifest of its masks."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".jsonl")


# --- the name of the output -----------------------------------------------------------------------


@pytest.mark.fault("output in another format")
@pytest.mark.parametrize(
    "name", ["mask.nrrd", "mask.seg.nrrd", "seg.dcm", "mask.PNG", "x.mha", "mask.nii.bz2", "a.h5"]
)
def test_an_output_of_another_format_is_refused_before_the_work(
    name, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(volume, "read", lambda *_, **__: 1 / 0)
    scan = write_scan(tmp_path / "ct.nii.gz")
    assert predict(scan, "-o", tmp_path / name) == 1
    printed = capsys.readouterr().err
    ending = Path(name).suffix
    assert f"{name}: a mask must be named .nii or .nii.gz, not {ending}. Name it so" in printed
    assert ("--dicom-seg" in printed) == (ending == ".dcm")
    assert ("--preview" in printed) == (ending == ".PNG")
    assert written(tmp_path) == ["ct.nii.gz"]


@pytest.mark.parametrize(
    "name", ["masks", "results_0.5", "2026.11.28", ".hidden", "v1.d/", "a b. c"]
)
def test_a_name_without_the_ending_of_a_format_is_a_folder(name, tmp_path):
    (job,) = plan([write_scan(tmp_path / "ct.nii.gz")], f"{tmp_path}/{name}")
    assert job.mask == tmp_path / name / "ct.nii.gz"


def test_a_folder_that_exists_may_be_called_like_a_file(tmp_path):
    (tmp_path / "masks.nrrd").mkdir()
    (job,) = plan([write_scan(tmp_path / "ct.nii.gz")], tmp_path / "masks.nrrd")
    assert job.mask == tmp_path / "masks.nrrd" / "ct.nii.gz"


# --- patterns -------------------------------------------------------------------------------------


def test_a_pattern_that_the_shell_has_left_is_expanded(bright, tmp_path, capsys):
    for name in ("b", "a", "other"):
        write_scan(tmp_path / "scans" / f"{name}.nii.gz")
    assert predict(tmp_path / "scans" / "?.nii.gz", "-o", tmp_path / "out") == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["a", "b"]


def test_a_pattern_that_matches_nothing_is_an_error_that_says_so(tmp_path, capsys):
    write_scan(tmp_path / "ct.nii.gz")
    for options in (
        [tmp_path / "*.nii"],
        [tmp_path / "ct.nii.gz", "--checkpoint", tmp_path / "fold*"],
    ):
        assert predict(*options, "-o", tmp_path / "out") == 1
        assert "*: this pattern matches no file or folder" in capsys.readouterr().err.replace(
            ".nii", ""
        )
    assert written(tmp_path) == ["ct.nii.gz"]


def test_a_file_whose_name_looks_like_a_pattern_is_itself(tmp_path):
    path = write_scan(tmp_path / "scan[1].nii.gz")
    assert expand(path) == [str(path)]
    assert [scan.name for scan in list_scans([path])] == ["scan[1]"]


def test_scans_of_one_name_in_several_folders_are_called_by_their_folders(tmp_path):
    for patient in ("p1", "p2"):
        write_scan(tmp_path / patient / "ct.nii.gz")
    names = [scan.name for scan in list_scans([f"{tmp_path}/*/ct.nii.gz"])]
    assert names == ["p1", "p2"]
    with pytest.raises(LungsegError, match="ct.nii.gz would be named as that of"):
        plan([tmp_path / "p1" / "ct.nii.gz", tmp_path / "p2" / "ct.nii.gz"], tmp_path / "out")


def test_checkpoints_may_be_a_pattern(tmp_path):
    from lungseg_utils import checkpoint

    for fold in (0, 1):
        torch.manual_seed(fold)
        path = tmp_path / f"fold{fold}" / "best.safetensors"
        path.parent.mkdir()
        checkpoint.save_weights(path, SegUNet(channels=(2, 4)), {"spacing_mm": 6.0})
    scan = write_scan(tmp_path / "ct.nii.gz")
    reports = []
    for checkpoints in (
        [f"{tmp_path}/fold*/best.safetensors"],
        [f"{tmp_path}/fold{fold}/best.safetensors" for fold in (0, 1)],
    ):
        options = [word for path in checkpoints for word in ("--checkpoint", path)]
        report = tmp_path / f"{len(reports)}.jsonl"
        assert predict(scan, "-o", tmp_path / "m.nii", "--json", report, *options) == 0
        reports.append(json.loads(report.read_text()))
    assert reports[0]["weights"] == reports[1]["weights"] and "+" in reports[0]["weights"]


# --- folders of patients, archives ----------------------------------------------------------------


def write_patient(folder: Path, number: int, **options) -> Path:
    """Write a DICOM series of a patient and study of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in write_series(folder / "series", chest((6, 22, 24)), **options):
        change(path, PatientID=f"P{number}", StudyInstanceUID=f"1.2.{number}")
    return folder


def change(path: Path, **tags) -> None:
    from pydicom import dcmread

    one = dcmread(path)
    for tag, value in tags.items():
        setattr(one, tag, value)
    one.save_as(path)


@pytest.mark.fault("DICOM: sound, but refused for a false cause")
def test_patients_folders_hold_a_dicom_series_or_a_nifti_file_each(bright, tmp_path, capsys):
    root = tmp_path / "patients"
    write_patient(root / "p1", 1)
    write_scan(root / "p2" / "ct.nii.gz")
    write_patient(root / "p3", 3)
    (root / "p4").mkdir()
    (root / "list.csv").write_text("name\n")
    assert predict(root, "-o", tmp_path / "out") == 0
    printed = capsys.readouterr()
    assert [line.split(":")[0] for line in printed.out.splitlines()] == ["p1", "p2", "p3"]
    assert f"warning: {root / 'p4'}: holds no scan; it is skipped" in printed.err
    assert written(tmp_path / "out") == ["p1.nii.gz", "p2.nii.gz", "p3.nii.gz"]


@pytest.mark.fault("DICOM: no Part 10 header")
def test_patients_slices_need_no_part_10_header(tmp_path):
    for number in (1, 2):
        folder = write_patient(tmp_path / f"p{number}", number)
        for path in (folder / "series").iterdir():
            path.write_bytes(bare(path))
    scans = find_scans(tmp_path)
    assert [(scan.name, scan.path) for scan in scans] == [
        (name, tmp_path / name) for name in ("p1", "p2")
    ]


def test_a_patient_whose_scan_fails_stops_no_other(bright, tmp_path, capsys):
    root = tmp_path / "patients"
    for number in (1, 2, 3):
        write_patient(root / f"p{number}", number)
    damaged = next((root / "p2" / "series").iterdir())
    damaged.write_bytes(damaged.read_bytes()[:300])
    assert predict(root, "-o", tmp_path / "out") == 1
    assert damaged.name in capsys.readouterr().err
    assert written(tmp_path / "out") == ["p1.nii.gz", "p3.nii.gz"]


def test_the_series_of_one_study_are_no_patients(tmp_path):
    """A scout or a report beside the CT leaves it one scan, called as the folder is."""
    study = tmp_path / "study"
    study.mkdir()
    write_series(study / "ct", chest((6, 22, 24)))
    write_series(study / "scout", chest((1, 22, 24)), series="2", image_type="LOCALIZER")
    assert [(scan.name, scan.path) for scan in find_scans(study)] == [("study", study)]


def test_two_folders_that_claim_one_place_in_one_series_are_two_patients(tmp_path):
    for name in ("a", "b"):
        write_series(tmp_path / name, chest((6, 22, 24)))
    assert [scan.name for scan in find_scans(tmp_path)] == ["a", "b"]


def test_masks_beside_a_patient_s_scan_are_left_out(tmp_path):
    for name in ("p1", "p2"):
        write_scan(tmp_path / name / "imaging.nii.gz")
        mask = np.zeros(SHAPE, np.uint8)
        volume.write_nifti(tmp_path / name / "segmentation.nii.gz", mask, CANONICAL)
    scans = [(scan.name, scan.path.name) for scan in find_scans(tmp_path)]
    assert scans == [("p1", "imaging.nii.gz"), ("p2", "imaging.nii.gz")]


def test_a_patient_with_two_scans_is_a_failure_of_its_own(bright, tmp_path, capsys):
    root = tmp_path / "patients"
    for name in ("p1/ct", "p2/before", "p2/after", "p3/ct"):
        write_scan(root / f"{name}.nii.gz")
    assert predict(root, "-o", tmp_path / "out") == 1
    cause = "p2: holds 2 NIfTI files that may be the scan, after.nii.gz and before.nii.gz among"
    printed = capsys.readouterr().err
    assert cause in printed and f"'{root}/*/ct.nii.gz'" in printed
    assert written(tmp_path / "out") == ["p1.nii.gz", "p3.nii.gz"]


def make_zip(path: Path, folder: Path, within: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, f"{within}{file.relative_to(folder)}")
    return path


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """A folder for temporary files of its own."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.mark.fault("DICOM: sound, but refused for a false cause")
def test_a_zip_of_a_series_is_the_same_scan(bright, tmp_path, temporary):
    write_series(tmp_path / "series", chest((6, 22, 24)))
    archive = make_zip(tmp_path / "Patient 1.zip", tmp_path / "series", "DICOM/S1/")
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr("__MACOSX/DICOM/._1-00.dcm", b"junk")
        opened.writestr("DICOM/.DS_Store", b"junk")
        opened.writestr("DICOM/readme.txt", b"junk")
    assert predict(archive, "-o", tmp_path / "out", "--dicom-seg", "--json", tmp_path / "r") == 0
    assert predict(tmp_path / "series", "-o", tmp_path / "out", "--dicom-seg") == 0
    one, other = (tmp_path / "out" / f"{name}.nii.gz" for name in ("Patient 1", "series"))
    assert one.read_bytes() == other.read_bytes()
    assert (tmp_path / "out" / "Patient 1.dcm").is_file()
    row = json.loads((tmp_path / "r").read_text())
    assert (row["name"], row["source"]) == ("Patient 1", str(archive))
    assert not list(temporary.iterdir())


def test_what_is_wrong_inside_a_zip_names_the_zip(bright, tmp_path, temporary, capsys):
    write_series(tmp_path / "series", chest((6, 22, 24)))
    damaged = sorted((tmp_path / "series").iterdir())[2]
    damaged.write_bytes(damaged.read_bytes()[:300])
    archive = make_zip(tmp_path / "p1.zip", tmp_path / "series")
    assert predict(archive, "-o", tmp_path / "out") == 1
    printed = capsys.readouterr().err
    assert f"error: {archive}/000003-{damaged.name}: " in printed and str(temporary) not in printed
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("no scan")
    assert predict(make_zip(tmp_path / "t.zip", tmp_path / "text"), "-o", tmp_path / "out") == 1
    assert f"error: {tmp_path / 't.zip'}: no DICOM file in this folder" in capsys.readouterr().err
    assert not list(temporary.iterdir())


def link_in_zip() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("link")
    info.create_system = 3
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


HOSTILE = {
    "absolute path": ("/etc/passwd", "outside the target folder"),
    "parent folder": ("a/../../passwd", "outside the target folder"),
    "parent folder of Windows": ("..\\..\\passwd", "outside the target folder"),
    "drive": ("C:/passwd", "outside the target folder"),
    "link": (link_in_zip(), "a link, a device"),
}


@pytest.mark.fault(".zip: hostile members, bombs, damage")
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_zip_with_a_hostile_member_is_refused(kind, tmp_path, temporary):
    member, cause = HOSTILE[kind]
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.writestr("good.dcm", b"x")
        archive.writestr(member, b"/etc/passwd")
    with pytest.raises(LungsegError, match=f"p.zip: its member .* {cause}.*nothing was extracted"):
        list(predict_files([tmp_path / "p.zip"], tmp_path / "out", device="cpu"))
    assert written(tmp_path / "out") == [] and not list(temporary.iterdir())


@pytest.mark.fault(".zip: hostile members, bombs, damage")
def test_a_zip_that_swells_is_refused_before_it_is_extracted(tmp_path, temporary, monkeypatch):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(5):
            archive.writestr(f"{number}.dcm", bytes(2**24))
    monkeypatch.setattr(zipfile.ZipFile, "extract", lambda *_: 1 / 0)
    with pytest.raises(LungsegError, match="would swell to 84 MB, which no scan does"):
        zips.extract(tmp_path / "bomb.zip", temporary / "new")


@pytest.mark.fault(".zip: hostile members, bombs, damage")
def test_a_zip_that_no_program_can_read_is_named(tmp_path, temporary):
    (tmp_path / "a.zip").write_bytes(b"PK\3\4 cut")
    with pytest.raises(LungsegError, match="a.zip: not a whole .zip archive"):
        zips.extract(tmp_path / "a.zip", temporary / "new")
    write_series(tmp_path / "series", chest((6, 22, 24)))
    archive = make_zip(tmp_path / "b.zip", tmp_path / "series")
    content = bytearray(archive.read_bytes())
    content[2000:2100] = bytes(100)
    archive.write_bytes(content)
    with pytest.raises(LungsegError, match="b.zip: not a whole .zip archive"):
        zips.extract(archive, temporary / "new")
    with pytest.raises(LungsegError, match="none.zip: no such file"):
        zips.extract(tmp_path / "none.zip", temporary / "new")


# --- datasets -------------------------------------------------------------------------------------


def write_nnunet(root: Path, part="imagesTs", channels=("CT",), **content) -> Path:
    """Write two scans in nnU-Net's raw layout, and their labels."""
    for case in ("lung_000", "lung_001"):
        for channel in range(len(channels)):
            write_scan(root / part / f"{case}_{channel:04d}.nii.gz")
        label = ball(SHAPE, (6, 15, 16), 4).astype(np.uint8)
        affine = balls().affine
        volume.write_nifti(
            root / part.replace("images", "labels") / f"{case}.nii.gz", label, affine
        )
    named = {str(number): name for number, name in enumerate(channels)}
    second = {"channel_names": named, "labels": {"background": 0, "cancer": 1}}
    third = {"numTraining": 2, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(second | third | content))
    return root


@pytest.mark.parametrize("part", ["imagesTs", "imagesTr"])
def test_nnunet_s_raw_layout_is_read_and_its_masks_pair_with_its_labels(bright, tmp_path, part):
    root = write_nnunet(tmp_path / "Dataset006_Lung", part)
    for inputs in (root, root / part, f"{root}/{part}/*.nii.gz"):
        assert predict(inputs, "-o", tmp_path / "out") == 0
        assert written(tmp_path / "out") == ["lung_000.nii.gz", "lung_001.nii.gz"]
        rows = evaluate(
            tmp_path / "out", root / part.replace("images", "labels"), tmp_path / "m.csv"
        )
        assert [row["case"] for row in rows] == ["lung_000", "lung_001"]
        assert min(row["dice"] for row in rows) > 0.8
        shutil.rmtree(tmp_path / "out")


def test_version_1_of_that_layout_lists_cases_without_the_channel(tmp_path):
    root = write_nnunet(tmp_path / "Task006_Lung")
    listed = {
        "modality": {"0": "CT"},
        "training": [
            {"image": "./imagesTr/lung_000.nii.gz", "label": "./labelsTr/lung_000.nii.gz"}
        ],
        "test": ["./imagesTs/lung_000.nii.gz", "./imagesTs/lung_001.nii.gz"],
    }
    (root / "dataset.json").write_text(json.dumps(listed))
    assert [scan.name for scan in find_scans(root)] == ["lung_000", "lung_001"]


@pytest.mark.fault("nnU-Net's layout: several channels, other formats")
def test_several_channels_are_refused_with_the_true_cause(tmp_path):
    root = write_nnunet(tmp_path / "Dataset007_PetCt", channels=("CT", "PET"))
    for inputs in (root, root / "imagesTs", root / "imagesTs" / "lung_000_0000.nii.gz"):
        with pytest.raises(LungsegError, match=r"its scans have 2 channels \(CT, PET\)"):
            plan([inputs], tmp_path / "out")
    (root / "dataset.json").unlink()
    cause = "lung_000_0000 and lung_000_0001 are two channels of one scan. Give the CT alone"
    with pytest.raises(LungsegError, match=cause):
        plan([root / "imagesTs"], tmp_path / "out")


@pytest.mark.fault("nnU-Net's layout: several channels, other formats")
def test_another_format_than_nifti_is_refused_with_the_true_cause(tmp_path):
    root = write_nnunet(tmp_path / "set", file_ending=".nrrd")
    with pytest.raises(LungsegError, match="its images are '.nrrd' files. Convert them to .nii.gz"):
        find_scans(root)


def test_numbered_scans_are_no_channels(tmp_path):
    for number in range(3):
        write_scan(tmp_path / "scans" / f"scan_{number:04d}.nii.gz")
    names = [scan.name for scan in list_scans([tmp_path / "scans"])]
    assert names == ["scan_0000", "scan_0001", "scan_0002"]
    assert [scan.name for scan in list_scans([tmp_path / "scans" / "scan_0000.nii.gz"])] == names[
        :1
    ]


def test_a_decathlon_set_keeps_the_ids_of_its_cases(tmp_path):
    entries = [{"image": f"imagesTr/a_000{n}.nii.gz", "label": "x"} for n in range(2)]
    for entry in entries:
        write_scan(tmp_path / entry["image"])
        entry["label"] = entry["image"].replace("images", "labels")
        write_scan(tmp_path / entry["label"])
    content = {"training": entries, "numTraining": 2, "modality": {"0": "CT"}}
    content["labels"] = {"0": "background", "1": "cancer"}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    ids = [case.id for case in decathlon.load(tmp_path).training]
    assert [scan.name for scan in list_scans([tmp_path])] == ids == ["a_0000", "a_0001"]


def test_evaluate_pairs_nnunet_s_names_only_where_nothing_else_fits(tmp_path):
    for name in ("masks/a_0000", "masks/b_0000", "labels/a", "labels/b_0000"):
        path = tmp_path / f"{name}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        volume.write_nifti(path, ball(SHAPE, (6, 15, 16), 4).astype(np.uint8), CANONICAL)
    rows = evaluate(tmp_path / "masks", tmp_path / "labels", tmp_path / "metrics.csv")
    assert [row["case"] for row in rows] == ["a", "b_0000"]
    shutil.copy(tmp_path / "masks" / "a_0000.nii.gz", tmp_path / "masks" / "a.nii.gz")
    with pytest.raises(LungsegError, match="no label for a_0000"):
        evaluate(tmp_path / "masks", tmp_path / "labels", tmp_path / "metrics.csv")


# --- what is reported -----------------------------------------------------------------------------

FIELDS = "name source mask tumours seconds device threshold warnings version weights"
OF_A_TUMOUR = (
    "volume_ml longest_mm axial_diameter_mm short_axis_mm centre_mm centre_voxel slice confidence"
)


def test_a_row_of_the_report_has_all_fields(bright, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_scan(tmp_path / "in" / "a.nii.gz", (6, 10, 9), (5, 21, 24))
    path = write_scan(tmp_path / "in" / "b.nii.gz")
    image = nib.load(path)
    image.set_qform(image.affine @ np.diag([1, 1, 1.2, 1]), 1)
    nib.save(image, path)
    options = ["--threshold", "0.7", "--json", "report.jsonl", "--probabilities"]
    assert predict("./in", "-o", "out", *options) == 0
    one, other = map(json.loads, Path("report.jsonl").read_text().splitlines())
    assert " ".join(one) == FIELDS and " ".join(one["tumours"][0]) == OF_A_TUMOUR
    assert (one["name"], one["source"], one["mask"]) == ("a", "./in/a.nii.gz", "a.nii.gz")
    assert (one["device"], one["threshold"], one["weights"]) == ("cpu", 0.7, "bright")
    assert len(one["tumours"]) == 2 and len(other["tumours"]) == 1
    assert any("qform" in warning for warning in other["warnings"])
    assert not any("qform" in warning for warning in one["warnings"])
    assert all("no lungs" in row["warnings"][-1] for row in (one, other))
    printed = capsys.readouterr().err
    assert all(f"warning: {text}\n" in printed for row in (one, other) for text in row["warnings"])
    mask, probability = (nib.load(f"out/a{end}.nii.gz").get_fdata() for end in ("", "_probability"))
    for tumour in one["tumours"]:
        i, j, k = tumour["centre_voxel"]
        assert mask[i, j, k] == 1 and tumour["slice"] == k + 1
        near = probability[i - 5 : i + 6, j - 5 : j + 6, k - 5 : k + 6]
        assert tumour["confidence"] == pytest.approx(near.max(), abs=1e-3)


def test_the_device_is_reported_in_one_line(bright, tmp_path, capsys):
    scan = write_scan(tmp_path / "ct.nii.gz")
    assert predict(scan, "-o", tmp_path / "out", "--device", "cpu") == 0
    assert capsys.readouterr().err.count("note: running on cpu\n") == 1


def test_a_terminal_shows_a_bar_with_the_time_left(bright, tmp_path, monkeypatch, capsys):
    for name in ("a", "b"):
        write_scan(tmp_path / "in" / f"{name}.nii.gz")
    assert predict(tmp_path / "in", "-o", tmp_path / "out") == 0
    assert "segmenting" not in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    size = (-1, -1)  # of a terminal of 0 × 0, less the margin: it does not know its size
    monkeypatch.setattr("tqdm.std._screen_shape_wrapper", lambda: lambda _file: size)
    monkeypatch.setattr(Bright, "forward", lambda _, x: time.sleep(0.2) or 10 * (x + 0.5))
    assert predict(tmp_path / "in", "-o", tmp_path / "out") == 0
    printed = capsys.readouterr()
    assert re.search(r"segmenting:  50%\|.*\| 1/2 \[\d\d:\d\d<\d\d:\d\d,", printed.err)
    assert [line.split(":")[0] for line in printed.out.splitlines()] == ["a", "b"]
    warnings = [line for line in printed.err.split("\n") if "no lungs" in line]
    assert len(warnings) == 2  # each in a line of its own, above the bar
    assert all(line.split("\r")[-1].startswith("warning: ") for line in warnings)


@pytest.mark.parametrize(("threshold", "count"), [(0.5, 2), (0.97, 1), (0.2, 2)])
def test_a_threshold_replaces_one_half_and_min_peak_still_holds(
    threshold, count, tmp_path, monkeypatch
):
    monkeypatch.setattr(files, "Predictor", lambda *_: make_bright(min_peak=0.9))
    shape = (16, 40, 64)
    hu = np.full(shape, -900, np.int16)
    for w, peak_hu in ((12, 40), (32, -480), (52, -620)):  # certain, nearly, hardly
        hu[ball(shape, (8, 20, w), 6)] = peak_hu
    scan = make_scan(hu, SPACING_MM)
    volume.write_nifti(tmp_path / "ct.nii.gz", hu, scan.affine)
    (row,) = predict_files(
        [tmp_path / "ct.nii.gz"], tmp_path / "out", device="cpu", threshold=threshold
    )
    assert len(row["tumours"]) == count
    assert all(tumour["confidence"] >= max(threshold, 0.85) for tumour in row["tumours"])


@pytest.mark.parametrize("threshold", ["0", "1", "nan", "high"])
def test_a_threshold_that_is_no_probability_is_wrong_usage(threshold, capsys):
    with pytest.raises(SystemExit) as ended:
        predict("x.nii", "-o", "y.nii", "--threshold", threshold)
    assert ended.value.code == 2 and "threshold" in capsys.readouterr().err
    with pytest.raises(LungsegError, match="threshold"):
        predict_files(["x.nii"], "y.nii", threshold=threshold)


# --- sizes and places -----------------------------------------------------------------------------


def ellipsoid(shape, affine, centre_mm, radii_mm, turned=0.0) -> np.ndarray:
    """Return a mask (D, H, W): radii along x, y, z in mm, turned in the axial plane by degrees."""
    indices = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    world = indices @ affine[:3, :3].T + affine[:3, 3] - centre_mm
    cos, sin = np.cos(np.radians(turned)), np.sin(np.radians(turned))
    x, y = world[..., 0] * cos + world[..., 1] * sin, world[..., 1] * cos - world[..., 0] * sin
    radius_x, radius_y, radius_z = radii_mm
    squares = (x / radius_x) ** 2 + (y / radius_y) ** 2 + (world[..., 2] / radius_z) ** 2
    return (squares <= 1).astype(np.uint8)


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "LAI", "SAL", "PIR", "ILA"])
def test_a_tumour_is_found_again_in_the_file_however_it_is_stored(tmp_path, orientation):
    affine = CANONICAL @ np.diag([2.5, 0.9, 0.8, 1])
    affine[:3, 3] = (31, -57, 110)
    centre_mm = (affine @ [14, 33, 41, 1])[:3]
    mask = ellipsoid((30, 70, 90), affine, centre_mm, (17, 9, 13), turned=35)
    path = tmp_path / "ct.nii.gz"
    volume.write_nifti(path, np.where(mask, 40, -900).astype("i2"), affine, orientation=orientation)
    scan = volume.read(path)
    (tumour,) = measure_tumours(scan.hu > 0, scan)
    assert tumour["volume_ml"] == pytest.approx(4 / 3 * np.pi * 1.7 * 0.9 * 1.3, rel=0.03)
    assert tumour["longest_mm"] == pytest.approx(34, abs=1.5)
    assert tumour["axial_diameter_mm"] == pytest.approx(34, abs=1.5)
    assert tumour["short_axis_mm"] == pytest.approx(18, abs=1.5)
    assert tumour["centre_mm"] == pytest.approx(centre_mm, abs=0.1)
    image = nib.load(path)
    stored = tumour["centre_voxel"]
    assert all(type(index) is int for index in stored)
    assert image.get_fdata()[tuple(stored)] == 40
    assert image.affine @ [*stored, 1] == pytest.approx([*centre_mm, 1], abs=0.1)
    axial = [letter in "SI" for letter in orientation].index(True)
    assert tumour["slice"] == stored[axial] + 1


@pytest.mark.parametrize("radius_mm", [4, 9, 21])
@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (5.0, 0.7, 0.7), (2.0, 2.0, 2.0)])
def test_the_diameters_of_a_ball_are_its_own(radius_mm, spacing_mm):
    shape = tuple(int(60 / mm) for mm in spacing_mm)
    scan = make_scan(np.zeros(shape, np.int16), spacing_mm)
    centre_mm = (scan.affine @ [*(n // 2 for n in shape), 1])[:3]
    mask = ellipsoid(shape, scan.affine, centre_mm, (radius_mm,) * 3)
    (tumour,) = measure_tumours(mask, scan)
    for name in ("longest_mm", "axial_diameter_mm", "short_axis_mm"):
        assert tumour[name] == pytest.approx(2 * radius_mm, abs=1.2 * spacing_mm[2]), name
    assert tumour["short_axis_mm"] <= tumour["axial_diameter_mm"] <= tumour["longest_mm"]


@pytest.mark.parametrize("degrees", [25, 40])
def test_axial_is_the_patient_s_plane_on_an_oblique_grid_too(degrees):
    """A disc that lies in the patient's axial plane; the grid's own slices cut it aslant."""
    straight = make_scan(np.zeros((60, 60, 60), np.int16), (1.5, 1.5, 1.5))
    scan = make_oblique(straight, degrees)
    centre_mm = (scan.affine @ [30, 30, 30, 1])[:3]
    mask = ellipsoid(scan.hu.shape, scan.affine, centre_mm, (22, 14, 4))
    (tumour,) = measure_tumours(mask, scan)
    assert tumour["axial_diameter_mm"] == pytest.approx(44, abs=2)
    assert tumour["short_axis_mm"] == pytest.approx(28, abs=2)
    on_the_grid = replace(scan, affine=straight.affine)
    assert measure_tumours(mask, on_the_grid)[0]["short_axis_mm"] < 24


def test_the_short_axis_is_at_right_angles_to_the_long_one():
    """By hand: a bar of 31 × 3 voxels of 1 mm, with a stem of 3 × 10 below its middle."""
    mask = np.zeros((5, 40, 40), np.uint8)
    mask[2, 10:13, 4:35] = 1
    mask[2, 13:23, 18:21] = 1
    mask[3, 10:12, 4:35] = 1  # a smaller slice does not count
    scan = make_scan(np.zeros(mask.shape, np.int16), (1.0, 1.0, 1.0))
    (tumour,) = measure_tumours(mask, scan)
    assert tumour["axial_diameter_mm"] == pytest.approx(np.hypot(30, 2) + 1, abs=0.05)
    assert tumour["short_axis_mm"] == pytest.approx(13, abs=1.2)


@pytest.mark.parametrize("size", [1, 2])
def test_a_tumour_of_one_voxel_or_two_has_their_size(size):
    mask = np.zeros((5, 6, 7), np.uint8)
    mask[2, 3, 3 : 3 + size] = 1
    (tumour,) = measure_tumours(mask, make_scan(np.zeros(mask.shape, np.int16), (3.0, 1.0, 1.0)))
    assert (tumour["axial_diameter_mm"], tumour["short_axis_mm"]) == (size, 1)
    assert "confidence" not in tumour


# --- pictures -------------------------------------------------------------------------------------


def texts(figure) -> str:
    from matplotlib.text import Text

    return "\n".join(text.get_text() for text in figure.findobj(Text))


def test_a_preview_lies_beside_each_mask_also_where_nothing_is_marked(bright, tmp_path):
    write_scan(tmp_path / "in" / "a.nii.gz")
    write_scan(tmp_path / "in" / "b.nii", (6, 15, 16), radius=1)  # below the smallest lesion
    assert predict(tmp_path / "in", "-o", tmp_path / "out", "--preview") == 0
    assert written(tmp_path / "out") == ["a.nii.gz", "a.png", "b.nii.gz", "b.png"]
    for name in ("a", "b"):
        with Image.open(tmp_path / "out" / f"{name}.png") as picture:
            assert picture.format == "PNG" and picture.width > 900
            assert set(picture.info) <= {"dpi"}
    assert predict(tmp_path / "in" / "a.nii.gz", "-o", tmp_path / "mask.nii", "--preview") == 0
    assert (tmp_path / "mask.png").is_file()


def test_a_preview_names_every_tumour_and_the_window():
    scan = balls((6, 10, 9), (5, 21, 24))
    mask = (scan.hu > 0).astype(np.uint8)
    rows = measure_tumours(mask, scan)
    figure = preview(scan, mask)
    text = texts(figure)
    assert "scan: 2 tumours" in text and "lung window −1350 to 150 HU" in text
    for number, row in enumerate(rows, 1):
        diameters = f"{row['axial_diameter_mm']:.0f} × {row['short_axis_mm']:.0f} mm"
        assert f"tumour {number}: {row['volume_ml']:.1f} mL, axial diameters {diameters}" in text
    panels = [part.get_title().split(",")[0] for row in figure.subfigs for part in row.axes]
    assert panels == ["Axial", "Coronal", "Sagittal"] * 2
    assert "no tumour marked" in texts(preview(scan, np.zeros_like(mask)))


def test_a_preview_of_many_tumours_shows_the_largest_and_counts_the_others():
    mask = np.zeros((20, 60, 60), np.uint8)
    mask[5:8, 4:58:4, 5:8] = 1
    scan = make_scan(np.zeros(mask.shape, np.int16))
    figure = preview(scan, mask)
    assert len(figure.subfigs) == MOST_TUMOURS < 14
    assert f"14 tumours (the {MOST_TUMOURS} largest are shown)" in texts(figure)


def test_the_axial_slice_of_a_preview_is_numbered_as_the_file_is(tmp_path):
    scan = balls((3, 15, 16))
    for orientation, number in (("LPS", 4), ("LPI", 9)):
        path = tmp_path / f"{orientation}.nii.gz"
        volume.write_nifti(path, scan.hu, scan.affine, orientation=orientation)
        stored = volume.read(path)
        mask = (stored.hu > 0).astype(np.uint8)
        assert f"slice: {number} of 12" in texts(preview(stored, mask))
        assert measure_tumours(mask, stored)[0]["slice"] == number


@pytest.mark.parametrize("name", ["$x_{$", "caf\udce9", "肺\t1"])
def test_a_preview_of_a_scan_of_any_name_is_drawn_without_a_warning(name, tmp_path, recwarn):
    """No formula, though matplotlib sets what is between dollars; no UTF-8; glyphs of no font."""
    scan = replace(balls((6, 10, 9)), name=name)
    for mask in ((scan.hu > 0).astype(np.uint8), np.zeros(scan.hu.shape, np.uint8)):
        save_preview(tmp_path / "mask.png", scan, mask)
        assert printable(name) in texts(preview(scan, mask))
    assert not [str(warning.message) for warning in recwarn]


def test_a_preview_takes_no_other_file_s_place(tmp_path):
    scan = write_scan(tmp_path / "ct.nii.gz")
    with pytest.raises(LungsegError, match="ct.png: a folder, or an output of another kind"):
        plan([scan], tmp_path / "out", preview=True, report=tmp_path / "out" / "ct.png")
    assert os.listdir(tmp_path) == ["ct.nii.gz"]
