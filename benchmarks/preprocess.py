"""Compare preprocessing a set: this project, MONAI's transforms and nnU-Net v2's preprocessor, on the same scans.

    make peers
    [LUNGSEG_REAL_CT=DIR] python benchmarks/preprocess.py [--peers PYTHON] [--scan CT LABEL]...

From compressed NIfTI with a label to what each tool's training reads from disk, a process a scan and tool, so that
the peak memory is that of one scan. This project and MONAI go to 2.5 mm, nnU-Net to its plan's 1.245 x 0.785 x
0.785 mm, which is more voxels: that is part of its method. Start-up (imports) is left out, as a set pays it once.
Writes benchmarks/results/preprocess.json and preprocess.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from predict import SCRATCH, TOOLS, machine, run, synthetic_scan
from report import RESULTS, write_results

from lungseg_utils import runtime, volume


def measure(scans: list[tuple[Path, Path | None]], peers: str) -> list[dict]:
    """Give a row a scan and tool: seconds, start-up left out, and peak memory."""
    rows = []
    for scan, label in scans:
        for tool in ("ours", "monai", "nnunet"):
            out = SCRATCH / f"preprocessed_{tool}"
            shutil.rmtree(out, ignore_errors=True)
            row = run(
                sys.executable if tool == "ours" else peers,
                f"{tool}-preprocess",
                scan,
                out,
                *(("--label", label) if label else ()),
            )
            megabytes = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 1e6
            name, seconds = f"{scan.parent.name}/{volume.stem(scan)}", row["seconds"]["preprocess"]
            rows.append(
                {
                    "scan": name,
                    "tool": tool,
                    "peak_gb": row["peak_gb"],
                    "seconds": seconds,
                    "megabytes": megabytes,
                }
            )
            print(f"{name}, {TOOLS[tool]}: {seconds:.1f} s, {row['peak_gb']:.2f} GB", flush=True)
    return rows


def table(found: dict) -> str:
    """Give the table in Markdown, with ratios over the whole set."""
    count = len(found["rows"]) // 3
    lines = [
        f"Measured by `benchmarks/preprocess.py` on {found['machine']}; {count} scans with labels.",
        "",
        "| tool | seconds a scan | peak (GB) | on disk, MB a scan | times the time | times the memory |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    totals = {}
    for tool in ("ours", "monai", "nnunet"):
        rows = [row for row in found["rows"] if row["tool"] == tool]
        totals[tool] = (
            sum(row["seconds"] for row in rows) / len(rows),
            max(row["peak_gb"] for row in rows),
            sum(row["megabytes"] for row in rows) / len(rows),
        )
    for tool, (seconds, peak, megabytes) in totals.items():
        lines.append(
            f"| {TOOLS[tool]} | {seconds:.2f} | {peak:.2f} | {megabytes:.0f} "
            f"| {seconds / totals['ours'][0]:.1f} | {peak / totals['ours'][1]:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--peers",
        default=str(runtime.ROOT / "build" / "peers" / "bin" / "python"),
        help="Python of the environment with nnU-Net and MONAI (default: that of `make peers`)",
    )
    parser.add_argument(
        "--scan", nargs=2, action="append", metavar=("CT", "LABEL"), help="instead of the usual two"
    )
    options = parser.parse_args()
    scans = [(Path(ct), Path(label)) for ct, label in options.scan or []]
    if not scans:
        scans = [(synthetic_scan(), SCRATCH / "phantom_275_label.nii.gz")]
        if os.environ.get("LUNGSEG_REAL_CT"):
            folder = Path(os.environ["LUNGSEG_REAL_CT"]) / "lung1-001"
            scans.append((folder / "ct.nii.gz", folder / "tumour.nii.gz"))
    found = {"machine": machine("cpu"), "rows": measure(scans, options.peers)}
    write_results(RESULTS / "preprocess", found, table(found))


if __name__ == "__main__":
    main()
