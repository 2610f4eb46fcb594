"""Compare whole predictions, file to file: this project, MONAI's pipeline and nnU-Net v2.

    make peers              # nnU-Net and MONAI in an environment of their own, build/peers
    [LUNGSEG_REAL_CT=DIR] python benchmarks/predict.py [--windows 1] [--growth] [--scan FILE]
    PYTHONPATH=/another/checkout python benchmarks/predict.py --only ours

Every tool runs in a process of its own, on as many threads; its wall time, start-up included, and
its peak memory are taken from outside. MONAI runs this project's network and weights through its
own transforms, `sliding_window_inference` at half overlap and its own inversion. nnU-Net runs its
plan for Task06_Lung with random weights; on a CPU only `--windows` of its windows are run and the
rest is extrapolated by its own window count, and mirroring counts as eight passes a window. The
scans: a synthetic chest of 512 × 512 × 275, and lung1-001 where LUNGSEG_REAL_CT names its folder.
`--growth` adds 100 to 1000 slices of that same synthetic chest, 33 cm in all. Writes
benchmarks/results/predict.json, predict.md and figures/benchmark_predict.png; with `--only` it
prints and writes nothing, as to compare two checkouts of this package.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from predict_report import STAGES, tables, write
from processes import TOOLS, describe_machine, run_worker
from report import RESULTS, add_peers, make_parser
from scans import SCRATCH, real_scan, synthetic_scan

from lungseg_utils import runtime, volume

MIRRORED_PASSES = 8  # of 3D: every combination of the three axes
GROWTH = (100, 275, 500, 1000)  # slices


def measure(tool: str, scan: Path, options: argparse.Namespace, earlier: Sequence[dict]) -> dict:
    """Run one tool on one scan; a row that `earlier` has without mirroring may serve for it."""
    on_device = ("--device", options.device)
    if tool in ("ours", "monai"):
        python = sys.executable if tool == "ours" else options.peers
        return run_worker(python, f"{tool}-predict", scan, SCRATCH / f"{tool}.nii.gz", *on_device)
    nnunet = (options.peers, "nnunet-predict", scan, SCRATCH / "nnunet.nii.gz", *on_device)
    if tool == "nnunet":
        return extrapolated(run_worker(*nnunet, "--windows", options.windows))
    if options.windows:
        return mirrored(earlier[-1])
    return run_worker(*nnunet, "--mirroring")


def compare(name: str, scan: Path, options: argparse.Namespace) -> list[dict]:
    """Run the tools on one scan; return a row each."""
    slices = volume.read_header(scan).shape[0]
    rows: list[dict] = []
    for tool in [options.only] if options.only else TOOLS:
        row = measure(tool, scan, options, rows)
        row |= {"scan": name, "tool": tool, "slices": slices, "total": sum(row["seconds"].values())}
        row["slices_per_second"] = slices / row["total"]
        stages = ", ".join(f"{stage} {row['seconds'].get(stage, 0):.1f}" for stage in STAGES)
        total = f"{row['total']:.1f} s, {row['peak_gb']:.2f} GB"
        print(f"{name}, {TOOLS[tool]}: {total}, {stages}", flush=True)
        rows.append(row)
    return rows


def extrapolated(row: dict) -> dict:
    """Count the windows that were not run."""
    needed = row["windows_needed"]
    run = row["windows_run"]
    seconds = row["seconds"] | {"network": row["seconds"]["network"] * needed / run}
    return row | {"seconds": seconds, "extrapolated": run < needed}


def mirrored(row: dict) -> dict:
    """Count eight passes for each of nnU-Net's windows instead of one."""
    seconds = row["seconds"] | {"network": row["seconds"]["network"] * MIRRORED_PASSES}
    return row | {"seconds": seconds, "extrapolated": True}


def grow(device: str) -> list[dict]:
    """Run this project on ever more slices of the same chest."""
    rows = []
    for slices in GROWTH:
        out = SCRATCH / "ours.nii.gz"
        scan = synthetic_scan(slices)
        row = run_worker(sys.executable, "ours-predict", scan, out, "--device", device)
        rows.append(row | {"slices": slices, "total": row["wall"]})
        print(f"{slices} slices: {row['wall']:.1f} s, {row['peak_gb']:.2f} GB", flush=True)
    return rows


def scans_of(options: argparse.Namespace) -> dict[str, Path]:
    """Return the scans to predict, by name."""
    if options.scan:
        return {volume.stem(path): path for path in options.scan}
    scans = {"phantom, 275 slices": synthetic_scan()}
    real = real_scan()
    if real:
        scans["lung1-001"] = real[0]
    return scans


def read_options() -> argparse.Namespace:
    """Read the arguments."""
    parser = make_parser(__doc__)
    add_peers(parser)
    parser.add_argument("--device", default="auto", help="(default: a GPU if there is one)")
    parser.add_argument(
        "--windows", type=int, help="of nnU-Net's to run; 0 is all (default: 1 on a CPU, else 0)"
    )
    parser.add_argument(
        "--scan", type=Path, action="append", help="a CT instead of the two usual ones"
    )
    parser.add_argument("--growth", action="store_true", help="measure 100 to 1000 slices too")
    parser.add_argument(
        "--only-growth", action="store_true", help="measure these, keep the other results"
    )
    parser.add_argument(
        "--only", choices=("ours", "monai", "nnunet"), help="one tool; nothing is written"
    )
    parser.add_argument(
        "--redraw", action="store_true", help="measure nothing: tables and figure of what is there"
    )
    options = parser.parse_args()
    options.device = str(runtime.pick_device(options.device))
    if options.windows is None:
        options.windows = int(options.device == "cpu")
    return options


def main() -> None:
    """Measure, and write tables and figure."""
    options = read_options()
    kept = RESULTS / "predict.json"
    found: dict = {"rows": []}
    if (options.redraw or options.only_growth) and kept.is_file():
        found = json.loads(kept.read_text(encoding="utf-8"))
    if not options.redraw:
        found["machine"] = describe_machine(options.device)
        if not options.only_growth:
            scans = scans_of(options).items()
            found["rows"] = [row for scan in scans for row in compare(*scan, options)]
        if options.growth or options.only_growth:
            found["growth"] = grow(options.device)
    if options.only:
        print(tables(found))
    else:
        write(found)


if __name__ == "__main__":
    main()
