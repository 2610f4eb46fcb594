"""The commands that segment scans, and that show which are done."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from tqdm import tqdm

from lungseg_utils.cli.options import (
    Commands,
    add_command,
    add_parameter,
    chosen_shard,
    parse_shard,
)
from lungseg_utils.runtime import printable

if TYPE_CHECKING:
    import torch


def add_commands(commands: Commands) -> None:
    """Add `predict` and `status`."""
    _add_predict(commands)
    add = add_command(commands, status, "masks/")
    add("output", metavar="OUT", help="folder that `lungseg predict -o OUT` fills")


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
    add(
        "--skip-done",
        action="store_true",
        help="leave out the scans whose masks are there, of the same scan, weights and settings",
    )
    add(
        "--shard",
        metavar="I/N|auto",
        type=parse_shard,
        help="do the Ith of N equal parts of the scans only, with --skip-done; auto: that of this "
        "task of a SLURM array or an indexed Kubernetes Job",
    )
    add(
        "--ray",
        action="store_true",
        help="do the scans by workers on the Ray cluster at RAY_ADDRESS or, without that, on all "
        "cores or GPUs of this machine, with --skip-done; needs pip install 'lungseg[ray]'",
    )


def predict(options: argparse.Namespace) -> None:
    """Segment the tumours of scans."""
    from lungseg_utils import checkpoint
    from lungseg_utils.prediction import predict_files
    from lungseg_utils.prediction.shards import torchrun_process

    process = torchrun_process()
    device = options.device if options.ray else _pick_device(options.device)
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
        skip_done=options.skip_done,
        shard=chosen_shard(options),
        process=process,
        ray=options.ray,
    )
    for path in options.checkpoint or [checkpoint.SHIPPED]:
        trained_on = checkpoint.TRAINED_ON.get(checkpoint.find(path))
        if trained_on and process.number == 1:
            print(
                f"note: these are shipped weights, trained on {trained_on}; not for clinical use",
                file=sys.stderr,
            )
    where = "a Ray cluster" if options.ray else _describe_device(device)
    print(f"note: running on {where}", file=sys.stderr)
    for row in rows:
        volumes = [tumour["volume_ml"] for tumour in row["tumours"]]
        count = "1 tumour" if len(volumes) == 1 else f"{len(volumes)} tumours"
        line = f"{printable(row['name'])}: {count}, {sum(volumes):.1f} mL, {row['seconds']:.1f} s"
        with tqdm.external_write_mode(file=sys.stdout):  # above the progress bar
            print(line, flush=True)


def status(options: argparse.Namespace) -> int:
    """Count and name the scans of a folder of masks that are done, missing, failed or stale.

    Done: the mask is there, of the scan as it is now, by the weights and settings of the last run.
    """
    from lungseg_utils.prediction.manifest import states

    found = states(options.output)
    for state, rows in found.items():
        print(f"{state}: {len(rows)}")
    for state, rows in found.items():
        for row in rows:
            cause = f": {row['error']}" if state == "failed" else ""
            print(f"{state} {printable(row['name'])}{printable(cause)}")
    return 0 if all(state == "done" for state, rows in found.items() if rows) else 1


def _pick_device(name: str) -> torch.device:
    """Return the device called `name`; under `torchrun` this process's own GPU."""
    import torch

    from lungseg_utils.runtime import pick_device

    device = pick_device(name)
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        index = int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count()
        return torch.device("cuda", index)
    return device


def _load_preview() -> Callable:
    from lungseg_utils.plotting.preview import save_preview

    return save_preview


def _describe_device(device: torch.device) -> str:
    import torch

    name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    return f"{device}{name}"
