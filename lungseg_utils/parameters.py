"""Every parameter of the course in one table, and the one validator of notebooks, YAML files and the command line.

A notebook's first cell after its parameters is `parameters.validate(globals())`. papermill only logs a parameter
that it does not know, and takes any value for those it does; here both are errors, before any work is done.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace

from lungseg_utils.runtime import LungsegError


@dataclass(frozen=True)
class Parameter:
    """What a parameter may be: for a list, `kind` and `allowed` are those of its items."""

    kind: type
    default: object
    meaning: str
    unit: str = ""
    allowed: str | tuple[str, ...] = ""  # an interval as in mathematics, or choices
    length: tuple[int, int] | None = None  # of a list; None: not a list
    multiple: int = 1

    def __str__(self) -> str:
        """Say what is allowed, as an error message does."""
        if self.kind is str:
            return "one of " + ", ".join(self.allowed) if self.allowed else "a text"
        if self.kind is bool:
            return "true or false"
        noun = "whole number" if self.kind is int else "number"
        text = f"{noun}{{}} in {self.allowed}" if self.allowed else f"{noun}{{}}"
        text += f", a multiple of {self.multiple}" if self.multiple > 1 else ""
        if self.length is None:
            return f"a {text.format('')}"
        low, high = self.length
        return f"a list of {low if low == high else f'{low} to {high}'} {text.format('s')}"


PARAMETERS = {
    "dataset_dir": Parameter(
        str, "", "folder of a Decathlon-layout set; empty: the synthetic quick set", "path"
    ),
    "run_dir": Parameter(str, "", "folder of the training run; empty: runs/quick", "path"),
    "checkpoint": Parameter(
        str, "", "weights to predict with; empty: the best ones of the run", "path"
    ),
    "ct_path": Parameter(
        str, "", "NIfTI file or DICOM folder of a chest CT; empty: a phantom test case", "path"
    ),
    "seed": Parameter(int, 0, "of every random choice", "number", "[0, 4294967295]"),
    "device": Parameter(
        str,
        "auto",
        "where the network runs; auto takes a GPU if there is one",
        "name",
        ("auto", "cpu", "cuda", "mps"),
    ),
    "workers": Parameter(int, 2, "scans prepared at a time", "threads", "[0, 256]"),
    "fold": Parameter(
        int, 0, "of the cross-validation: which part of the patients validates", "number", "[0, 99]"
    ),
    "spacing_mm": Parameter(
        float, 3.0, "side of the cubic voxels that the network works on", "mm", "[0.3, 8]"
    ),
    "patch_size": Parameter(
        int,
        [40, 40, 40],
        "sides of the training patches (D, H, W)",
        "voxels",
        "[8, 512]",
        (3, 3),
        8,
    ),
    "channels": Parameter(
        int,
        [8, 16, 32, 64],
        "of the network's stages, from the first",
        "channels",
        "[1, 2048]",
        (2, 8),
    ),
    "upsample": Parameter(
        str,
        "unpool",
        "how the decoder enlarges: SegNet's way or U-Net's",
        "name",
        ("unpool", "transpose"),
    ),
    "skip": Parameter(
        str, "concat", "whether the encoder's features are joined in", "name", ("concat", "none")
    ),
    "epochs": Parameter(int, 30, "of training", "epochs", "[1, 100000]"),
    "steps_per_epoch": Parameter(int, 12, "optimiser steps an epoch", "steps", "[1, 100000]"),
    "batch_size": Parameter(int, 4, "patches a step", "patches", "[1, 1024]"),
    "loss": Parameter(
        str,
        "dice_ce",
        "that training makes small",
        "name",
        ("dice_ce", "dice_ce_balanced", "tversky", "focal"),
    ),
    "deep_supervision": Parameter(
        bool, False, "whether the coarser stages learn to predict too", "true or false"
    ),
    "optimiser": Parameter(
        str, "adamw", "that makes the steps; sgd is nnU-Net's", "name", ("adamw", "sgd")
    ),
    "learning_rate": Parameter(
        float, 3e-3, "largest step size of the optimiser", "no unit", "(0, 1]"
    ),
    "schedule": Parameter(
        str,
        "constant",
        "of the learning rate after its warm-up",
        "name",
        ("constant", "cosine", "poly"),
    ),
    "warmup_steps": Parameter(
        int, 20, "over which the learning rate rises from zero", "steps", "[0, 100000]"
    ),
    "weight_decay": Parameter(float, 1e-2, "pull of the weights towards zero", "no unit", "[0, 1]"),
    "gradient_clip": Parameter(float, 5.0, "longest gradient", "norm", "(0, 1000]"),
    "foreground_share": Parameter(
        float, 0.67, "share of the patches that are centred in a lesion", "share", "[0, 1]"
    ),
    "hard_example_share": Parameter(
        float,
        0.0,
        "share of the patches that are centred in a mistake of the first weights",
        "share",
        "[0, 1]",
    ),
    "ema_decay": Parameter(
        float, 0.95, "memory of the running mean of the weights", "no unit", "[0, 1)"
    ),
    "frozen_norm_share": Parameter(
        float,
        0.0,
        "share of the run, its last part, with the batch norms of prediction",
        "share",
        "[0, 1]",
    ),
    "validate_every": Parameter(int, 1, "between two validations", "epochs", "[1, 100000]"),
    "augment": Parameter(
        bool, True, "whether patches are turned, scaled and varied", "true or false"
    ),
    "elastic_voxels": Parameter(
        float, 0.0, "largest shift of an elastic deformation", "voxels", "[0, 20]"
    ),
    "low_resolution": Parameter(
        float, 0.0, "share of the patches seen as through thicker voxels", "share", "[0, 1]"
    ),
    "field_of_view_crop": Parameter(
        float,
        0.0,
        "share of the patches that end in air, as a scan cut to a part does",
        "share",
        "[0, 1]",
    ),
    "compile": Parameter(
        bool, False, "whether the network is compiled first, on a GPU", "true or false"
    ),
    "overlap": Parameter(
        float, 0.25, "of neighbouring prediction windows", "share of a side", "[0, 0.9)"
    ),
    "threshold": Parameter(
        float, 0.5, "from which a voxel counts as tumour", "probability", "(0, 1)"
    ),
    "cases": Parameter(int, 12, "training cases of a synthetic set", "scans", "[2, 5000]"),
    "test_cases": Parameter(int, 4, "test cases of a synthetic set", "scans", "[0, 5000]"),
    "tier": Parameter(
        str, "quick", "detail of a synthetic set", "name", ("quick", "medium", "full")
    ),
}


def defaults() -> dict:
    """Give every parameter with its default: the quick run on a CPU."""
    return {name: list(p.default) if p.length else p.default for name, p in PARAMETERS.items()}


def validate(namespace: MutableMapping) -> SimpleNamespace:
    """Check the parameters of the notebook whose `globals()` are given, and write them back in their kinds.

    Raises LungsegError naming every unknown parameter and every value out of range, all at once. Run again later
    in the notebook it looks at the parameters only, not at what other cells have defined since.
    """
    sources = list(
        namespace.get("In", [""])
    )  # IPython's: every cell run so far; the last is this one
    cells = [_assigned(source) for source in sources]
    first = next(
        (i for i, source in enumerate(sources) if "validate(globals())" in source), len(cells) - 1
    )
    here = _just_before(len(cells) - 1, cells)
    has_history = len(sources) > 1  # nbval runs cells without keeping them
    names = here | _just_before(first, cells) if has_history else namespace.keys()
    values = {name: namespace[name] for name in PARAMETERS if name in names and name in namespace}
    if here & PARAMETERS.keys() or sources[-2:][0].startswith(
        "# Parameters\n"
    ):  # papermill's cell, not a scratch one
        values |= dict.fromkeys(here - PARAMETERS.keys())
    checked = check(values)
    namespace.update(checked)
    return SimpleNamespace(**checked)


def check(values: Mapping, subject: object = "parameters") -> dict:
    """Give `values` in their kinds ("1e-3" becomes 0.001); raise one LungsegError that names all that is wrong."""
    checked, problems = {}, []
    for name, value in sorted(values.items(), key=str):
        try:
            checked[name] = coerce(name, value)
        except ValueError as problem:
            problems.append(str(problem))
    if problems:
        raise LungsegError(subject, "; ".join(problems), "mend this and run it again")
    return checked


def coerce(name: str, value: object) -> object:
    """Give `value` in the kind of parameter `name`; raise ValueError with name, value and what is allowed."""
    if name not in PARAMETERS:
        initials = [
            known for known in PARAMETERS if name == "".join(word[0] for word in known.split("_"))
        ]  # lr
        close = difflib.get_close_matches(str(name), PARAMETERS, n=1, cutoff=0.5) or initials
        hint = f"did you mean {close[0]}" if close else f"known are {', '.join(PARAMETERS)}"
        raise ValueError(f"unknown parameter {name}; {hint}")
    parameter = PARAMETERS[name]
    try:
        if parameter.length is None:
            return _one(parameter, value)
        items = ast.literal_eval(value) if isinstance(value, str) else value
        if name == "patch_size" and not isinstance(items, Iterable):
            items = [items] * 3  # one number stands for a cube
        if (
            not isinstance(items, (list, tuple))
            or not parameter.length[0] <= len(items) <= parameter.length[1]
        ):
            raise ValueError
        return [_one(parameter, item) for item in items]
    except (ValueError, TypeError, OverflowError, SyntaxError, RecursionError, MemoryError):
        raise ValueError(
            f"{name} = {repr(value)[:60]} is not allowed: it must be {parameter}"
        ) from None


def read(path: str | Path) -> dict:
    """Read and check a YAML file of parameters."""
    import yaml

    try:
        content = _plain_yaml(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise LungsegError(
            path, (error.strerror or str(error)).lower(), "give the path of a YAML file"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise LungsegError(
            path, f"{where}not a YAML file", "write one `name: value` a line"
        ) from error
    except ValueError as error:
        raise LungsegError(path, str(error), "write one `name: value` a line") from error
    if not isinstance(content, dict):
        raise LungsegError(path, "holds no parameters", "write one `name: value` a line")
    return check(content, path)


def _plain_yaml(text: str) -> object:
    """Parse YAML without aliases and merge keys, by which a small file may stand for a huge one, and repeated names."""
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent, index):
            if self.check_event(yaml.AliasEvent):
                raise ValueError(f"line {self.peek_event().start_mark.line + 1}: an alias")
            return super().compose_node(parent, index)

        def construct_object(self, node, deep=False):
            try:
                return super().construct_object(node, deep)
            except (
                ArithmeticError,
                AttributeError,
                LookupError,
                ValueError,
            ) as error:  # of a 13th month, for one
                raise ValueError(
                    f"line {node.start_mark.line + 1}: cannot be read: {error}"
                ) from error

        def flatten_mapping(self, node):  # called before a dict is made of the node
            names = set()
            for name, line in ((str(key.value), key.start_mark.line + 1) for key, _ in node.value):
                if name == "<<" or name in names:
                    raise ValueError(
                        f"line {line}: {'a merge key' if name == '<<' else f'{name[:60]} occurs twice'}"
                    )
                names.add(name)

    return Loader(text).get_single_data()


def _one(parameter: Parameter, value: object) -> object:
    """Turn one value into the parameter's kind, or raise ValueError."""
    text = "" if value is None else str(value)
    if parameter.kind is str:
        choice = re.sub(r"^(cuda):\d{1,3}$", r"\1", text)  # the second of several GPUs is cuda:1
        fits = not parameter.allowed or choice in parameter.allowed
        return _only(text, fits and not isinstance(value, (bool, list, dict)) and "\0" not in text)
    if parameter.kind is bool:
        return _only(text.lower() == "true", text.lower() in ("true", "false"))
    number = float(
        _only(value, isinstance(value, (int, float, str)) and not isinstance(value, bool))
    )
    low, high = (float(end) for end in parameter.allowed[1:-1].split(","))
    ends = [low] * parameter.allowed.startswith("[") + [high] * parameter.allowed.endswith("]")
    _only(number, low < number < high or number in ends)  # NaN is neither
    if parameter.kind is float:
        return number
    return _only(int(number), number % parameter.multiple == 0 and number == int(number))


