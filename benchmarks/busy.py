"""Measure how a busy machine slows training down: alone, and beside four busy loops.

    python benchmarks/busy.py [--epochs 2] [--loops 4]

Threads that wait may sleep at once (`OMP_WAIT_POLICY=passive`), spin for less than a millisecond
first (`GOMP_SPINCOUNT=20000`, as the package sets it), or spin on (`OMP_WAIT_POLICY=active`). Each
way is timed whole, start-up counted, after one run that is not. The loops start from this process,
so that the system shares the cores between them and the training. Prints a table.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report import ROOT, make_parser, markdown_table

from lungseg_utils import phantom

POLICY, SPINS = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"
WAYS = {
    "sleep at once": {POLICY: "passive"},
    "spin briefly, then sleep": {POLICY: "passive", SPINS: "20000"},
    "spin on": {POLICY: "active"},
}


def train(dataset: Path, home: Path, epochs: int, way: str) -> float:
    """Train in a process of its own; return its seconds."""
    command = [sys.executable, "-m", "lungseg_utils", "train", str(dataset), "-f"]
    command += [str(ROOT / "params" / "quick.yaml"), "-p", "epochs", str(epochs)]
    command += ["-p", "validate_every", str(epochs), "--run-dir", tempfile.mkdtemp(dir=home)]
    environment = {name: value for name, value in os.environ.items() if name != SPINS}
    environment |= {"LUNGSEG_HOME": str(home)} | WAYS[way]
    started = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    """Read the arguments, measure and print the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--epochs", type=int, default=2, help="default: 2")
    parser.add_argument("--loops", type=int, default=4, help="busy ones (default 4)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        dataset = phantom.write_dataset(home / "set", cases=12, test_cases=0)
        train(dataset, home, 1, "sleep at once")  # fills the cache
        seconds = {way: [train(dataset, home, options.epochs, way)] for way in WAYS}
        busy = [sys.executable, "-c", "while True: pass"]
        loops = [subprocess.Popen(busy) for _ in range(options.loops)]
        try:
            for way in WAYS:
                seconds[way].append(train(dataset, home, options.epochs, way))
        finally:
            for loop in loops:
                loop.kill()
    rows = [
        [way, f"{alone:.0f}", f"{beside:.0f}", f"{beside / alone:.1f}"]
        for way, (alone, beside) in seconds.items()
    ]
    print(markdown_table(["threads that wait", "alone (s)", "beside loops (s)", "times"], rows))


if __name__ == "__main__":
    main()
