"""The repository as a whole: one place for each defence, nothing of a machine, sound versions."""

import ast
import csv
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from conftest import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGE = ROOT / "lungseg_utils"
MODULES = sorted(PACKAGE.rglob("*.py"))
FLOORS = {
    "torch": (2, 10),
    "monai": (1, 6, 1),
    "pydicom": (3, 0, 2),
    "nbconvert": (7, 17),
}  # of published advisories


def module(path: Path) -> str:
    """Return the module of the package, or the folder in its place, that `path` belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def calls(path: Path) -> dict[str, int]:
    """Return every call in a module by its dotted name, imported names spelt out, with its line."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    full = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            full |= {
                alias.asname or alias.name.split(".")[0]: alias.name
                if alias.asname
                else alias.name.split(".")[0]
                for alias in node.names
            }
        elif isinstance(node, ast.ImportFrom):
            full |= {
                alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names
            }
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, dot, rest = ast.unparse(node.func).partition(".")
            found[full.get(first, first) + dot + rest] = node.lineno
    return found


def modules_that_call(pattern: str) -> set[str]:
    return {module(path) for path in MODULES for name in calls(path) if re.fullmatch(pattern, name)}


@pytest.mark.parametrize(
    ("what", "pattern", "place"),
    [
        ("reader of NIfTI", r"nibabel\.(.*\.)?(load|from_\w+|FileHolder)", "volume"),
        ("reader of DICOM", r"pydicom\.(.*\.)?(dcmread|read_file|read_partial)", "volume"),
        ("loader of training states", r"torch\.load", "checkpoint"),
        ("loader of weights", r"safetensors\.torch\.\w*(load|open)\w*", "checkpoint"),
        (
            "reader of tar archives",
            r"(tarfile\.(open|TarFile.*)|shutil\.unpack_archive)",
            "decathlon",
        ),
        (
            "downloader",
            r"urllib\.request\.\w+|requests\.\w+|http\.client\.HTTPS?Connection",
            "decathlon",
        ),
        ("reader of YAML", r"yaml\.\w+", "parameters"),
    ],
)
def test_there_is_one(what, pattern, place):
    assert modules_that_call(pattern) <= {place}, f"a second {what}"


