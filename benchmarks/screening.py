"""Measure false positives: weights on synthetic chests without a tumour, as a screening would show.

    python benchmarks/screening.py [--checkpoint FILE] [--scans 30] [--seed 700000] [--tier full]

Prints a row for each scan, the share of the scans with any mark, and the mL marked a scan.
`--overlays FOLDER` draws the marks, to look for what causes them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from report import make_parser, markdown_table

from lungseg_utils import phantom, plotting
from lungseg_utils.components import label_components
from lungseg_utils.prediction import Predictor
from lungseg_utils.runtime import progress


def main() -> None:
    """Read the arguments and print the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--checkpoint", help="default: the shipped weights")
    parser.add_argument("--scans", type=int, default=30, help="how many (default 30)")
    parser.add_argument("--seed", type=int, default=700_000, help="of the first (default 700000)")
    parser.add_argument("--tier", choices=phantom.TIERS, default="full", help="default: full")
    parser.add_argument("--overlays", type=Path, help="folder for pictures of the marks")
    options = parser.parse_args()
    predictor = Predictor(options.checkpoint)
    rows, marked_ml = [], []
    for seed in progress(range(options.seed, options.seed + options.scans), "screening"):
        scan, label = phantom.make_case(seed, tier=options.tier, tumours=0)
        mask = predictor.segment(scan).mask
        marked_ml.append(float(mask.sum() * np.prod(scan.spacing_mm) / 1000))
        rows.append([seed, int(label_components(mask).max()), f"{marked_ml[-1]:.1f}"])
        if options.overlays and mask.any():
            options.overlays.mkdir(parents=True, exist_ok=True)
            figure = plotting.show_planes(scan, label, mask)
            figure.savefig(options.overlays / f"{scan.name}.png", dpi=90)
    print(markdown_table(["seed", "marks", "mL"], rows))
    share = np.mean(np.array(marked_ml) > 0)
    print(f"\n{share:.0%} of {len(rows)} scans have a mark; {np.mean(marked_ml):.2f} mL a scan")


if __name__ == "__main__":
    main()
