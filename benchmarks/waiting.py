"""Check the simulation against the real code, with stages that only wait: on any machine.

    python benchmarks/waiting.py

Tiny scans pass the real threads, locks and queues of `lungseg predict` and of a worker of `--ray`,
while reading, the network and writing each sleep for some seconds. What is slowest differs from row
to row. Prints the table and writes it between the marks of docs/scale.md.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
import unittest.mock
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from report import make_parser, markdown_table, put
from simulate_cohort import IN_ACTOR, IN_PROCESS
from simulate_report import PAGE
from simulation import Stage, Step, simulate

from lungseg_utils import checkpoint, volume
from lungseg_utils.prediction import Predictor, predict_files, reading, segmenting
from lungseg_utils.prediction.plan import plan
from lungseg_utils.segunet import SegUNet

SCANS = 10
WAITS = ((1.5, 2.5, 1.0), (3.0, 1.5, 1.0), (1.0, 1.5, 3.0))  # seconds: read, network, write


def after(seconds: float, function: Callable) -> Callable:
    """Return `function`, begun so many seconds later."""

    def wait(*arguments: object, **options: object) -> object:
        time.sleep(seconds)
        return function(*arguments, **options)

    return wait


@contextlib.contextmanager
def waiting(read: float, network: float, write: float) -> Iterator[None]:
    """Have the stages wait while the block runs."""
    with contextlib.ExitStack() as stack:
        for seconds, owner, name in (
            (read, reading.volume, "read"),
            (network, Predictor, "probabilities"),
            (write, segmenting, "write"),
        ):
            later = after(seconds, getattr(owner, name))
            stack.enter_context(unittest.mock.patch.object(owner, name, later))
        yield


def rate_of(masks: Path) -> float:
    """Return the masks a second, from the first to the last."""
    written = sorted(path.stat().st_mtime for path in masks.glob("*.nii.gz"))
    return (len(written) - 1) / (written[-1] - written[0])


def run_process(scans: Path, weights: Path, out: Path) -> float:
    """Predict in this process."""
    list(predict_files([scans], out, checkpoint=weights, device="cpu"))
    return rate_of(out)


def run_worker(scans: Path, weights: Path, out: Path) -> float:
    """Predict as a worker of `--ray` does, in as many threads as it has items in hand."""
    out.mkdir()
    work = segmenting.ScanWork(segmenting.Options(weights, "cpu", None, 0.5, None))
    with ThreadPoolExecutor(IN_ACTOR) as threads:
        list(threads.map(work, plan([scans], out)))
    return rate_of(out)


def simulated(waits: tuple[float, ...], seats: int, in_hand: int) -> float:
    """Return the rate that the simulation foresees."""
    stages = [
        Stage(name, [Step([seconds])], own)
        for name, seconds, own in zip(("read", "segment", "write"), waits, (seats, 1, seats))
    ]
    return simulate(stages, [deque([0] * SCANS)], in_hand=in_hand).rate


def make_inputs(folder: Path) -> tuple[Path, Path]:
    """Write tiny scans, and the weights of a tiny network."""
    weights = folder / "tiny.safetensors"
    checkpoint.save_weights(weights, SegUNet(channels=(2, 4)), {"spacing_mm": 6.0})
    hu = np.random.default_rng(0).integers(-900, 200, (12, 14, 16)).astype(np.int16)
    for number in range(SCANS):
        path = folder / "scans" / f"scan_{number:02d}.nii.gz"
        volume.write_nifti(path, hu, volume.CANONICAL @ np.diag([6.0, 6.0, 6.0, 1.0]))
    return folder / "scans", weights


def main() -> None:
    """Run both ways with all waits, and write the table."""
    make_parser(__doc__).parse_args()
    ways = (
        ("one process", run_process, 1, IN_PROCESS),
        ("a worker of `--ray`", run_worker, IN_ACTOR, IN_ACTOR),
    )
    lines = []
    with tempfile.TemporaryDirectory() as name:
        inputs = make_inputs(Path(name))
        for waits in WAITS:
            for way, run, seats, in_hand in ways:
                with waiting(*waits):
                    real = run(*inputs, Path(name, f"{way}{waits}"))
                foreseen = simulated(waits, seats, in_hand)
                shown = [f"{60 * rate:.1f}" for rate in (real, foreseen)]
                line = [", ".join(map(str, waits)), way, *shown, f"{foreseen / real - 1:+.0%}"]
                lines.append(line)
    heading = ["seconds to read, segment, write", "way", "real, scans a minute", "simulated"]
    heading.append("difference")
    table = markdown_table(heading, lines)
    put(PAGE, "waiting", "benchmarks/waiting.py", table)
    print(table)


if __name__ == "__main__":
    main()
