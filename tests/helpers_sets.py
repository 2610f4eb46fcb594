"""Small sets to train on."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
from helpers_cases import ball

LEARNS = {  # which finds the balls of `write_balls` within a second
    "spacing_mm": "3",
    "patch_size": "[16,16,16]",
    "channels": "[4,8]",
    "batch_size": "4",
    "steps_per_epoch": "8",
    "learning_rate": "0.01",
    "device": "cpu",
}
LEARN = [word for name, value in LEARNS.items() for word in ("-p", name, value)]


def write_crops(folder: Path, *, count=3, crops: object = True, seed=0) -> Path:
    """Write a set of cubes of 60 mm, each with a tumour in its middle."""
    rng = np.random.default_rng(seed)
    listed = []
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for number in range(1, count + 1):
        name = f"lung_{number:03d}.nii.gz"
        label = np.zeros((30, 30, 30), np.uint8)
        label[10:20, 10:20, 10:20] = 1
        hu = np.where(label, 30, -850) + rng.normal(0, 20, label.shape)
        affine = np.diag([2.0, 2.0, 2.0, 1.0])
        nibabel.save(nibabel.Nifti1Image(hu.astype(np.int16), affine), folder / "imagesTr" / name)
        nibabel.save(nibabel.Nifti1Image(label, affine), folder / "labelsTr" / name)
        listed.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    described = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "cancer"}}
    described |= {"crops": crops, "numTraining": count, "training": listed}
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


def write_balls(folder: Path) -> Path:
    """Write a set of six scans with a ball in them, three in each of two folds."""
    shape, listed = (28, 26, 24), []
    for number in range(6):
        rng = np.random.default_rng(number)
        label = ball(shape, rng.uniform(9, 15, 3), 5)
        hu = np.where(label, 40, -850) + rng.normal(0, 60, shape)
        entry = {kind: f"{kind}sTr/ball_{number}.nii.gz" for kind in ("image", "label")}
        for path, array in zip(entry.values(), (hu.astype(np.int16), label.astype(np.uint8))):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            image = nibabel.Nifti1Image(array, np.diag([3.0, 3.0, 3.0, 1.0]))
            nibabel.save(image, folder / path)
        listed.append(entry | {"fold": number // 3})  # so that no seed deals them otherwise
    described = {"name": "Balls", "modality": {"0": "CT"}, "numTraining": len(listed)}
    described |= {"labels": {"0": "background", "1": "cancer"}, "training": listed, "test": []}
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder
