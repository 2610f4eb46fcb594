"""What is written: whole or not at all, on a full disk, in a folder that is closed, beside another process."""

import ast
import gzip
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers_cases import TINY, ball, make_prepared, make_scan
from helpers_limits import full_disk, open_files, read_only_folder
from pydicom import dcmread
from test_dicom import chest, write_series

from lungseg_utils import checkpoint, cli, course, prediction, runtime, volume
from lungseg_utils.decathlon import check, load
from lungseg_utils.evaluation import evaluate
from lungseg_utils.prediction import predict_files
from lungseg_utils.prediction.files import find_scans
from lungseg_utils.preprocess import cache
from lungseg_utils.runtime import LungsegError
from lungseg_utils.segunet import SegUNet
from lungseg_utils.training import fit

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="needs the limits and users of POSIX"
)


@pytest.fixture(scope="module")
def dataset() -> Iterator[Path]:
    """A set of three scans with a ball as their tumour, and the weights of a tiny network beside it."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # pytest's own folders are closed to other users
        yield make_dataset(Path(folder) / "Toy")


def make_dataset(root: Path) -> Path:
    names = [f"toy_{number}" for number in range(3)]
    for seed, name in enumerate(names):
        scan = make_scan(
            np.random.default_rng(seed).integers(-900, 200, (20, 22, 24)).astype(np.int16)
        )
        volume.write_nifti(root / "imagesTr" / f"{name}.nii.gz", scan.hu, scan.affine)
        volume.write_nifti(
            root / "labelsTr" / f"{name}.nii.gz",
            ball(scan.hu.shape, (10, 11, 12), 4).astype("u1"),
            scan.affine,
        )
    entries = [
        {"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz"} for name in names
    ]
    (root / "dataset.json").write_text(
        json.dumps(
            {
                "name": "Toy",
                "modality": {"0": "CT"},
                "numTraining": 3,
                "labels": {"0": "background", "1": "cancer"},
                "training": entries,
                "test": [],
            }
        )
    )
    torch.manual_seed(0)
    checkpoint.save_weights(
        root.parent / "tiny.safetensors", SegUNet(channels=(2, 4)), {"spacing_mm": 6.0}
    )
    return root


def predict(root: Path, out: Path, **options) -> list[dict]:
    return list(
        predict_files(
            [root / "imagesTr"],
            out,
            checkpoint=root.parent / "tiny.safetensors",
            device="cpu",
            **options,
        )
    )


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# --- a full disk -----------------------------------------------------------------------------------------------


def save_report(folder: Path) -> None:
    with runtime.writing(folder / "report.json") as partial:
        partial.write_text("x" * 1000)


def save_with_torch(folder: Path) -> None:
    with runtime.writing(folder / "last.pt") as partial:
        torch.save(
            {"weights": torch.zeros(9999)}, partial
        )  # which says a full disk in words of its own


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: cache.save(folder / "cache.safetensors", make_prepared()),
        save_with_torch,
        save_report,
        lambda folder: checkpoint.save_weights(
            folder / "best.safetensors", SegUNet(channels=(2, 3)), {"spacing_mm": 3.0}
        ),
        lambda folder: volume.write_mask(
            folder / "mask.nii.gz", np.ones((9, 9, 9)), make_scan(np.ones((9, 9, 9)))
        ),
        lambda folder: volume.write_mask(
            folder / "mask.nii", np.ones((9, 9, 9)), make_scan(np.ones((9, 9, 9)))
        ),
    ],
    ids=["cache", "state", "report", "weights", "mask.nii.gz", "mask.nii"],
)
@pytest.mark.parametrize("room", [0, 50, 300])
def test_fault_74_a_full_disk_is_named_and_leaves_no_stub(tmp_path, write, room):
    write(tmp_path)
    before = content(tmp_path)
    with (
        full_disk(room if room < 300 or len(next(iter(before.values()))) > 300 else 0),
        pytest.raises(
            LungsegError,
            match=r"no room to write it \([\d,]+ MB free on this disk.*free some space",
        ) as caught,
    ):
        write(tmp_path)
    assert (
        str(tmp_path) in str(caught.value) and content(tmp_path) == before
    )  # the old file is as it was


def test_fault_74_a_run_whose_disk_fills_up_goes_on_when_there_is_room(tmp_path):
    prepared = [make_prepared(seed) for seed in range(3)]

    def train(resume=True):
        return fit(
            prepared[:2], prepared[2:], run_dir=tmp_path, config=TINY, device="cpu", resume=resume
        )

    with pytest.raises(LungsegError, match="no room to write it"), full_disk(6000):
        train(resume=False)  # best.safetensors and history.csv still fit in, last.pt does not
    before = content(tmp_path)
    assert "last.pt" not in before and not any(".partial" in name for name in before)
    assert len(train()) == 4 and checkpoint.load_weights(tmp_path / "best.safetensors")


WRITES = re.compile(
    r".*\.(write_text|write_bytes|save_as|save_file|savefig|tofile|imsave)|shutil\.copy\w*|save_file|"
    r"(torch|np|nibabel)\.save\w*"
)
OPENS = re.compile(r"(.*\.)?open\(.*'(w|a|x|rb?\+|[wax]b)\+?'.*")


def test_there_is_one_atomic_writer():
    """Every write goes to the `partial` of `runtime.writing`; downloads and archives have parts and stages instead."""
    package = Path(runtime.__file__).parent
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            call = ast.unparse(node) if isinstance(node, ast.Call) else ""
            writes = call and (WRITES.fullmatch(ast.unparse(node.func)) or OPENS.fullmatch(call))
            if writes and path.parent.name != "decathlon":
                assert re.search(r"\bpartial\b|\(page,", call), (
                    f"{path.name}: {call}"
                )  # a page is in memory


# --- one scan of several -----------------------------------------------------------------------------------------


def series_of_three(folder: Path) -> list[Path]:
    """Write three DICOM series; the second lacks what a DICOM SEG needs and the reader does not."""
    for number in (1, 2, 3):
        paths = write_series(folder / f"series_{number}", chest((6, 22, 24)), series=str(number))
        for path in paths if number == 2 else []:
            one = dcmread(path)
            del one.FrameOfReferenceUID
            one.save_as(path)
    return [folder / f"series_{number}" for number in (1, 2, 3)]


def test_fault_61_a_series_that_no_dicom_seg_can_refer_to_does_not_stop_the_others(
    dataset, tmp_path, capsys
):
    tiny, report, told = dataset.parent / "tiny.safetensors", tmp_path / "report.jsonl", []
    with pytest.raises(
        LungsegError, match="series_2: its headers do not suffice.*; they lack FrameOfReferenceUID"
    ):
        told.extend(
            predict_files(
                series_of_three(tmp_path),
                tmp_path / "out",
                checkpoint=tiny,
                device="cpu",
                dicom_seg=True,
                report=report,
            )
        )
    assert {path.name for path in (tmp_path / "out").glob("*.dcm")} == {
        "series_1.dcm",
        "series_3.dcm",
    }
    assert [json.loads(line)["name"] for line in report.read_text().splitlines()] == [
        "series_1",
        "series_3",
    ]
    assert "earlier run" not in capsys.readouterr().err


def test_an_error_that_nobody_foresaw_is_that_scan_s_alone(dataset, tmp_path, monkeypatch):
    def prepare(scan, **options):
        if scan.name == "toy_1":
            raise MemoryError
        return real(scan, **options)

    real = prediction.prepare
    monkeypatch.setattr(prediction, "prepare", prepare)
    with pytest.raises(LungsegError, match="toy_1.nii.gz: not enough memory") as caught:
        predict(dataset, tmp_path)
    assert isinstance(caught.value.__cause__, MemoryError)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["toy_0.nii.gz", "toy_2.nii.gz"]


def test_no_segmentation_is_written_among_the_slices_of_a_scan(dataset, tmp_path):
    series = series_of_three(tmp_path)[0]
    before = content(series)
    for output in (
        series,
        series / "1-00.nii.gz",
        series / "below" / "a.nii.gz",
        series.parent / "series_2",
    ):
        with pytest.raises(LungsegError, match="it would lie among the slices of a scan"):
            list(
                predict_files(
                    [series, *[tmp_path / "series_2"] * (output.suffix == "")],
                    output,
                    checkpoint=dataset.parent / "tiny.safetensors",
                    device="cpu",
                    dicom_seg=True,
                )
            )
    assert content(series) == before


def test_probabilities_are_named_by_their_mask_and_no_prediction_to_evaluate(dataset, tmp_path):
    for number in (0, 1):
        list(
            predict_files(
                [dataset / "imagesTr" / "toy_0.nii.gz"],
                tmp_path / f"toy_{number}.nii.gz",
                device="cpu",
                checkpoint=dataset.parent / "tiny.safetensors",
                probabilities=True,
            )
        )
    assert len(list(tmp_path.glob("toy_?_probability.nii.gz"))) == 2
    (tmp_path / "truth").mkdir()
    for number in (0, 1):
        (tmp_path / "truth" / f"toy_{number}.nii.gz").write_bytes(
            (tmp_path / f"toy_{number}.nii.gz").read_bytes()
        )
    rows = evaluate(tmp_path, tmp_path / "truth", tmp_path / "metrics.csv")
    assert [row["case"] for row in rows] == ["toy_0", "toy_1"]


def test_a_report_or_a_table_takes_no_scan_s_place(dataset, tmp_path):
    scan, mask = dataset / "imagesTr" / "toy_0.nii.gz", tmp_path / "mask.nii.gz"
    before = content(dataset)
    for report in (scan, mask, tmp_path):
        with pytest.raises(LungsegError, match="another output|another file for the report"):
            list(
                predict_files(
                    [scan], mask, checkpoint=dataset.parent / "tiny.safetensors", report=report
                )
            )
    for table in (dataset / "labelsTr" / "toy_1.nii.gz", tmp_path / "summary.json", tmp_path):
        with pytest.raises(LungsegError, match="is no name for the table"):
            evaluate(dataset / "labelsTr", dataset / "labelsTr", table)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(LungsegError, match="pipe: a folder or device, no file"):
        evaluate(dataset / "labelsTr", dataset / "labelsTr", tmp_path / "pipe")
    assert content(dataset) == before and (tmp_path / "pipe").is_fifo() and not mask.exists()


def test_fault_58_a_folder_of_slices_and_of_nifti_files_is_ambiguous(dataset, tmp_path):
    series = series_of_three(tmp_path)[0]
    (series / "label.nii.gz").write_bytes((dataset / "labelsTr" / "toy_0.nii.gz").read_bytes())
    with pytest.raises(
        LungsegError, match=r"holds DICOM slices and NIfTI files too \(label.nii.gz\)"
    ):
        find_scans(series)
    for path in sorted(series.glob("*.dcm"))[
        1:
    ]:  # what is left may be the segmentation beside a mask
        path.unlink()
    assert find_scans(series) == [series / "label.nii.gz"]


def test_a_segmentation_of_a_nifti_file_is_refused_before_the_work(dataset, tmp_path):
    with pytest.raises(LungsegError, match="toy_0.nii.gz: not a DICOM series"):
        predict(dataset, tmp_path / "out", dicom_seg=True)
    assert not (tmp_path / "out").exists()


def test_fault_12_a_link_to_itself_stops_no_other_scan(dataset, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "loop.nii.gz").symlink_to(tmp_path / "in" / "loop.nii.gz")
    (tmp_path / "in" / "toy.nii.gz").symlink_to(dataset / "imagesTr" / "toy_0.nii.gz")
    with pytest.raises(LungsegError, match="loop.nii.gz: "):
        list(
            predict_files(
                [tmp_path / "in"], tmp_path / "out", checkpoint=dataset.parent / "tiny.safetensors"
            )
        )
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["toy.nii.gz"]


# --- a folder that cannot be written ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "{scan}", "-o", "{out}/mask.nii.gz"],
        ["predict", "{scan}", "-o", "{out}/new/folder"],
        ["train", "{set}", "--run-dir", "{out}/run"],
        ["preprocess", "{set}"],
        ["phantom", "{out}/set", "--cases", "2"],
        ["evaluate", "{labels}", "{labels}", "-o", "{out}/metrics.csv"],
        ["course", "-o", "{out}/course"],
        ["download", "{out}", "--url", "http://127.0.0.1:9/a.tar", "--md5", "0" * 32],
    ],
    ids=lambda words: words[0],
)
def test_fault_75_a_closed_folder_is_said_before_the_work(dataset, arguments, monkeypatch, capsys):
    def work(*_, **__):
        raise AssertionError("the work has begun")

    for module, name in ((volume, "read"), (volume, "read_label"), (course, "_run_notebook")):
        monkeypatch.setattr(module, name, work)
    with read_only_folder() as out:
        monkeypatch.setenv("LUNGSEG_HOME", str(out / "home"))
        paths = {
            "out": out,
            "set": dataset,
            "scan": dataset / "imagesTr" / "toy_0.nii.gz",
            "labels": dataset / "labelsTr",
        }
        assert cli.main([word.format(**paths) for word in arguments]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"error: {out}") and said.endswith("permissions.") and "denied" in said


def test_fault_75_a_report_that_cannot_be_written_is_said_before_the_work(
    dataset, tmp_path, monkeypatch
):
    monkeypatch.setattr(volume, "read", lambda *_, **__: 1 / 0)
    (tmp_path / "file").touch()
    with pytest.raises(LungsegError, match=f"{tmp_path}/file"):
        predict(dataset, tmp_path / "out", report=tmp_path / "file" / "report.jsonl")


def test_a_probe_leaves_nothing_behind(tmp_path):
    assert runtime.require_writable(tmp_path / "new") == tmp_path / "new" and not list(
        (tmp_path / "new").iterdir()
    )


# --- earlier runs -------------------------------------------------------------------------------------------------


def test_fault_78_a_mask_of_an_earlier_run_is_not_reported_as_one_of_this(tmp_path, capsys):
    root = make_dataset(tmp_path / "Toy")
    predict(root, tmp_path / "out", report=tmp_path / "report.jsonl")
    before = content(tmp_path / "out")
    (root / "imagesTr" / "toy_1.nii.gz").write_bytes(b"")
    rows = []
    with pytest.raises(LungsegError, match="toy_1.nii.gz: empty"):
        for row in predict_files(
            [root / "imagesTr"],
            tmp_path / "out",
            checkpoint=tmp_path / "tiny.safetensors",
            device="cpu",
            report=tmp_path / "report.jsonl",
        ):
            rows.append(row["name"])
    told = [
        json.loads(line)["name"] for line in (tmp_path / "report.jsonl").read_text().splitlines()
    ]
    assert rows == told == ["toy_0", "toy_2"] and content(tmp_path / "out") == before
    assert (
        "toy_1.nii.gz: is left from an earlier run; this one made none" in capsys.readouterr().err
    )


def test_fault_74_a_mask_that_cannot_be_written_costs_no_other_scan_its_own(tmp_path, monkeypatch):
    root = make_dataset(tmp_path / "Toy")
    write_mask = volume.write_mask

    def fail_for_the_first(path, mask, like):
        if path.name == "toy_0.nii.gz":
            raise LungsegError(path, "cannot be written", "free some space")
        write_mask(path, mask, like)

    monkeypatch.setattr(volume, "write_mask", fail_for_the_first)
    with pytest.raises(LungsegError, match="toy_0.nii.gz: cannot be written"):
        predict(root, tmp_path / "out", report=tmp_path / "report.jsonl")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "toy_1.nii.gz",
        "toy_2.nii.gz",
    ]
    told = [
        json.loads(line)["name"] for line in (tmp_path / "report.jsonl").read_text().splitlines()
    ]
    assert told == ["toy_1", "toy_2"]


def test_fault_78_numbers_of_an_earlier_evaluation_are_replaced_whole(tmp_path):
    root = make_dataset(tmp_path / "Toy")
    evaluate(root / "labelsTr", root / "labelsTr", tmp_path / "metrics.csv")
    for folder in ("labelsTr", "masks"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.nii.gz").write_bytes(
            (root / "labelsTr" / "toy_0.nii.gz").read_bytes()
        )
    evaluate(tmp_path / "masks", tmp_path / "labelsTr", tmp_path / "metrics.csv")
    assert [line.split(",")[0] for line in (tmp_path / "metrics.csv").read_text().splitlines()] == [
        "case",
        "a",
    ]
    assert json.loads((tmp_path / "summary.json").read_text())["cases"] == 1


# --- few open files ----------------------------------------------------------------------------------------------


def test_fault_88_few_open_files_are_enough_for_a_check_and_none_are_said(dataset):
    check(dataset)  # what is imported late is imported now
    with open_files(3):
        assert check(dataset).faults == []
    with open_files(0):
        faults = check(dataset).faults
    assert faults and all("too many open files" in fault.cause for fault in faults)


def test_fault_88_the_cache_of_a_set_takes_one_open_file_a_case_and_too_few_are_said(
    dataset, tmp_path, capsys
):
    cases = load(dataset).training
    cache.prepare_cases(cases, folder=tmp_path)
    capsys.readouterr()
    with open_files(9 * len(cases) + 6):
        assert len(cache.prepare_cases(cases * 9, folder=tmp_path, workers=1)) == 27
    with (
        open_files(12),
        pytest.raises(LungsegError, match="too many open files. allow more open files: ulimit -n"),
    ):
        cache.prepare_cases(cases * 9, folder=tmp_path, workers=1)
    assert (
        "damaged" not in capsys.readouterr().err
        and len(cache.prepare_cases(cases, folder=tmp_path)) == 3
    )


# --- the patient ---------------------------------------------------------------------------------------------------

SECRETS = (
    "DoeJane",
    "ID-4711",
    "19500101",
    "20200101",
    "Thorax kernel",
)  # as `write_series` puts them into headers


def test_fault_13_nothing_of_the_patient_reaches_masks_reports_or_messages(
    tmp_path, dataset, capsys
):
    """Through the whole of `predict` and `check`, of a DICOM series and a NIfTI file with a patient in the header."""
    write_series(tmp_path / "series", chest((6, 20, 20)))
    image = nib.load(dataset / "imagesTr" / "toy_0.nii.gz")
    for field, content in (
        ("descrip", b"DoeJane ID-4711"),
        ("db_name", b"19500101"),
        ("aux_file", b"DoeJane"),
    ):
        image.header[field] = content
    image.header.extensions.append(
        nib.nifti1.Nifti1Extension("dicom", b"DoeJane 20200101 Thorax kernel")
    )
    root = make_dataset(tmp_path / "Toy")
    nib.save(image, root / "imagesTr" / "toy_0.nii.gz")
    weights = str(dataset.parent / "tiny.safetensors")
    for number, source in enumerate((tmp_path / "series", root / "imagesTr" / "toy_0.nii.gz")):
        assert (
            cli.main(
                [
                    "predict",
                    str(source),
                    "-o",
                    str(tmp_path / "out" / str(number)),
                    "--checkpoint",
                    weights,
                    "--probabilities",
                    "--json",
                    str(tmp_path / "out" / f"{number}.jsonl"),
                ]
            )
            == 0
        )
    assert cli.main(["check", str(root), "--json"]) == 0
    said = "".join(capsys.readouterr())
    written = [path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    written = [gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data for data in written]
    assert len(written) == 6 and "toy_0" in said
    for secret in SECRETS:
        assert secret not in said and not any(secret.encode() in data for data in written), secret
    assert not any(str(tmp_path).encode() in data for data in written)
