"""Time nnU-Net v2's trainer step with its dataloader, in nnU-Net's own environment.

    python benchmarks/train_nnunet.py FOLDER      # as `train.py` runs it

FOLDER holds the prepared scans (case_*.npz) and request.json; seconds.json is written there: a list
of seconds a step for each number of worker processes. Fingerprint, plan and preprocessing are
nnU-Net's own; of the plan, spacing, patch and batch are set to the request's. The network is this
project's, with nnU-Net's two outputs.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import torch
from nnunetv2.experiment_planning import plan_and_preprocess_api as api
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lungseg_utils.segunet import SegUNet

DATASET = 900
NAME = f"Dataset{DATASET}_Lung"


def write_raw(folder: Path, spacing_mm: float) -> dict:
    """Write the scans as nnU-Net wants them; return its dataset.json."""
    raw = folder / "raw" / NAME
    for part in ("imagesTr", "labelsTr"):
        (raw / part).mkdir(parents=True)
    affine = np.diag([spacing_mm] * 3 + [1])
    cases = sorted(folder.glob("case_*.npz"))
    for path in cases:
        with np.load(path) as arrays:  # nnU-Net reads (W, H, D) and transposes it
            image = nibabel.Nifti1Image(arrays["hu"].T, affine)
            label = nibabel.Nifti1Image(arrays["label"].T, affine)
        nibabel.save(image, raw / f"imagesTr/{path.stem}_0000.nii.gz")
        nibabel.save(label, raw / f"labelsTr/{path.stem}.nii.gz")
    content = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "cancer": 1},
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "NibabelIO",
    }
    (raw / "dataset.json").write_text(json.dumps(content))
    return content


def plan_and_preprocess(folder: Path, request: dict) -> dict:
    """Plan and preprocess as nnU-Net does, with the request's spacing, patch and batch."""
    api.extract_fingerprint_dataset(DATASET, num_processes=1, show_progress_bar=False)
    _, name = api.plan_experiment_dataset(
        DATASET,
        gpu_memory_target_in_gb=8,
        overwrite_target_spacing=[request["spacing_mm"]] * 3,
        overwrite_plans_name="plans",
    )
    path = folder / "preprocessed" / NAME / f"{name}.json"
    plans = json.loads(path.read_text())
    plans["configurations"]["3d_fullres"] |= {
        "patch_size": request["patch_size"],
        "batch_size": request["batch_size"],
    }
    path.write_text(json.dumps(plans))
    api.preprocess_dataset(
        DATASET, plans_identifier=name, configurations=("3d_fullres",), num_processes=(1,)
    )
    return plans


def make_trainer(folder: Path, request: dict) -> nnUNetTrainer:
    """Set up nnU-Net's trainer round a SegUNet."""

    class SegUNetTrainer(nnUNetTrainer):
        @staticmethod
        def build_network_architecture(
            plans_manager,
            configuration_manager,
            num_input_channels,
            num_output_channels,
            enable_deep_supervision=True,
        ):
            return SegUNet(
                in_channels=num_input_channels,
                out_channels=num_output_channels,
                channels=request["channels"],
            )

        def set_deep_supervision_enabled(self, enabled):
            pass

    dataset = write_raw(folder, request["spacing_mm"])
    plans = plan_and_preprocess(folder, request) | {"continue_training": False}
    device = torch.device(request["device"])
    trainer = SegUNetTrainer(plans, "3d_fullres", "all", dataset, device)
    trainer.enable_deep_supervision = False
    trainer.initialize()
    return trainer


def time_steps(trainer: nnUNetTrainer, steps: int) -> list[float]:
    """Return the seconds of each step, its data included."""
    loader, validation = trainer.get_dataloaders()
    trainer.network.train()
    seconds = []
    for _ in range(steps):
        started = time.perf_counter()
        trainer.train_step(next(loader))
        seconds.append(time.perf_counter() - started)
    for augmenter in (loader, validation):
        getattr(augmenter, "_finish", lambda: None)()
    return seconds


def main() -> None:
    """Time the steps for each number of workers."""
    folder = Path(sys.argv[1])
    request = json.loads((folder / "request.json").read_text())
    trainer = make_trainer(folder, request)
    found = {}
    for workers in request["workers"]:
        os.environ.update(nnUNet_n_proc_DA=str(workers))
        found[workers] = time_steps(trainer, request["steps"])
    (folder / "seconds.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
