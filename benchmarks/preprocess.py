"""Compare preparing a set: this project, MONAI's transforms and nnU-Net v2's preprocessor.

    make peers
    [LUNGSEG_REAL_CT=DIR] python benchmarks/preprocess.py [--peers PYTHON] [--scan CT LABEL]...
    PYTHONPATH=/another/checkout python benchmarks/preprocess.py --only ours

From compressed NIfTI with a label to what each tool's training reads from disk, a process a scan
and tool, so that the peak memory is that of one scan. This project and MONAI go to 2.5 mm, nnU-Net
to its plan's 1.245 × 0.785 × 0.785 mm, which is more voxels: that is part of its method. Start-up
(imports) is left out, as a set pays it once. Writes benchmarks/results/preprocess.json and
preprocess.md; with `--only` nothing is written.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from processes import TOOLS, describe_machine, run_worker
from report import RESULTS, add_peers, make_parser, markdown_table, write_results
from scans import SCRATCH, SYNTHETIC_LABEL, real_scan, synthetic_scan

from lungseg_utils import volume

Scan = tuple[Path, Path]  # and its label

COMPARED = ("ours", "monai", "nnunet")


def measure(scans: Sequence[Scan], peers: str, tools: Sequence[str]) -> list[dict]:
    """Return a row a scan and tool: seconds, start-up left out, and peak memory."""
    rows = []
    for scan, label in scans:
        for tool in tools:
            out = SCRATCH / f"preprocessed_{tool}"
            shutil.rmtree(out, ignore_errors=True)
            python = sys.executable if tool == "ours" else peers
            worker = run_worker(python, f"{tool}-preprocess", scan, out, "--label", label)
            row = {
                "scan": f"{scan.parent.name}/{volume.stem(scan)}",
                "tool": tool,
                "peak_gb": worker["peak_gb"],
                "seconds": worker["seconds"]["preprocess"],
                "megabytes": sum(p.stat().st_size for p in out.rglob("*") if p.is_file()) / 1e6,
            }
            rows.append(row)
            taken = f"{row['seconds']:.1f} s, {row['peak_gb']:.2f} GB"
            print(f"{row['scan']}, {TOOLS[tool]}: {taken}", flush=True)
    return rows


def mean(rows: Sequence[dict], name: str) -> float:
    return sum(row[name] for row in rows) / len(rows)


def table(found: dict) -> str:
    """Return the table in Markdown, with ratios over the whole set."""
    by_tool = {
        tool: own
        for tool in COMPARED
        if (own := [row for row in found["rows"] if row["tool"] == tool])
    }
    first = next(iter(by_tool.values()))
    lines = []
    for tool, rows in by_tool.items():
        seconds = mean(rows, "seconds")
        peak = max(row["peak_gb"] for row in rows)
        times_time = seconds / mean(first, "seconds")
        times_memory = peak / max(row["peak_gb"] for row in first)
        line = [TOOLS[tool], f"{seconds:.2f}", f"{peak:.2f}", f"{mean(rows, 'megabytes'):.0f}"]
        lines.append([*line, f"{times_time:.1f}", f"{times_memory:.1f}"])
    heading = ["tool", "seconds a scan", "peak (GB)", "on disk, MB a scan"]
    heading += ["times the time", "times the memory"]
    where = f"Measured by `benchmarks/preprocess.py` on {found['machine']}"
    return f"{where}; {len(first)} scans with labels.\n\n{markdown_table(heading, lines)}\n"


def main() -> None:
    """Measure and write the table."""
    parser = make_parser(__doc__)
    add_peers(parser)
    parser.add_argument(
        "--scan", nargs=2, action="append", metavar=("CT", "LABEL"), help="instead of the usual two"
    )
    parser.add_argument("--only", choices=COMPARED, help="one tool; nothing is written")
    options = parser.parse_args()
    scans = [(Path(ct), Path(label)) for ct, label in options.scan or []]
    if not scans:
        scans = [(synthetic_scan(), SYNTHETIC_LABEL)]
        real = real_scan()
        if real:
            scans.append(real)
    tools = [options.only] if options.only else COMPARED
    rows = measure(scans, options.peers, tools)
    found = {"machine": describe_machine("cpu"), "rows": rows}
    if options.only:
        print(table(found))
    else:
        write_results(RESULTS / "preprocess", found, table(found))


if __name__ == "__main__":
    main()
