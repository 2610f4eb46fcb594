"""The part of `train.py` that times MONAI's tutorial pipeline and nnU-Net's trainer."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from train_ours import WARM_UP

from lungseg_utils.preprocess import CLIP_HU, Prepared
from lungseg_utils.runtime import LungsegError, pick_device, pick_precision
from lungseg_utils.segunet import SegUNet
from lungseg_utils.training import TrainingConfig, make_loss


def time_steps(step: Callable[[], object], steps: int, device: torch.device) -> list[float]:
    """Return the seconds of each of `steps` calls, after a few that are not counted."""
    seconds = []
    for _ in range(WARM_UP + steps):
        started = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return seconds[WARM_UP:]


# --- MONAI ----------------------------------------------------------------------------------------


def monai_pipeline(patch: int, samples: int) -> Any:
    """Return the tutorial's chain: crops by label, then random transforms one by one."""
    from monai import transforms as t

    both = ["image", "label"]
    low, high = CLIP_HU
    return t.Compose(
        [
            t.EnsureChannelFirstd(both, channel_dim=0),
            t.ScaleIntensityRanged("image", low, high, -1, 1, clip=True),
            t.RandCropByPosNegLabeld(
                both, "label", (patch,) * 3, pos=2, neg=1, num_samples=samples
            ),
            t.RandFlipd(both, prob=0.5, spatial_axis=2),
            t.RandRotate90d(both, prob=0.5, spatial_axes=(1, 2)),
            t.RandAffined(
                both,
                prob=1.0,
                rotate_range=(np.radians(20),) * 3,
                scale_range=(0.2,) * 3,
                mode=("bilinear", "nearest"),
                padding_mode="border",
            ),
            t.RandScaleIntensityd("image", factors=0.1, prob=0.5),
            t.RandShiftIntensityd("image", offsets=0.1, prob=0.5),
            t.RandGaussianSmoothd("image", prob=0.25),
            t.RandGaussianNoised("image", prob=0.5, std=0.03),
        ]
    )


def time_monai(cases: Sequence[Prepared], options: argparse.Namespace, workers: int) -> list[float]:
    """Time MONAI's tutorial pipeline: cached scans and a DataLoader with `workers` processes."""
    from monai.data import CacheDataset, DataLoader

    device = pick_device(options.device)
    items = [
        {"image": np.array(case.hu, np.float32)[None], "label": np.array(case.label)[None]}
        for case in cases
    ]
    pipeline = monai_pipeline(options.patch, options.batch_size // 2)
    cached = CacheDataset(items, pipeline, num_workers=1, progress=False)
    loader = DataLoader(cached, batch_size=2, shuffle=True, num_workers=workers, drop_last=True)
    batches = _endless(loader)
    torch.manual_seed(0)
    model = SegUNet(channels=options.channels).to(device)
    loss_function = make_loss()
    optimiser = torch.optim.AdamW(model.parameters(), lr=TrainingConfig().learning_rate)
    is_half = pick_precision(device) == torch.bfloat16

    def step() -> float:
        batch = next(batches)
        image = batch["image"].to(device)
        label = batch["label"].to(device)
        optimiser.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=is_half):
            loss = loss_function(model(image), label)
        loss.backward()
        optimiser.step()
        return loss.item()

    return time_steps(step, options.steps, device)


def _endless(loader: Iterable) -> Iterator:
    while True:
        yield from loader


# --- nnU-Net --------------------------------------------------------------------------------------


def time_nnunet(cases: Sequence[Prepared], options: argparse.Namespace) -> dict[int, list]:
    """Time nnU-Net's own trainer and dataloader, for each number of workers.

    They run in the environment of the Python that `options.peers` names.
    """
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(cases):
            np.savez(Path(folder) / f"case_{number:03d}.npz", hu=case.hu, label=case.label)
        request = {
            "patch_size": [options.patch] * 3,
            "batch_size": options.batch_size,
            "channels": options.channels,
            "spacing_mm": 3.0,
            "device": options.device,
            "steps": WARM_UP + options.steps,
            "workers": options.workers,
        }
        (Path(folder) / "request.json").write_text(json.dumps(request))
        environment = os.environ | {"nnUNet_compile": "f"}
        for name in ("raw", "preprocessed", "results"):
            environment[f"nnUNet_{name}"] = f"{folder}/{name}"
        ended = subprocess.run(
            [options.peers, str(Path(__file__).with_name("train_nnunet.py")), folder],
            env=environment,
            capture_output=True,
            text=True,
        )
        if ended.returncode:
            cause = f"nnU-Net failed: {ended.stderr.strip()[-2000:]}"
            raise LungsegError(options.peers, cause)
        found = json.loads((Path(folder) / "seconds.json").read_text())
        return {int(number): seconds[WARM_UP:] for number, seconds in found.items()}
