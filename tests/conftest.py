"""What several tests share: the command line as a process, tiny notebooks, real scans."""

import os
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
VALIDATION = "from lungseg_utils import parameters\n\nsettings = parameters.validate(globals())"


@pytest.fixture(autouse=True)
def own_style():
    """Let no style of figures that a test sets reach the next test."""
    with mpl.rc_context():
        yield


@pytest.fixture
def lungseg(tmp_path):
    """Run `lungseg ARGUMENTS…` as a user would: a process of its own, in an empty folder."""

    def run(*arguments, cwd=tmp_path, **environment):
        return subprocess.run(
            [sys.executable, "-m", "lungseg_utils", *map(str, arguments)],
            cwd=cwd,
            text=True,
            capture_output=True,
            timeout=300,
            encoding="utf-8",
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1", **environment},
        )

    return run


@pytest.fixture
def write_notebook(tmp_path):
    """Write a notebook of the given cells in the course's form: parameters, validation, rest."""

    def write(parameters: str, *cells: str, path: Path = tmp_path / "01_tiny.ipynb") -> Path:
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
        notebook.cells = [
            nbformat.v4.new_code_cell(source) for source in (parameters, VALIDATION, *cells)
        ]
        notebook.cells[0].metadata["tags"] = ["parameters"]
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, path)
        return path

    return write


@pytest.fixture(scope="session")
def real_ct() -> Path:
    """The folder of real, public scans; they are never part of the repository."""
    folder = os.environ.get("LUNGSEG_REAL_CT")
    if not folder:
        pytest.skip("set LUNGSEG_REAL_CT to the folder of real CTs")
    return Path(folder)
