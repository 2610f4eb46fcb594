"""The entry of the command line: its parser, and how every command ends.

Exit codes: 0 done; 1 a bad input or a failure, printed as `error: FILE: cause. Remedy.`; 2 wrong
usage; 130 interrupted.
"""

import argparse
import contextlib
import os
import sys
import traceback
from collections.abc import Sequence

from lungseg_utils import __version__
from lungseg_utils.cli import data, network, notebooks
from lungseg_utils.cli.completion import PrintCompletion
from lungseg_utils.cli.options import Help
from lungseg_utils.runtime import LungsegError, file_error, is_out_of_memory, printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    _open_streams()
    options = build_parser().parse_args(arguments)
    try:
        code = options.run(options) or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of a pipe has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        print(f"error: {_describe(error, options.command)}", file=sys.stderr, flush=True)
        return 1


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="lungseg",
        formatter_class=Help,
        description=(
            "Segment lung tumours in chest CTs with a 3D SegUNet. "
            "For research and teaching; not a medical device."
        ),
        epilog="example: lungseg predict my_ct.nii.gz -o mask.nii.gz",
    )
    parser.add_argument("--version", action="version", version=f"lungseg {__version__}")
    parser.add_argument("--debug", action="store_true", help="show where an error arose")
    parser.add_argument(
        "--print-completion",
        action=PrintCompletion,
        choices=("bash", "zsh", "tcsh"),
        help="print a script that completes commands, options and paths in a shell",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    data.add_commands(commands)
    network.add_commands(commands)
    notebooks.add_commands(commands)
    return parser


def _open_streams() -> None:
    """Open what is closed, as by `>&-`, and let every stream print what a terminal cannot show."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (it stays open)
            os.set_inheritable(getattr(sys, name).fileno(), True)  # a notebook's kernel needs it
        with contextlib.suppress(AttributeError):
            getattr(sys, name).reconfigure(errors="backslashreplace")


def _describe(error: Exception, command: str) -> str:
    """Return `FILE: cause. Remedy.`; for an error that nobody foresaw, the command and a way on."""
    if isinstance(error, LungsegError):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return str(file_error(os.fsdecode(error.filename), error))
    cause = f"{type(error).__name__}: {printable(error)}"
    if is_out_of_memory(error):
        cause = "not enough memory"
    return f"lungseg {command}: {cause.rstrip('.')}. Run it again with --debug to see where."
