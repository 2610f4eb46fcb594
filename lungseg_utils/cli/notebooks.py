"""The command that runs the whole course."""

from __future__ import annotations

import argparse

from lungseg_utils.cli.options import Commands, add_command, add_settings, read_settings


def add_commands(commands: Commands) -> None:
    """Add `course`."""
    add = add_command(commands, course, "-p epochs 30 -o build/course")
    add(
        "-o",
        "--output",
        metavar="DIR",
        default="build/course",
        help="folder for notebooks, figures and metrics",
    )
    add_settings(add)


def course(options: argparse.Namespace) -> None:
    """Run the seven notebooks without a screen."""
    from lungseg_utils.course import run_course

    run_course(read_settings(options), options.output)
