"""What a run begins with: network, running mean, optimiser and random numbers."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path

import torch

from lungseg_utils import checkpoint
from lungseg_utils.runtime import LungsegError, keep_freed_memory, pick_precision, seed_everything
from lungseg_utils.segunet import SegUNet
from lungseg_utils.training.config import TrainingConfig
from lungseg_utils.training.losses import make_heads, make_optimiser
from lungseg_utils.training.run_folder import Run


def read_start(path: str | Path, config: TrainingConfig) -> tuple[SegUNet, str]:
    """Read the weights to start from and their digest; raise LungsegError where `config` asks for another network."""
    model, facts = checkpoint.load_weights(path)
    for name in ("channels", "upsample", "skip"):
        if getattr(model, name) != getattr(config, name):
            raise LungsegError(
                path,
                f"made with {name} = {getattr(model, name)}, not {getattr(config, name)}",
                f"set {name} to those of the weights to start from",
            )
    return model, facts["digest"]


def start_run(config: TrainingConfig, device: torch.device, model: SegUNet | None = None) -> Run:
    """Build network, running mean, heads of deep supervision, optimiser and random generator for `config`."""
    if config.compile and config.deep_supervision:
        raise LungsegError(
            "compile", "it hides the stages that deep supervision looks at", "choose one of the two"
        )
    if device.type == "cpu":
        keep_freed_memory()
    seed_everything(config.seed)
    if model is None:
        model = SegUNet(channels=config.channels, upsample=config.upsample, skip=config.skip)
        # Tumours fill about a hundredth of a patch: starting from there saves the first epoch.
        torch.nn.init.constant_(model.head.bias, -math.log(99))
    model = model.to(device, memory_format=torch.channels_last_3d)
    ema = copy.deepcopy(model).eval()
    heads = make_heads(model).to(device) if config.deep_supervision else torch.nn.ModuleList()
    optimiser = make_optimiser(
        config.optimiser,
        [*model.parameters(), *heads.parameters()],
        config.learning_rate,
        config.weight_decay,
    )
    if config.compile and device.type == "cuda":
        model.compile(dynamic=False)  # patches are of one size; nothing is gained by code for any
    generator = torch.Generator().manual_seed(config.seed)
    return Run(model, ema, heads, optimiser, generator, dataclasses.asdict(config))


def training_precision(device: torch.device, config: TrainingConfig) -> torch.dtype:
    """Give the fastest dtype that computes the gradients of `config`'s network and patches right on `device`.

    On a CPU the weight gradient of a 3 × 3 × 3 convolution in bfloat16 reads memory that nobody wrote where its
    input is two voxels deep (oneDNN in torch 2.13): a network with a stage as flat trains in float32.
    """
    depths = [-(-config.patch_size[0] // 2**stage) for stage in range(len(config.channels))]
    if device.type == "cpu" and 2 in depths:
        return torch.float32
    return pick_precision(device)
