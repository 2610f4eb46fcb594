"""Train the same recipe by one, two and four processes and on two nodes, and compare the curves.

    python benchmarks/distributed.py [--epochs 15]

The recipe is that of params/quick.yaml on its own set. Two agents of torchrun on this machine's
loopback stand for two nodes. The noise is what the seed changes: three trainings of each. "Split"
is one process whose batch norms see half of the batch at a time, as those of two processes do.
Writes benchmarks/results/distributed.json and distributed.md.
"""

from __future__ import annotations

import csv
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from processes import describe_machine
from report import RESULTS, make_parser, markdown_table, write_results
from scans import SCRATCH

from lungseg_utils import acceleration, cli, phantom, runtime

SEEDS = 3
FOLDS = 4
LAST = 5  # epochs whose mean is compared


def make_set(root: Path) -> Path:
    """Write the quick set with folds of its own, so that every seed trains on the same scans."""
    if not (root / "dataset.json").is_file():
        phantom.write_dataset(root)
    described = json.loads((root / "dataset.json").read_text())
    for number, entry in enumerate(described["training"]):
        entry["fold"] = number % FOLDS
    (root / "dataset.json").write_text(json.dumps(described))
    return root


def free_port() -> int:
    """Return a port of the loopback that nobody uses."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def split_batch_norms() -> None:
    """Let the batch norms of this process's trainings see half of a batch at a time."""
    normalise = acceleration._normalise

    def split(x: torch.Tensor, norm: torch.nn.Module) -> torch.Tensor:
        if not norm.training or len(x) < 2:
            return normalise(x, norm)
        halves = torch.cat([normalise(half, norm) for half in x.chunk(2)])
        return halves.contiguous(memory_format=torch.channels_last_3d)

    acceleration._normalise = split


def train(
    root: Path,
    run_dir: Path,
    epochs: int,
    *,
    processes: int = 1,
    nodes: int = 1,
    seed: int = 0,
    split: bool = False,
) -> dict:
    """Train by `processes` on each of `nodes`; return the curves."""
    threads = max(1, (os.cpu_count() or 1) // (processes * nodes))
    launch = ["--nproc-per-node", str(processes), "--local-addr", "127.0.0.1"]
    if nodes > 1:
        meeting = f"127.0.0.1:{free_port()}"
        launch += ["--nnodes", str(nodes), "--rdzv-backend", "c10d", "--rdzv-id", run_dir.name]
        launch += ["--rdzv-endpoint", meeting]
    program = [__file__, "--split"] if split else ["-m", "lungseg_utils"]
    command = [sys.executable, "-m", "torch.distributed.run", *launch, *program]
    command += ["train", str(root), "--run-dir", str(run_dir), "--epochs", str(epochs)]
    command += ["-p", "seed", str(seed)]
    environment = {
        **os.environ,
        "PYTHONPATH": str(runtime.ROOT),
        "LUNGSEG_HOME": str(SCRATCH),
        "OMP_NUM_THREADS": str(threads),
    }
    agents = [subprocess.Popen(command, env=environment) for _node in range(nodes)]
    codes = [agent.wait() for agent in agents]
    if any(codes):
        raise SystemExit(f"{' '.join(command)} failed")
    with open(run_dir / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in ("loss", "validation_dice")}


def row_of(name: str, run: dict) -> list[str]:
    """Return the line of a training: means over its last epochs."""
    loss, score = (np.mean(run[curve][-LAST:]) for curve in ("loss", "validation_dice"))
    return [name, f"{loss:.3f}", f"{score:.3f}"]


def main() -> None:
    """Train them all, write the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--epochs", type=int, default=15, help="(default 15)")
    epochs = parser.parse_args().epochs
    root = make_set(SCRATCH / "distributed_set")
    ways: dict[str, dict] = {"1 process": {}, "1 process, split": {"split": True}}
    ways |= {"2 processes": {"processes": 2}}
    trainings = {
        f"{name}, seed {seed}": {**way, "seed": seed}
        for name, way in ways.items()
        for seed in range(SEEDS)
    }
    trainings |= {"4 processes": {"processes": 4}, "2 nodes of 1": {"nodes": 2}}
    found = {}
    for name, way in trainings.items():
        run_dir = SCRATCH / "distributed" / name.replace(" ", "_").replace(",", "")
        found[name] = train(root, run_dir, epochs, **way)
    columns = ["training", "loss", "validation Dice"]
    table = markdown_table(columns, [row_of(name, run) for name, run in found.items()])
    text = (
        "# Training by several processes\n\n"
        f"Made by `benchmarks/distributed.py` on {describe_machine('cpu')}, gloo on the loopback.\n"
        f"params/quick.yaml, {epochs} epochs; loss and Dice are means of the last {LAST}. "
        "The batch is the same; each process draws its share, which is all that its batch norms "
        "see.\n\n"
        f"{table}\n"
    )
    write_results(RESULTS / "distributed", found, text)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--split"]:
        split_batch_norms()
        sys.exit(cli.main(sys.argv[2:]))
    main()
