"""What a run leaves for its readers: where it ran, JSON files, curves for TensorBoard."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import torch

from lungseg_utils import __version__
from lungseg_utils.runtime import writing


def describe_environment(device: torch.device) -> dict:
    """Return the versions and the machine that a run depends on; no names, no paths."""
    is_cuda = device.type == "cuda"
    return {
        "lungseg_utils": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if is_cuda else device.type,
        "threads": torch.get_num_threads(),
    }


def write_json(path: Path, content: dict) -> None:
    """Write `content` as indented JSON."""
    with writing(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n")


def add_to_tensorboard(row: dict, run_dir: Path) -> None:
    """Write an epoch's row for TensorBoard, where that is installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return
    with SummaryWriter(run_dir / "tensorboard") as writer:
        for name, value in row.items():
            writer.add_scalar(name, value, row["epoch"])
