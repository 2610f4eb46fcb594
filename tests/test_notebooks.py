"""The form that all notebooks of the course share, and their contract with papermill."""

import io
import json
import os
import re
import statistics
import subprocess
import sys
import tokenize
import types

import nbformat
import papermill
import pytest
from conftest import ROOT, VALIDATION

from lungseg_utils import course, parameters

NAMES = [
    "01_explore_data",
    "02_preprocess",
    "03_build_segunet",
    "04_train",
    "05_evaluate",
    "06_visualize",
    "07_your_own_ct",
]
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
HEADINGS = [
    "## You will",
    "## You need",
    "## Parameters",
    "## Setup",
    "## Checkpoint",
    "## Exercises",
    "## What we learned",
]
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
TAGS = {"parameters", "nbval-ignore-output", "raises-exception"}
MACHINE = re.compile(
    r"(?<![\w.])/(?:home|Users|root|tmp|private|var|mnt|opt|work\w*)/\w"
    r"|[A-Z]:\\\\|\b0x[0-9a-f]{6,}\b"
)


@pytest.fixture(params=PATHS, ids=lambda path: path.stem, scope="module")
def path(request):
    return request.param


@pytest.fixture(scope="module")
def notebook(path):
    return nbformat.read(path, as_version=4)


def cells(notebook, kind):
    return [cell for cell in notebook.cells if cell.cell_type == kind]


def code_lines(cell) -> int:
    return sum(bool(line.strip()) for line in cell.source.splitlines())


def logical_lines(cell) -> int:
    """Count the lines of code; a call that the formatter lays over several lines is one."""
    tokens = tokenize.generate_tokens(io.StringIO(cell.source).readline)
    return sum(token.type == tokenize.NEWLINE for token in tokens)


def prose(notebook) -> str:
    return "\n".join(cell.source for cell in cells(notebook, "markdown"))


def test_there_are_seven_notebooks():
    assert [path.stem for path in PATHS] == NAMES


# --- form -----------------------------------------------------------------------------------------


def test_it_begins_with_its_title_and_one_sentence(path, notebook):
    title, _, aim = notebook.cells[0].source.partition("\n\n")
    assert re.fullmatch(rf"# {int(path.stem[:2])}\. \S.*", title)
    assert re.fullmatch(r"[^.!?]*(?:\.\d[^.!?]*)*\.", aim.strip(), re.S)


def test_it_has_the_skeleton_in_order(notebook):
    headings = re.findall(r"^## .*$", prose(notebook), re.M)
    assert [heading for heading in headings if heading in HEADINGS] == HEADINGS
    assert (
        headings.index("## Checkpoint") - headings.index("## Setup") > 2
    )  # a body of two sections or more


def test_what_it_promises_needs_and_takes_has_a_cell_each(notebook):
    headings = [cell.source.partition("\n")[0] for cell in cells(notebook, "markdown")[1:4]]
    assert headings == HEADINGS[:3]


def test_its_paragraphs_are_wrapped_so_that_changes_can_be_read(notebook):
    """Lines of at most 100 characters but for tables; a blank line after each heading."""
    lines = prose(notebook).splitlines()
    assert [line for line in lines if len(line) > 100 and not line.startswith("|")] == []
    for cell in cells(notebook, "markdown"):
        assert not re.search(r"^#{1,3} .*\n.", cell.source, re.M), cell.source


def test_its_lists_are_no_sentences_joined_by_semicolons(notebook):
    assert re.findall(r"^[-*] .*?;$", prose(notebook), re.M) == []


def test_it_promises_three_to_five_things(notebook):
    section = re.search(r"^## You will\n(.*?)(?=^## )", prose(notebook) + "\n## ", re.M | re.S)[1]
    assert 3 <= len(re.findall(r"^[-*] ", section, re.M)) <= 5


def test_its_exercises_have_solutions(notebook):
    section = prose(notebook).split("## Exercises")[1].split("## What we learned")[0]
    assert section.count("<details>") == section.count("</details>") >= 2


def test_it_names_the_next_notebook(path, notebook):
    following = NAMES[NAMES.index(path.stem) + 1 :][:1]
    assert all(name in prose(notebook).split("## What we learned")[1] for name in following)


def test_it_has_the_right_measures(path, notebook):
    code, markdown = cells(notebook, "code"), cells(notebook, "markdown")
    assert 30 <= len(notebook.cells) <= 50
    assert 1 <= len(markdown) / len(code) <= 1.5
    assert 3 <= statistics.median(map(logical_lines, code)) <= 5
    assert max(map(code_lines, code)) <= 25
    assert len(prose(notebook).split()) <= 2000
    assert path.stat().st_size < 1_000_000


def test_a_cell_has_one_output_at_most(notebook):
    assert [cell.source for cell in cells(notebook, "code") if len(cell.outputs) > 1] == []


def test_it_repeats_no_class_of_the_package(notebook):
    package = "\n".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "lungseg_utils").rglob("*.py")
    )
    own = {
        name
        for cell in cells(notebook, "code")
        for name in re.findall(r"^class (\w+)", cell.source, re.M)
    }
    assert own & set(re.findall(r"^class (\w+)", package, re.M)) == set()
    assert not re.search(r"import \*", "\n".join(cell.source for cell in cells(notebook, "code")))


