"""What is written: whole or not at all, on a full disk, in a closed folder, with few open files."""

import ast
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_cases import TINY, make_prepared, make_scan
from helpers_limits import full_disk, open_files, read_only_folder
from helpers_outputs import content, make_dataset, predict

from lungseg_utils import checkpoint, cli, course, runtime, volume
from lungseg_utils.decathlon import check, load
from lungseg_utils.preprocess import cache
from lungseg_utils.runtime import LungsegError
from lungseg_utils.segunet import SegUNet
from lungseg_utils.training import fit

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="needs the limits and users of POSIX"
)


@pytest.fixture(scope="module")
def dataset() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # pytest's own folders are closed to other users
        yield make_dataset(Path(folder) / "Toy")


# --- a full disk ----------------------------------------------------------------------------------


def save_report(folder: Path) -> None:
    with runtime.writing(folder / "report.json") as partial:
        partial.write_text("x" * 1000)


def save_with_torch(folder: Path) -> None:
    with runtime.writing(folder / "last.pt") as partial:
        # its error on a full disk names neither the file nor the disk
        torch.save({"weights": torch.zeros(9999)}, partial)


def save_weights(folder: Path) -> None:
    network = SegUNet(channels=(2, 3))
    checkpoint.save_weights(folder / "best.safetensors", network, {"spacing_mm": 3.0})


def save_mask(folder: Path, name: str) -> None:
    mask = np.ones((9, 9, 9))
    volume.write_mask(folder / name, mask, make_scan(mask))


@pytest.mark.fault("full disk")
@pytest.mark.parametrize(
    "write",
    [
        lambda folder: cache.save(folder / "cache.safetensors", make_prepared()),
        save_with_torch,
        save_report,
        save_weights,
        lambda folder: save_mask(folder, "mask.nii.gz"),
        lambda folder: save_mask(folder, "mask.nii"),
    ],
    ids=["cache", "state", "report", "weights", "mask.nii.gz", "mask.nii"],
)
@pytest.mark.parametrize("room", [0, 50, 300])
def test_a_full_disk_is_named_and_leaves_no_stub(tmp_path, write, room):
    write(tmp_path)
    before = content(tmp_path)
    size = len(next(iter(before.values())))
    message = r"no room to write it \([\d,]+ MB free on this disk.*Free some space"
    with (
        full_disk(room if room < size else 0),
        pytest.raises(LungsegError, match=message) as caught,
    ):
        write(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert content(tmp_path) == before  # the old file is as it was


@pytest.mark.fault("full disk")
def test_a_run_whose_disk_fills_up_goes_on_when_there_is_room(tmp_path):
    prepared = [make_prepared(seed) for seed in range(3)]

    def train(resume=True):
        return fit(
            prepared[:2], prepared[2:], run_dir=tmp_path, config=TINY, device="cpu", resume=resume
        )

    with pytest.raises(LungsegError, match="no room to write it"), full_disk(6000):
        train(resume=False)  # best.safetensors and history.csv still fit in, history.png does not
    before = content(tmp_path)
    assert "last.pt" not in before and not any(".partial" in name for name in before)
    assert len(train()) == 4 and checkpoint.load_weights(tmp_path / "best.safetensors")


WRITES = re.compile(
    r".*\.(write_text|write_bytes|save_as|save_file|savefig|tofile|imsave)"
    r"|shutil\.copy\w*|save_file|(torch|np|nibabel)\.save\w*"
)
OPENS = re.compile(r"(.*\.)?open\(.*'(w|a|x|rb?\+|[wax]b)\+?'.*")


def test_there_is_one_atomic_writer():
    """Every write goes to the `partial` of `runtime.writing`, or to a page in memory.

    Downloads and archives have parts and stages instead.
    """
    package = Path(runtime.__file__).parent
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            call = ast.unparse(node) if isinstance(node, ast.Call) else ""
            writes = call and (WRITES.fullmatch(ast.unparse(node.func)) or OPENS.fullmatch(call))
            if writes and path.parent.name != "decathlon":
                assert re.search(r"\bpartial\b|\(page,", call), f"{path.name}: {call}"


# --- a folder that cannot be written --------------------------------------------------------------


@pytest.mark.fault("folder that cannot be written")
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
def test_a_closed_folder_is_reported_before_the_work(dataset, arguments, monkeypatch, capsys):
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
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith(f"error: {out}") and message.endswith("permissions.")
    assert "denied" in message


@pytest.mark.fault("folder that cannot be written")
def test_an_unwritable_report_is_reported_before_the_work(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(volume, "read", lambda *_, **__: 1 / 0)
    (tmp_path / "file").touch()
    with pytest.raises(LungsegError, match=f"{tmp_path}/file"):
        predict(dataset, tmp_path / "out", report=tmp_path / "file" / "report.jsonl")


@pytest.mark.fault("folder that cannot be written")
def test_a_probe_leaves_nothing_behind(tmp_path):
    assert runtime.require_writable(tmp_path / "new") == tmp_path / "new"
    assert not list((tmp_path / "new").iterdir())


# --- few open files -------------------------------------------------------------------------------


@pytest.mark.fault("dead worker process, few open files")
def test_few_open_files_are_enough_for_a_check_and_none_are_reported(dataset):
    check(dataset)  # what is imported late is imported now
    with open_files(3):
        assert check(dataset).faults == []
    with open_files(0):
        faults = check(dataset).faults
    assert faults and all("too many open files" in fault.cause for fault in faults)


@pytest.mark.fault("dead worker process, few open files")
def test_a_cache_takes_one_open_file_a_case_and_too_few_are_reported(dataset, tmp_path, capsys):
    cases = load(dataset).training
    cache.prepare_cases(cases, folder=tmp_path)
    capsys.readouterr()
    with open_files(9 * len(cases) + 6):
        assert len(cache.prepare_cases(cases * 9, folder=tmp_path, workers=1)) == 27
    message = "too many open files. Allow more open files: ulimit -n"
    with open_files(12), pytest.raises(LungsegError, match=message):
        cache.prepare_cases(cases * 9, folder=tmp_path, workers=1)
    assert "damaged" not in capsys.readouterr().err
    assert len(cache.prepare_cases(cases, folder=tmp_path)) == 3
