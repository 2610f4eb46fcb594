"""A small set of scans, the weights of a tiny network, and what a run of it leaves in a folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from helpers_cases import ball, make_scan

from lungseg_utils import checkpoint, volume
from lungseg_utils.prediction import predict_files
from lungseg_utils.segunet import SegUNet


def make_dataset(root: Path) -> Path:
    """Write three scans with a ball as their tumour, and the weights of a tiny network beside."""
    names = [f"toy_{number}" for number in range(3)]
    for seed, name in enumerate(names):
        hu = np.random.default_rng(seed).integers(-900, 200, (20, 22, 24)).astype(np.int16)
        affine = make_scan(hu).affine
        label = ball(hu.shape, (10, 11, 12), 4).astype(np.uint8)
        volume.write_nifti(root / "imagesTr" / f"{name}.nii.gz", hu, affine)
        volume.write_nifti(root / "labelsTr" / f"{name}.nii.gz", label, affine)
    entries = [
        {"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz"} for name in names
    ]
    described = {
        "name": "Toy",
        "modality": {"0": "CT"},
        "numTraining": 3,
        "labels": {"0": "background", "1": "cancer"},
        "training": entries,
        "test": [],
    }
    (root / "dataset.json").write_text(json.dumps(described))
    torch.manual_seed(0)
    weights = root.parent / "tiny.safetensors"
    checkpoint.save_weights(weights, SegUNet(channels=(2, 4)), {"spacing_mm": 6.0})
    return root


def predict(root: Path, out: Path, inputs: list[Path] | None = None, **options) -> list[dict]:
    """Predict the scans of a set of `make_dataset`, or `inputs`, with its tiny network."""
    weights = root.parent / "tiny.safetensors"
    inputs = inputs or [root / "imagesTr"]
    return list(predict_files(inputs, out, checkpoint=weights, device="cpu", **options))


def content(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below `folder`."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
