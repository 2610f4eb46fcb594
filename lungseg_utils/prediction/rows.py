"""The lines of JSON that lie in a folder of masks, and which files they say are results."""

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

PLAN = "plan.jsonl"
MANIFESTS = "manifest*.jsonl"
PLANNED = {"name", "source", "path", "mask", "outputs", "weights", "settings"}

Row = dict
Rows = dict[str, Row]  # by the name of the mask


def read_rows(path: Path) -> Rows:
    """Return the rows of a file; what is not a whole row, as after a kill, is left out."""
    rows = []
    with (
        contextlib.suppress(FileNotFoundError),
        open(path, encoding="utf-8", errors="replace") as f,
    ):
        for line in f:
            with contextlib.suppress(ValueError, RecursionError):
                row = json.loads(line)
                if _is_whole(row):
                    rows.append(row)
    return by_mask(rows)


def by_mask(rows: Iterable[Row]) -> Rows:
    """Return the latest of the rows of each mask."""
    latest: Rows = {}
    for row in rows:
        other = latest.get(row["mask"])
        if other is None or row.get("finished", "") >= other.get("finished", ""):
            latest[row["mask"]] = row
    return latest


def is_taken(path: Path) -> bool:
    """Return whether a file of that name would be a plan or a manifest."""
    return path.name == PLAN or path.match(MANIFESTS)


def results_in(folder: str) -> set[str]:
    """Return the names of what earlier predictions have left in `folder`: no scan is among them."""
    plan = Path(folder, PLAN)
    if not plan.is_file():
        return set()
    outputs = {name for row in read_rows(plan).values() for name in row["outputs"]}
    return {name for name in os.listdir(folder) if name in outputs or is_taken(Path(name))}


def _is_whole(row: object) -> bool:
    return (
        isinstance(row, dict)
        and row.keys() >= PLANNED
        and isinstance(row["outputs"], list)
        and all(isinstance(text, str) for text in (row["mask"], row["path"], *row["outputs"]))
    )
