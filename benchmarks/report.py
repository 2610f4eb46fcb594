"""What the benchmarks share: their arguments, their tables, and where the results lie."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from lungseg_utils import runtime

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PEERS = ROOT / "build" / "peers" / "bin" / "python"


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser that shows `description`, a script's docstring, as it is written."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_peers(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the Python of the environment with nnU-Net and MONAI."""
    parser.add_argument(
        "--peers",
        default=str(PEERS),
        help="Python of the environment with nnU-Net and MONAI (default: that of `make peers`)",
    )


def markdown_table(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table in Markdown."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def write_results(path: Path, found: dict, text: str) -> None:
    """Write `found` to `path`.json and `text` to `path`.md, and print the text."""
    contents = {".json": json.dumps(found, indent=1) + "\n", ".md": text}
    for suffix, content in contents.items():
        with runtime.writing(path.with_suffix(suffix)) as partial:
            partial.write_text(content, encoding="utf-8")
    print(text)


def put(page: Path, name: str, script: str, text: str) -> None:
    """Replace what stands between the marks of `name` on a page."""
    begin, end = f"<!-- {name}: made by {script} -->\n", f"<!-- end of {name} -->"
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    after = rest.partition(end)[2]
    page.write_text(f"{before}{begin}\n{text}\n\n{end}{after}", encoding="utf-8")