def _only(value: object, is_allowed: object) -> object:
    if not is_allowed:
        raise ValueError
    return value


def _just_before(index: int, cells: list[set[str]]) -> set[str]:
    """Give the names that the unbroken run of assigning cells before cell `index` assigns."""
    return set().union(*takewhile(bool, reversed(cells[:index])))


def _assigned(source: str) -> set[str]:
    """Give the names that a cell assigns, if it does nothing but assign plain values; else nothing."""
    try:
        statements = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    names = set()
    for statement in statements:
        targets = (
            statement.targets
            if isinstance(statement, ast.Assign)
            else [getattr(statement, "target", None)]
        )
        calls = [
            ast.unparse(node.func) for node in ast.walk(statement) if isinstance(node, ast.Call)
        ]
        if not all(isinstance(target, ast.Name) for target in targets) or set(calls) - {"float"}:
            return set()  # float("nan") is how papermill writes it
        names |= {target.id for target in targets}
    return names


OLD_NAMES = {
    "foreground": "foreground_share",
    "mistakes": "hard_example_share",
    "fixed_norms": "frozen_norm_share",
    "cut_off": "field_of_view_crop",
    "least_peak": "min_peak",
    "mirror": "test_time_mirroring",
}


def with_current_names(values):
    """Return `values` under the names of today."""
    return {OLD_NAMES.get(name, name): value for name, value in values.items()}
