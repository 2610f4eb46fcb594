"""One scan's failure is its own, and nothing of an earlier run or of a patient is passed on."""

import gzip
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import pytest
from helpers_outputs import content, make_dataset, predict
from pydicom import dcmread
from test_dicom import chest, write_series
from test_dicom_kinds import bare

from lungseg_utils import cli, volume
from lungseg_utils.evaluation import evaluate
from lungseg_utils.prediction import predict_files, predictor
from lungseg_utils.prediction.inputs import find_scans
from lungseg_utils.runtime import LungsegError

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="needs the limits and users of POSIX"
)


@pytest.fixture(scope="module")
def dataset() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # pytest's own folders are closed to other users
        yield make_dataset(Path(folder) / "Toy")


# --- one scan of several --------------------------------------------------------------------------


def series_of_three(folder: Path) -> list[Path]:
    """Write three DICOM series; the second lacks what a DICOM SEG needs and the reader does not."""
    for number in (1, 2, 3):
        paths = write_series(folder / f"series_{number}", chest((6, 22, 24)), series=str(number))
        for path in paths if number == 2 else []:
            one = dcmread(path)
            del one.FrameOfReferenceUID
            one.save_as(path)
    return [folder / f"series_{number}" for number in (1, 2, 3)]


def masks_in(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in content(folder).items() if name.endswith(".nii.gz")}


def names_in(report: Path) -> list[str]:
    return [json.loads(line)["name"] for line in report.read_text().splitlines()]


@pytest.mark.fault("DICOM: no codec, broken or deflated data")
def test_a_series_that_no_dicom_seg_can_refer_to_does_not_stop_the_others(
    dataset, tmp_path, capsys
):
    series, out, report = series_of_three(tmp_path), tmp_path / "out", tmp_path / "report.jsonl"
    message = "series_2.*: its header does not suffice .*: it lacks FrameOfReferenceUID"
    with pytest.raises(LungsegError, match=message):
        predict(dataset, out, series, dicom_seg=True, report=report)
    assert sorted(path.name for path in out.glob("*.dcm")) == ["series_1.dcm", "series_3.dcm"]
    assert names_in(report) == ["series_1", "series_3"]
    assert "earlier run" not in capsys.readouterr().err


def test_a_name_too_long_for_a_mask_fails_its_own_scan_alone(dataset, tmp_path):
    scan = dataset / "imagesTr" / "toy_0.nii.gz"
    for patient in ("p" * 250, "q", "r"):
        (tmp_path / "in" / patient).mkdir(parents=True)
        shutil.copy(scan, tmp_path / "in" / patient / "ct.nii.gz")
    with pytest.raises(LungsegError) as failure:
        predict(dataset, tmp_path / "out", [tmp_path / "in"])
    assert failure.value.subject.endswith("p.nii.gz") and " of 3 scans" not in str(failure.value)
    assert sorted(masks_in(tmp_path / "out")) == ["q.nii.gz", "r.nii.gz"]


@pytest.mark.parametrize("name", ["pipe.nii.gz", "pipe.zip"])
def test_a_named_pipe_is_refused_and_not_waited_for(name, dataset, tmp_path, lungseg):
    """In a process of its own, which a timeout ends where it waits for a writer."""
    os.mkfifo(tmp_path / name)
    weights = ["--checkpoint", dataset.parent / "tiny.safetensors", "--device", "cpu"]
    run = lungseg("predict", tmp_path / name, "-o", tmp_path / "out", *weights)
    assert run.returncode == 1 and f"error: {tmp_path / name}: " in run.stderr
    assert "Traceback" not in run.stderr


def test_an_error_that_nobody_foresaw_is_that_scan_s_alone(dataset, tmp_path, monkeypatch):
    def prepare(scan, **options):
        if scan.name == "toy_1":
            raise MemoryError
        return real(scan, **options)

    real = predictor.prepare
    monkeypatch.setattr(predictor, "prepare", prepare)
    with pytest.raises(LungsegError, match="toy_1.nii.gz: not enough memory") as caught:
        predict(dataset, tmp_path)
    assert isinstance(caught.value.__cause__, MemoryError)
    assert [path.name for path in sorted(tmp_path.glob("*.gz"))] == ["toy_0.nii.gz", "toy_2.nii.gz"]


def test_no_segmentation_is_written_among_the_slices_of_a_scan(dataset, tmp_path):
    series, second, _ = series_of_three(tmp_path)
    before = content(series)
    for inputs, output in (
        ([series, second], series),
        ([series, second], second),
        ([series], series / "1-00.nii.gz"),
        ([series], series / "below" / "a.nii.gz"),
    ):
        with pytest.raises(LungsegError, match="it would lie among the slices of a scan"):
            predict(dataset, output, inputs, dicom_seg=True)
    assert content(series) == before


