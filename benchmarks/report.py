"""How every benchmark leaves its numbers: as JSON and as a Markdown page beside it."""

from __future__ import annotations

import json
from pathlib import Path

from lungseg_utils import runtime

RESULTS = Path(__file__).parent / "results"


def write_results(path: Path, found: dict, text: str) -> None:
    """Write `found` to `path`.json and `text` to `path`.md, each whole or not at all, and print the text."""
    for suffix, content in ((".json", json.dumps(found, indent=1) + "\n"), (".md", text)):
        with runtime.writing(path.with_suffix(suffix)) as partial:
            partial.write_text(content)
    print(text)
