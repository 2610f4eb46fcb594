"""Small sets to train on."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np


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
