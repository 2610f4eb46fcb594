"""A test that defends against a fault bears its name: `@pytest.mark.fault("truncated file")`.

That is the whole catalogue: it grows by a test, and `benchmarks/robustness.py` lists it again.
"""

import ast
import re

from conftest import ROOT

PAGES = (ROOT / "docs" / "robustness.md", ROOT / "benchmarks" / "results" / "robustness.md")


def functions() -> list[ast.FunctionDef]:
    """Return every test of the repository, file by file, in order."""
    return [
        node
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]


def marked_tests() -> dict[str, list[str]]:
    """Return the names of the tests of each fault."""
    found: dict[str, list[str]] = {}
    for function in functions():
        for decorator in function.decorator_list:
            if ast.unparse(decorator).startswith("pytest.mark.fault("):
                found.setdefault(ast.literal_eval(decorator.args[0]), []).append(function.name)
    return found


def test_every_fault_on_the_page_has_the_tests_that_it_names():
    marked, page = marked_tests(), PAGES[1].read_text(encoding="utf-8")
    table = page.split("<!-- faults:")[1].split("<!-- end of faults -->")[0]
    rows = re.findall(r"^\| (?!fault \||---)(.*?) \| (.*) \|$", table, re.M)
    assert rows
    for fault, tests in rows:
        assert set(re.findall(r"`(\w+)`", tests)) <= set(marked[fault]), fault


def test_every_test_that_a_page_names_exists():
    names = {function.name for function in functions()}
    for page in PAGES:
        named = set(re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8")))
        assert named <= names, page.name
