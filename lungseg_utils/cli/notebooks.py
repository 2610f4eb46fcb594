"""The command that runs the whole course."""

import argparse
import shlex

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
    add(
        "--copy",
        metavar="DIR",
        help="run nothing: copy the notebooks into DIR, new or empty, to be worked on there",
    )
    add("--blank", action="store_true", help="with --copy: without outputs and solutions")
    add_settings(add)


def course(options: argparse.Namespace) -> None:
    """Run the seven notebooks without a screen."""
    if options.copy:
        from lungseg_utils.lessons import copy_course

        folder = copy_course(options.copy, blank=options.blank)
        print(
            f"the notebooks are in {folder}; open them with: jupyter lab {shlex.quote(str(folder))}"
        )
        return
    if options.blank:
        options.refuse_usage("--blank goes with --copy")
    from lungseg_utils.course import run_course

    run_course(read_settings(options), options.output)
