"""Measure what windows cost: their side and overlap against Dice, agreement and seconds.

    [LUNGSEG_REAL_CT=DIR] python benchmarks/overlap.py [--checkpoint FILE] [--phantoms 5]
        [--output FILE]

The truth is the phantom's own label, or the real scan's outline. "Agreement" is the Dice with the
mask of the whole lung box as one window, which is what the project does wherever memory allows. The
reference is the plain, slow one of tests/test_agreement.py. Writes benchmarks/results/overlap.json
and overlap.md.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from report import RESULTS, make_parser, markdown_table, write_results
from scans import real_scan

from lungseg_utils import phantom, runtime, volume
from lungseg_utils.checkpoint import SHIPPED
from lungseg_utils.evaluation import dice
from lungseg_utils.prediction import Predictor

FIRST_SEED = 500_000  # of no set of this project
OVERLAPS = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625)
SIDES = (64, 96)
NOTE = (
    "Two windows of 96 voxels a side hold lungs of up to 144 voxels at any overlap up to 0.5: "
    "those rows are one and the same grid."
)


def scans(phantoms: int) -> Iterator[tuple[str, volume.Volume, np.ndarray]]:
    """Yield name, scan and truth of phantoms and of the real scan, if it is at hand."""
    for seed in range(FIRST_SEED, FIRST_SEED + phantoms):
        yield (f"phantom {seed}", *phantom.make_case(seed, tier="medium"))
    real = real_scan()
    if real:
        ct, outline = real
        scan = volume.read(ct)
        yield "lung1-001", scan, volume.read_label(outline, like=scan)


def slow_predictor(checkpoint: str | Path) -> Callable[[volume.Volume], np.ndarray]:
    """Return the plain reference of the tests."""
    sys.path.insert(0, str(runtime.ROOT / "tests"))
    from test_agreement import slow_mask

    return lambda scan: slow_mask(scan, checkpoint=checkpoint)


def measure(predictor: Predictor, checkpoint: str | Path, phantoms: int) -> list[dict]:
    """Return a row a scan, side and overlap, and one for the reference."""
    reference = slow_predictor(checkpoint)
    grids = [(None, 0.0), *((side, overlap) for side in SIDES for overlap in OVERLAPS)]
    rows = []
    for name, scan, truth in scans(phantoms):
        prepared = predictor.prepare(scan)
        masks = {}
        seconds = {}
        for side, overlap in grids:
            window = None if side is None else (side,) * 3
            started = time.perf_counter()
            probability = predictor.probabilities(prepared, window=window, overlap=overlap)
            seconds[side, overlap] = time.perf_counter() - started
            masks[side, overlap] = predictor.mask(prepared, probability)
        started = time.perf_counter()
        masks["reference", 0.5] = reference(scan)
        seconds["reference", 0.5] = time.perf_counter() - started
        whole = masks[None, 0.0]
        for (side, overlap), mask in masks.items():
            scores = {"dice": dice(truth, mask), "agreement": dice(whole, mask)}
            row = {"scan": name, "side": side, "overlap": overlap}
            rows.append(row | scores | {"seconds": seconds[side, overlap]})
        print(name, flush=True)
    return rows


def table(rows: list[dict]) -> str:
    """Return the means over the scans in Markdown."""
    names = {None: "whole box", "reference": "plain reference"}
    lines = []
    for side, overlap in dict.fromkeys((row["side"], row["overlap"]) for row in rows):
        chosen = [row for row in rows if (row["side"], row["overlap"]) == (side, overlap)]
        mean = {
            key: np.mean([row[key] for row in chosen]) for key in ("dice", "agreement", "seconds")
        }
        lines.append(
            [
                names.get(side, f"{side}³"),
                f"{overlap:g}",
                f"{mean['dice']:.4f}",
                f"{mean['agreement']:.4f}",
                f"{min(row['agreement'] for row in chosen):.4f}",
                f"{mean['seconds']:.1f}",
            ]
        )
    heading = ["window", "overlap", "Dice with the truth", "agreement with one window"]
    heading += ["least agreement", "seconds"]
    scans = ", ".join(dict.fromkeys(row["scan"] for row in rows))
    return f"Means over {scans}.\n\n{markdown_table(heading, lines)}\n\n{NOTE}\n"


def main() -> None:
    """Measure and write the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--checkpoint", help="default: the shipped weights")
    parser.add_argument("--phantoms", type=int, default=5, help="synthetic scans (default 5)")
    parser.add_argument("--output", type=Path, default=RESULTS / "overlap")
    options = parser.parse_args()
    predictor = Predictor(options.checkpoint)
    rows = measure(predictor, options.checkpoint or SHIPPED, options.phantoms)
    found = {"weights": predictor.facts["digest"], "device": str(predictor.device), "rows": rows}
    write_results(options.output, found, table(rows))


if __name__ == "__main__":
    main()