def test_the_source_that_it_shows_is_highlighted(notebook):
    code = "\n".join(cell.source for cell in cells(notebook, "code"))
    assert not re.search(r"print\(\s*inspect\.getsource", code)
    assert code.count("Code(") == len(re.findall(r'Code\(.*?, language="python"\)', code, re.S))


def test_each_figure_of_notebook_06_answers_a_question():
    notebook = nbformat.read(PATHS[5], as_version=4)
    text = ""  # between two figures
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            text += cell.source
        elif any("image/png" in output.get("data", {}) for output in cell.outputs):
            assert "?" in text, cell.source
            text = ""


def test_its_pictures_are_described(notebook):
    assert "<img" not in prose(notebook)
    assert all(len(alt) >= 15 for alt in re.findall(r"!\[(.*?)\]\(", prose(notebook)))


def test_no_cell_is_left_out_anywhere(notebook):
    assert {tag for cell in notebook.cells for tag in cell.metadata.get("tags", [])} <= TAGS
    assert "NBVAL_" not in json.dumps(notebook)


# --- what is committed ----------------------------------------------------------------------------


def test_it_was_executed_from_top_to_bottom_in_a_clean_kernel(notebook):
    counts = [cell.execution_count for cell in cells(notebook, "code")]
    assert counts == list(range(1, len(counts) + 1))
    assert [
        cell.source
        for cell in cells(notebook, "code")
        if any(o.output_type == "error" for o in cell.outputs)
        and "raises-exception" not in cell.metadata.get("tags", [])
    ] == []


def test_it_holds_nothing_of_the_machine_or_of_a_session(notebook):
    for cell in cells(notebook, "code"):
        for output in cell.outputs:
            text = json.dumps(
                {kind: data for kind, data in output.get("data", {}).items() if kind != "image/png"}
            )
            text += output.get("text", "") + " ".join(output.get("traceback", []))
            assert not MACHINE.search(text), text
            assert output.get("name") != "stderr", text
            assert not any(
                "widget" in kind or "javascript" in kind for kind in output.get("data", {})
            ), cell.source
    assert notebook.metadata.keys() <= {"kernelspec"}
    assert notebook.metadata.kernelspec == KERNEL
    kinds = {"tags", "slideshow", "mystnb"}  # of the site: slides and alt texts
    assert all(cell.metadata.keys() <= kinds for cell in notebook.cells)
    assert not MACHINE.search("\n".join(cell.source for cell in notebook.cells))


# --- Colab ----------------------------------------------------------------------------------------


def test_its_first_cell_installs_the_course_on_colab_and_does_nothing_elsewhere(
    notebook, monkeypatch
):
    first = cells(notebook, "code")[0]
    called = []
    shell = types.SimpleNamespace(run_line_magic=lambda *magic: called.append(magic))
    exec(first.source, {"get_ipython": lambda: shell})
    assert called == [] and first.outputs == []
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    exec(first.source, {"get_ipython": lambda: shell})
    ((magic, line),) = called
    assert magic == "pip"
    assert re.fullmatch(r"install --quiet git\+https://github\.com/[\w.-]+/[\w.-]+", line)


# --- processes ------------------------------------------------------------------------------------


