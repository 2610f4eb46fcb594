"""What the commands share: how one is added, and options that are parameters of the table."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from lungseg_utils import parameters

if TYPE_CHECKING:
    from lungseg_utils.prediction.shards import Shard

Commands = argparse._SubParsersAction  # which argparse has no public name for
DATASET = (
    "folder of a set with its dataset.json, in the layout of the Decathlon, of nnU-Net or of "
    "MONAI's lists; scans may lie in a folder for each patient"
)


class Help(argparse.RawDescriptionHelpFormatter):
    """Show the default of every option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        nothing = (None, False, argparse.SUPPRESS)
        has_default = not any(action.default is value for value in nothing)  # 0 is one
        return f"{action.help} (default: %(default)s)" if has_default else action.help


def add_command(commands: Commands, run: Callable, example: str) -> Callable:
    """Add the command that `run` carries out; its docstring is the help. Return `add_argument`."""
    name = run.__name__.rstrip("_")  # of one that Python knows as a word of its own
    description = (run.__doc__ or "").strip()
    added = commands.add_parser(
        name,
        help=description[:1].lower() + description[1:].rstrip("."),
        description=description,
        epilog=f"example: lungseg {name} {example}",
        formatter_class=Help,
    )
    added.set_defaults(run=run, refuse_usage=added.error)
    added.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show where an error arose"
    )
    return added.add_argument


def add_dataset(add: Callable) -> None:
    """Add the positional argument of a command that works on a dataset."""
    add("dataset", metavar="DATASET", help=DATASET)


def add_datasets(add: Callable, nargs: str, more: str) -> None:
    """Add the positional argument of a command that takes several; `more` is what it does then."""
    add("datasets", metavar="DATASET", nargs=nargs, help=f"{DATASET}; {more}")


def add_parameter(add: Callable, name: str, *, given: bool = True) -> None:
    """Add the option of a parameter; without `given` its default is left to a file of them."""
    parameter = parameters.PARAMETERS[name]

    def parse(text: str) -> object:
        try:
            return parameters.coerce(name, text)
        except ValueError as problem:
            raise argparse.ArgumentTypeError(str(problem)) from None

    default = "" if given else f" (default: the file's, or {parameter.default})"
    add(
        f"--{name.replace('_', '-')}",
        type=parse,
        metavar="|".join(parameter.choices) or "N",
        help=f"{parameter.meaning}{default}",
        default=parameter.default if given else None,
    )


def add_settings(add: Callable) -> None:
    """Add the options by which a command takes any parameter."""
    add(
        "-f",
        "--file",
        metavar="FILE",
        help="YAML file of parameters (default: as params/quick.yaml)",
    )
    add(
        "-p",
        "--parameter",
        nargs=2,
        metavar=("NAME", "VALUE"),
        action="append",
        help="one parameter; may be repeated",
    )


def read_settings(options: argparse.Namespace) -> dict:
    """Return the parameters of -f, then those of -p, then those with options of their own."""
    settings = parameters.read(options.file) if options.file is not None else {}
    settings |= parameters.check(dict(options.parameter or []))
    own = {name: getattr(options, name, None) for name in ("epochs", "fold")}
    return settings | {name: value for name, value in own.items() if value is not None}


def parse_shard(text: str) -> Shard | str:
    """Return the shard that --shard names, or "auto"."""
    from lungseg_utils.prediction import shards

    try:
        return text if text == "auto" else shards.parse_shard(text)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None


def chosen_shard(options: argparse.Namespace) -> Shard | None:
    """Return the shard of --shard; of "auto" that of the scheduler's task."""
    from lungseg_utils.prediction.shards import scheduler_shard

    return scheduler_shard() if options.shard == "auto" else options.shard
