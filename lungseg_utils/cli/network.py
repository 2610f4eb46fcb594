"""The commands that train the network, predict with it and evaluate it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from lungseg_utils import parameters
from lungseg_utils.cli.options import (
    Commands,
    add_command,
    add_parameter,
    add_settings,
    read_settings,
)
from lungseg_utils.runtime import LungsegError, printable

if TYPE_CHECKING:
    import torch


def add_commands(commands: Commands) -> None:
    """Add `train`, `crossvalidate`, `predict` and `evaluate`."""
    _add_train(commands)
    _add_crossvalidate(commands)
    _add_predict(commands)
    _add_evaluate(commands)


def _add_train(commands: Commands) -> None:
    add = add_command(commands, train, "data/Task06_Lung --run-dir runs/fold0 -f params/msd.yaml")
    add(
        "datasets",
        metavar="DATASET",
        nargs="*",
        help="folder in the Decathlon's layout, or nnU-Net's; of several the first is split by the "
        "fold, the others only train, and -p shares '[0.5, 0.5]' says how much each gives; with "
        "--resume those of the run",
    )
    add(
        "--run-dir",
        metavar="DIR",
        required=True,
        help="folder of the run: weights, history, settings",
    )
    add_parameter(add, "epochs", given=False)
    add_parameter(add, "fold", given=False)
    add(
        "--resume",
        action="store_true",
        help="go on where the run in DIR was stopped, with its own dataset and settings; epochs, "
        "device and workers may be changed",
    )
    _add_weights(add)
    add_settings(add)


def _add_weights(add: Callable) -> None:
    add(
        "--weights",
        metavar="FILE",
        help="start from these, to fine-tune them (default: random ones)",
    )


def _add_crossvalidate(commands: Commands) -> None:
    add = add_command(
        commands, crossvalidate, "data/Task06_Lung --run-dir runs/msd -f params/msd.yaml"
    )
    add(
        "datasets",
        metavar="DATASET",
        nargs="+",
        help="folder in the Decathlon's layout, or nnU-Net's; of several the first is "
        "cross-validated, the others train in every fold",
    )
    add(
        "--run-dir",
        metavar="DIR",
        required=True,
        help="folder for fold0/ and so on, masks/, metrics.csv and summary.json",
    )
    _add_weights(add)
    add_settings(add)


def _add_predict(commands: Commands) -> None:
    add = add_command(commands, predict, "my_ct.nii.gz -o mask.nii.gz")
    add(
        "inputs",
        metavar="INPUT",
        nargs="+",
        help="NIfTI file; folder or .zip of one DICOM series; folder of NIfTI files, or of "
        "patients' folders; dataset in the Decathlon's or nnU-Net's layout, whose test scans are "
        "segmented; or a pattern of these, such as 'scans/*.nii.gz'",
    )
    add(
        "-o",
        "--output",
        metavar="OUT",
        required=True,
        help="a .nii or .nii.gz file for one input, else a folder",
    )
    add(
        "--checkpoint",
        metavar="FILE",
        action="append",
        help="weights of a run, or a pattern such as 'runs/fold*/best.safetensors' (default: those "
        "shipped; synthetic: the shipped ones that have seen no patient); may be repeated: several "
        "are averaged",
    )
    add_parameter(add, "device")
    add_parameter(add, "threshold")
    add("--series", metavar="UID", help="which DICOM series to take where a folder holds several")
    add(
        "--preview",
        action="store_true",
        help="write a picture of every tumour beside each mask, with its volume and diameters",
    )
    add("--dicom-seg", action="store_true", help="write DICOM SEG objects too, for DICOM inputs")
    add("--probabilities", action="store_true", help="write the tumour probabilities too")
    add(
        "--json",
        metavar="FILE",
        help="write a JSON line for each scan: its tumours, warnings, seconds, versions",
    )


def _add_evaluate(commands: Commands) -> None:
    add = add_command(commands, evaluate, "predictions/ labels/ -o metrics.csv")
    add("predictions", metavar="PREDICTIONS", help="folder of masks")
    add(
        "labels",
        metavar="LABELS",
        help="folder of labels of the same names; CASE pairs with nnU-Net's CASE_0000 too",
    )
    add(
        "-o",
        "--output",
        metavar="FILE",
        default="metrics.csv",
        help="table to write, with summary.json beside it",
    )


def train(options: argparse.Namespace) -> None:
    """Train a SegUNet."""
    from accelerate import PartialState

    from lungseg_utils import decathlon, training

    settings = read_settings(options)
    if options.resume and not options.weights:
        training.resume(options.run_dir, settings, options.datasets)
    elif options.datasets:
        training.train(
            [decathlon.load(folder) for folder in options.datasets],
            options.run_dir,
            parameters.defaults() | settings,
            resume=options.resume,
            weights=options.weights,
        )
    else:
        raise LungsegError("DATASET", "none is named", "Name one, or --resume a run")
    if PartialState().is_main_process:
        print(f"{printable(options.run_dir)}: best.safetensors, history.csv")


def crossvalidate(options: argparse.Namespace) -> None:
    """Train every fold of a dataset, and score each scan by a network that has not seen it."""
    from lungseg_utils import decathlon, training

    settings = parameters.defaults() | read_settings(options)
    datasets = [decathlon.load(folder) for folder in options.datasets]
    rows = training.crossvalidate(datasets, options.run_dir, settings, options.weights)
    _print_scores(rows)
    print(f"{printable(options.run_dir)}: metrics.csv, summary.json, fold0/best.safetensors …")


def predict(options: argparse.Namespace) -> None:
    """Segment the tumours of scans."""
    from lungseg_utils import checkpoint
    from lungseg_utils.prediction import predict_files
    from lungseg_utils.runtime import pick_device

    device = pick_device(options.device)
    rows = predict_files(
        options.inputs,
        options.output,
        checkpoint=options.checkpoint,
        device=str(device),
        series=options.series,
        threshold=options.threshold,
        dicom_seg=options.dicom_seg,
        probabilities=options.probabilities,
        preview=_load_preview() if options.preview else None,
        report=options.json,
    )
    for path in options.checkpoint or [checkpoint.SHIPPED]:
        trained_on = checkpoint.TRAINED_ON.get(checkpoint.find(path))
        if trained_on:
            print(
                f"note: these are shipped weights, trained on {trained_on}; not for clinical use",
                file=sys.stderr,
            )
    print(f"note: running on {_describe_device(device)}", file=sys.stderr)
    for row in rows:
        volumes = [tumour["volume_ml"] for tumour in row["tumours"]]
        count = "1 tumour" if len(volumes) == 1 else f"{len(volumes)} tumours"
        _print_above_progress(
            f"{printable(row['name'])}: {count}, {sum(volumes):.1f} mL, {row['seconds']:.1f} s"
        )


def _load_preview() -> Callable:
    from lungseg_utils.plotting.preview import save_preview

    return save_preview


def _describe_device(device: torch.device) -> str:
    import torch

    name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    return f"{device}{name}"


def _print_above_progress(line: str) -> None:
    from tqdm import tqdm

    with tqdm.external_write_mode(file=sys.stdout):
        print(line, flush=True)


def evaluate(options: argparse.Namespace) -> None:
    """Compare masks with labels."""
    from lungseg_utils import evaluation

    _print_scores(evaluation.evaluate(options.predictions, options.labels, options.output))
    print(printable(options.output))


def _print_scores(rows: list[dict]) -> None:
    total = {
        name: sum(row[name] for row in rows)
        for name in ("dice", "lesions_found", "lesions_true", "false_positives")
    }
    print(
        f"{len(rows)} scans: mean Dice {total['dice'] / len(rows):.3f}, "
        f"{total['lesions_found']} of {total['lesions_true']} lesions found, "
        f"{total['false_positives'] / len(rows):.2f} false positives a scan"
    )