def test_a_report_takes_the_place_of_no_slice_and_of_no_dataset_json(dataset, tmp_path):
    """Slices need no ending; a report of its own ending may lie among them, a second time too."""
    series = series_of_three(tmp_path)[0]
    for path in series.glob("*.dcm"):
        path.rename(path.with_suffix(""))
    before = content(series) | content(dataset)
    for inputs, report, cause in (
        ([series], next(series.iterdir()), "among the slices of a scan"),
        ([dataset], dataset / "dataset.json", "the description of a dataset has this name"),
    ):
        with pytest.raises(LungsegError, match=cause):
            predict(dataset, tmp_path / "out", inputs, report=report)
    assert content(series) | content(dataset) == before
    for _ in range(2):
        predict(dataset, tmp_path / "out", [series], report=series / "report.json")
    assert names_in(series / "report.json") == [series.name]


def test_no_mask_lies_among_the_scans_or_labels_of_a_dataset(dataset, tmp_path):
    """They may fill a folder that holds none, such as labelsTs, and be made again there."""
    before = content(dataset)
    scan = dataset / "imagesTr" / "toy_0.nii.gz"
    (tmp_path / "link").symlink_to(dataset / "labelsTr")
    for output in (
        dataset / "labelsTr",
        dataset / "labelsTr" / "new.nii.gz",
        dataset / "imagesTr" / "new.nii.gz",
        tmp_path / "link",
    ):
        with pytest.raises(LungsegError, match="among the scans or labels of a dataset"):
            predict(dataset, output, [scan])
    assert content(dataset) == before
    own = shutil.copytree(dataset, tmp_path / "own")
    for output in ("labelsTs", "labelsTs", "masks"):
        predict(dataset, own / output, [scan])
        assert (own / output / "toy_0.nii.gz").is_file()


def test_probabilities_are_named_by_their_mask_and_no_prediction_to_evaluate(dataset, tmp_path):
    (tmp_path / "truth").mkdir()
    for name in ("toy_0.nii.gz", "toy_1.nii.gz"):
        predict(dataset, tmp_path / name, [dataset / "imagesTr" / name], probabilities=True)
        shutil.copy(tmp_path / name, tmp_path / "truth" / name)
    assert len(list(tmp_path.glob("toy_?_probability.nii.gz"))) == 2
    rows = evaluate(tmp_path, tmp_path / "truth", tmp_path / "metrics.csv")
    assert [row["case"] for row in rows] == ["toy_0", "toy_1"]


def test_a_report_or_a_table_takes_no_scan_s_place(dataset, tmp_path):
    scan, mask = dataset / "imagesTr" / "toy_0.nii.gz", tmp_path / "mask.nii.gz"
    before = content(dataset)
    for report in (scan, mask, tmp_path):
        with pytest.raises(LungsegError, match="another output|another file for the report"):
            predict(dataset, mask, [scan], report=report)
    for table in (dataset / "labelsTr" / "toy_1.nii.gz", tmp_path / "summary.json", tmp_path):
        with pytest.raises(LungsegError, match="not a name for the table"):
            evaluate(dataset / "labelsTr", dataset / "labelsTr", table)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(LungsegError, match="pipe: a folder or device, no file"):
        evaluate(dataset / "labelsTr", dataset / "labelsTr", tmp_path / "pipe")
    assert content(dataset) == before and (tmp_path / "pipe").is_fifo() and not mask.exists()


@pytest.mark.fault("DICOM: shuffled names, junk")
@pytest.mark.parametrize("has_preamble", [True, False])
def test_a_folder_of_slices_and_of_nifti_files_is_ambiguous(dataset, tmp_path, has_preamble):
    series = series_of_three(tmp_path)[0]
    for path in [] if has_preamble else series.glob("*.dcm"):
        path.write_bytes(bare(path))
    shutil.copy(dataset / "labelsTr" / "toy_0.nii.gz", series / "label.nii.gz")
    message = r"holds DICOM slices and NIfTI files too \(label.nii.gz\)"
    with pytest.raises(LungsegError, match=message):
        find_scans(series)
    _one, *others = series.glob("*.dcm")  # one may be the segmentation beside a mask
    for path in others:
        path.unlink()
    assert [scan.path for scan in find_scans(series)] == [series / "label.nii.gz"]


