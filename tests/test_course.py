"""The course: what a notebook needs is made where it is missing; all notebooks run in a row."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import pytest

from lungseg_utils import course, decathlon, parameters, phantom, runtime
from lungseg_utils.runtime import LungsegError

TINY = {
    "spacing_mm": 8.0,
    "patch_size": [16, 16, 16],
    "channels": [2, 4],
    "epochs": 1,
    "steps_per_epoch": 1,
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home of the course, and a synthetic set of two training scans and a test scan."""
    folder = tmp_path / "my home"
    monkeypatch.setenv("LUNGSEG_HOME", str(folder))
    for name, value in {"cases": 2, "test_cases": 1}.items():
        row = dataclasses.replace(parameters.PARAMETERS[name], default=value)
        monkeypatch.setitem(parameters.PARAMETERS, name, row)
    return folder


def test_the_synthetic_set_is_made_once_and_reported_without_naming_the_machine(home, capsys):
    dataset = course.ensure_dataset()
    stamp = dataset.training[0].image.stat().st_mtime_ns
    again = course.ensure_dataset("")
    assert again == dataset and again.training[0].image.stat().st_mtime_ns == stamp
    assert capsys.readouterr().out.splitlines() == [
        f"synthetic set {state} in data/synthetic_quick: 2 training and 1 test scans"
        for state in ("made", "found")
    ]


def test_an_interrupted_set_is_finished_and_an_older_one_replaced(home, capsys):
    folder = course.ensure_dataset().root
    (folder / "dataset.json").unlink()
    (folder / "imagesTr" / "lung_001.nii.gz").unlink()
    assert len(course.ensure_dataset().training) == 2
    recipe, notes = folder / "phantom.json", folder / "notes.txt"
    recipe.write_text(recipe.read_text().replace('"version": ', '"version": 9'))
    notes.touch()
    before = (folder / "imagesTr" / "lung_002.nii.gz").stat().st_mtime_ns
    course.ensure_dataset()
    assert "replaced" in capsys.readouterr().out and notes.exists()
    assert (folder / "imagesTr" / "lung_002.nii.gz").stat().st_mtime_ns > before


def test_a_synthetic_set_of_other_parameters_is_never_replaced(home):
    folder = home / "data" / "synthetic_quick"
    phantom.write_dataset(folder, cases=2, test_cases=1, seed=5)
    before = sorted(folder.rglob("*"))
    with pytest.raises(LungsegError, match="with other parameters is there"):
        course.ensure_dataset()
    assert sorted(folder.rglob("*")) == before


def test_somebody_elses_files_are_never_replaced(home):
    folder = home / "data" / "synthetic_quick" / "imagesTr"
    folder.mkdir(parents=True)
    (folder / "mine.txt").touch()
    with pytest.raises(LungsegError, match="synthetic_quick"):
        course.ensure_dataset()
    assert (folder / "mine.txt").exists()


def test_a_model_is_trained_once_and_again_when_it_is_damaged(home, capsys):
    dataset = course.ensure_dataset()
    best = course.ensure_model("runs/a b", dataset, TINY)
    assert best == home / "runs" / "a b" / "best.safetensors" and best.is_file()
    assert course.ensure_model("runs/a b", dataset, TINY) == best
    printed = capsys.readouterr().out
    assert printed.count("no model in runs/a b yet") == 1
    assert printed.endswith("model found in runs/a b\n")
    settings = json.loads((best.parent / "config.json").read_text())
    (best.parent / "config.json").write_text(json.dumps(settings | {"epochs": 7}))
    course.ensure_model("runs/a b", dataset, TINY)
    assert "found in runs/a b, stopped after 1 of 7 epochs: notebook" in capsys.readouterr().out
    best.write_bytes(best.read_bytes()[:100])
    course.ensure_model("runs/a b", dataset, TINY)
    printed = capsys.readouterr()
    assert "damaged" in printed.err and "Training a new one" in printed.err
    assert "no model in runs/a b yet" not in printed.out


# --- all notebooks in a row -----------------------------------------------------------------------

PARAMETERS_CELL = "\n".join(
    parameters.notebook_line(name) for name in ("epochs", "run_dir", "dataset_dir")
).replace("30", "5")
WORK = """import os, pathlib
pathlib.Path(run_dir).mkdir(exist_ok=True)
pathlib.Path(run_dir, "metrics.csv").write_text(f"{epochs}")
pathlib.Path(os.environ["LUNGSEG_FIGURES"]).mkdir(exist_ok=True)"""


COMMAND = """import pathlib, signal, sys
from lungseg_utils import cli, course
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
course.NOTEBOOKS = pathlib.Path(sys.argv[1])
sys.exit(cli.main(["course", "-o", sys.argv[2]]))"""


@pytest.fixture
def folder(tmp_path, monkeypatch, write_notebook):
    """A clone, in a folder with a space, whose course is two tiny notebooks."""
    folder = tmp_path / "a clone" / "notebooks"
    write_notebook(PARAMETERS_CELL, WORK, path=folder / "01_first.ipynb")
    write_notebook(
        PARAMETERS_CELL, "assert epochs < 9, 'too many'", path=folder / "02_second.ipynb"
    )
    monkeypatch.setattr(course, "NOTEBOOKS", folder)
    return folder