@pytest.mark.fault("notebooks tested in several processes")
def test_the_cells_of_a_notebook_stay_in_one_process(tmp_path):
    pytest.importorskip("xdist")
    cells = [nbformat.v4.new_code_cell(line) for line in ("a = 1", "b = a + 1", "c = a + b")]
    for cell in cells:
        cell["execution_count"] = 1
    for number in range(2):
        notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": KERNEL})
        nbformat.write(notebook, tmp_path / f"{number}.ipynb")
    command = [sys.executable, "-m", "pytest", "-q", "-c", ROOT / "pyproject.toml", "--nbval"]
    command += ["-p", "no:cacheprovider", "-n", "2", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "6 passed" in done.stdout, done.stdout


# --- parameters -----------------------------------------------------------------------------------


def test_its_parameters_stand_in_one_cell_and_are_checked_by_the_next(notebook):
    code = cells(notebook, "code")
    tagged = [i for i, cell in enumerate(code) if "parameters" in cell.metadata.get("tags", [])]
    assert tagged == [1]  # after the one for Colab
    assert code[2].source == VALIDATION


def test_its_parameters_are_declared_as_the_table_has_them(path, notebook):
    """Kind, default and meaning; papermill, whose `--help-notebook` lists them, reads them all."""
    declared = cells(notebook, "code")[1].source.splitlines()
    shown = papermill.inspect_notebook(str(path))
    assert declared == [parameters.notebook_line(name) for name in shown]
    for name, row in shown.items():
        parameter = parameters.PARAMETERS[name]
        kind = "list" if parameter.length else parameter.kind.__name__
        assert row["inferred_type_name"] == kind
        assert row["help"] == parameter.meaning


def test_papermill_lists_all_that_it_takes(path, notebook):
    """Each parameter with its kind, default and meaning, and where the other ones are listed."""
    command = [sys.executable, "-m", "papermill", "--help-notebook", str(path)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    text = " ".join(printed.split())
    for line in cells(notebook, "code")[1].source.splitlines():
        name, kind, default, meaning = re.fullmatch(r"(\w+): (\w+) = (.*?)  # (.*)", line).groups()
        assert f"{name}: {kind} (default {default}) {meaning}" in text
    takes_more = course.parameters_of(path) - papermill.inspect_notebook(str(path)).keys()
    assert ("params/quick.yaml has all that may be set" in text) == bool(takes_more)
    assert takes_more <= parameters.read(ROOT / "params" / "quick.yaml").keys()


def test_defaults_differ_nowhere_in_the_course():
    assert set().union(*(papermill.inspect_notebook(str(path)) for path in PATHS)) >= {
        "dataset_dir",
        "run_dir",
        "epochs",
        "seed",
        "device",
        "checkpoint",
        "ct_path",
        "spacing_mm",
    }


# --- papermill ------------------------------------------------------------------------------------


def run_papermill(*arguments, cwd, **environment):
    return subprocess.run(
        [sys.executable, "-m", "papermill", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, **environment},
    )


def test_papermill_refuses_what_is_wrong_before_any_work(tmp_path):
    for wrong, message in [
        (("epoch", 5), "did you mean epochs"),
        (("epochs", "fifty"), "epochs = 'fifty'"),
    ]:
        ended = run_papermill(
            ROOT / "notebooks" / "04_train.ipynb",
            "out.ipynb",
            "-p",
            *wrong,
            cwd=tmp_path,
            LUNGSEG_HOME=str(tmp_path / "home"),
        )
        assert ended.returncode != 0 and message in ended.stderr
        assert not (tmp_path / "home").exists()


def test_training_runs_alone_from_any_folder(tmp_path):
    folder = tmp_path / "somewhere else"
    folder.mkdir()
    ended = run_papermill(
        ROOT / "notebooks" / "04_train.ipynb",
        "out.ipynb",
        "-p",
        "epochs",
        2,
        cwd=folder,
        LUNGSEG_HOME=str(tmp_path / "home"),
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert len((tmp_path / "home" / "runs" / "quick" / "history.csv").read_text().splitlines()) == 3
    assert sorted(path.name for path in folder.iterdir()) == ["out.ipynb"]
    for cell in cells(nbformat.read(folder / "out.ipynb", as_version=4), "code"):
        if "training.fit(" in cell.source and "def " not in cell.source:
            assert {output.get("name") for output in cell.outputs} == {"stdout"}  # no bar
            lines = "".join(output.text for output in cell.outputs).splitlines()
            assert [line[:11] for line in lines] == ["epoch   1 o", "epoch   2 o"]


def test_the_real_sets_parameters_go_through_every_notebook(tmp_path, monkeypatch):
    """A tiny set with Task06_Lung's quirks: `./` prefixes, `._*` files, ids in no order."""
    from lungseg_utils import course, phantom

    monkeypatch.setenv("LUNGSEG_HOME", str(tmp_path))
    root = phantom.write_dataset(tmp_path / "Task06 Lung", cases=4, test_cases=1, seed=7)
    content = json.loads((root / "dataset.json").read_text())
    for old, new in [("lung_001", "lung_096"), ("lung_003", "lung_010")]:
        for folder in ("imagesTr", "labelsTr"):
            (root / folder / f"{old}.nii.gz").rename(root / folder / f"{new}.nii.gz")
        content = json.loads(json.dumps(content).replace(old, new))
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (root / folder / "._lung_096.nii.gz").write_bytes(b"\0\5\26\7")
    for name in ("phantom.json", "labelsTs/lung_005.nii.gz"):  # the real set has no test labels
        (root / name).unlink()
    (root / "labelsTs").rmdir()
    content["training"].reverse()
    (root / "dataset.json").write_text(json.dumps(content))
    small = {
        "dataset_dir": str(root),
        "run_dir": str(tmp_path / "run"),
        "epochs": 1,
        "steps_per_epoch": 2,
        "validate_every": 1,
        "spacing_mm": 4,
        "patch_size": 32,
        "channels": [4, 8],
        "workers": 1,
    }
    out = course.run_course(parameters.read(ROOT / "params" / "msd.yaml") | small, tmp_path / "out")
    assert [path.stem for path in sorted(out.glob("*.ipynb"))] == NAMES
    assert (out / "metrics.csv").is_file()


def test_slides_describe_their_pictures(tmp_path):
    command = ["nbconvert", "--config", "docs/slides/config.json", f"--output-dir={tmp_path}"]
    command = [sys.executable, "-m", *command, "notebooks/05_evaluate.ipynb"]
    subprocess.run(command, cwd=ROOT, check=True)
    page = (tmp_path / "05_evaluate.slides.html").read_text(encoding="utf-8")
    pictures = re.findall(r"<img[^>]*?alt=\"([^\"]*)\"", page)
    assert page.count("<img") == len(pictures) > 2
    assert all(len(alt.split()) > 3 and "No description" not in alt for alt in pictures)
