"""Measure training throughput, data included: this project's loop, MONAI's and nnU-Net's.

    python benchmarks/train.py [--steps 12] [--peers PYTHON] [--device auto] [--patch 40]
        [--batch-size 4]
    PYTHONPATH=/another/checkout python benchmarks/train.py --only-ours

All three train the same network on the same scans with the same patch and batch; a step is timed
from one to the next, whatever draws the data in between. MONAI's tutorial pipeline and nnU-Net's
trainer are timed without and with worker processes, and the faster counts. This project's loop is
also timed with frozen batch norms, as the shipped weights were trained, and in as many processes as
there are cores, each with its share of the batch, as with
`torchrun --nproc-per-node 2 -m lungseg_utils train`. nnU-Net v2 runs in an environment of its own,
whose Python `--peers` (or $LUNGSEG_PEERS) names; without it its row says "not run". Writes
benchmarks/results/train.json and train.md; with `--only-ours` it prints and writes nothing, as to
compare two checkouts of this package.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import train_ours
import train_peers
from report import RESULTS, make_parser, markdown_table, write_results

from lungseg_utils import course, runtime
from lungseg_utils.preprocess import Prepared
from lungseg_utils.preprocess.cache import prepare_cases

SPACING_MM = 3.0


def measure_ours(cases: Sequence[Prepared], options: argparse.Namespace) -> dict:
    """Time this project's loop; return its environment, the network's share of a step, its rows."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = train_ours.time_fit(cases, options, folder)
        network = train_ours.time_fit(cases, options, folder, same_batch=True)
        frozen = train_ours.time_fit(cases, options, folder, frozen=True)
        environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    rows = [row("this project", whole, options)]
    rows.append(row("this project, batch norms frozen", frozen, options))
    cores = count_cores()
    if options.device == "cpu" and cores > 1 and options.batch_size % cores == 0:
        for name, frozen_norms in (("", False), (", batch norms frozen", True)):
            seconds = train_ours.time_in_processes(options, cores, frozen_norms)
            rows.append(row(f"this project, {cores} processes{name}", seconds, options))
    share = float(np.median(network) / np.median(whole))
    return {"environment": environment, "network_share": share, "rows": rows}


def count_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def row(loop: str, seconds: list | None, options: argparse.Namespace, workers: int = 0) -> dict:
    """Return a row of the results, and report it."""
    text = f"{np.median(seconds):.3f} s a step" if seconds else "not run"
    print(loop, text, file=sys.stderr, flush=True)
    return {
        "loop": loop,
        "voxels": options.batch_size * options.patch**3,
        "workers": workers,
        "seconds": seconds and [round(second, 5) for second in seconds],
    }


def fastest(found: dict[int, list]) -> tuple[list, int]:
    """Return the steps and the number of worker processes with which they are fastest."""
    workers = min(found, key=lambda number: float(np.median(found[number])))
    return found[workers], workers


def table(rows: Sequence[dict]) -> str:
    """Return a row a loop, with its speed as a multiple of each peer's."""
    peers = [row for row in rows if not row["loop"].startswith("this project")]
    lines = []
    for own in rows:
        if not own["seconds"]:
            lines.append([own["loop"], "not run", "", "", *("" for _ in peers)])
            continue
        low, middle, high = np.percentile(own["seconds"], [25, 50, 75])
        ratios = [
            f"{np.median(peer['seconds']) / middle:.2f}" if peer["seconds"] else ""
            for peer in peers
        ]
        speed = f"{own['voxels'] / middle / 1e6:.3f}"
        seconds = f"{middle:.3f} ({low:.3f} to {high:.3f})"
        lines.append([own["loop"], speed, seconds, own["workers"], *ratios])
    heading = ["loop", "million voxels a second", "seconds a step (median; quartiles)"]
    heading += ["worker processes", *(f"times {peer['loop']}" for peer in peers)]
    return markdown_table(heading, lines)


def page(found: dict, options: argparse.Namespace) -> str:
    """Return the results as a page in Markdown."""
    facts = found["environment"]
    widths = "-".join(map(str, options.channels))
    return (
        "# Training throughput, data included\n\n"
        f"{options.batch_size} patches of {options.patch}³ voxels a step, the same SegUNet, "
        f"{widths}, in all, {facts['device']} ({facts['processor']}, {facts['threads']} threads), "
        f"torch {facts['torch']}, median of {options.steps} steps, one run.\n\n"
        f"{table(found['rows'])}\n\nOf this project's step the network itself is "
        f"{found['network_share']:.0%}, the rest draws and varies the patches.\n"
    )


def read_options() -> argparse.Namespace:
    """Read the arguments."""
    parser = make_parser(__doc__)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--patch", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--channels", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[0, 2], help="to try, for MONAI and nnU-Net"
    )
    parser.add_argument(
        "--peers", default=os.environ.get("LUNGSEG_PEERS"), help="Python that has nnunetv2"
    )
    parser.add_argument("--output", type=Path, default=RESULTS / "train")
    parser.add_argument("--only-ours", action="store_true", help="no peers; nothing is written")
    parser.add_argument("--one-of-several", type=Path, help=argparse.SUPPRESS)  # seconds go there
    parser.add_argument("--frozen", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Read the arguments, time the loops one after another, write the table."""
    options = read_options()
    options.device = runtime.pick_device(options.device).type
    with contextlib.redirect_stdout(sys.stderr):
        cases = prepare_cases(course.ensure_dataset().training, spacing_mm=SPACING_MM)
    if options.one_of_several:
        train_ours.time_share(cases, options)
        return
    peers = []
    if not options.only_ours:
        # MONAI first: what our loop asks of the allocator would help it too, in this one process.
        monai = fastest({n: train_peers.time_monai(cases, options, n) for n in options.workers})
        peers.append(row("MONAI's tutorial pipeline", monai[0], options, monai[1]))
    found = measure_ours(cases, options)
    if not options.only_ours:
        nnunet = (None, 0)
        if options.peers:
            nnunet = fastest(train_peers.time_nnunet(cases, options))
        peers.append(row("nnU-Net v2's trainer and dataloader", nnunet[0], options, nnunet[1]))
    found["rows"] += peers
    if options.only_ours:
        print(page(found, options))
    else:
        write_results(options.output, found, page(found, options))


if __name__ == "__main__":
    main()
