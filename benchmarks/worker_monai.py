"""MONAI on one scan, as its tutorials use it, with this project's network and weights."""

from __future__ import annotations

import argparse
from typing import Any

from stages import stage

WINDOW = (96, 96, 96)  # MONAI's usual ones
OVERLAP = 0.5
CLIP_HU = (-1024, 400)


def transforms(keys: list[str], spacing_mm: float) -> Any:
    """Return MONAI's usual chain: load, orient, resample, clip, crop the body out."""
    from monai import transforms as t

    modes = ["bilinear", "nearest"][: len(keys)]
    return t.Compose(
        [
            t.LoadImaged(keys, ensure_channel_first=True),
            t.Orientationd(keys, axcodes="SPL"),
            t.Spacingd(keys, pixdim=(spacing_mm,) * 3, mode=modes),
            t.ScaleIntensityRanged(["image"], *CLIP_HU, -1.0, 1.0, clip=True),
            t.CropForegroundd(
                keys, source_key="image", select_fn=lambda x: x > -1, allow_smaller=True
            ),
        ]
    )


def transforms_back(before: Any, request: argparse.Namespace) -> Any:
    """Return the chain that inverts `before` on the prediction and writes the mask."""
    from monai import transforms as t

    return t.Compose(
        [
            t.Activationsd("pred", sigmoid=True),
            t.Invertd("pred", before, orig_keys="image", nearest_interp=False, to_tensor=True),
            t.AsDiscreted("pred", threshold=0.5),
            t.SaveImaged(
                "pred",
                output_dir=request.out.parent,
                output_postfix="monai",
                separate_folder=False,
                output_dtype="uint8",
                print_log=False,
            ),
        ]
    )


def predict(request: argparse.Namespace) -> dict:
    """Predict with windows that overlap by half, blended by a Gaussian."""
    import torch
    from monai.data import decollate_batch, list_data_collate
    from monai.inferers import sliding_window_inference

    from lungseg_utils.checkpoint import SHIPPED, load_weights

    model, facts = load_weights(SHIPPED)
    model = model.eval().to(request.device)
    before = transforms(["image"], facts["spacing_mm"])
    after = transforms_back(before, request)
    with stage("read"):
        data = before.transforms[0]({"image": str(request.scan)})
    with stage("preprocess"):
        for transform in before.transforms[1:]:
            data = transform(data)
    batch = list_data_collate([data])
    with stage("network"), torch.inference_mode():
        batch["pred"] = sliding_window_inference(
            batch["image"].to(request.device),
            WINDOW,
            4 if request.device == "cuda" else 2,
            model,
            overlap=OVERLAP,
            mode="gaussian",
        )
    with stage("write"):
        for one in decollate_batch(batch):
            after(one)
    return {"grid": list(batch["image"].shape[2:])}


def preprocess(request: argparse.Namespace) -> dict:
    """Prepare one case and keep it as .npy, as MONAI's PersistentDataset keeps tensors."""
    import numpy as np

    files = {"image": str(request.scan)}
    if request.label:
        files["label"] = str(request.label)
    with stage("preprocess"):
        data = transforms(list(files), 2.5)(files)
        request.out.mkdir(parents=True, exist_ok=True)
        for key in files:
            np.save(request.out / f"{key}.npy", data[key].numpy())
    return {"shape": list(data["image"].shape[1:])}