def test_the_atomic_writer_is_the_only_one_that_renames():
    """Beside it only whole folders, downloads and the state before the last are renamed."""
    assert modules_that_call(r"os\.(replace|rename|renames)|shutil\.move") <= {
        "runtime",
        "decathlon",
        "training",
    }


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_nothing_can_run_code_from_a_file(path):
    forbidden = (
        r"(eval|exec|compile|pickle\..*|marshal\..*|dill\..*|joblib\..*|"
        r"os\.(system|popen)|subprocess\..*|"
        r"yaml\.(load|full_load|unsafe_load)|torch\.(jit|package|hub)\..*|ast\.eval)"
    )
    assert [name for name in calls(path) if re.fullmatch(forbidden, name)] == []
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"weights_only\s*=\s*False|allow_pickle\s*=\s*True|shell\s*=\s*True", text)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_has_250_lines_at_most_and_says_what_it_is(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 250
    assert ast.get_docstring(ast.parse(text))


def tracked() -> list[Path]:
    """Return every file of the repository; what else lies in a clone, such as a log, is not its."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git clone")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_file_names_a_machine():
    patterns = [r"/(?:home|Users)/[a-z]\w*/", re.escape(str(ROOT)) + r"\b"]
    if ROOT.parent != Path("/"):  # of which every address has something
        patterns.append(re.escape(str(ROOT.parent)) + r"/\w")
    machine = re.compile("|".join(patterns))
    assert [
        path.relative_to(ROOT).as_posix()
        for path in tracked()
        if path.stat().st_size < 2_000_000
        and machine.search(path.read_text(encoding="utf-8", errors="ignore"))
    ] == []


def test_no_file_names_an_index_or_holds_a_secret():
    wanted = {".toml", ".lock", ".yml", ".yaml", ".cfg", ".txt", ""}
    text = "\n".join(
        path.read_text(encoding="utf-8", errors="ignore")
        for path in tracked()
        if path.suffix in wanted
    )
    assert not re.search(
        r"--?(extra-)?index-url|--find-links\b|trusted-host",
        text.replace("--no-emit-index-url", "").replace("--no-emit-find-links", ""),
    )
    secrets = re.compile(r"(AKIA[0-9A-Z]{16}|gh[pousr]_\w{30}|hf_\w{30}|BEGIN [A-Z ]*PRIVATE KEY)")
    assert not any(
        secrets.search(path.read_text(encoding="utf-8", errors="ignore"))
        for path in tracked()
        if path.stat().st_size < 2_000_000
    )


def test_only_the_weights_are_large():
    sizes = {path.relative_to(ROOT).as_posix(): path.stat().st_size for path in tracked()}
    shipped = {name for name in sizes if name.startswith("lungseg_utils/weights/")}
    parent = "recipes/parent.safetensors"  # what the shipped ones are made from; in no wheel
    assert {name for name, size in sizes.items() if size > 1_000_000} <= shipped | {parent}
    assert all(sizes[name] <= 12_000_000 for name in {*shipped, parent})


def test_an_archive_of_the_sources_holds_the_package_and_no_half_of_the_tests(tmp_path):
    pytest.importorskip("setuptools", minversion="77")
    for path in tracked():
        if path.parent == ROOT or PACKAGE in path.parents or path.parent == ROOT / "tests":
            copy = tmp_path / "clone" / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    build = "from setuptools import build_meta; build_meta.build_sdist('..')"
    subprocess.run(
        [sys.executable, "-c", build], cwd=tmp_path / "clone", check=True, capture_output=True
    )
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    assert not [name for name in names if name.startswith("tests/")]
    assert {path.relative_to(ROOT).as_posix() for path in MODULES} < set(names)


# --- versions -------------------------------------------------------------------------------------


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def locked() -> dict[str, list[str]]:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins: dict[str, list[str]] = {}
    for line in lines:
        if line and not line.startswith("#"):
            name, exact = re.fullmatch(
                r"([\w.-]+)==([\w.]+)(?: ; .*)?", line
            ).groups()  # nothing but exact versions
            pins.setdefault(name.lower().replace("_", "-"), []).append(exact)
    return pins


@pytest.mark.parametrize("name", FLOORS)
def test_versions_with_published_advisories_are_kept_out(name):
    floor = next(line for line in project()["dependencies"] if re.match(rf"{name}\b", line))
    assert version(floor.split(">=")[1]) >= FLOORS[name]
    assert all(version(pin) >= FLOORS[name] for pin in locked()[name])


def test_the_lock_holds_every_requirement_at_or_above_its_floor():
    extras = project()["optional-dependencies"]
    for line in project()["dependencies"] + extras["dev"] + extras["bench"]:
        name, floor = line.partition(";")[0].split(">=")
        assert all(version(pin) >= version(floor) for pin in locked()[name]), line


def test_the_conda_environment_installs_this_project():
    import yaml

    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["channels"] == ["conda-forge"]
    assert environment["dependencies"][-1] == {"pip": ["-e .[dev]"]}
    python = next(line for line in environment["dependencies"] if str(line).startswith("python="))
    assert version(python) >= version(project()["requires-python"])


def test_the_citation_is_of_this_project_and_version():
    import yaml

    from lungseg_utils import __version__

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert (citation["version"], citation["license"]) == (__version__, project()["license"])
    assert citation["authors"] == project()["authors"]


# --- pages ----------------------------------------------------------------------------------------


FOLDERS = ("", "benchmarks", "data", "docs", "figures", "lungseg_utils/weights", "recipes")
PAGES = sorted(page for folder in FOLDERS for page in (ROOT / folder).glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_links_to_is_there(page):
    links = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_table_of_networks_is_the_one_that_was_measured():
    text = (ROOT / "notebooks" / "05_evaluate.ipynb").read_text(encoding="utf-8")
    measured = [
        line.split(" | ")
        for line in (ROOT / "benchmarks/results/ablation.md").read_text().splitlines()
        if line.count(" | ") == 7 and line.count("-") < 20
    ]
    assert len(measured) == 6  # the heading, and five networks
    for name, *_, dice, _, _, false_positives in measured[1:]:
        dice, false_positives = dice.split()[0], false_positives.split()[0]
        assert re.search(rf"{re.escape(name)} \| {dice} \| \d+% \| {false_positives} ", text), name


def test_the_table_of_real_tumours_worth_is_the_one_that_was_measured():
    text = (ROOT / "docs" / "synthetic_to_real.md").read_text(encoding="utf-8")
    with open(ROOT / "lungseg_utils" / "weights" / "real_tumours.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9
    for row in rows:
        mean, low, high, median = (float(row[name]) for name in ("mean", "low", "high", "median"))
        cell = f" {mean:.3f} ({low:.2f} – {high:.2f}), {median:.3f} |"
        start = f"| {row['real_tumours']} |"
        (line,) = [line for line in text.splitlines() if line.startswith(start)]
        columns = dict(zip(("with synthetic chests", "without"), line.split("|")[2:4]))
        assert f"{columns[row['arm']]}|" == cell
