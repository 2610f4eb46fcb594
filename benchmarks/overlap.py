"""Measure what windows cost: their side and overlap against Dice, agreement and seconds.

    [LUNGSEG_REAL_CT=DIR] python benchmarks/overlap.py [--checkpoint FILE] [--phantoms 5]

The truth is the phantom's own label, or the real scan's outline. "Agreement" is the Dice with the mask of the whole
lung box as one window, which is what the project does wherever memory allows. The reference is the plain, slow one of
tests/test_agreement.py. Writes benchmarks/results/overlap.json and overlap.md.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
from report import RESULTS, write_results

from lungseg_utils import phantom, runtime, volume
from lungseg_utils.checkpoint import SHIPPED
from lungseg_utils.evaluation import dice
from lungseg_utils.prediction import Predictor
from lungseg_utils.preprocess import prepare

FIRST_SEED = 500_000  # of no set of this project
OVERLAPS = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625)
SIDES = (64, 96)


def scans(count: int):
    """Give (name, scan, truth) of phantoms and of the real scans at hand."""
    for seed in range(FIRST_SEED, FIRST_SEED + count):
        yield (f"phantom {seed}", *phantom.make_case(seed, tier="medium"))
    if os.environ.get("LUNGSEG_REAL_CT"):
        folder = Path(os.environ["LUNGSEG_REAL_CT"]) / "lung1-001"
        scan = volume.read(folder / "ct.nii.gz")
        yield "lung1-001", scan, volume.read_label(folder / "tumour.nii.gz", like=scan)


def measure(predictor: Predictor, checkpoint: str | Path, count: int) -> list[dict]:
    """Give a row a scan, side and overlap, and one for the reference."""
    sys.path.insert(0, str(runtime.ROOT / "tests"))
    from test_agreement import slow_mask

    rows = []
    for name, scan, truth in scans(count):
        prepared = prepare(scan, spacing_mm=predictor.facts["spacing_mm"], device=predictor.device)
        whole = None
        for side, overlap in [
            (None, 0.0),
            *((side, overlap) for side in SIDES for overlap in OVERLAPS),
        ]:
            started = time.perf_counter()
            probability = predictor.probabilities(
                prepared, window=side and (side,) * 3, overlap=overlap
            )
            seconds = time.perf_counter() - started
            mask = predictor.mask(scan, prepared, probability)
            whole = mask if side is None else whole
            rows.append(
                {
                    "scan": name,
                    "side": side,
                    "overlap": overlap,
                    "dice": dice(truth, mask),
                    "agreement": dice(whole, mask),
                    "seconds": seconds,
                }
            )
        started = time.perf_counter()
        mask = slow_mask(scan, checkpoint=checkpoint)
        rows.append(
            {
                "scan": name,
                "side": "reference",
                "overlap": 0.5,
                "dice": dice(truth, mask),
                "agreement": dice(whole, mask),
                "seconds": time.perf_counter() - started,
            }
        )
        print(name, flush=True)
    return rows


def table(rows: list[dict]) -> str:
    """Give the means over the scans in Markdown."""
    lines = [
        "Means over " + ", ".join(dict.fromkeys(row["scan"] for row in rows)) + ".",
        "",
        "| window | overlap | Dice with the truth | agreement with one window | least agreement | seconds |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for side, overlap in dict.fromkeys((row["side"], row["overlap"]) for row in rows):
        chosen = [row for row in rows if (row["side"], row["overlap"]) == (side, overlap)]
        mean = {
            key: np.mean([row[key] for row in chosen]) for key in ("dice", "agreement", "seconds")
        }
        window = {None: "whole box", "reference": "plain reference"}.get(side, f"{side}³")
        lines.append(
            f"| {window} | {overlap:g} | {mean['dice']:.4f} | {mean['agreement']:.4f} "
            f"| {min(row['agreement'] for row in chosen):.4f} | {mean['seconds']:.1f} |"
        )
    lines += [
        "",
        "Two windows of 96 voxels a side hold lungs of up to 144 voxels at any overlap up to 0.5: those rows "
        "are one and the same grid.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", help="default: the shipped weights")
    parser.add_argument(
        "--phantoms", type=int, default=5, help="how many synthetic scans (default 5)"
    )
    options = parser.parse_args()
    predictor = Predictor(options.checkpoint)
    rows = measure(predictor, options.checkpoint or SHIPPED, options.phantoms)
    found = {"weights": predictor.facts["digest"], "device": str(predictor.device), "rows": rows}
    write_results(RESULTS / "overlap", found, table(rows))


if __name__ == "__main__":
    main()