def test_the_course_leaves_notebooks_figures_and_metrics_and_prints_where(folder, tmp_path, capsys):
    out = course.run_course({"epochs": "7", "seed": 1}, tmp_path / "the results")
    printed = capsys.readouterr().out
    assert [line.split(" …")[0] for line in printed.splitlines()[:2]] == ["01_first", "02_second"]
    assert (out / "metrics.csv").read_text() == "7"
    for name in ("01_first.ipynb", "02_second.ipynb", "figures", "run"):
        assert (out / name).exists()
    for name in ("*.ipynb", "figures", "metrics.csv", "run"):
        assert str(out / name) in printed


def test_a_failing_cell_is_named_and_nothing_of_an_earlier_course_remains(folder, tmp_path):
    out = course.run_course({}, tmp_path / "out")
    with pytest.raises(
        LungsegError, match=r"02_second.ipynb: cell \d+ failed with AssertionError: too many"
    ):
        course.run_course({"epochs": 9}, out)
    assert (out / "02_second.ipynb").is_file()  # the failed one, to look at
    (folder / "01_first.ipynb").write_text(
        (folder / "01_first.ipynb").read_text().replace("import os", "1 / 0")
    )
    with pytest.raises(LungsegError, match="01_first.ipynb"):
        course.run_course({}, out)
    assert not (out / "02_second.ipynb").exists() and not (out / "metrics.csv").exists()


def test_an_earlier_model_is_set_aside_and_what_is_not_the_course_s_stays(folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "metrics.csv").write_text("mine")
    with pytest.raises(LungsegError, match="nowhere: no such file or folder. Correct dataset_dir"):
        course.run_course({"dataset_dir": str(tmp_path / "nowhere")}, out)
    assert (out / "metrics.csv").read_text() == "mine"
    course.run_course({}, out)
    (out / "run" / "best.safetensors").write_text("the weights")
    course.run_course({}, out)
    assert (out / "run" / "earlier-1" / "best.safetensors").read_text() == "the weights"


def test_unknown_parameters_stop_the_course_before_it_starts(folder, tmp_path):
    with pytest.raises(LungsegError, match="did you mean epochs"):
        course.run_course({"epoch": 5}, tmp_path / "out")


def test_what_training_takes_reaches_every_notebook_that_may_train(folder, tmp_path):
    course.run_course({"low_resolution": 0.15}, tmp_path / "out")  # no notebook names it
    text = (tmp_path / "out" / "01_first.ipynb").read_text()
    assert "low_resolution = 0.15" in text


@pytest.mark.skipif(sys.platform == "win32", reason="needs the signals of POSIX")
@pytest.mark.parametrize(
    "end", ["", "os.kill(os.getpid(), 9)"], ids=["Ctrl-C alone", "Ctrl-C ends the kernel too"]
)
def test_an_interrupted_course_prints_one_word(folder, write_notebook, tmp_path, end):
    break_off = (
        f"import os, signal, time\nos.kill(os.getppid(), signal.SIGINT)\n{end}\ntime.sleep(60)"
    )
    write_notebook(PARAMETERS_CELL, break_off, path=folder / "02_second.ipynb")
    run = subprocess.run(
        [sys.executable, "-c", COMMAND, str(folder), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (run.returncode, run.stderr) == (130, "interrupted\n")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a terminal of POSIX")
def test_on_a_terminal_a_clock_names_the_notebook_and_its_place(folder, write_notebook, tmp_path):
    write_notebook(PARAMETERS_CELL, "import time; time.sleep(1.5)", path=folder / "02_second.ipynb")
    import pty

    screen, terminal = pty.openpty()
    run = subprocess.run(
        [sys.executable, "-c", COMMAND, str(folder), str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
        timeout=120,
    )
    os.close(terminal)
    shown = os.read(screen, 1 << 16).decode()
    os.close(screen)
    assert run.returncode == 0
    assert "1 of 2: 01_first: 00:00" in shown and "2 of 2: 02_second: 00:01" in shown
    assert re.match(r"01_first … \d+ s\n02_second … \d+ s\n", run.stdout)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell of POSIX")
def test_a_course_runs_without_streams(folder, tmp_path):
    closed = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"]
    run = subprocess.run(
        [*closed, sys.executable, "-c", COMMAND, str(folder), str(tmp_path / "out")], timeout=120
    )
    assert run.returncode == 0 and (tmp_path / "out" / "metrics.csv").is_file()


def test_a_parameter_that_no_notebook_takes_stops_the_course(folder, tmp_path):
    with pytest.raises(LungsegError, match="cases, tier: no notebook takes it"):
        course.run_course(
            {"cases": 50, "tier": "full", "test_cases": 4}, tmp_path / "out"
        )  # 4 is what it does anyway


def test_without_the_notebooks_the_course_asks_for_a_clone(tmp_path, monkeypatch):
    monkeypatch.setattr(course, "NOTEBOOKS", tmp_path)
    with pytest.raises(LungsegError, match="clone of the repository"):
        course.run_course({}, tmp_path / "out")


def test_the_home_of_nobody_is_a_folder_like_any_other(home, monkeypatch):
    nobody = "~no such user/set"
    with pytest.raises(LungsegError, match=f"{nobody}: no such folder"):
        course.ensure_dataset(nobody)
    monkeypatch.setenv("LUNGSEG_HOME", nobody)
    monkeypatch.chdir(home.parent)
    assert runtime.home() == home.parent / nobody


def test_a_dataset_given_by_path_is_loaded(home):
    made = course.ensure_dataset()
    assert course.ensure_dataset(str(made.root)) == decathlon.load(made.root)
