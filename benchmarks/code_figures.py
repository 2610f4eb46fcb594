"""Count what makes the code easy or hard to read, in one checkout or in several beside each other.

    python benchmarks/code_figures.py [CHECKOUT ...] [--places]

Without a checkout: this one. `--places` lists what was counted. Tests, where a checkout has them,
are counted for long lines only. Reads the sources and imports nothing of them.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

from report import ROOT, make_parser, markdown_table

# An import may go down or stay on its floor; floors of one line are apart from each other.
FLOORS = (
    ("runtime", "memory"),
    ("parameters", "clock", "lessons", "live", "on_ray"),
    ("components",),
    ("volume",),
    ("phantom", "decathlon"),
    ("preprocess",),
    ("patches",),
    ("segunet", "acceleration", "batch_norm"),
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
FOLDERS = ("lungseg_utils", "tests", "benchmarks", "recipes")
LONGEST_FUNCTION = 50
LONGEST_MODULE = 250
LONGEST_FACE = 40
LONGEST_LINE = 100
MOST_ARGUMENTS = 6

Function = ast.FunctionDef | ast.AsyncFunctionDef
Place = tuple[str, int]  # what, and how many lines or arguments it has


class Package:
    """The sources of a checkout's lungseg_utils: text and syntax tree of each module."""

    def __init__(self, root: Path):
        self.root = root
        self.texts = read_sources(root, "lungseg_utils")
        self.trees = {name: ast.parse(text) for name, text in self.texts.items()}

    def functions(self) -> Iterator[tuple[str, Function]]:
        """Yield every function and method with its place."""
        for name, tree in self.trees.items():
            for node in ast.walk(tree):
                if isinstance(node, Function):
                    yield f"{name}:{node.lineno} {node.name}", node


def read_sources(root: Path, folder: str) -> dict[str, str]:
    paths = sorted((root / folder).rglob("*.py"))
    return {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def line_count(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def statements(package: Package) -> list[Place]:
    """Count the statements of each module."""
    return [
        (name, sum(isinstance(node, ast.stmt) for node in ast.walk(tree)))
        for name, tree in package.trees.items()
    ]


def long_functions(package: Package) -> list[Place]:
    found = [(place, line_count(node)) for place, node in package.functions()]
    return [(place, lines) for place, lines in found if lines > LONGEST_FUNCTION]


def functions_of_many_arguments(package: Package) -> list[Place]:
    found = []
    for place, node in package.functions():
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        names = [argument.arg for argument in arguments if argument.arg not in ("self", "cls")]
        if len(names) > MOST_ARGUMENTS:
            found.append((place, len(names)))
    return found


def docstrings_with_give(package: Package) -> list[Place]:
    found = []
    for name, tree in package.trees.items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, Function)):
                text = ast.get_docstring(node) or ""
                if text.split(" ")[0] in ("Give", "Gives"):
                    found.append((f"{name}:{getattr(node, 'lineno', 1)}", 1))
    return found


def long_lines(package: Package) -> list[Place]:
    """Count lines that are too long, in the package, tests, benchmarks and recipes."""
    found = []
    for folder in FOLDERS:
        for name, text in read_sources(package.root, folder).items():
            for number, line in enumerate(text.splitlines(), start=1):
                if len(line) > LONGEST_LINE:
                    found.append((f"{name}:{number}", len(line)))
    return found


def climbing_imports(package: Package) -> list[Place]:
    """Count the imports of a part that stands above the one that imports it."""
    found = []
    for name, tree in package.trees.items():
        parts = Path(name).with_suffix("").parts
        own = FLOOR.get(parts[1], len(FLOORS))  # the package's own __init__ may import anything
        for node in ast.walk(tree):
            above = {part for part in imported_parts(node, parts) if FLOOR.get(part, 0) > own}
            found += [(f"{name}:{node.lineno} {part}", 1) for part in sorted(above)]
    return found


def imported_parts(node: ast.AST, module: tuple[str, ...]) -> set[str]:
    """Return the parts of lungseg_utils that an import statement in `module` names."""
    if isinstance(node, ast.Import):
        names = [alias.name.split(".") for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        base = [*module[: len(module) - node.level]] if node.level else []
        base += node.module.split(".") if node.module else []
        names = [[*base, alias.name] for alias in node.names]
    else:
        return set()
    return {name[1] for name in names if name[0] == "lungseg_utils" and len(name) > 1}


def long_modules(package: Package) -> list[Place]:
    lines = [(name, len(text.splitlines())) for name, text in package.texts.items()]
    return [(name, count) for name, count in lines if count > LONGEST_MODULE]


def long_faces(package: Package) -> list[Place]:
    lines = [(name, len(text.splitlines())) for name, text in package.texts.items()]
    faces = [(name, count) for name, count in lines if name.endswith("/__init__.py")]
    return [(name, count) for name, count in faces if count > LONGEST_FACE]


def training_loop(package: Package) -> list[Place]:
    found = package.functions()
    return [(place, line_count(node)) for place, node in found if node.name == "train_one_epoch"]


def network(package: Package) -> list[Place]:
    name = "lungseg_utils/segunet.py"
    return [(name, len(package.texts[name].splitlines()))]


def lines_of(package: Package) -> list[Place]:
    return [(name, len(text.splitlines())) for name, text in package.texts.items()]


SUMS: dict[str, Callable[[Package], list[Place]]] = {
    "statements of the package": statements,
    "lines of the package": lines_of,
    "lines of train_one_epoch": training_loop,
    "lines of segunet.py": network,
}
COUNTS: dict[str, Callable[[Package], list[Place]]] = {
    "modules": lines_of,
    f"functions over {LONGEST_FUNCTION} lines": long_functions,
    f"functions with more than {MOST_ARGUMENTS} arguments": functions_of_many_arguments,
    'docstrings that begin with "Give"': docstrings_with_give,
    f"lines over {LONGEST_LINE} characters, tests and scripts too": long_lines,
    "imports that climb": climbing_imports,
    f"modules above {LONGEST_MODULE} lines": long_modules,
    f"faces above {LONGEST_FACE} lines": long_faces,
}


def main() -> None:
    """Read the arguments and print the table."""
    parser = make_parser(__doc__)
    parser.add_argument("checkouts", nargs="*", type=Path, help="default: this one")
    parser.add_argument("--places", action="store_true", help="list what was counted")
    options = parser.parse_args()
    packages = [Package(root.resolve()) for root in options.checkouts or [ROOT]]
    rows = []
    for title, measure in SUMS.items():
        rows.append([title, *(sum(n for _, n in measure(package)) for package in packages)])
    for title, measure in COUNTS.items():
        rows.append([title, *(len(measure(package)) for package in packages)])
    print(markdown_table(["", *(package.root.name for package in packages)], rows))
    if options.places:
        for title, measure in COUNTS.items():
            for package in packages:
                for place, number in measure(package):
                    print(f"{title}: {package.root.name}/{place} ({number})")


if __name__ == "__main__":
    main()
