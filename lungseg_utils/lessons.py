"""The files of the course, in a clone or in an installation, and a copy of them to work in."""

import json
import re
from pathlib import Path

from lungseg_utils.runtime import COPY, ROOT, LungsegError, require_writable, writing

# In a clone they lie beside the package; a wheel has them in it.
HERE = ROOT if (ROOT / "notebooks").is_dir() else Path(__file__).parent
NOTEBOOKS = HERE / "notebooks"
PARAMS = HERE / "params"
SOLUTION = re.compile(r"<details>.*?</details>\n*", re.DOTALL)
LINK_TO_CLONE = re.compile(r"\[([^\]]*)\]\(\.\./[^)]*\)")


def list_notebooks(folder: Path) -> list[Path]:
    """Return the notebooks of the course that lie in `folder`; LungsegError where none does."""
    found = sorted(folder.glob("0[1-9]_*.ipynb"))
    if not found:
        raise LungsegError(
            folder,
            "the notebooks are not there",
            "run the course from a clone of the repository",
        )
    return found


def copy_course(folder: str | Path, *, blank: bool = False) -> Path:
    """Copy notebooks and parameters into `folder`, new or empty, and return it.

    Run from there, the notebooks keep data, runs and figures in it as well. Git passes over it
    where it lies in a clone. `blank` leaves out what cells have printed, and the solutions.
    """
    folder = require_writable(Path(folder).expanduser())
    if any(folder.iterdir()):
        raise LungsegError(folder, "it is not empty", "name a new folder, or empty this one")
    for notebook in list_notebooks(NOTEBOOKS):
        content = json.loads(notebook.read_text(encoding="utf-8"))
        for cell in content["cells"]:
            _adapt(cell, blank)
        text = json.dumps(content, indent=1, ensure_ascii=False)
        _write(folder / notebook.name, f"{text}\n")
    for path in sorted(PARAMS.glob("*.yaml")):
        _write(folder / "params" / path.name, path.read_text(encoding="utf-8"))
    _write(folder / ".gitignore", "*\n")
    _write(folder / COPY, "Data, runs and figures of the notebooks here are kept in this folder.\n")
    return folder


def _adapt(cell: dict, blank: bool) -> None:
    """Fit a cell to a copy: without links to the clone and, `blank`, outputs and solutions."""
    text = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        text = LINK_TO_CLONE.sub(r"\1", text)
        if blank:
            text = SOLUTION.sub("", text).rstrip("\n")
    elif blank:
        cell |= {"outputs": [], "execution_count": None}
    cell["source"] = text.splitlines(keepends=True)


def _write(path: Path, text: str) -> None:
    with writing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")
