"""The command line: `lungseg`, the same as `python -m lungseg_utils`.

Everything heavy is imported where a command needs it, so that `--help` is instant.
"""

from lungseg_utils.cli.entry import build_parser, main

__all__ = ["build_parser", "main"]