def test_a_segmentation_of_a_nifti_file_is_refused_before_the_work(dataset, tmp_path):
    with pytest.raises(LungsegError, match="toy_0.nii.gz: not a DICOM series"):
        predict(dataset, tmp_path / "out", dicom_seg=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.fault("links: sound, dangling, in a circle")
def test_a_link_to_itself_stops_no_other_scan(dataset, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "loop.nii.gz").symlink_to(folder / "loop.nii.gz")
    (folder / "toy.nii.gz").symlink_to(dataset / "imagesTr" / "toy_0.nii.gz")
    with pytest.raises(LungsegError, match="loop.nii.gz: "):
        predict(dataset, tmp_path / "out", [folder])
    assert [path.name for path in (tmp_path / "out").glob("*.gz")] == ["toy.nii.gz"]


# --- earlier runs ---------------------------------------------------------------------------------


@pytest.mark.fault("stale results")
def test_a_mask_of_an_earlier_run_is_not_reported_as_one_of_this(tmp_path, capsys):
    root, out = make_dataset(tmp_path / "Toy"), tmp_path / "out"
    options = {"device": "cpu", "report": tmp_path / "report.jsonl"}
    predict(root, out)
    before = masks_in(out)
    (root / "imagesTr" / "toy_1.nii.gz").write_bytes(b"")
    weights = tmp_path / "tiny.safetensors"
    rows = predict_files([root / "imagesTr"], out, checkpoint=weights, **options)
    assert [next(rows)["name"], next(rows)["name"]] == ["toy_0", "toy_2"]
    with pytest.raises(LungsegError, match="toy_1.nii.gz: empty"):
        next(rows)
    assert names_in(options["report"]) == ["toy_0", "toy_2"] and masks_in(out) == before
    warning = "toy_1.nii.gz: is left from an earlier run; this one made none"
    assert warning in capsys.readouterr().err


@pytest.mark.fault("full disk")
def test_a_mask_that_cannot_be_written_costs_no_other_scan_its_own(tmp_path, monkeypatch):
    root = make_dataset(tmp_path / "Toy")
    write_mask = volume.write_mask

    def fail_for_the_first(path, mask, like):
        if path.name == "toy_0.nii.gz":
            raise LungsegError(path, "cannot be written", "Free some space")
        write_mask(path, mask, like)

    monkeypatch.setattr(volume, "write_mask", fail_for_the_first)
    with pytest.raises(LungsegError, match="toy_0.nii.gz: cannot be written"):
        predict(root, tmp_path / "out", report=tmp_path / "report.jsonl")
    written = sorted(masks_in(tmp_path / "out"))
    assert written == ["toy_1.nii.gz", "toy_2.nii.gz"]
    assert names_in(tmp_path / "report.jsonl") == ["toy_1", "toy_2"]


@pytest.mark.fault("stale results")
def test_numbers_of_an_earlier_evaluation_are_replaced_whole(tmp_path):
    root = make_dataset(tmp_path / "Toy")
    evaluate(root / "labelsTr", root / "labelsTr", tmp_path / "metrics.csv")
    for folder in ("labelsTr", "masks"):
        (tmp_path / folder).mkdir()
        shutil.copy(root / "labelsTr" / "toy_0.nii.gz", tmp_path / folder / "a.nii.gz")
    evaluate(tmp_path / "masks", tmp_path / "labelsTr", tmp_path / "metrics.csv")
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["case", "a"]
    assert json.loads((tmp_path / "summary.json").read_text())["cases"] == 1


# --- the patient ----------------------------------------------------------------------------------

# as `write_series` puts them into headers
SECRETS = ("DoeJane", "ID-4711", "19500101", "20200101", "Thorax kernel")


@pytest.mark.fault("the patient's data in a header or extension")
def test_nothing_of_the_patient_reaches_masks_reports_or_messages(tmp_path, dataset, capsys):
    """Through all of `predict` and `check`: a series and a NIfTI file with a patient in them."""
    write_series(tmp_path / "series", chest((6, 20, 20)))
    image = nib.load(dataset / "imagesTr" / "toy_0.nii.gz")
    image.header["descrip"] = b"DoeJane ID-4711"
    image.header["db_name"] = b"19500101"
    image.header["aux_file"] = b"DoeJane"
    extension = nib.nifti1.Nifti1Extension("dicom", b"DoeJane 20200101 Thorax kernel")
    image.header.extensions.append(extension)
    root, out = make_dataset(tmp_path / "Toy"), tmp_path / "out"
    nib.save(image, root / "imagesTr" / "toy_0.nii.gz")
    weights = dataset.parent / "tiny.safetensors"
    for number, source in enumerate((tmp_path / "series", root / "imagesTr" / "toy_0.nii.gz")):
        files = f"{source} -o {out / str(number)} --json {out / f'{number}.jsonl'}"
        options = f"--checkpoint {weights} --probabilities"
        assert cli.main(["predict", *files.split(), *options.split()]) == 0
    assert cli.main(["check", str(root), "--json"]) == 0
    printed = "".join(capsys.readouterr())
    reports = [path.read_bytes() for path in out.rglob("*.jsonl")]  # and manifests
    images = [path.read_bytes() for path in out.rglob("*.gz")]
    images = [gzip.decompress(data) for data in images]
    assert (len(images), len(reports)) == (4, 6) and "toy_0" in printed
    for secret in SECRETS:
        assert secret not in printed, secret
        assert not any(secret.encode() in data for data in images + reports), secret
    assert not any(str(tmp_path).encode() in data for data in images)
