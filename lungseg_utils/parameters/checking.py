"""The one check of parameters: of values, of YAML files and of notebooks."""

import difflib
import re
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lungseg_utils.parameters.table import PARAMETERS
from lungseg_utils.runtime import LungsegError, file_error

OLD_NAMES = {
    "foreground": "foreground_share",
    "mistakes": "hard_example_share",
    "fixed_norms": "frozen_norm_share",
    "cut_off": "field_of_view_crop",
    "least_peak": "min_peak",  # this and the next are facts of a checkpoint
    "mirror": "test_time_mirroring",
}

DECLARED = re.compile(rf"^(?:{'|'.join(PARAMETERS)}): [^=\n]+=", re.MULTILINE)  # epochs: int = 30
ASSIGNED = re.compile(r"^(\w+)(?:: [^=\n]+)? *=(?!=)", re.MULTILINE)
INJECTED = "# Parameters\n"  # the first line of papermill's cell


def with_current_names(values: Mapping) -> dict:
    """Return `values` with today's names for those of earlier versions.

    Raises ValueError where a name stands twice, the old one and today's.
    """
    for old in OLD_NAMES.keys() & values.keys():
        if OLD_NAMES[old] in values:
            raise ValueError(f"{old} is the old name of {OLD_NAMES[old]}, and both are given")
    return {OLD_NAMES.get(name, name): value for name, value in values.items()}


def check(values: Mapping, subject: object = "parameters") -> dict[str, Any]:
    """Return `values` in their kinds: "1e-3" becomes 0.001, an old name today's.

    Raises one LungsegError, about `subject`, that names all that is wrong.
    """
    try:
        values = with_current_names(values)
    except ValueError as problem:
        raise LungsegError(subject, str(problem), "leave one of them out") from None
    checked = {}
    problems = []
    for name, value in sorted(values.items(), key=str):
        try:
            checked[name] = coerce(name, value)
        except ValueError as problem:
            problems.append(str(problem))
    if problems:
        cause = "; ".join(problems).replace("?;", "?")
        raise LungsegError(subject, cause, "correct this and run it again")
    return checked


def coerce(name: str, value: object) -> Any:
    """Return `value` in the kind of parameter `name`.

    Raises ValueError with name, value and what is allowed, or a suggestion for an unknown name.
    """
    if name not in PARAMETERS:
        raise ValueError(f"unknown parameter {name}; {_suggestion(str(name))}")
    try:
        return PARAMETERS[name].coerce(value)
    except (ValueError, TypeError, OverflowError, SyntaxError, RecursionError, MemoryError):
        shown = repr(value)[:60]
        message = f"{name} = {shown} is not allowed: it must be {PARAMETERS[name]}"
        raise ValueError(message) from None


def _suggestion(name: str) -> str:
    close = difflib.get_close_matches(name, PARAMETERS, n=1, cutoff=0.5)
    close += [p for p in PARAMETERS if name == "".join(word[0] for word in p.split("_"))]  # lr
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(PARAMETERS)}"


def read(path: str | Path) -> dict[str, Any]:
    """Read and check a YAML file of parameters."""
    import yaml

    path = Path(path)
    form = "write one `name: value` a line"
    try:
        return check(_parse(path.read_text(encoding="utf-8-sig")), path)
    except OSError as error:
        raise file_error(path, error, "give the path of a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise LungsegError(path, f"{where}not a YAML file", form) from error
    except ValueError as error:
        raise LungsegError(path, str(error), form) from error


def _parse(text: str) -> dict[str, Any]:
    """Parse YAML, but refuse what is ambiguous or may be huge: repeated names, aliases, merges."""
    import yaml

    loader = yaml.SafeLoader(text)
    root = loader.get_single_node()  # nothing is expanded yet
    for token in yaml.scan(text, yaml.SafeLoader):
        if isinstance(token, yaml.AliasToken):
            raise ValueError(f"line {token.start_mark.line + 1}: an alias")
    if not isinstance(root, yaml.MappingNode):
        raise ValueError("holds no parameters")
    values: dict[str, Any] = {}
    for key, node in root.value:
        name, line = str(key.value), f"line {key.start_mark.line + 1}"
        if name == "<<":
            raise ValueError(f"{line}: a merge key")
        if name in values:
            raise ValueError(f"{line}: {name[:60]} occurs twice")
        try:
            values[name] = loader.construct_object(node, deep=True)
        except (ArithmeticError, AttributeError, LookupError, ValueError) as error:
            raise ValueError(f"{line}: cannot be read: {error}") from error  # a 13th month, for one
    return values


def validate(namespace: MutableMapping) -> SimpleNamespace:
    """Check the parameters of the notebook whose `globals()` are given, and write them back.

    They are what its latest cell that declares some assigns, and papermill's; where a runner keeps
    no history of cells, as nbval, all names of the table. papermill itself only logs a name that
    the notebook does not have, and takes any value; here both raise a LungsegError, before any
    work is done, and all at once.
    """
    cells = list(namespace.get("In", []))
    own = [cell for cell in cells if DECLARED.search(cell)] or cells[1:2]
    injected = [cell for cell in cells if cell.startswith(INJECTED)]
    names = ASSIGNED.findall("\n".join(own[-1:] + injected[-1:])) or PARAMETERS
    # papermill's come last, so that its `foreground = 0.5` replaces the notebook's own default
    values = {OLD_NAMES.get(name, name): namespace[name] for name in names if name in namespace}
    checked = check(values)
    namespace.update(checked)
    return SimpleNamespace(**checked)
