"""Completion of commands, options, their values and paths in a shell, written by shtab.

What an argument takes is told from its metavar, so that a new option needs nothing more.
"""

import argparse
import re
from typing import Any

FOLDERS = ("DATASET", "DIR", "LABELS", "PREDICTIONS")
FILES_AND_FOLDERS = ("FILE", "INPUT", "OUT", "SOURCE")
CHOICES = re.compile(r"\w+(\|\w+)+")


class PrintCompletion(argparse.Action):
    """Print the completion script of the shell that is named, and end."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        shell: Any,
        option: str | None = None,
    ) -> None:
        """Print it; shtab is imported here only, so that no other command waits for it."""
        import shtab

        _describe_values(parser)
        print(shtab.complete(parser, shell=shell))
        parser.exit()


def _describe_values(parser: argparse.ArgumentParser) -> None:
    """Set what shtab reads from the arguments of `parser` and of its commands."""
    import shtab

    paths = dict.fromkeys(FOLDERS, shtab.DIRECTORY) | dict.fromkeys(FILES_AND_FOLDERS, shtab.FILE)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _describe_values(command)
        elif action.metavar in paths:
            setattr(action, "complete", paths[action.metavar])  # noqa: B010 (argparse has none)
        elif isinstance(action.metavar, str) and CHOICES.fullmatch(action.metavar):
            action.choices = action.metavar.split("|")
