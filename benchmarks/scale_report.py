"""The tables of `scale.py`."""

from __future__ import annotations

import statistics

from report import markdown_table

STAGES = ("hash", "read", "prepare", "network", "back", "write")
ONE = "one process"
SHARDS = "two shards at once"
ACTORS = {1: "`--ray`, 1 actor", 2: "`--ray`, 2 actors"}
QUIET = 1.0  # load of a machine with nothing else to do, a minute after other work


def tables(found: dict) -> str:
    """Return all tables in Markdown."""
    parts = [
        "# What many scans cost",
        f"Measured by `benchmarks/scale.py` on {describe(found)}.",
        "Seconds of one core for a scan of 512 × 512, and their mean; that beside another such "
        "process; seconds on the clock with as many threads as cores:",
        stages_table(found),
        "Reading the same voxels from a gzipped and from a plain file, in the disk's cache:",
        sizes_table(found),
    ]
    if "doors" in found:
        parts += [f"{found['count']} scans of these thicknesses:", doors_table(found)]
        parts.append(overheads(found))
    return "\n\n".join(parts) + "\n"


def describe(found: dict) -> str:
    """Return what was measured on, and whether it had other things to do."""
    state = "with nothing else to do" if found["load"] < QUIET else "**that was busy**"
    return f"{found['machine']}, {found['cores']} cores, {state} (load {found['load']:.1f})"


def mean_of(rows: list[dict[str, float]], stage: str) -> float:
    """Return the mean seconds of a stage."""
    return statistics.mean(row[stage] for row in rows)


def stages_table(found: dict) -> str:
    """Return a row for each stage, and one for their sum."""
    columns = [f"{scan['slices']} slices" for scan in found["scans"]]
    values = [{stage: row[stage] for stage in STAGES} for row in found["alone"]]
    for name, way in (("mean", "alone"), ("beside", "beside"), ("threads", "threads")):
        if way in found:
            columns.append(name)
            values.append({stage: mean_of(found[way], stage) for stage in STAGES})
    lines = [[stage, *(f"{row[stage]:.2f}" for row in values)] for stage in STAGES]
    lines.append(["all", *(f"{sum(row.values()):.2f}" for row in values)])
    return markdown_table(["stage", *columns], lines)


def sizes_table(found: dict) -> str:
    """Return a row for each scan."""
    heading = ["slices", "gzipped (MB)", "plain (MB)", "read gzipped (s)", "read plain (s)"]
    lines = [
        [
            scan["slices"],
            f"{scan['bytes'] / 1e6:.0f}",
            f"{scan['plain_bytes'] / 1e6:.0f}",
            f"{scan['read']:.2f}",
            f"{scan['read_plain']:.2f}",
        ]
        for scan in found["scans"]
    ]
    return markdown_table(heading, lines)


def doors_table(found: dict) -> str:
    """Return a row for each door, and whether all left the same masks."""
    one = found["doors"][0]["rate"]
    lines = [
        [
            row["door"],
            f"{60 * row['rate']:.1f}",
            f"{row['rate'] / one:.2f}",
            f"{row['first']:.0f}",
            f"{row['wall']:.0f}",
        ]
        for row in found["doors"]
    ]
    heading = ["door", "scans a minute", "times one process", "first mask after (s)", "in all (s)"]
    is_same = len({row["checksum"] for row in found["doors"]}) == 1
    masks = "the same to the byte" if is_same else "**not** all the same"
    return f"{markdown_table(heading, lines)}\n\nTheir masks are {masks}."


def overheads(found: dict) -> str:
    """Return what Ray and the manifest take, in two sentences."""
    manifest = found["manifest"]
    text = (
        f"Plan and manifest take {1000 * manifest['first']:.1f} ms and {manifest['bytes']:.0f} "
        f"bytes a scan, and {1000 * manifest['again']:.1f} ms when a run finds it done."
    )
    if not found.get("ray"):
        return text
    ray = found["ray"]
    return (
        f"Ray takes {1000 * ray['item']:.1f} ms for an item that does nothing, and "
        f"{ray['start']:.0f} s to start on this machine. {text}"
    )
