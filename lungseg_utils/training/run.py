"""A run: what moves while it trains, and what it begins with."""

import copy
import dataclasses
import math
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from lungseg_utils import checkpoint
from lungseg_utils.acceleration import accelerate_training
from lungseg_utils.memory import keep_freed_memory
from lungseg_utils.parameters import TrainingConfig
from lungseg_utils.preprocess import Prepared
from lungseg_utils.runtime import LungsegError, pick_precision, seed_everything
from lungseg_utils.segunet import SegUNet
from lungseg_utils.training.distributed import distribute, start_accelerator
from lungseg_utils.training.network import TrainingNetwork, make_heads

INHERITED = ("min_peak", "test_time_mirroring")  # facts of weights that change prediction


@dataclass
class Run:
    """The moving state of a training; all of it is in `last.pt`.

    network: what is trained, `model` and its heads of deep supervision, as the accelerator has
    prepared it. ema: the running mean of the weights, which validates and predicts. settings: what
    must not change on resume.
    """

    model: SegUNet
    ema: SegUNet
    heads: nn.ModuleList
    network: nn.Module
    optimiser: torch.optim.Optimizer
    accelerator: Accelerator
    generator: torch.Generator
    settings: dict
    history: list[dict] = field(default_factory=list)
    best_dice: float = -1.0

    @property
    def epoch(self) -> int:
        """Return the number of whole epochs so far."""
        return len(self.history)

    @property
    def device(self) -> torch.device:
        """Return where the network trains."""
        return self.accelerator.device

    def describe(
        self, training: Sequence[Prepared], validation: Sequence[Prepared], start: Mapping
    ) -> None:
        """Note the cases, with a checksum of each one's voxels, and the weights it starts from.

        `start` are the facts of those weights. What changes prediction stays true of their heirs.
        """
        self.settings |= {
            "training_cases": [case.name for case in training],
            "validation_cases": [case.name for case in validation],
            "contents": [_checksum(case) for case in (*training, *validation)],
            "processes": self.accelerator.num_processes,
            "launch": os.environ.get("TORCHELASTIC_RUN_ID"),  # the same after a restart
            "started_from": start.get("digest"),
            "prediction": {name: start[name] for name in INHERITED if name in start},
        }


def _checksum(case: Prepared) -> str:
    number = zlib.crc32(repr((case.hu.shape, case.spacing_mm)).encode())
    number = zlib.crc32(np.ascontiguousarray(case.hu).data, number)
    if case.label is not None:
        number = zlib.crc32(np.ascontiguousarray(case.label).data, number)
    return f"{number:08x}"


def start_run(config: TrainingConfig, device: str = "auto", model: SegUNet | None = None) -> Run:
    """Build network, running mean, optimiser and random generator for `config` on `device`."""
    if config.compile and config.deep_supervision:
        raise LungsegError(
            "compile", "it hides the stages that deep supervision looks at", "Choose one of the two"
        )
    accelerator = start_accelerator(device)
    on_device = accelerator.device
    if on_device.type == "cpu":
        keep_freed_memory()
    seed_everything(config.seed)
    model = (model or _random_network(config)).to(on_device)
    model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    ema = copy.deepcopy(model).eval()
    heads = nn.ModuleList()
    if config.deep_supervision:
        heads = make_heads(model).to(on_device)
    if isinstance(model, SegUNet):
        accelerate_training(model)
    if config.compile and on_device.type == "cuda":
        model.compile(dynamic=False)  # patches are of one size
    network = TrainingNetwork(model, heads, training_precision(on_device, config))
    optimiser = make_optimiser(config, network)
    generator = torch.Generator().manual_seed(config.seed)
    trained, optimiser = distribute(accelerator, network, optimiser)
    settings = dataclasses.asdict(config)
    return Run(model, ema, heads, trained, optimiser, accelerator, generator, settings)


def _random_network(config: TrainingConfig) -> SegUNet:
    """Return a new network; as tumours fill about a hundredth of a patch, it starts from there."""
    model = SegUNet(channels=config.channels, upsample=config.upsample, skip=config.skip)
    torch.nn.init.constant_(model.head.bias, -math.log(99))  # type: ignore[arg-type]
    return model


def read_start(path: str | Path, config: TrainingConfig) -> tuple[SegUNet, dict]:
    """Read the weights to start from and their facts.

    Raises LungsegError where `config` asks for another network.
    """
    model, facts = checkpoint.load_weights(path)
    for name in ("channels", "upsample", "skip"):
        own = getattr(model, name)
        wanted = getattr(config, name)
        if own != wanted:
            raise LungsegError(
                path,
                f"made with {name} = {own}, not {wanted}",
                f"Set {name} to those of the weights to start from",
            )
    return model, facts


def make_optimiser(config: TrainingConfig, network: nn.Module) -> torch.optim.Optimizer:
    """Return AdamW, or nnU-Net's stochastic gradient descent with Nesterov's momentum of 0.99."""
    options: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.optimiser == "sgd":
        return torch.optim.SGD(network.parameters(), momentum=0.99, nesterov=True, **options)
    return torch.optim.AdamW(network.parameters(), **options)


def training_precision(device: torch.device, config: TrainingConfig) -> torch.dtype:
    """Return the fastest dtype that computes the gradients of `config`'s network right on `device`.

    On a CPU the weight gradient of a 3 × 3 × 3 convolution in bfloat16 reads memory that nobody
    wrote where its input is two voxels deep (oneDNN in torch 2.13): a network with a stage as flat
    trains in float32.
    """
    depths = [-(-config.patch_size[0] // 2**stage) for stage in range(len(config.channels))]
    if device.type == "cpu" and 2 in depths:
        return torch.float32
    return pick_precision(device)
