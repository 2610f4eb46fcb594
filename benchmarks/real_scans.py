"""Try weights on real CTs that lie beside the repository: Dice, hits, false positives, and overlays to look at.

    LUNGSEG_REAL_CT=/path/to/scans python benchmarks/real_scans.py [--checkpoint FILE] [--threshold 0.5] [--nodules 40]

The folder holds `NAME/ct.nii.gz` with `NAME/tumour.nii.gz`, `NAME/SERIES/*.dcm` with `NAME/tumour_box_SERIES.nii.gz`,
and `lidc-nodules/{images,masks,nodules.csv}` with crops round nodules. Nothing of it is copied into the
repository; overlays go only where `--overlays` says.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import functools
import io
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lungseg_utils import plotting, volume
from lungseg_utils.evaluation import case_metrics
from lungseg_utils.prediction import Predictor, predict


def score_scans(root: Path, segment: Callable, overlays: Path | None) -> None:
    """Print a line for each whole scan or slab with an outline."""
    print("| scan | Dice | lesions found | false positives | mL true | mL predicted | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for outline in sorted(root.glob("*/tumour.nii.gz")):
        scan = volume.read(outline.parent / "ct.nii.gz")
        truth = volume.read_label(outline, like=scan)
        started = time.perf_counter()
        mask = segment(scan)
        seconds = time.perf_counter() - started
        row = case_metrics(truth, mask, scan.spacing_mm)
        print(
            f"| {outline.parent.name} | {row['dice']:.2f} | {row['lesions_found']} of {row['lesions_true']} "
            f"| {row['false_positives']} | {row['volume_ml_true']:.1f} | {row['volume_ml_pred']:.1f} "
            f"| {seconds:.1f} |"
        )
        if overlays:
            overlays.mkdir(parents=True, exist_ok=True)
            figure = plotting.show_planes(
                scan, truth, mask, centre=tuple(np.argwhere(truth).mean(axis=0).astype(int))
            )
            figure.savefig(overlays / f"{outline.parent.name}.png", dpi=90)


def score_boxes(root: Path, segment: Callable, overlays: Path | None) -> None:
    """Print for each box round a tumour whether something was marked in it, and how many components lie outside."""
    for box in sorted(root.glob("*/tumour_box_*.nii.gz")):
        name = box.name.removeprefix("tumour_box_").removesuffix(".nii.gz")
        scan = volume.read(box.parent / name)
        truth = volume.read_label(box, like=scan)
        mask = segment(scan)
        row = case_metrics(truth, mask, scan.spacing_mm)
        share = (mask & truth).sum() / truth.sum()
        outside = row["false_positives"]
        print(
            f"{box.parent.name}/{name}: {share:.0%} of the box marked, {outside} components outside it"
        )
        if overlays:
            figure = plotting.show_planes(
                scan, truth, mask, centre=tuple(np.argwhere(truth).mean(axis=0).astype(int))
            )
            figure.savefig(overlays / f"{box.parent.name}.png", dpi=90)


def pad(scan: volume.Volume, side_mm: float = 160.0) -> tuple[volume.Volume, tuple[slice, ...]]:
    """Set a crop into lung-like air of `side_mm`, so that the network has the room it is used to."""
    sides = [
        max(0, int(np.ceil((side_mm / step - n) / 2)))
        for n, step in zip(scan.hu.shape, scan.spacing_mm)
    ]
    hu = np.pad(scan.hu, [(side, side) for side in sides], constant_values=-860)
    inside = tuple(slice(side, side + n) for side, n in zip(sides, scan.hu.shape))
    return dataclasses.replace(scan, hu=hu), inside


def score_nodules(root: Path, segment: Callable, most: int) -> None:
    """Print the share of nodules hit, by diameter."""
    rows = list(csv.DictReader(open(root / "nodules.csv", newline="")))
    rows = rows[:: max(1, len(rows) // most)]
    hits: dict[str, list[bool]] = {"20 mm and more": [], "12 to 20 mm": [], "8 to 12 mm": []}
    for row in rows:
        scan = volume.read(root / "images" / row["file"])
        truth = volume.read_label(root / "masks" / row["file"], like=scan)
        padded, inside = pad(scan)
        with contextlib.redirect_stderr(io.StringIO()):  # of course no lungs are found in a crop
            mask = segment(padded)[inside]
        diameter = float(row["diameter_mm"])
        size = (
            "20 mm and more"
            if diameter >= 20
            else "12 to 20 mm"
            if diameter >= 12
            else "8 to 12 mm"
        )
        hits[size].append(bool((mask & truth).sum() >= 0.1 * truth.sum()))
    for size, hit in hits.items():
        if hit:
            print(f"nodules of {size}: {sum(hit)} of {len(hit)} hit ({np.mean(hit):.0%})")


def main() -> None:
    """Read the arguments and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", help="default: the shipped weights")
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="probability of a tumour (default 0.5)"
    )
    parser.add_argument(
        "--nodules", type=int, default=40, help="how many of the nodules to try (default 40)"
    )
    parser.add_argument(
        "--overlays",
        type=Path,
        help="folder for pictures of the scans, truth and prediction outlined",
    )
    options = parser.parse_args()
    root = Path(os.environ["LUNGSEG_REAL_CT"])
    segment = functools.partial(
        predict, predictor=Predictor(options.checkpoint), threshold=options.threshold
    )
    plotting.use_style()
    score_scans(root, segment, options.overlays)
    score_boxes(root, segment, options.overlays)
    if options.nodules and (root / "lidc-nodules" / "nodules.csv").is_file():
        score_nodules(root / "lidc-nodules", segment, options.nodules)


if __name__ == "__main__":
    main()
