"""A copy of the course: what is in it, and that what its notebooks make is found in it too."""

import json
import re
import subprocess
import sys

import pytest
from conftest import ROOT
from jupyter_server.services.contents.largefilemanager import LargeFileManager
from test_notebooks import NAMES

from lungseg_utils import lessons, runtime
from lungseg_utils.runtime import LungsegError


def cells(notebook, kind):
    content = json.loads(notebook.read_text(encoding="utf-8"))
    return [cell for cell in content["cells"] if cell["cell_type"] == kind]


def test_it_has_the_notebooks_and_parameters_and_no_link_out_of_it(tmp_path):
    copy = lessons.copy_course(tmp_path / "my course")
    assert [path.stem for path in sorted(copy.glob("*.ipynb"))] == NAMES
    quick = (ROOT / "params" / "quick.yaml").read_bytes()
    assert (copy / "params" / "quick.yaml").read_bytes() == quick
    for notebook in copy.glob("*.ipynb"):
        original = ROOT / "notebooks" / notebook.name
        assert cells(notebook, "code") == cells(original, "code")
        assert not re.search(r"\]\(\.\./", notebook.read_text(encoding="utf-8"))
    with pytest.raises(LungsegError, match="my course: it is not empty. Name a new folder"):
        lessons.copy_course(copy)


def test_a_blank_one_has_no_outputs_and_no_solutions(tmp_path):
    copy = lessons.copy_course(tmp_path / "blank", blank=True)
    for notebook in copy.glob("*.ipynb"):
        text = notebook.read_text(encoding="utf-8")
        assert "details" not in text and "## Exercises" in text
        for cell in cells(notebook, "code"):
            assert cell["outputs"] == [] and cell["execution_count"] is None


def test_jupyterlabs_file_browser_shows_notebooks_data_runs_and_figures(tmp_path, monkeypatch):
    """JupyterLab is started for the copy, and runs each notebook in the folder it lies in."""
    monkeypatch.delenv("LUNGSEG_HOME", raising=False)
    copy = lessons.copy_course(tmp_path / "my course")
    first = [sys.executable, "-m", "papermill", "01_explore_data.ipynb", "01_explore_data.ipynb"]
    ended = subprocess.run(first, cwd=copy, capture_output=True, text=True, timeout=900)
    assert ended.returncode == 0, ended.stderr[-2000:]
    monkeypatch.chdir(copy)  # as a kernel is: here 04 would train
    runtime.resolve("", "runs/quick").mkdir(parents=True)

    browser = LargeFileManager(root_dir=str(copy))

    def shown(folder):
        return {row["name"] for row in browser.get(folder)["content"]}

    assert shown("") == {*(f"{name}.ipynb" for name in NAMES), "params", "data", "runs", "figures"}
    assert "dataset.json" in shown("data/synthetic_quick")
    assert shown("runs") == {"quick"}
    assert any(name.startswith("01_") for name in shown("figures"))
