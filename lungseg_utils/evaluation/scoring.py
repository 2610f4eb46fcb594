"""Score a folder of masks: every prediction against the label of its name, a table and a summary.

Dice alone hides what matters most in lung tumours, the one that was missed; so every scan gets
three kinds of numbers:

- `dice`: the share of voxels in common;
- `nsd_2mm` (surface Dice) and `hd95_mm`: how far apart the borders are;
- `lesions_found` of `lesions_true`, and `false_positives`: what a reader of the scan would count.

Empty masks, for all of them: two empty masks agree (Dice and surface Dice 1, HD95 0); if just one
is empty, Dice and surface Dice are 0 and HD95 is not defined (NaN): it is left out of the mean,
and the summary counts how often.
"""

import csv
import json
import math
import os
from pathlib import Path

import numpy as np

from lungseg_utils import runtime, volume
from lungseg_utils.evaluation.metrics import COLUMNS, case_metrics
from lungseg_utils.evaluation.statistics import summarise


def evaluate(
    predictions_dir: str | Path,
    labels: str | Path | dict[str, Path],
    output: str | Path = "metrics.csv",
) -> list[dict]:
    """Measure every prediction against its label; write `output` and `summary.json` beside it.

    `labels` is their folder, where files pair by stem (`lung_001.nii.gz` with `lung_001.nii`, and
    with nnU-Net's `lung_001_0000.nii.gz`), or a dict with the label of each case. Returns the rows,
    sorted by case. A prediction without a label, a label without a prediction and a pair on
    different grids are errors.
    """
    output = Path(output)
    summary = output.with_name("summary.json")
    pairs = _pairs(Path(predictions_dir), labels)
    masks = {os.path.realpath(path) for _, *both in pairs for path in both}
    if output.name == summary.name or output.is_dir() or os.path.realpath(output) in masks:
        raise runtime.LungsegError(
            output,
            "not a name for the table: a folder, the summary's name, or that of a mask",
            "Name a .csv file",
        )
    runtime.require_writable(output.parent)
    rows = []
    for case, prediction_path, label_path in runtime.progress(pairs, "evaluating"):
        truth, prediction, spacing_mm = _read_pair(label_path, prediction_path)
        rows.append({"case": case, **case_metrics(truth, prediction, spacing_mm)})
    _write_table(output, rows)
    summarised = json.dumps(_json_safe(summarise(rows)), indent=2)
    with runtime.writing(summary) as partial:
        partial.write_text(summarised + "\n", encoding="utf-8")
    return rows


def _write_table(path: Path, rows: list[dict]) -> None:
    with (
        runtime.writing(path) as partial,
        open(partial, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.DictWriter(file, ("case", *COLUMNS), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            rounded = {k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()}
            writer.writerow(rounded)


def _pairs(
    predictions_dir: Path, labels: str | Path | dict[str, Path]
) -> list[tuple[str, Path, Path]]:
    """Return (case, prediction, label) in order of case; one error names all without a partner."""
    where = "to the labels" if isinstance(labels, dict) else f"in {labels}"
    predictions = _by_stem(predictions_dir)
    if not isinstance(labels, dict):
        labels = _by_stem(Path(labels))
    predictions = _without_channel(predictions, labels)
    labels = _without_channel(labels, predictions)
    unpaired = {
        "no prediction for": labels.keys() - predictions.keys(),
        "no label for": predictions.keys() - labels.keys(),
    }
    causes = [f"{what} {', '.join(sorted(cases))}" for what, cases in unpaired.items() if cases]
    if causes:
        raise runtime.LungsegError(
            predictions_dir,
            "; ".join(causes),
            f"Each scan needs one mask of the same name here and {where}",
        )
    return [(case, predictions[case], labels[case]) for case in sorted(labels)]


def _without_channel(masks: dict[str, Path], others: dict[str, Path]) -> dict[str, Path]:
    """Return `masks` with nnU-Net's CASE_0000 as CASE, where `others` has that and `masks` not."""
    missing = others.keys() - masks.keys()
    shorter = {case: case.removesuffix("_0000") for case in masks.keys() - others.keys()}
    return {shorter[c] if shorter.get(c) in missing else c: path for c, path in masks.items()}


def _by_stem(folder: Path) -> dict[str, Path]:
    remedy = "Name the folder that holds the masks"
    if not folder.is_dir():
        raise runtime.LungsegError(
            folder, "not a folder" if folder.exists() else "does not exist", remedy
        )
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.name.lower().endswith((".nii", ".nii.gz")):
            continue  # "._*" are macOS's doubles, not masks
        case = volume.stem(path)
        if case in found:
            raise runtime.LungsegError(
                path, f"a second mask for {case} beside {found[case].name}", "Keep one of them"
            )
        found[case] = path
    # `lungseg predict --probabilities` writes a map beside each mask
    maps = {case for case in found if case.removesuffix("_probability") in found.keys() - {case}}
    if not found:
        raise runtime.LungsegError(folder, "holds no .nii or .nii.gz file", remedy)
    return {case: path for case, path in found.items() if case not in maps}


def _read_pair(
    label_path: Path, prediction_path: Path
) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """Read both masks on the label's grid: its shape and affine are what a prediction must have."""
    truth = volume.read_label(label_path)
    header = volume.read_header(label_path)
    grid = header.grid
    like = volume.Volume(
        truth, header.spacing_mm, grid.canonical_affine, volume.stem(label_path), label_path, grid
    )
    return truth, volume.read_label(prediction_path, like=like), header.spacing_mm


def _json_safe(value: object) -> object:
    """Return `value` with null for NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {name: _json_safe(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_json_safe(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
