"""The house style that CONTRIBUTING.md states: floors, faces and the field's words."""

import ast
import json
import re
from pathlib import Path

import pytest
from conftest import ROOT
from test_repository import PAGES

PACKAGE = ROOT / "lungseg_utils"
MODULES = sorted(PACKAGE.rglob("*.py"))
FLOORS = (
    ("runtime", "memory"),
    ("parameters", "clock", "lessons", "live", "on_ray"),
    ("components",),
    ("volume",),
    ("phantom", "decathlon"),
    ("preprocess",),
    ("patches",),
    ("architecture",),
    ("segunet",),
    ("acceleration",),
    ("checkpoint",),
    ("prediction",),
    ("evaluation",),
    ("plotting",),
    ("training",),
    ("viewer",),
    ("course",),
    ("cli",),
    ("__main__",),
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
DIALECT = re.compile(
    r"\b(anew|mend(s|ed|ing)?|least[ _]peak|steepness|shortly|gullet|breastbone|belly)\b"
    r"|as in a mirror",
    re.IGNORECASE,
)


def room(name: str) -> str:
    """Return the part of the package that `lungseg_utils.volume.reader`, for one, belongs to."""
    return [*name.split("."), ""][1]


def imported_rooms(path: Path) -> set[str]:
    """Return the parts of the package that a module imports from, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {room(alias.name) for alias in node.names if "lungseg_utils." in alias.name}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            if node.module == "lungseg_utils":
                found |= {alias.name for alias in node.names}
            elif node.module.startswith("lungseg_utils."):
                found.add(room(node.module))
    return found & FLOOR.keys()


@pytest.fixture(params=MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def path(request):
    return request.param


def test_every_part_of_the_package_has_its_floor():
    parts = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES}
    assert parts - {"__init__"} == FLOOR.keys()


def test_imports_are_absolute_and_never_climb(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    others = imported_rooms(path) - {own}
    assert {name for name in others if FLOOR[name] >= FLOOR.get(own, 0)} == set()


@pytest.mark.parametrize(
    "face", sorted(PACKAGE.glob("*/__init__.py")), ids=lambda path: path.parent.name
)
def test_the_init_of_a_folder_is_a_face(face):
    text = face.read_text(encoding="utf-8")
    docstring, *names = ast.parse(text).body
    assert isinstance(docstring, ast.Expr)
    assert all(isinstance(node, (ast.ImportFrom, ast.Assign)) for node in names)
    assert [node.targets[0].id for node in names if isinstance(node, ast.Assign)] == ["__all__"]
    assert len(text.splitlines()) <= 40


def documented(path: Path) -> list[str]:
    """Return the docstrings of a module, its classes and its functions."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [text for node in nodes if isinstance(node, kinds) and (text := ast.get_docstring(node))]


def test_docstrings_begin_as_the_field_writes_them(path):
    assert [text for text in documented(path) if re.match(r"(Give|Tell|Say|Mend)s?\b", text)] == []


WRITTEN = [
    *MODULES,
    *(ROOT / "recipes").glob("*.py"),
    *(ROOT / "benchmarks").glob("*.*"),
    *(ROOT / "params").glob("*.yaml"),
    *(ROOT / "notebooks").glob("*.ipynb"),
    *(page for page in PAGES if page.name != "CONTRIBUTING.md"),  # it has both words
    ROOT / "Makefile",
]


def test_the_words_are_those_of_the_field():
    found = {}
    for path in WRITTEN:
        text = path.read_text(encoding="utf-8")
        text = re.sub(r"^OLD_NAMES = {.*?^}", "", text, flags=re.MULTILINE | re.DOTALL)
        if path.suffix == ".ipynb":
            text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
        if words := sorted({match.group().lower() for match in DIALECT.finditer(text)}):
            found[path.relative_to(ROOT).as_posix()] = words
    assert found == {}
