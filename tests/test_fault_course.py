"""The course under bad parameters, in odd places and orders; nothing of a machine committed."""

import json
import re
import subprocess
import sys

import numpy as np
import papermill
import pytest
from conftest import ROOT
from helpers_cases import ball, make_scan
from helpers_limits import read_only_folder

from lungseg_utils import course, decathlon, parameters, runtime, volume
from lungseg_utils.runtime import LungsegError

WRONG = {
    "epochs": -1,
    "learning_rate": "fast",
    "patch_size": [0, 64, 64],
    "overlap": 1.0,
    "threshold": 7,
    "device": "tpu",
    "workers": -3,
}
TINY = {
    "spacing_mm": 8.0,
    "patch_size": [8, 8, 8],
    "channels": [2, 4],
    "epochs": 1,
    "steps_per_epoch": 1,
}


@pytest.mark.fault("values of parameters")
@pytest.mark.fault("unknown parameters")
def test_a_notebook_refuses_wrong_parameters_in_its_first_cell(tmp_path):
    """All at once, through papermill, which takes any value and only logs an unknown name."""
    notebook = next((ROOT / "notebooks").glob("04_*.ipynb"))
    with pytest.raises(papermill.PapermillExecutionError, match="LungsegError") as caught:
        papermill.execute_notebook(
            str(notebook),
            str(tmp_path / "out.ipynb"),
            WRONG | {"epoch": 5},
            kernel_name="python3",
            progress_bar=False,
            cwd=str(tmp_path),
        )
    assert caught.value.exec_count <= 4  # Colab's, parameters, papermill's own, validation
    assert "unknown parameter epoch; did you mean epochs?" in caught.value.evalue
    for name, value in WRONG.items():
        assert f"{name} = {value!r}" in caught.value.evalue


@pytest.mark.fault("values of parameters")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *WRONG.items(),
        ("epochs", 0),
        ("epochs", "fifty"),
        ("epochs", 1e9),
        ("epochs", float("nan")),
        ("patch_size", [60, 64, 64]),
    ],
)
def test_name_value_and_range_are_said(name, value):
    with pytest.raises(LungsegError) as caught:
        parameters.check({name: value})
    assert f"{name} = {value!r}" in str(caught.value)
    assert str(parameters.PARAMETERS[name]) in str(caught.value)


@pytest.mark.fault("working directory, blanks, read-only clone")
def test_paths_do_not_depend_on_the_working_directory(tmp_path, monkeypatch):
    home = tmp_path / "a home with blanks"
    elsewhere = tmp_path / "else where"
    monkeypatch.setenv("LUNGSEG_HOME", str(home))
    seen = set()
    for folder in (home, elsewhere):
        folder.mkdir()
        monkeypatch.chdir(folder)
        quick = runtime.resolve("", "runs/quick")
        seen.add((quick, runtime.resolve("my run", "runs/quick"), runtime.home()))
    assert seen == {(home / "runs" / "quick", home / "my run", home)}


@pytest.mark.fault("working directory, blanks, read-only clone")
@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX permissions")
def test_a_clone_that_cannot_be_written_leaves_its_results_where_one_works(tmp_path, monkeypatch):
    monkeypatch.delenv("LUNGSEG_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    assert runtime.home() == runtime.ROOT
    with read_only_folder() as clone:
        monkeypatch.setattr(runtime, "ROOT", clone)
        # os.access asks for the real user
        monkeypatch.setattr(runtime.os, "access", lambda path, how: path != clone)
        assert runtime.resolve("", "runs/quick") == tmp_path / "runs" / "quick"


@pytest.mark.fault("notebooks out of order and again")
def test_a_later_notebook_makes_what_an_earlier_one_would_have_left_once(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("LUNGSEG_HOME", str(tmp_path))
    for seed in range(2):
        noise = np.random.default_rng(seed).integers(-900, 200, (20, 22, 24))
        scan = make_scan(noise.astype(np.int16))
        label = ball(scan.hu.shape, (10, 11, 12), 4).astype("u1")
        for folder, array in (("imagesTr", scan.hu), ("labelsTr", label)):
            path = tmp_path / "set" / folder / f"toy_{seed}.nii.gz"
            volume.write_nifti(path, array, scan.affine)
    content = {
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "cancer"},
        "numTraining": 2,
        "training": [
            {"image": f"imagesTr/toy_{n}.nii.gz", "label": f"labelsTr/toy_{n}.nii.gz"}
            for n in range(2)
        ],
    }
    (tmp_path / "set" / "dataset.json").write_text(json.dumps(content))
    dataset = course.ensure_dataset("set")  # 05 before 02, 03 and 04: no cache, no model
    best = course.ensure_model("", dataset, TINY)
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert course.ensure_model("", dataset, TINY) == best
    assert capsys.readouterr().out.count("no model in runs/quick yet") == 1
    assert made == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(LungsegError, match="no such folder.*lungseg phantom.*lungseg download"):
        decathlon.load(tmp_path / "nothing")


@pytest.mark.fault("secrets and machine paths in what is committed")
def test_nothing_of_a_machine_or_a_secret_is_committed():
    listed = subprocess.run(
        ["git", "ls-files", "-z", "*.ipynb", "*.yaml", "*.yml", "*.md", "*.json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git clone")
    private = re.compile(
        r'/(?:home|Users|root)/\w|[A-Z]:\\\\Users|"papermill"\s*:\s*\{|AKIA[0-9A-Z]{16}'
        r"|gh[pousr]_\w{30}|hf_\w{30}|PRIVATE KEY|password\s*[=:]\s*\S"
    )
    paths = [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    assert len([path for path in paths if path.suffix == ".ipynb"]) == 7
    texts = {path: path.read_text(encoding="utf-8") for path in paths}
    assert [path.name for path, text in texts.items() if private.search(text)] == []
