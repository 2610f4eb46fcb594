"""Score weights on real CTs that lie beside the repository, and draw overlays to look at.

    LUNGSEG_REAL_CT=/path/to/scans python benchmarks/real_scans.py [--checkpoint FILE]
        [--threshold 0.5] [--nodules 40] [--overlays FOLDER]

The folder holds `NAME/ct.nii.gz` with `NAME/tumour.nii.gz` or, where no tumour was seen, without;
`NAME/SERIES/*.dcm` with `NAME/tumour_box_SERIES.nii.gz`; `NAME/{images,masks,crops.csv}` with cubes
round tumours; and `lidc-nodules/{images,masks,nodules.csv}` with crops round nodules. Nothing of it
is copied into the repository; overlays go only where `--overlays` says.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from report import make_parser, markdown_table

from lungseg_utils import plotting, volume
from lungseg_utils.evaluation import case_metrics
from lungseg_utils.prediction import Predictor
from lungseg_utils.runtime import LungsegError

Segment = Callable[[volume.Volume], np.ndarray]

LUNG_HU = -860  # what a crop is set into
MIN_OVERLAP = 0.1  # the share of a nodule that has to be marked; the Dice of a tumour that is found


def save_overlay(
    overlays: Path | None, name: str, scan: volume.Volume, truth: np.ndarray, mask: np.ndarray
) -> None:
    """Draw truth and prediction through the middle of the truth, where a folder is given."""
    if overlays is None:
        return
    overlays.mkdir(parents=True, exist_ok=True)
    centre = tuple(np.argwhere(truth).mean(axis=0).astype(int))
    figure = plotting.show_planes(scan, truth, mask, centre=centre)
    figure.savefig(overlays / f"{name}.png", dpi=90)


def score_scans(root: Path, segment: Segment, overlays: Path | None) -> str:
    """Return a table with a row for each whole scan or slab with an outline."""
    rows = []
    for outline in sorted(root.glob("*/tumour.nii.gz")):
        name = outline.parent.name
        scan = volume.read(outline.parent / "ct.nii.gz")
        truth = volume.read_label(outline, like=scan)
        started = time.perf_counter()
        mask = segment(scan)
        seconds = time.perf_counter() - started
        row = case_metrics(truth, mask, scan.spacing_mm)
        rows.append(
            [
                name,
                f"{row['dice']:.2f}",
                f"{row['lesions_found']} of {row['lesions_true']}",
                row["false_positives"],
                f"{row['volume_ml_true']:.1f}",
                f"{row['volume_ml_pred']:.1f}",
                f"{seconds:.1f}",
            ]
        )
        save_overlay(overlays, name, scan, truth, mask)
    heading = ["scan", "Dice", "lesions found", "false positives"]
    return markdown_table([*heading, "mL true", "mL predicted", "seconds"], rows)


def score_boxes(root: Path, segment: Segment, overlays: Path | None) -> None:
    """Print how much of each box round a tumour is marked, and what is marked outside it."""
    for box in sorted(root.glob("*/tumour_box_*.nii.gz")):
        series = box.name.removeprefix("tumour_box_").removesuffix(".nii.gz")
        scan = volume.read(box.parent / series)
        truth = volume.read_label(box, like=scan)
        mask = segment(scan)
        share = (mask & truth).sum() / truth.sum()
        outside = case_metrics(truth, mask, scan.spacing_mm)["false_positives"]
        name = box.parent.name
        print(f"{name}/{series}: {share:.0%} of the box marked, {outside} components outside it")
        save_overlay(overlays, name, scan, truth, mask)


def score_tumour_free(root: Path, segment: Segment) -> None:
    """Print what is marked in each scan in which nobody saw a tumour."""
    for path in sorted(root.glob("*/ct.nii.gz")):
        if not (path.parent / "tumour.nii.gz").exists():
            scan = volume.read(path)
            marked_ml = segment(scan).sum() * np.prod(scan.spacing_mm) / 1000
            print(f"{path.parent.name}: no tumour seen, {marked_ml:.1f} mL marked")


def score_cubes(root: Path, segment: Segment) -> str:
    """Return a table with a row for each folder of cubes round tumours."""
    rows = []
    for table in sorted(root.glob("*/crops.csv")):
        scores = []
        for path in sorted((table.parent / "images").glob("*.nii.gz")):
            cube = volume.read(path)
            truth = volume.read_label(table.parent / "masks" / path.name, like=cube)
            with contextlib.redirect_stderr(io.StringIO()):  # a cube holds no whole lungs
                scores.append(case_metrics(truth, segment(cube), cube.spacing_mm))
        dice = np.array([score["dice"] for score in scores])
        false_marks = np.mean([score["false_positives"] for score in scores])
        found = f"{(dice >= MIN_OVERLAP).sum()} of {len(dice)}"
        row = [table.parent.name, f"{dice.mean():.3f}", f"{np.median(dice):.3f}", found]
        rows.append([*row, f"{false_marks:.2f}"])
    return markdown_table(["cubes", "mean Dice", "median", "found", "false positives"], rows)


def pad(scan: volume.Volume, side_mm: float = 160.0) -> tuple[volume.Volume, tuple[slice, ...]]:
    """Set a crop into lung-like air of `side_mm`; return it, and where the crop lies in it."""
    wanted = np.ceil((side_mm / np.array(scan.spacing_mm) - scan.hu.shape) / 2)
    sides = np.maximum(0, wanted).astype(int).tolist()
    hu = np.pad(scan.hu, [(side, side) for side in sides], constant_values=LUNG_HU)
    inside = tuple(slice(side, side + n) for side, n in zip(sides, scan.hu.shape))
    return dataclasses.replace(scan, hu=hu), inside


def size_of(diameter_mm: float) -> str:
    if diameter_mm >= 20:
        return "20 mm and more"
    return "12 to 20 mm" if diameter_mm >= 12 else "8 to 12 mm"


def score_nodules(root: Path, segment: Segment, most: int) -> None:
    """Print the share of nodules hit, by diameter."""
    with open(root / "nodules.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    hits: dict[str, list[bool]] = {size_of(diameter): [] for diameter in (20, 12, 8)}
    for row in rows[:: max(1, len(rows) // most)]:
        scan = volume.read(root / "images" / row["file"])
        truth = volume.read_label(root / "masks" / row["file"], like=scan)
        padded, inside = pad(scan)
        with contextlib.redirect_stderr(io.StringIO()):  # of course no lungs are found in a crop
            mask = segment(padded)[inside]
        is_hit = (mask & truth).sum() >= MIN_OVERLAP * truth.sum()
        hits[size_of(float(row["diameter_mm"]))].append(bool(is_hit))
    for size, hit in hits.items():
        if hit:
            print(f"nodules of {size}: {sum(hit)} of {len(hit)} hit ({np.mean(hit):.0%})")


def main() -> None:
    """Read the arguments and print the tables."""
    parser = make_parser(__doc__)
    parser.add_argument("--checkpoint", help="default: the shipped weights")
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="probability of a tumour (default 0.5)"
    )
    parser.add_argument("--nodules", type=int, default=40, help="how many to try (default 40)")
    parser.add_argument("--overlays", type=Path, help="folder for pictures, both outlined")
    options = parser.parse_args()
    folder = os.environ.get("LUNGSEG_REAL_CT")
    if not folder:
        raise LungsegError("LUNGSEG_REAL_CT", "not set", "Set it to the folder of real CTs")
    root = Path(folder)
    predictor = Predictor(options.checkpoint)

    def segment(scan: volume.Volume) -> np.ndarray:
        return predictor.segment(scan, threshold=options.threshold).mask

    plotting.use_style()
    print(score_scans(root, segment, options.overlays))
    score_boxes(root, segment, options.overlays)
    score_tumour_free(root, segment)
    print(score_cubes(root, segment))
    if options.nodules and (root / "lidc-nodules" / "nodules.csv").is_file():
        score_nodules(root / "lidc-nodules", segment, options.nodules)


if __name__ == "__main__":
    main()
