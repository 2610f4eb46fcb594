"""What a folder of masks says of itself: which scans were planned, and what became of each.

`plan.jsonl` has a line for each scan that a run was to segment; `manifest.jsonl`, or a shard's
`manifest.2-of-3.jsonl`, one for each that it has. A manifest grows while its run goes on and may
then end within a line or hold two of one scan; at the end of the run it is written again, whole.
"""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from lungseg_utils.prediction.plan import Job
from lungseg_utils.prediction.rows import MANIFESTS, PLAN, Row, Rows, by_mask, read_rows
from lungseg_utils.prediction.shards import Shard
from lungseg_utils.prediction.sources import content_of, stamp_of
from lungseg_utils.runtime import LungsegError, writing

STATES = ("done", "missing", "failed", "stale")


def manifest_name(shard: Shard | None) -> str:
    """Return what the manifest of a run, or of a shard of it, is called."""
    return f"manifest.{shard.number}-of-{shard.count}.jsonl" if shard else "manifest.jsonl"


def planned_row(job: Job, weights: str, settings: Mapping) -> Row:
    """Return the line of a plan: a scan, the files to be written of it, and how."""
    return {
        "name": job.scan.name,
        "source": job.scan.source,
        "path": os.path.abspath(job.scan.source),
        "mask": job.mask.name,
        "outputs": [path.name for path in job.outputs],
        "weights": weights,
        "settings": dict(settings),
    }


def write_plan(folder: Path, planned: Sequence[Row]) -> None:
    """Add `planned` to the folder's plan.

    Scans of earlier runs stay in it, but for those that were never done and are not there any more.
    """
    with locked(folder):
        earlier, own = read_plan(folder), by_mask(planned)
        rows = read_manifests(folder)
        kept = {
            mask: row
            for mask, row in earlier.items()
            if mask not in own
            and (os.path.lexists(row["path"]) or rows.get(mask, {}).get("status") == "done")
        }
        if kept | own != earlier:
            _write_rows(folder / PLAN, kept | own)


def read_plan(folder: Path) -> Rows:
    """Return the lines of the folder's plan."""
    return read_rows(folder / PLAN)


def read_manifests(folder: Path) -> Rows:
    """Return the latest row of each scan, of all manifests of the folder."""
    return by_mask(row for path in folder.glob(MANIFESTS) for row in read_rows(path).values())


def add_row(path: Path, row: Row) -> None:
    """Append one row to a manifest that grows, in one piece."""
    line = (json.dumps(row) + "\n").encode()
    with locked(path.parent):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)


def complete(path: Path, rows: Rows) -> None:
    """Write the manifest whole: its own rows and `rows`, the latest of each scan."""
    with locked(path.parent):
        _write_rows(path, by_mask([*read_rows(path).values(), *rows.values()]))


def state_of(planned: Row, row: Row | None, folder: Path) -> str:
    """Return whether a planned scan is done, missing, failed or stale, by its latest row."""
    if row is None:
        return "missing"
    if row.get("status") != "done":
        return "failed"
    is_of_this_row = set(planned["outputs"]) <= set(row["outputs"])  # not left by an earlier one
    if not is_of_this_row or not all((folder / name).is_file() for name in planned["outputs"]):
        return "missing"
    is_same_way = all(row.get(name) == planned[name] for name in ("weights", "settings"))
    return "done" if is_same_way and not _has_changed(planned["path"], row) else "stale"


def states(folder: str | Path) -> dict[str, list[Row]]:
    """Return the rows of the scans that are done, missing, failed and stale, by these words."""
    folder = Path(folder)
    rows = read_manifests(folder)
    plan = read_plan(folder) or rows
    if not plan:
        raise LungsegError(
            folder,
            "no manifest of a prediction is in this folder",
            "Name the folder that `lungseg predict -o` was to fill",
        )
    found: dict[str, list[Row]] = {state: [] for state in STATES}
    for mask, planned in sorted(plan.items()):
        state = state_of(planned, rows.get(mask), folder)
        found[state].append(planned | rows.get(mask, {}))
    return found


def refuse_other_scans(folder: Path, jobs: Iterable[Job]) -> None:
    """Raise LungsegError where a mask would replace that of another scan, which is still there."""
    rows = read_manifests(folder)
    for job in jobs:
        row = rows.get(job.mask.name, {})
        is_kept = row.get("status") == "done" and job.mask.is_file()
        is_other = is_kept and row["path"] != os.path.abspath(job.scan.source)
        if is_other and os.path.lexists(row["path"]) and _has_changed(job.scan.source, row):
            raise LungsegError(
                job.mask,
                f"the mask of another scan, {row['path']}, and not of {job.scan.source}",
                "Name another folder, or remove this mask",
            )


def _has_changed(source: str, row: Row) -> bool:
    """Return whether the scan is another than the one that was segmented."""
    try:
        return row.get("stamp") != stamp_of(source) and row.get("content") != content_of(source)
    except OSError:
        return False  # it was moved away: the mask is still that of it


def _write_rows(path: Path, rows: Rows) -> None:
    with writing(path) as partial, open(partial, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for _, row in sorted(rows.items()))


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other runs from the manifests of `folder` meanwhile; a disk without locks goes without.

    The lock is the folder's own and so leaves no file.
    """
    from filelock import lock_descriptor

    descriptor = None
    try:
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            lock_descriptor(descriptor)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)
